import { insertEvent } from '../audit/queries.ts'
import { checkSchema } from '../database/migrate.ts'
import { withDatabase, type Database } from '../database/pool.ts'
import { ExitError } from '../errors.ts'
import { createKey } from '../keys/format.ts'
import { insertKey } from '../keys/queries.ts'
import { createAdmin } from '../users/first-admin.ts'
import { findUserByEmail } from '../users/queries.ts'
import { command, readCommandDatabase } from './command.ts'

const usage = `  create    a new admin; prints its key on stdout, only this once
  key       another key for an admin, printed likewise
  generate  prints a new key that belongs to nobody yet, for BOOTSTRAP_ADMIN_KEY_FILE

Connects as the server does. Exit status: 0 done, 1 failed, 2 misuse.`

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
    const key = await withDatabase(config, async (db) => {
      await checkSchema(db)
      if (action === 'key') return addKey(db, email)
      const admin = await createAdmin(db, email)
      return admin.key
    })
    console.log(key)
  },
})

async function addKey(db: Database, email: string) {
  const user = await findUserByEmail(db, email)
  if (user?.role !== 'admin') throw new ExitError('There is no admin of that address')
  return db.transaction(async (tx) => {
    const { id, key } = await insertKey(tx, {
      userId: user.id,
      kind: 'api',
      name: 'command',
      factors: 2,
    })
    await insertEvent(tx, {
      action: 'key.created',
      actor: null,
      subject: user.id,
      keyId: id,
      origin: null,
    })
    return key
  })
}
