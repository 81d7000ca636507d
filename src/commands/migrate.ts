import { migrate, readStatus, type MigrateOptions } from '../database/migrate.ts'
import { withDatabase } from '../database/pool.ts'
import { command, readCommandDatabase, readDuration } from './command.ts'

const usage = `  up      applies every pending migration
  down    rolls back the last N (default 1), with the data they hold
  status  lists migrations that are applied, pending, edited since, or unknown to this version

  --timeout  give up after waiting that long for a lock (90s, 15m, 1h)

Connects as user_service_admin unless DATABASE_USER names another role.`

await command({
  name: 'migrate',
  synopsis: 'up [--timeout 10m] | down [N] --yes [--timeout 10m] | status',
  usage,
  pattern: /^ (up( --timeout)?|status|down( [1-9]\d{0,3})?( --timeout)? --yes)$/,
  async run({ positionals, values }) {
    const [action, count = 1] = positionals
    const options: MigrateOptions = {
      timeoutMs: readDuration(values.timeout) ?? Infinity,
      say: (line) => console.error(`migrate: ${line}`),
    }
    const database = readCommandDatabase('user_service_admin')
    const lines = await withDatabase(database, async (db) => {
      if (action === 'status') {
        const migrations = await readStatus(db)
        return migrations.map(({ name, state }) => `${name} ${state}`)
      }
      if (action === 'down') {
        const names = await migrate(db, 'down', { ...options, count: Number(count) })
        return names.map((name) => `${name} rolled back`)
      }
      const names = await migrate(db, 'up', options)
      return names.map((name) => `${name} applied`)
    })
    console.log(lines.join('\n') || 'Nothing to do')
  },
})
