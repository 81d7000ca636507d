// A PostgreSQL of our own, for `npm start` without a configured database and for `npm test`.
//
// Guaranteed: it listens on a Unix socket alone, in a 0700 directory of the account it runs as, so
// nobody else connects although it asks for no password. Its owner is the process that started it:
// a pipe leads from there to a guard, and when the owner's end closes, be it by SIGKILL, the guard
// stops PostgreSQL. A server that keeps running has an owner, and is left alone. Data and programs
// appear whole, by one rename. Under root it runs as the account that owns the data, else as
// `postgres`, else as `nobody`.
//
// Not guaranteed: protection from that account's other processes, or from another container on the
// same directory; an end of PostgreSQL where its owner and its guard were killed by SIGKILL.
import { spawn, spawnSync } from 'node:child_process'
import { hash } from 'node:crypto'
import { once } from 'node:events'
import * as fs from 'node:fs'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

import { ExitError } from '../errors.ts'
import { codeOf } from './codes.ts'
import {
  fetchPrograms,
  findPostgresBin,
  makeWhole,
  ourselves,
  plainEnv,
  runProgram,
} from './programs.ts'

interface Options {
  /** An absolute path; the data lies in `postgres` below it. */
  directory: string
  say(line: string): void
  settings?: Record<string, string>
  /** Aborts the start. */
  signal?: AbortSignal
}

type Place = Awaited<ReturnType<typeof prepare>>

/**
 * Starts the private PostgreSQL of a directory; makes the data and fetches the programs where there
 * are none. Throws when another process owns it, or with the last lines of what failed. Its `stop`
 * waits until it has ended; a second call does nothing more.
 */
export async function startPrivatePostgres(options: Options) {
  const { directory, settings, signal } = options
  const place = await prepare(options)
  let server: ReturnType<typeof launch> | undefined
  try {
    const deadline = Date.now() + 60_000
    let strangerSince: number | undefined
    while (Date.now() < deadline) {
      signal?.throwIfAborted()
      const { pid, isAlive, socketDirectory, address } = readPostmaster(place.data)
      if (address !== null) {
        if (server?.pid === Number(pid)) return { ...address, stop: server.stop }
        // If its owner has just been killed, its guard stops it soon.
        strangerSince ??= Date.now()
        if (Date.now() - strangerSince > 3000)
          throw new ExitError(
            `another \`npm start\` runs PostgreSQL (process ${pid}) in ${directory}: ` +
              `stop it first; if there is none: kill -INT ${pid}`,
          )
      }
      if (!isAlive && (server === undefined || server.hasEnded())) {
        if (server !== undefined && !isRace(place)) break
        removeSockets(socketDirectory)
        server = launch(place, pid, settings)
      }
      await sleep(20)
    }
    const lines = read(place.log).trim().split('\n')
    throw new ExitError(`PostgreSQL did not start:\n${lines.slice(-10).join('\n')}`)
  } catch (error) {
    await server?.stop()
    throw error
  }
}

/** Where the running private PostgreSQL of `directory` listens, or null when none runs. */
export const findPrivatePostgres = (directory: string) =>
  readPostmaster(join(directory, 'postgres')).address

/** Finds or makes the data and the programs. */
async function prepare({ directory, say, signal }: Options) {
  const link = join(directory, 'postgres')
  makeDirectory(directory, link)
  const { as, home } = findPlace(directory, link, say)
  const major = read(join(link, 'PG_VERSION')).trim()
  const bin =
    findPostgresBin('postgres', major || undefined) ??
    (await fetchPrograms(home, major || '17', { say, signal }))
  if (major === '') {
    await makeWhole(join(home, 'postgres'), async (path) => {
      fs.chownSync(path, as.uid, as.gid)
      const args = [
        '-D',
        path,
        '-U',
        'postgres',
        '--auth-local=trust',
        '--auth-host=reject',
        '--encoding=UTF8',
        '--locale=C',
        '--data-checksums',
      ]
      if (process.platform === 'linux') args.push('--lc-ctype=C.UTF-8')
      try {
        await runProgram({ program: join(bin, 'initdb'), args, as, signal })
      } catch (error) {
        signal?.throwIfAborted()
        const [reason] = (error as Error).message.split('\n')
        throw new ExitError(`${reason}: mend that, or set DATABASE_URL or DATABASE_HOST`)
      }
    })
  }
  return { as, bin, data: fs.realpathSync(link), log: join(directory, 'postgres.log') }
}

