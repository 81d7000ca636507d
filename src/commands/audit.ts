import { one, withDatabase } from '../database/pool.ts'
import { command, misuse, readCommandDatabase } from './command.ts'

const usage = `Usage: node bin/audit.js prune --days N --yes

Deletes the audit events that are older than N days, and prints how many; the service goes on meanwhile.

Connects as user_service_admin unless DATABASE_USER says otherwise; DATABASE_URL or DATABASE_HOST,
_PORT, _NAME, _PASSWORD as for the server. Exit status: 0 done, 1 failed, 2 misuse.
`

await command(usage, { days: { type: 'string' }, yes: { type: 'boolean' } }, async ({ flags, words, env }) => {
  if (words.join(' ') !== 'prune') throw misuse('Say prune')
  if (!/^[1-9]\d{0,4}$/.test(flags.days ?? '')) throw misuse('--days must be a whole number of days')
  if (!flags.yes) throw misuse('prune deletes events: it wants --yes')
  await withDatabase(readCommandDatabase(env, 'user_service_admin'), async (db) => {
    const { count, limit } = await one<{ count: string; limit: string }>(db, `
      with deleted as (
        delete from user_service_schema.audit_events where at < now() - make_interval(days => $1) returning 1)
      select count(*), (now() - make_interval(days => $1))::text as limit from deleted`, [flags.days])
    console.log(`Deleted ${count} events from before ${limit}`)
  })
})
