import { createKey } from '../keys/format.ts'
import { insertEvent } from '../audit/queries.ts'
import { createAdmin } from '../users/first-admin.ts'
import { checkSchema } from '../database/migrate.ts'
import { withDatabase } from '../database/pool.ts'
import { ExitError } from '../errors.ts'
import { insertKey } from '../keys/queries.ts'
import { findUserByEmail } from '../users/queries.ts'
import { command, readCommandDatabase } from './command.ts'

const usage = `Usage: node bin/admin.js create EMAIL | key EMAIL | generate

  create    a new admin; prints its key on stdout, this once
  key       a further key for the admin of that address, printed likewise
  generate  prints a new key that belongs to nobody yet, for BOOTSTRAP_ADMIN_KEY_FILE

Reaches the database as the server does: DATABASE_URL or DATABASE_HOST, _PORT, _NAME, _USER, _PASSWORD; without
them, the private one of npm start while that runs. Exit status: 0 done, 1 failed, 2 misuse.`

await command(
  usage,
  /^ (generate|(create|key) \S+)$/,
  async ({ positionals: [action, email = ''], env }) => {
    if (action === 'generate') return console.log(createKey())
    console.log(
      await withDatabase(readCommandDatabase(env, 'user_service_manager'), async (database) => {
        await checkSchema(database)
        if (action === 'create') return (await createAdmin(database, email))!.key
        const user = await findUserByEmail(database, email)
        if (user?.role !== 'admin') throw new ExitError('There is no admin of that address')
        return database.transaction(async (tx) => {
          const { id, key } = await insertKey(tx, { userId: user.id, kind: 'api', name: 'command' })
          await insertEvent(tx, {
            action: 'key.created',
            actor: null,
            subject: user.id,
            keyId: id,
            origin: null,
          })
          return key
        })
      }),
    )
  },
)