/** Makes the directory, or throws with the reason why it cannot be used. */
function makeDirectory(directory: string, link: string) {
  try {
    fs.mkdirSync(directory, { recursive: true, mode: 0o700 })
    for (const path of [directory, link]) {
      const owner = fs.statSync(path, { throwIfNoEntry: false })?.uid ?? ourselves.uid
      if (owner !== ourselves.uid && ourselves.uid !== 0)
        throw new ExitError(
          `${directory} belongs to another account (uid ${owner}): run this as that account, ` +
            'or remove the directory with all data in it',
        )
    }
    fs.accessSync(directory, fs.constants.W_OK)
  } catch (error) {
    if (error instanceof ExitError) throw error
    // mkdir tells ENOENT of a file system that is read-only.
    const code = codeOf(error).replace('ENOENT', 'EROFS')
    throw new ExitError(
      `Cannot write to ${directory} (${code}), where the private database would lie: start from ` +
        'a checkout of your own, or set DATABASE_URL or DATABASE_HOST to another database',
    )
  }
}

/** As which account PostgreSQL runs, which refuses root, and a place that this account reaches. */
function findPlace(directory: string, link: string, say: Options['say']) {
  if (ourselves.uid !== 0) return { as: ourselves, home: directory }
  const as = accountOf(link)
  fs.chmodSync(directory, 0o711)
  const { status, error } = spawnSync('ls', ['-d', `${directory}/.`], as)
  if (status === 0) return { as, home: directory }
  // In a user namespace of one account there is no other.
  if (error !== undefined)
    throw new ExitError(
      `PostgreSQL cannot run as root, nor can root start it as uid ${as.uid} here ` +
        `(${error.message}): start as another account, or set DATABASE_URL or DATABASE_HOST`,
    )
  const digest = hash('sha256', fs.realpathSync(directory))
  const home = `/var/lib/user-service-${digest.slice(0, 12)}`
  fs.mkdirSync(home, { recursive: true })
  fs.chmodSync(home, 0o711)
  if (fs.lstatSync(link, { throwIfNoEntry: false }) === undefined) {
    say(`PostgreSQL cannot run as root, nor reach ${directory}: its data lies in ${home}`)
    fs.symlinkSync(join(home, 'postgres'), link)
  }
  return { as, home }
}

/** The account that owns the data, or `postgres`, or `nobody`. */
function accountOf(data: string) {
  const owner = fs.statSync(data, { throwIfNoEntry: false })
  if (owner?.uid) return { ...ourselves, uid: owner.uid, gid: owner.gid }
  const entry = /^_?postgres:[^:]*:(\d+):(\d+):/m.exec(read('/etc/passwd'))
  const [, uid = 65534, gid = 65534] = entry ?? []
  return { ...ourselves, uid: Number(uid), gid: Number(gid) }
}

// Becomes PostgreSQL, and leaves behind a guard that waits for the end of the owner's pipe, then
// signals a fast shutdown until PostgreSQL has ended, and removes the directory of its socket. It
// signals only while the pid file names PostgreSQL: before, the signal might be lost, and later the
// id may be another process's.
const guarded = `
  guard() {
    read -r _ <&3
    for _ in $(seq 100); do
      pid=
      read -r pid <"$0"
      if [ "$pid" = $$ ]; then
        kill -INT $$
      elif [ ! -d "$1" ] || rmdir "$1"; then
        break
      fi
      sleep 0.1
    done
  }
  ( exec >/dev/null 2>&1; guard "$1" & )
  shift
  exec "$@" 3<&-`

