// Starts one PostgreSQL for the run, with a migrated template that each test file clones, then
// `node --test` over test/*.test.ts, or over the files and folders that are named.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { root } from './support/process.ts'
import { compile, isNative, loaderOf, startServer } from './support/runner.ts'

/** The test files of a folder, or the one file that is named. */
function listTests(path: string): string[] {
  if (!existsSync(path)) {
    console.error(`test: there is no ${path}`)
    process.exit(2)
  }
  if (!statSync(path).isDirectory()) return [path]
  const names = readdirSync(path).filter((name) => name.endsWith('.test.ts'))
  return names.sort().map((name) => join(path, name))
}

const usage = `npm test -- [FLAG OF node --test]… [FILE or FOLDER]…
`
const given = process.argv.slice(2)
if (given.includes('--help') || given.includes('-h')) {
  process.stdout.write(usage)
  process.exit()
}
const firstName = given.findIndex((word) => !word.startsWith('-'))
const flags = firstName === -1 ? given : given.slice(0, firstName)
const named = firstName === -1 ? [join(root, 'test')] : given.slice(firstName)
const files = named.flatMap(listTests)

const directory = mkdtempSync(join(tmpdir(), 'user-service-test-'))
try {
  const compiled = join(directory, 'compiled')
  const compiling = isNative ? undefined : compile(root, compiled)
  const server = await startServer(directory)
  try {
    await compiling
    const loader = isNative ? '' : loaderOf(root, compiled)
    const args = [
      ...(isNative ? [] : ['--import', loader]),
      '--test',
      '--test-reporter=spec',
      '--test-concurrency=6',
      // Something that never comes is a failure, too.
      '--test-timeout=900000',
      ...flags,
      ...files,
    ]
    const env = { ...process.env, ...server.env, TEST_LOADER: loader }
    const tests = spawn(process.execPath, args, { stdio: 'inherit', env })
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      process.on(signal, () => tests.kill(signal))
    }
    const [status] = (await once(tests, 'exit')) as [number | null]
    process.exitCode = status ?? 1
  } finally {
    await server.stop()
  }
} finally {
  rmSync(directory, { recursive: true, force: true })
}
