import { insertEvent } from '../audit/queries.ts'
import { checkSchema } from '../database/migrate.ts'
import { withDatabase, type Database } from '../database/pool.ts'
import { ExitError } from '../errors.ts'
import { removeFactor } from '../factors/queries.ts'
import { createKey } from '../keys/format.ts'
import { createAdmin, insertOperatorKey } from '../users/first-admin.ts'
import { findUserByEmail } from '../users/queries.ts'
import { command, readCommandDatabase } from './command.ts'

const usage = `  create         a new admin; prints its key on stdout, only this once
  key            another key for an admin, printed likewise
  remove-factor  of a user who has lost it; ends all sessions of that user
  generate       prints a new key that belongs to nobody yet, for BOOTSTRAP_ADMIN_KEY_FILE

Connects as the server does.`

await command({
  name: 'admin',
  synopsis: 'create EMAIL | key EMAIL | remove-factor EMAIL | generate',
  usage,
  pattern: /^ (generate|(create|key|remove-factor) \S+)$/,
  async run({ positionals: [action, email = ''] }) {
    if (action === 'generate') {
      console.log(createKey())
      return
    }
    const config = readCommandDatabase('user_service_manager')
    const said = await withDatabase(config, async (db) => {
      await checkSchema(db)
      if (action === 'remove-factor') return endFactor(db, email)
      const made = await (action === 'key' ? addKey(db, email) : createAdmin(db, email))
      return made.key
    })
    console.log(said)
  },
})

async function addKey(db: Database, email: string) {
  const user = await findUserByEmail(db, email)
  if (user?.role !== 'admin') throw new ExitError('There is no admin of that address')
  const wanted = { userId: user.id, name: 'command' }
  return db.transaction((tx) => insertOperatorKey(tx, wanted, 'key.created'))
}

async function endFactor(db: Database, email: string) {
  const found = await findUserByEmail(db, email)
  if (found === null) throw new ExitError('There is no user of that address')
  await db.transaction(async (tx) => {
    await removeFactor(tx, found.id)
    await insertEvent(tx, {
      action: 'factor.removed',
      actor: null,
      subject: found.id,
      origin: null,
    })
  })
  return 'Removed: a password alone logs in, and all sessions have ended'
}
