import { one, withDatabase } from '../database/pool.ts'
import { command, readCommandDatabase } from './command.ts'

const usage = `Deletes the audit events older than that many days and prints their number.

Connects as user_service_admin unless DATABASE_USER names another role.`

await command({
  name: 'audit',
  synopsis: 'prune DAYS --yes',
  usage,
  pattern: /^ prune [1-9]\d{0,4} --yes$/,
  async run({ positionals: [, days] }) {
    const config = readCommandDatabase('user_service_admin')
    const { count } = await withDatabase(config, (db) =>
      one<{ count: string }>(db, {
        text: `with deleted as (
          delete from user_service_schema.audit_events
            where at < now() - make_interval(days => $1) returning 1)
          select count(*) from deleted`,
        values: [days],
      }),
    )
    console.log(`Deleted ${count} events older than ${days} days`)
  },
})
