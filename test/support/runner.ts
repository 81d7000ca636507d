// What a run of tests needs: a PostgreSQL with a migrated template, and TypeScript that Node runs.
import { execFile } from 'node:child_process'
import { cp, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

import { privateDatabase } from '../../src/config.ts'
import { migrate } from '../../src/database/migrate.ts'
import { withDatabase } from '../../src/database/pool.ts'
import { startPrivatePostgres } from '../../src/database/private.ts'
import { createDatabase } from '../../src/database/setup.ts'

/** Starts a PostgreSQL that loses all in a crash, with the template that test files clone. */
export async function startServer(directory: string) {
  const postgres = await startPrivatePostgres({
    directory,
    say: (line) => console.error(line),
    settings: { fsync: 'off', max_connections: '300', max_wal_size: '256MB' },
  })
  const as = (user: string) => privateDatabase(postgres, user, 'template_user_service')
  try {
    await createDatabase(as('postgres'))
    await withDatabase(as('user_service_admin'), (db) => migrate(db, 'up'))
  } catch (error) {
    await postgres.stop()
    throw error
  }
  return {
    stop: () => postgres.stop(),
    /** Has tests use it. */
    env: {
      TEST_DATABASE_SOCKET: postgres.socketDirectory,
      TEST_DATABASE_PORT: String(postgres.port),
    },
  }
}

/** Whether this Node runs TypeScript without help. */
export const isNative = Boolean((process.features as { typescript?: unknown }).typescript)

const emitting = ['--noEmit', 'false', '--noCheck', '--rewriteRelativeImportExtensions']
const alone = [
  '--ignoreConfig',
  '--noResolve',
  '--verbatimModuleSyntax',
  '--module',
  'nodenext',
  '--target',
  'es2023',
]

/**
 * Compiles the checkout `tree` into the folder `to`, with what else the programs in bin/ need to
 * run from there without a loader, which would take longer to start than they do; or brings one
 * file of it up to date there.
 */
export async function compile(tree: string, to: string, file?: string) {
  if (file === undefined || isSource(file)) await runCompiler(tree, to, file)
  const copied = file === undefined ? ['bin', 'sql', 'src', 'package.json'] : [file]
  for (const name of copied) {
    const filter = (path: string) => !isSource(path)
    await cp(join(tree, name), join(to, name), { recursive: true, filter })
  }
  if (file !== undefined) return
  await symlink(join(tree, 'node_modules'), join(to, 'node_modules'))
  const load = "export const load = (program) => import('../src/' + program.replace(/ts$/, 'js'))"
  await writeFile(join(to, 'bin/load.js'), load)
}

const isSource = (path: string) => /(?<!\.d)\.ts$/.test(path)

async function runCompiler(tree: string, to: string, file?: string) {
  const compiler = join(tree, 'node_modules/typescript/bin/tsc')
  const input = file === undefined ? [] : [...alone, join(tree, file)]
  const flags = [...emitting, '--rootDir', tree, '--outDir', to, ...input]
  await promisify(execFile)(process.execPath, [compiler, ...flags], { cwd: tree })
}

/** What each process of a run in `tree` imports first, so that it runs what was compiled. */
export const loaderOf = (tree: string, to: string) =>
  `file://${join(tree, 'test/support/compiled.js')}?from=${to}`
