import { one, withDatabase } from '../database/pool.ts'
import { command, readCommandDatabase } from './command.ts'

const usage = `Usage: node bin/audit.js prune DAYS --yes

Deletes the audit events that are older than so many days, and prints how many; the service goes on meanwhile.

Connects as user_service_admin unless DATABASE_USER says otherwise; DATABASE_URL or DATABASE_HOST, _PORT, _NAME,
_PASSWORD as for the server. Exit status: 0 done, 1 failed, 2 misuse.`

await command(usage, /^ prune [1-9]\d{0,4} --yes$/, async ({ positionals: [, days], env }) => {
  const { count } = await withDatabase(readCommandDatabase(env, 'user_service_admin'), (db) =>
    one<{ count: string }>(
      db,
      `with deleted as (
      delete from user_service_schema.audit_events where at < now() - make_interval(days => $1) returning 1)
      select count(*) from deleted`,
      [days],
    ),
  )
  console.log(`Deleted ${count} events older than ${days} days`)
})
