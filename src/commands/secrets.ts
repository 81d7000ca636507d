import { readDatabase } from '../config.ts'
import { checkSchema } from '../database/migrate.ts'
import { withDatabase, type Database } from '../database/pool.ts'
import { createReader } from '../environment.ts'
import { ExitError } from '../errors.ts'
import { placeOf as placeOfFactor } from '../factors/check.ts'
import { createKeyLine, open, readOwnKeyFile, seal } from '../secrets/keys.ts'
import { readSecretKeys } from '../secrets/settings.ts'
import { placeOf as placeOfKey, replaceKeys } from '../signing/ring.ts'
import { command, misuse, readCommandDatabase } from './command.ts'

const usage = `  generate         prints a new key, a line of the file that SECRETS_KEY_FILE names
  status           how many secrets each line of the file opens
  reseal           seals everything with the first line, and counts likewise
  new-signing-key  makes a key that signs in place of all others: within a minute, no instance
                   publishes them, and backends have to fetch /jwks.json again

Connects as the server does. Fails, too, when a secret does not open.`

/** Each replaces a box $2 of the id $1 by $3, unless another has taken its place. */
const replacing = {
  users: 'update users set factor_secret = $3 where id = $1::uuid and factor_secret = $2',
  signing_keys: 'update signing_keys set box = $3 where kid = $1 and box = $2',
}

await command({
  name: 'secrets',
  synopsis: 'generate | status | reseal | new-signing-key --yes',
  usage,
  pattern: /^ (generate|status|reseal|new-signing-key --yes)$/,
  async run({ positionals: [action] }) {
    if (action === 'generate') {
      console.log(createKeyLine())
      return
    }
    const reader = createReader(process.env)
    const isPrivate = readDatabase(reader, '') === null
    const keys = readSecretKeys(reader) ?? (isPrivate ? readOwnKeyFile() : null)
    reader.finish()
    if (keys === null) throw misuse('SECRETS_KEY_FILE must be set')
    const config = readCommandDatabase('user_service_manager')
    await withDatabase(config, async (db) => {
      await checkSchema(db)
      if (action === 'new-signing-key') {
        await replaceKeys(db, keys)
        console.log('A new key signs')
        return
      }
      if (action === 'reseal') await reseal(db, keys)
      await count(db, keys)
    })
  },
})

/** What is sealed, and for which place. */
interface Box {
  table: 'users' | 'signing_keys'
  id: string
  box: Buffer
}

function listBoxes(db: Database) {
  return db.query<Box>(
    `select 'users' as table, id::text, factor_secret as box from users
     where factor_secret is not null
     union all select 'signing_keys', kid, box from signing_keys`,
  )
}

function placeOf({ table, id }: Box) {
  return table === 'users' ? placeOfFactor(id) : placeOfKey(id)
}

async function reseal(db: Database, keys: Buffer[]) {
  for (const sealed of await listBoxes(db)) {
    const opened = open(keys, placeOf(sealed), sealed.box)
    if (opened === null) continue
    const box = seal(keys, placeOf(sealed), opened)
    await db.query(replacing[sealed.table], [sealed.id, sealed.box, box])
  }
}

async function count(db: Database, keys: Buffer[]) {
  const boxes = await listBoxes(db)
  const lines = boxes.map((sealed) =>
    keys.findIndex((key) => open([key], placeOf(sealed), sealed.box)),
  )
  for (const line of keys.keys())
    console.log(`line ${line + 1} opens ${lines.filter((each) => each === line).length}`)
  const lost = lines.filter((each) => each === -1).length
  if (lost > 0)
    throw new ExitError(`${lost} secrets open with no line: see bin/README.md, The key file`)
}
