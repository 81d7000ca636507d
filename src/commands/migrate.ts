import { migrateDown, migrateUp, readStatus } from '../database/migrate.ts'
import { withDatabase, type Database } from '../database/pool.ts'
import { command, readCommandDatabase } from './command.ts'

const usage = `  up      applies every pending migration
  down    rolls back the last N (default 1), with the data they hold
  status  one line for each migration: its name, then "applied" or "pending"

Connects as user_service_admin unless DATABASE_USER names another role; DATABASE_URL or
DATABASE_HOST, _PORT, _NAME, _PASSWORD as for the server. Exit status: 0 done, 1 failed, 2 misuse.`

await command({
  name: 'migrate',
  synopsis: 'up | down [N] --yes | status',
  usage,
  pattern: /^ (up|status|down( [1-9]\d{0,3})? --yes)$/,
  async run({ positionals, env }) {
    const [action = '', count = '1'] = positionals
    const database = readCommandDatabase(env, 'user_service_admin')
    const lines = await withDatabase(database, (db) => migrate(db, action, Number(count)))
    console.log(lines.join('\n') || 'Nothing to do')
  },
})

async function migrate(db: Database, action: string, count: number): Promise<string[]> {
  if (action === 'up') {
    const names = await migrateUp(db)
    return names.map((name) => `${name} applied`)
  }
  if (action === 'down') {
    const names = await migrateDown(db, count)
    return names.map((name) => `${name} rolled back`)
  }
  const migrations = await readStatus(db)
  return migrations.map(({ name, applied }) => `${name} ${applied ? 'applied' : 'pending'}`)
}
