import { createReader, readDatabase } from '../config.ts'
import { createDatabase, dropDatabase } from '../database/setup.ts'
import { command } from './command.ts'

const usage = `Usage: node bin/database.js create | drop --yes

  create  the roles user_service_admin (owns), user_service_manager (the service) and
          user_service_user (the backup), the database and its schema; safe to repeat
  drop    the database with all data, and the roles

create sets the passwords ADMIN_PASSWORD, MANAGER_PASSWORD and USER_PASSWORD of the environment. Connects as a
superuser (default postgres) to DATABASE_URL or DATABASE_HOST (default localhost), _PORT, _USER, _PASSWORD. The
database is DATABASE_NAME, or the URL's (not postgres), or db_user_service. Exit status: 0 done, 1 failed, 2 misuse.`

await command(usage, /^ (create|drop --yes)$/, async ({ positionals: [action], env }) => {
  const reader = createReader({
    ...env,
    ENV_DATABASE_HOST: env['ENV_DATABASE_HOST'] || 'localhost',
  })
  const server = readDatabase(reader, 'postgres')!
  const name = reader.text('DATABASE_NAME') ?? server.name.replace(/^postgres$/, 'db_user_service')
  const secret = (name: string) => {
    if (action === 'create' && !reader.text(name)) reader.wrong(name, 'must be set')
    return reader.text(name) ?? ''
  }
  const passwords = {
    user_service_admin: secret('ADMIN_PASSWORD'),
    user_service_manager: secret('MANAGER_PASSWORD'),
    user_service_user: secret('USER_PASSWORD'),
  }
  reader.finish()
  await (action === 'drop'
    ? dropDatabase({ ...server, name })
    : createDatabase({ ...server, name }, passwords))
  console.log(
    action === 'drop'
      ? `Dropped ${name}`
      : `${name} is there. Next, as user_service_admin: node bin/migrate.js up`,
  )
})
