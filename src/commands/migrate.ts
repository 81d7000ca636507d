import { migrateDown, migrateUp, readStatus } from '../database/migrate.ts'
import { withDatabase } from '../database/pool.ts'
import { command, readCommandDatabase } from './command.ts'

const usage = `Usage: node bin/migrate.js up | down [N] --yes | status

  up      applies every migration that is pending
  down    takes the last N (default 1) back, with the data they hold
  status  one line for each migration: its name, then "applied" or "pending"

Connects as user_service_admin unless DATABASE_USER says otherwise; DATABASE_URL or DATABASE_HOST,
_PORT, _NAME, _PASSWORD as for the server. Exit status: 0 done, 1 failed, 2 misuse.`

await command(usage, /^ (up|status|down( [1-9]\d{0,3})? --yes)$/, async ({ positionals, env }) => {
  const [action, count = '1'] = positionals
  await withDatabase(readCommandDatabase(env, 'user_service_admin'), async (database) => {
    const lines =
      action === 'up'
        ? (await migrateUp(database)).map((name) => `${name} applied`)
        : action === 'down'
          ? (await migrateDown(database, Number(count))).map((name) => `${name} taken back`)
          : (await readStatus(database)).map(
              ({ name, applied }) => `${name} ${applied ? 'applied' : 'pending'}`,
            )
    console.log(lines.join('\n') || 'Nothing to do')
  })
})
