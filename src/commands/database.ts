import { createReader, readDatabase } from '../config.ts'
import { createDatabase, dropDatabase } from '../database/setup.ts'
import { command } from './command.ts'

const usage = `  create  the roles user_service_admin (owner), user_service_manager (the service)
          and user_service_user (the backup), the database and its schema; safe to repeat
  drop    the database with all data, and the roles

create sets the passwords ADMIN_PASSWORD, MANAGER_PASSWORD and USER_PASSWORD of the environment.
Connects as a superuser (default postgres) to DATABASE_URL or DATABASE_HOST (default localhost),
_PORT, _USER, _PASSWORD. The database is DATABASE_NAME, or the URL's (not postgres), or
db_user_service. Exit status: 0 done, 1 failed, 2 misuse.`

await command({
  name: 'database',
  synopsis: 'create | drop --yes',
  usage,
  pattern: /^ (create|drop --yes)$/,
  async run({ positionals: [action], env }) {
    const host = env['ENV_DATABASE_HOST'] || 'localhost'
    const reader = createReader({ ...env, ENV_DATABASE_HOST: host })
    const server = readDatabase(reader, 'postgres')!
    const urlName = server.name === 'postgres' ? 'db_user_service' : server.name
    const name = reader.text('DATABASE_NAME') ?? urlName
    if (action === 'drop') {
      reader.finish()
      await dropDatabase({ ...server, name })
      console.log(`Dropped ${name}`)
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
