// `npm run mutate`: makes each mistake of the table in a copy of the tree and runs the tests that
// must notice. One that no test notices fails the run, as does one that makes its tests hang and
// does not say so, or whose text is not found exactly once.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'

import { mutations, testsOf, type Mutation } from './mutations.ts'
import { root } from './support/process.ts'
import { compile, isNative, loaderOf, startServer } from './support/runner.ts'
import { misuse, readOptions } from './support/usage.ts'

/** Longer than any test file takes on a busy machine: what still runs then hangs. */
const limitMs = 900_000

interface Worker {
  /** A copy of the checkout. */
  tree: string
  /** What was compiled of it. */
  compiled: string
}

type Outcome = 'noticed' | 'not noticed' | 'hangs'

const git = (...args: string[]) => execFileSync('git', args, { cwd: root, encoding: 'utf8' })
const listFiles = () =>
  git('ls-files', '--cached', '--others', '--exclude-standard')
    .trim()
    .split('\n')
    .filter((path) => path !== 'node_modules' && existsSync(join(root, path)))

async function makeWorker(directory: string, name: string): Promise<Worker> {
  const worker = { tree: join(directory, name), compiled: join(directory, `${name}-compiled`) }
  for (const path of listFiles()) cpSync(join(root, path), join(worker.tree, path))
  // Some tests ask git what there is.
  execFileSync('git', ['init', '-q'], { cwd: worker.tree })
  execFileSync('git', ['add', '-A'], { cwd: worker.tree })
  symlinkSync(join(root, 'node_modules'), join(worker.tree, 'node_modules'))
  if (!isNative) await compile(worker.tree, worker.compiled)
  return worker
}

/** Gives a file of the copy another text. */
async function replace({ tree, compiled }: Worker, file: string, text: string) {
  writeFileSync(join(tree, file), text)
  if (!isNative && file !== 'bin/load.js') await compile(tree, compiled, file)
}

/** Runs one test file to its end, or to its first failure. */
async function runTest(args: string[], cwd: string, env: NodeJS.ProcessEnv): Promise<Outcome> {
  const child = spawn(process.execPath, args, {
    cwd,
    env,
    detached: true,
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  let outcome: Outcome = 'not noticed'
  const end = (seen: Outcome) => {
    if (outcome !== 'not noticed') return
    outcome = seen
    // The group, politely: what the test started is stopped by it.
    process.kill(-child.pid!, 'SIGTERM')
  }
  const late = setTimeout(() => end('hangs'), limitMs)
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    if (/^\s*(not ok|✖)/m.test(text)) end('noticed')
  })
  const [status] = (await once(child, 'close')) as [number | null]
  clearTimeout(late)
  if (outcome === 'not noticed' && status !== 0) return 'noticed'
  return outcome
}

/** Runs the tests that should notice a mutation, one after the other, until one does. */
async function runTests(
  worker: Worker,
  { file, tests }: { file: string; tests: string[] },
  server: ServerEnv,
) {
  // What migrations and roles are is part of the template: such a run makes its own.
  const isTemplate = /^(sql|src\/database)\//.test(file)
  const loader = isNative ? '' : loaderOf(worker.tree, worker.compiled)
  const env = { ...process.env, ...server, TEST_LOADER: loader }
  for (const test of tests) {
    const args = [...(isNative ? [] : ['--import', loader]), test]
    const outcome =
      isTemplate || test.startsWith('test/system')
        ? await runTest(['test/run.js', test], worker.tree, process.env)
        : await runTest(args, worker.tree, env)
    if (outcome !== 'not noticed') return { outcome, test }
  }
  return { outcome: 'not noticed' as const, test: '' }
}
type ServerEnv = Awaited<ReturnType<typeof startServer>>['env']

/** The text with the mutation, or why there is none. */
function mutate({ file, text, replacement }: Mutation): { mutated: string } | { fault: string } {
  if (!existsSync(join(root, file))) return { fault: 'there is no such file' }
  const parts = readFileSync(join(root, file), 'utf8').split(text)
  if (parts.length !== 2) return { fault: `its text is there ${parts.length - 1} times` }
  return { mutated: parts.join(replacement) }
}

