import { one, withDatabase } from '../database/pool.ts'
import { command, misuse, readCommandDatabase } from './command.ts'

const usage = `Usage: node bin/audit.js prune --days N --yes

Deletes the audit events that are older than N days, a few thousand at a time so that the service
never waits for it, and prints how many.

Connects as user_service_admin unless DATABASE_USER says otherwise; DATABASE_URL or DATABASE_HOST,
_PORT, _NAME, _PASSWORD as for the server. Exit status: 0 done, 1 failed, 2 misuse.
`

const batch = 5000

await command(usage, { days: { type: 'string' }, yes: { type: 'boolean' } }, async ({ flags, words, env }) => {
  const days = String(flags['days'] ?? '')
  if (words.length !== 1 || words[0] !== 'prune') throw misuse('Say prune')
  if (!/^[1-9]\d{0,4}$/.test(days)) throw misuse('--days must be a whole number of days')
  if (flags['yes'] !== true) throw misuse('prune deletes events: it wants --yes')
  await withDatabase(readCommandDatabase(env, 'user_service_admin'), async (db) => {
    const { at } = await one<{ at: string }>(db, 'select (now() - make_interval(days => $1))::text as at', [days])
    let total = 0
    for (let count = batch; count === batch; total += count) {
      // The ids are in the order of time, so that each batch is found at once.
      const deleted = await db.query(`delete from user_service_schema.audit_events where id in (
        select id from user_service_schema.audit_events where at < $1 order by id limit $2) returning 1`, [at, batch])
      count = deleted.length
    }
    console.log(`Deleted ${total} events from before ${at}`)
  })
})
