// How a command runs, and the programs that it runs: with no environment but the given one, each in a process
// group of its own, which ends as a whole when the command is stopped or takes too long. Killed by SIGKILL, a
// command leaves its directory; the next one removes it.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, lstatSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'

import {
  createReader,
  localDirectory,
  privateDatabase,
  readDatabase,
  sslModeOf,
} from '../config.ts'
import type { DatabaseConfig, Env } from '../config.ts'
import { exitWith } from '../database/explain.ts'
import { findPrivatePostgres } from '../database/private.ts'
import { ExitError } from '../errors.ts'

const controller = new AbortController()
/** Aborts when the command is stopped, for the reason that it then fails with. */
export const { signal } = controller

/** Stops the command: its programs are ended, and it fails. */
export const stop = (why: string, status = 1) => controller.abort(new ExitError(why, status))

/** Stops the command at SIGTERM, SIGINT, SIGHUP and after that time. */
export function stopAfter(limitMs: number, status = 1) {
  for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP'])
    process.on(name, () => stop(`got ${name}`, status))
  setTimeout(stop, limitMs, `given up after ${limitMs / 1000} s`, status).unref()
}

const [flag, text] = [{ type: 'boolean' }, { type: 'string' }] as const
/** The options of all commands: the pattern of each says which it takes. */
const options = {
  help: flag,
  check: flag,
  'max-age': text,
  quiet: flag,
  timeout: text,
  yes: flag,
} as const
const readCall = () => ({
  env: process.env as Env,
  ...parseArgs({ options, allowPositionals: true }),
})
type Run = (call: ReturnType<typeof readCall>) => Promise<void>

/** The failure of a command that was called with the wrong words. */
export const misuse = (message: string) => new ExitError(`${message}\nSee --help.`, 2)

/**
 * Runs a command when its words and then the names of its options, sorted, match `pattern`, as in ` down 2 --yes`.
 * When it fails, the sentence goes to stderr, and the exit status is 2 for misuse, else 1 or what an ExitError
 * says. `--help` prints `usage`. What still waits for a server that hangs when the command is stopped is left
 * alone: the process ends all the same.
 */
export async function command(usage: string, pattern: RegExp, run: Run) {
  const hangs = once(signal, 'abort').then(() => sleep(4000, undefined, { ref: false }))
  try {
    const call = readCall()
    if (call.values.help) return console.log(usage)
    const names = Object.keys(call.values)
      .sort()
      .map((name) => `--${name}`)
    if (!pattern.test(['', ...call.positionals, ...names].join(' ')))
      throw misuse(`Say ${/: (.*)/.exec(usage)![1]}`)
    await Promise.race([run(call), hangs.then(() => signal.throwIfAborted())])
  } catch (error) {
    const { code, message } = error as Error & { code?: string }
    const failure = signal.aborted
      ? signal.reason
      : code?.startsWith('ERR_PARSE_ARGS')
        ? misuse(message)
        : error
    exitWith(/bin\/(\w+)/.exec(usage)![1]!, failure)
  }
  setTimeout(() => process.exit(), 1000).unref()
}

/** How a command reaches the database: as configured, else the private one of `npm start` while that runs. */
export function readCommandDatabase(env: Env, user: string) {
  const reader = createReader(env)
  const configured = readDatabase(reader, user)
  reader.finish()
  if (configured !== null) return configured
  const found = findPrivatePostgres(localDirectory)
  if (found !== null) return privateDatabase(found, user)
  throw new ExitError('No database: set DATABASE_URL or DATABASE_HOST, or run npm start meanwhile')
}

