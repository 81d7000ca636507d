import { checkSchema } from '../database/migrate.ts'
import { withDatabase, type Database } from '../database/pool.ts'
import { ExitError } from '../errors.ts'
import { createKey } from '../keys/format.ts'
import { createAdmin, insertOperatorKey } from '../users/first-admin.ts'
import { findUserByEmail } from '../users/queries.ts'
import { command, readCommandDatabase } from './command.ts'

const usage = `  create    a new admin; prints its key on stdout, only this once
  key       another key for an admin, printed likewise
  generate  prints a new key that belongs to nobody yet, for BOOTSTRAP_ADMIN_KEY_FILE

Connects as the server does.`

await command({
  name: 'admin',
  synopsis: 'create EMAIL | key EMAIL | generate',
  usage,
  pattern: /^ (generate|(create|key) \S+)$/,
  async run({ positionals: [action, email = ''] }) {
    if (action === 'generate') {
      console.log(createKey())
      return
    }
    const config = readCommandDatabase('user_service_manager')
    const made = await withDatabase(config, async (db) => {
      await checkSchema(db)
      return action === 'key' ? addKey(db, email) : createAdmin(db, email)
    })
    console.log(made.key)
  },
})

async function addKey(db: Database, email: string) {
  const user = await findUserByEmail(db, email)
  if (user?.role !== 'admin') throw new ExitError('There is no admin of that address')
  const wanted = { userId: user.id, name: 'command' }
  return db.transaction((tx) => insertOperatorKey(tx, wanted, 'key.created'))
}
