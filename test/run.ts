// Starts one PostgreSQL for the run, with a migrated template that each test file clones, then
// `node --test` over test/*.test.ts, or over the files and folders that are named.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { privateDatabase } from '../src/config.ts'
import { startPrivatePostgres } from '../src/database/private.ts'
import { migrateUp } from '../src/database/migrate.ts'
import { withDatabase } from '../src/database/pool.ts'
import { createDatabase } from '../src/database/setup.ts'

const [named, flags] = [process.argv.slice(2), [] as string[]]
while (named[0]?.startsWith('-')) flags.push(named.shift()!)
const here = fileURLToPath(new URL('.', import.meta.url))
const files = (named.length > 0 ? named : [here]).flatMap((path) =>
  statSync(path).isDirectory()
    ? readdirSync(path)
        .filter((name) => name.endsWith('.test.ts'))
        .sort()
        .map((name) => join(path, name))
    : [path],
)

const directory = mkdtempSync(join(tmpdir(), 'user-service-test-'))
const postgres = await startPrivatePostgres({
  directory,
  say: (line) => console.error(line),
  settings: { fsync: 'off', max_connections: '300', max_wal_size: '256MB' },
})
try {
  const as = (user: string) => privateDatabase(postgres, user, 'template_user_service')
  await createDatabase(as('postgres'))
  await withDatabase(as('user_service_admin'), (db) => migrateUp(db))

  const loader = (process.features as { typescript?: unknown }).typescript
    ? []
    : ['--import', import.meta.resolve('tsx')]
  const tests = spawn(
    process.execPath,
    [...loader, '--test', '--test-reporter=spec', '--test-concurrency=4', ...flags, ...files],
    {
      stdio: 'inherit',
      env: {
        ...process.env,
        TEST_DATABASE_SOCKET: postgres.socketDirectory,
        TEST_DATABASE_PORT: String(postgres.port),
      },
    },
  )
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => tests.kill(signal))
  const [status] = (await once(tests, 'exit')) as [number | null]
  process.exitCode = status ?? 1
} finally {
  await postgres.stop()
  rmSync(directory, { recursive: true, force: true })
}