/** Makes a directory that only we can read, until the process ends; removes those of dead ones. */
export function makeDirectory(): string {
  for (const name of readdirSync(tmpdir()).filter((each) =>
    /^user-service-\d+-\w{6}$/.test(each),
  )) {
    const path = join(tmpdir(), name)
    const isDead = existsSync('/proc/self') && !existsSync(`/proc/${name.split('-')[2]}`)
    // In a stranger's directory a link could be put in our way while we delete.
    const isOurs = lstatSync(path, { throwIfNoEntry: false })?.uid === process.getuid?.()
    if (isDead && isOurs) rmSync(path, { recursive: true, force: true })
  }
  const directory = mkdtempSync(join(tmpdir(), `user-service-${process.pid}-`))
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** Runs a program to its end and returns what it said. When it failed, throws `what` and its own reason. */
export async function run(what: string, program: string, args: string[], env: Env) {
  signal.throwIfAborted()
  const child = spawn(program, args, { env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] })
  const said = { stdout: '', stderr: '' }
  child.stdout.setEncoding('utf8').on('data', (text: string) => void (said.stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => void (said.stderr += text))
  const kill = (how: NodeJS.Signals) => {
    if (child.pid && child.exitCode === null && child.signalCode === null)
      process.kill(-child.pid, how)
  }
  signal.addEventListener('abort', () => {
    // First, because on it the AWS CLI takes an unfinished multipart upload back.
    kill('SIGINT')
    setTimeout(kill, 3000, 'SIGKILL').unref()
  })
  const [status] = await once(child, 'close').catch(() => {
    throw new ExitError(`${program} is not installed, or not in ${env['PATH']}`)
  })
  signal.throwIfAborted()
  if (status !== 0)
    throw new ExitError(`${what}: ${findReason(said.stderr) || `exit status ${status}`}`)
  return said
}

/** The first complaint that names an error, else the last, without what is said around it. */
function findReason(stderr: string): string {
  const lines = stderr.trim().split('\n')
  const line = lines.find((text) => /error:|An error occurred/i.test(text)) ?? lines.at(-1)!
  return line.replace(
    /^.*?(?=An error occurred)|^\S+ failed: .*? to \S+ |^.*?error( response from daemon)?: +/i,
    '',
  )
}

const passed = new RegExp(
  '^(AWS_|DOCKER_|HOME$|LANG$|LC_|PGPASSFILE$|TMPDIR$|SSL_CERT_|REQUESTS_CA_BUNDLE$|' +
    'XDG_RUNTIME_DIR$|(https?|no)_proxy$)',
  'i',
)

/** What a program is given: no password of ours; PATH, where it is cron's, with what that leaves out. */
export const programEnv = (env: Env): Env => ({
  ...Object.fromEntries(Object.entries(env).filter(([name]) => passed.test(name))),
  PATH: (env['PATH'] ?? '/usr/bin:/bin').replace(
    /^\/usr\/bin:\/bin$/,
    '/usr/local/bin:/usr/bin:/bin',
  ),
})

/** What makes pg_dump and psql connect as we do: the password is nowhere else. */
export function postgresEnv(database: DatabaseConfig, env: Env): Env {
  const { hosts, port, name, user, password } = database
  const { text } = createReader(env)
  const mode = sslModeOf(database)
  return {
    ...programEnv(env),
    LC_ALL: 'C',
    PGPORT: String(port),
    PGDATABASE: name,
    PGUSER: user,
    PGPASSWORD: password,
    PGHOST: hosts.join(','),
    PGTARGETSESSIONATTRS: hosts.length > 1 ? 'read-write' : undefined,
    // Neither is looked at on a Unix socket, such as a drill's.
    PGSSLMODE: mode,
    PGSSLROOTCERT:
      text('DATABASE_CA_FILE') ??
      (mode === 'verify-full' ? '/etc/ssl/certs/ca-certificates.crt' : undefined),
  }
}

/** Milliseconds of a duration from 1s to 20d such as 90s, 15m, 1h; undefined when it is none. */
export function parseDuration(text: string): number | undefined {
  const [, count, unit = ''] = /^(\d{1,5})([smhd])$/.exec(text) ?? []
  const ms = Number(count) * ({ s: 1, m: 60, h: 3600, d: 86_400 }[unit] ?? 0) * 1000
  return ms >= 1000 && ms <= 20 * 86_400_000 ? ms : undefined
}
