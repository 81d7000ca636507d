// Starts one PostgreSQL for the run, with a migrated template that each test file clones, then
// `node --test` over test/*.test.ts, or over the files and folders that are named.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { privateDatabase } from '../src/config.ts'
import { migrateUp } from '../src/database/migrate.ts'
import { withDatabase } from '../src/database/pool.ts'
import { startPrivatePostgres } from '../src/database/private.ts'
import { createDatabase } from '../src/database/setup.ts'
import { root } from './support/process.ts'

/** The test files of a folder, or the one file that is named. */
function listTests(path: string): string[] {
  if (!statSync(path).isDirectory()) return [path]
  const names = readdirSync(path).filter((name) => name.endsWith('.test.ts'))
  return names.sort().map((name) => join(path, name))
}

/** What each process of the run imports first; a Node that runs no TypeScript gets it compiled. */
function makeLoader(directory: string): string {
  if ((process.features as { typescript?: unknown }).typescript) return ''
  const to = join(directory, 'compiled')
  const emit = ['--noEmit', 'false', '--noCheck', '--rewriteRelativeImportExtensions']
  const compiler = join(root, 'node_modules/typescript/bin/tsc')
  const flags = ['--project', root, '--rootDir', root, '--outDir', to, ...emit]
  execFileSync(process.execPath, [compiler, ...flags], { stdio: 'inherit' })
  return `${new URL('support/compiled.js', import.meta.url)}?from=${to}`
}

const given = process.argv.slice(2)
const isName = (word: string) => !word.startsWith('-')
const firstName = given.findIndex(isName)
const flags = firstName === -1 ? given : given.slice(0, firstName)
const named = firstName === -1 ? [join(root, 'test')] : given.slice(firstName)

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

  const loader = makeLoader(directory)
  const tests = spawn(
    process.execPath,
    [
      ...(loader === '' ? [] : ['--import', loader]),
      '--test',
      '--test-reporter=spec',
      '--test-concurrency=4',
      ...flags,
      ...named.flatMap(listTests),
    ],
    {
      stdio: 'inherit',
      env: {
        ...process.env,
        TEST_DATABASE_SOCKET: postgres.socketDirectory,
        TEST_DATABASE_PORT: String(postgres.port),
        TEST_LOADER: loader,
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