const usage = `npm run mutate -- [--changed-since COMMIT] [--share N] [--minutes N] [--workers N]
  [FILE…]
With files or a commit: the mistakes in those alone. With a share: the Nth part of the others, too,
another part for each commit. After those minutes none of the others is begun; those of files that
are named or were changed are all made.
`
const { values, positionals } = readOptions(usage, {
  options: {
    'changed-since': { type: 'string' },
    minutes: { type: 'string' },
    share: { type: 'string' },
    workers: { type: 'string' },
  },
  allowPositionals: true,
})
const workers = Number(values.workers ?? availableParallelism())
const parts = Number(values.share ?? 1)
const minutes = Number(values.minutes ?? Infinity)
if (!(workers > 0 && parts > 0 && minutes > 0)) misuse('N is a number', usage)
const deadline = performance.now() + minutes * 60_000

/** The files that differ from that commit; none where the history does not reach so far. */
function listChanged(since: string): string[] {
  try {
    return git('diff', '--name-only', since, '--').trim().split('\n')
  } catch {
    console.log(`There is no ${since} here`)
    return []
  }
}

/** Those of the files that are named or were changed, and those of the commit's share. */
function choose(): { named: Mutation[]; others: Mutation[] } {
  const { 'changed-since': since, share } = values
  const files = [...positionals, ...(since === undefined ? [] : listChanged(since))]
  if (files.length === 0 && since === undefined && share === undefined)
    return { named: [], others: mutations }
  const areTestsOf = (mutation: Mutation) => testsOf(mutation).some((test) => files.includes(test))
  const named = mutations.filter((each) => files.includes(each.file) || areTestsOf(each))
  const part = parseInt(git('rev-parse', 'HEAD').slice(0, 8), 16) % parts
  const others = mutations.filter((each, i) => i % parts === part && !named.includes(each))
  return { named, others: share === undefined ? [] : others }
}

/** What has been found of tests without a mutation. */
const unchanged = new Map<string, Promise<void>>()

/** Throws unless a test passes without a mutation, in a copy that has none now. */
function checkUnchanged(worker: Worker, test: string, server: ServerEnv) {
  async function check() {
    const run = () => runTests(worker, { file: '', tests: [test] }, server)
    if ((await run()).outcome === 'not noticed') return
    // Once more: a limit in time may be broken by what else the machine does.
    const { outcome } = await run()
    if (outcome !== 'not noticed') throw new Error(`${test} fails without a mutation`)
  }
  if (!unchanged.has(test)) unchanged.set(test, check())
  return unchanged.get(test)
}

async function main() {
  const { named, others } = choose()
  const chosen = [...named, ...others]
  const faults: string[] = []
  for (const mutation of chosen) {
    const result = mutate(mutation)
    if ('fault' in result) faults.push(`${mutation.file}: ${mutation.text}: ${result.fault}`)
  }
  if (faults.length > 0) throw new Error(faults.join('\n'))

  const directory = mkdtempSync(join(tmpdir(), 'user-service-mutate-'))
  const server = await startServer(directory)
  const survivors: string[] = []
  const queue = chosen.entries()
  let done = 0
  async function work(worker: Worker) {
    for (const [index, mutation] of queue) {
      if (index >= named.length && performance.now() > deadline) return
      const { file, meaning } = mutation
      const original = readFileSync(join(root, file), 'utf8')
      const result = mutate(mutation) as { mutated: string }
      await replace(worker, file, result.mutated)
      const start = performance.now()
      const { outcome, test } = await runTests(
        worker,
        { file, tests: testsOf(mutation) },
        server.env,
      )
      await replace(worker, file, original)
      if (outcome === 'noticed') await checkUnchanged(worker, test, server.env)
      const seconds = Math.round((performance.now() - start) / 1000)
      const by = test && ` by ${test.replace(/^test\/|\.test\.ts$/g, '')}`
      const line = `${index + 1} ${file}: ${meaning}: ${outcome}${by}, ${seconds} s`
      const isMeant = outcome === 'hangs' && mutation.hangs === true
      if (outcome !== 'noticed' && !isMeant) survivors.push(line)
      done++
      console.log(`${done}/${chosen.length} ${line}`)
    }
  }
  try {
    const names = Array.from({ length: workers }, (_, i) => `tree-${i}`)
    const trees = await Promise.all(names.map((name) => makeWorker(directory, name)))
    await Promise.all(trees.map(work))
  } finally {
    await server.stop()
    rmSync(directory, { recursive: true, force: true })
  }
  console.log(`${done} of ${chosen.length} mutations tried, ${survivors.length} not noticed`)
  const missing = chosen.length - done
  if (missing > 0) console.log(`${missing} of the share were not begun in ${minutes} minutes`)
  for (const each of survivors) console.log(each)
  process.exitCode = survivors.length > 0 ? 1 : 0
}

await main()