/** Starts PostgreSQL; `lastPid`: the process that postmaster.pid still names. */
function launch({ as, bin, data, log }: Place, lastPid: string, settings = {}) {
  // Short, as a socket's path must be, and within reach of every account.
  const socketDirectory = fs.mkdtempSync('/tmp/user-service-')
  fs.chownSync(socketDirectory, as.uid, as.gid)
  // Of the log: neither failed statements nor checkpoints, so that it stays small and holds
  // nobody's data.
  const all = {
    listen_addresses: '',
    unix_socket_directories: socketDirectory,
    port: '5432',
    log_min_messages: 'log',
    log_checkpoints: 'off',
    ...settings,
  }
  const args = [
    join(data, 'postmaster.pid'),
    socketDirectory,
    join(bin, 'postgres'),
    '-D',
    data,
    ...Object.entries(all).map(([name, value]) => `--${name}=${value}`),
  ]
  fs.writeFileSync(log, '', { mode: 0o600 })
  const output = fs.openSync(log, 'a')
  const child = spawn('sh', ['-c', guarded, ...args], {
    ...as,
    // PostgreSQL refuses to start if the pid in postmaster.pid is alive, unless it is its parent or
    // grandparent. After a crash that pid may be somebody else's, so we name it as grandparent. It
    // checks its shared memory nevertheless.
    env: { ...plainEnv, PG_GRANDPARENT_PID: lastPid },
    detached: true,
    stdio: ['ignore', output, output, 'pipe'],
  })
  fs.closeSync(output)
  child.unref()
  const pipe = child.stdio[3] as Socket
  pipe.on('error', () => {}).unref()
  let hasEnded = false

  async function waitForEnd() {
    try {
      await once(child, 'exit')
    } catch (error) {
      fs.appendFileSync(log, String(error))
    }
    hasEnded = true
    removeSockets(socketDirectory)
  }

  const ended = waitForEnd()
  return {
    pid: child.pid,
    hasEnded: () => hasEnded,
    async stop() {
      pipe.destroy()
      child.ref()
      const late = sleep(60_000, 'late', { ref: false })
      if ((await Promise.race([ended, late])) === 'late')
        throw new ExitError('PostgreSQL did not stop within 60 s')
    },
  }
}

/** Whether another start was faster, or backends of a killed one still end: that passes. */
const isRace = ({ log }: Place) =>
  /lock file .* (already exists|is empty)|shared memory block/.test(read(log))

/**
 * What postmaster.pid says, if its process is a PostgreSQL on that data, and where that listens
 * once it is ready.
 */
function readPostmaster(data: string) {
  // Of the file's lines: 1 process, 2 data, 4 port, 5 directory of the socket, 8 state.
  const lines = read(join(data, 'postmaster.pid')).split('\n')
  const pid = lines[0] ?? ''
  const dataThen = lines[1] ?? ''
  const socketDirectory = lines[4] ?? ''
  const command = fs.existsSync('/proc/self/cmdline')
    ? read(`/proc/${pid}/cmdline`)
    : String(spawnSync('ps', ['-ww', '-o', 'args=', '-p', pid]).stdout)
  const isAlive = dataThen !== '' && command.includes(dataThen)
  const isReady = isAlive && lines[7]?.trim() === 'ready'
  const address = isReady ? { socketDirectory, port: Number(lines[3]) } : null
  return { pid, isAlive, socketDirectory, address }
}

function removeSockets(at: string) {
  if (/^\/tmp\/user-service-\w{6}$/.test(at)) fs.rmSync(at, { recursive: true, force: true })
}

function read(file: string) {
  try {
    return fs.readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}
