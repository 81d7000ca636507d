import { readSecretKeys } from '../config.ts'
import { withDatabase, type Db } from '../database/pool.ts'
import { createReader } from '../environment.ts'
import { ExitError } from '../errors.ts'
import { placeOf } from '../factors/check.ts'
import { listSecrets } from '../factors/queries.ts'
import { createKeyLine, open, seal } from '../secrets/keys.ts'
import { command, readCommandDatabase } from './command.ts'

const usage = `  generate  prints a new key, a line of the file that SECRETS_KEY_FILE names
  status    how many secrets each line of the file opens
  reseal    seals everything with the first line, and counts likewise

Connects as the server does; the key file of a private database is .local/secrets-key. Fails, too,
when a secret does not open.`

await command({
  name: 'secrets',
  synopsis: 'generate | status | reseal',
  usage,
  pattern: /^ (generate|status|reseal)$/,
  async run({ positionals: [action] }) {
    if (action === 'generate') {
      console.log(createKeyLine())
      return
    }
    const reader = createReader(process.env)
    const keys = readSecretKeys(reader) ?? []
    reader.finish()
    const config = readCommandDatabase('user_service_manager')
    await withDatabase(config, async (db) => {
      if (action === 'reseal') await reseal(db, keys)
      const secrets = await listSecrets(db, null)
      const lines = secrets.map(({ id, secret }) =>
        keys.findIndex((key) => open([key], placeOf(id), secret)),
      )
      for (const line of keys.keys()) {
        console.log(`line ${line + 1} opens ${lines.filter((each) => each === line).length}`)
      }
      if (lines.includes(-1)) throw new ExitError('There are secrets that no line opens')
    })
  },
})

async function reseal(db: Db, keys: Buffer[]) {
  for (const { id, secret } of await listSecrets(db, null)) {
    const opened = open(keys, placeOf(id), secret)
    if (opened === null) continue
    // Unless another has taken its place.
    await db.query('update users set factor_secret = $3 where id = $1 and factor_secret = $2', [
      id,
      secret,
      seal(keys, placeOf(id), opened),
    ])
  }
}
