import { readDatabase } from '../config.ts'
import { createDatabase, dropDatabase } from '../database/setup.ts'
import { command, createLocalReader } from './command.ts'

const usage = `  create  roles with ADMIN_PASSWORD, MANAGER_PASSWORD and USER_PASSWORD, the database
          and its schema; safe to repeat
  drop    the database NAME with all data, and the roles unless another database needs them

The database is DATABASE_NAME, or that of DATABASE_URL but for postgres, or db_user_service.
Connects to localhost unless DATABASE_URL or DATABASE_HOST is set, as postgres unless DATABASE_USER
names another superuser, or a role that may create roles and databases.`

await command({
  name: 'database',
  synopsis: 'create | drop NAME --yes',
  usage,
  pattern: /^ (create|drop \S+ --yes)$/,
  async run({ positionals: [action, dropped = ''] }) {
    const reader = createLocalReader()
    const named = reader.text('DATABASE_NAME')
    const server = readDatabase(reader, 'postgres')!
    // The URL of a server mostly names the database postgres.
    const urlName = server.name === 'postgres' ? 'db_user_service' : server.name
    const name = named ?? urlName
    if (action === 'drop') {
      reader.finish()
      const done = await dropDatabase({ ...server, name: dropped })
      console.log(done.join('\n'))
      return
    }
    const password = (setting: string) => {
      const given = reader.text(setting)
      if (given === undefined) reader.wrong(setting, 'must be set')
      return given ?? ''
    }
    const passwords = {
      user_service_admin: password('ADMIN_PASSWORD'),
      user_service_manager: password('MANAGER_PASSWORD'),
      user_service_user: password('USER_PASSWORD'),
    }
    reader.finish()
    await createDatabase({ ...server, name }, passwords)
    console.log(`${name} is there. Next, as user_service_admin: node bin/migrate.js up`)
  },
})
