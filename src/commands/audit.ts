import { command, misuse, readCommandDatabase } from './command.ts'
import { withConnection } from './postgres.ts'
import { stoppable } from './process.ts'

const usage = `Usage: node bin/audit.js prune --days N --yes

Deletes the audit events that are older than N days, a few thousand at a time so that the service
never waits, and prints how many.

Connects as user_service_admin unless DATABASE_USER says otherwise; DATABASE_URL or DATABASE_HOST,
_PORT, _NAME, _PASSWORD as for the server. Exit status: 0 done, 1 failed, 2 misuse.
`

const batch = 5000

await command(usage, { days: { type: 'string' }, yes: { type: 'boolean' } }, async ({ flags, words, env }) => {
  if (words.length !== 1 || words[0] !== 'prune') throw misuse('Say prune')
  const days = String(flags['days'] ?? '')
  if (!/^[1-9]\d{0,4}$/.test(days)) throw misuse('--days must be a whole number')
  if (flags['yes'] !== true) throw misuse('prune deletes events: it wants --yes')

  const config = readCommandDatabase(env, 'user_service_admin')
  await stoppable(null, (signal) => withConnection(config, { env, signal, writes: true }, async ({ query }) => {
    const [before] = await query<{ at: string }>('select (now() - make_interval(days => $1))::text as at', [days])
    let total = 0
    for (let deleted = batch; deleted === batch; total += deleted) {
      // Each statement is a transaction of its own. The ids are in the order of time.
      const [row] = await query<{ count: number }>(`
        with old as (
          select id from user_service_schema.audit_events where at < $1::timestamptz order by id limit $2
        ), deleted as (
          delete from user_service_schema.audit_events where id in (select id from old) returning id
        )
        select count(*)::integer as count from deleted`, [before!.at, batch])
      deleted = row!.count
    }
    console.log(`${total} events from before ${before!.at} deleted`)
  }))
})
