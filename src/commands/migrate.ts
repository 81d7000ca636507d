import { migrateDown, migrateUp, readStatus } from '../database/migrate.ts'
import { withDatabase } from '../database/pool.ts'
import { command, misuse, readCommandDatabase } from './command.ts'

const usage = `Usage: node bin/migrate.js up | down [N] --yes | status

  up      applies every migration that is pending
  down    takes the last N (default 1) back, with the data they hold; wants --yes
  status  one line for each migration: its name, then "applied" or "pending"

Connects as user_service_admin unless DATABASE_USER says otherwise; DATABASE_URL or DATABASE_HOST,
_PORT, _NAME, _PASSWORD as for the server. Exit status: 0 done, 1 failed, 2 misuse.
`

await command(usage, { yes: { type: 'boolean' } }, async ({ flags, words, env }) => {
  const [action, count = '1', ...rest] = words
  if (!['up', 'down', 'status'].includes(action ?? '')) throw misuse('Say up, down or status')
  if (rest.length > 0 || (action !== 'down' && words.length > 1)) throw misuse('Too many words')
  if (!/^[1-9]\d{0,3}$/.test(count)) throw misuse('N must be a whole number')
  if (action === 'down' && flags['yes'] !== true) throw misuse('down deletes data: it wants --yes')
  await withDatabase(readCommandDatabase(env, 'user_service_admin'), async (database) => {
    if (action === 'status') {
      for (const { name, applied } of await readStatus(database)) {
        console.log(`${name} ${applied ? 'applied' : 'pending'}`)
      }
      return
    }
    const done = action === 'up' ? await migrateUp(database) : await migrateDown(database, Number(count))
    for (const name of done) console.log(`${name} ${action === 'up' ? 'applied' : 'taken back'}`)
    if (done.length === 0) console.log('Nothing to do')
  })
})
