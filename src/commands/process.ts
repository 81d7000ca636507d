// The programs that commands run: without a shell, with no environment but the given one, each in a
// process group of its own, which ends as a whole when the command is stopped or takes too long.
// Killed by SIGKILL, a command leaves its directory; the next one removes it.
import { spawn } from 'node:child_process'
import { existsSync, lstatSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'

import { createReader, type DatabaseConfig, type Env } from '../config.ts'
import { findPostgresBin } from '../database/embedded.ts'
import { ExitError } from '../errors.ts'

/** All of a program's environment, and the signal that ends it. */
export interface Surroundings { env: Env; signal: AbortSignal }

/**
 * Runs `work`; at SIGTERM, SIGINT, SIGHUP and after `limitMs` its signal aborts, and it fails. What
 * then still waits for a server that hangs is left alone: the process ends all the same.
 */
export async function stoppable<T>(limitMs: number, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController()
  const { signal } = controller
  const stop = (why: string) => controller.abort(new ExitError(why))
  for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(name, () => stop(`got ${name}`))
  setTimeout(stop, limitMs, `given up after ${limitMs / 1000} s`).unref()
  const hangs = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => void setTimeout(reject, 4000).unref())
  })
  return Promise.race([work(signal), hangs]).catch((error?: Error) => {
    if (signal.aborted) throw signal.reason
    // The driver's way of saying that it has none.
    const isMissing = /password must be a string/.test(error!.message)
    throw isMissing ? new ExitError('there is no DATABASE_PASSWORD, nor one in ~/.pgpass') : error
  }).finally(() => setTimeout(() => process.exit(), 1000).unref())
}

/** Makes a directory that only we can read, until the process ends; removes those of dead ones. */
export function makeDirectory(): string {
  for (const path of readdirSync(tmpdir()).map((name) => join(tmpdir(), name))) {
    const pid = /\/user-service-(\d+)-\w{6}$/.exec(path)?.[1]
    if (pid === undefined || !existsSync('/proc/self') || existsSync(`/proc/${pid}`)) continue
    // In a stranger's directory a link could be put in our way while we delete.
    const isOurs = lstatSync(path, { throwIfNoEntry: false })?.uid === process.getuid?.()
    if (isOurs) rmSync(path, { recursive: true, force: true })
  }
  const directory = mkdtempSync(join(tmpdir(), `user-service-${process.pid}-`))
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** Runs a program to its end, feeding it `input`. When it failed, throws `what` and its own reason. */
export async function run(
  what: string, program: string, args: string[], surroundings: Surroundings, input: AsyncIterable<unknown> | [] = [],
): Promise<{ stdout: string; stderr: string }> {
  const { child, ended } = start(what, program, args, surroundings)
  let stdout = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => void (stdout += stdout.length < 2 ** 24 ? text : ''))
  const fed = pipeline(input, child.stdin).catch((error: unknown) => error)
  const stderr = await ended.catch((error: unknown) => error)
  // When the input failed, that is the cause; when the program ended early, only a broken pipe.
  for (const failure of [await fed, stderr]) if (failure instanceof ExitError) throw failure
  if (typeof stderr !== 'string') throw stderr
  return { stdout, stderr }
}

/** The output of a program as it comes; throws at its end as `run` does. */
export async function* outputOf(what: string, program: string, args: string[], surroundings: Surroundings) {
  const { child, ended, stop } = start(what, program, args, surroundings)
  try {
    yield* child.stdout as AsyncIterable<Buffer>
    await ended
  } finally {
    stop()
  }
}

function start(what: string, program: string, args: string[], { env, signal }: Surroundings) {
  signal.throwIfAborted()
  const child = spawn(program, args, { env, detached: true, stdio: 'pipe' })
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => void (stderr = (stderr + text).slice(-(2 ** 14))))
  const kill = (how: NodeJS.Signals) => {
    const runs = child.pid !== undefined && child.exitCode === null && child.signalCode === null
    if (runs) process.kill(-child.pid!, how)
  }
  // SIGINT first, on which the AWS CLI takes an unfinished multipart upload back.
  const stop = () => {
    kill('SIGINT')
    setTimeout(kill, 3000, 'SIGKILL').unref()
  }
  signal.addEventListener('abort', stop)
  const ended = new Promise<string>((resolve, reject) => {
    child.once('error', () => reject(new ExitError(`${program} is not installed, or not in ${env['PATH']}`)))
    child.once('close', (status) => {
      if (signal.aborted) return reject(signal.reason)
      if (status === 0) return resolve(stderr)
      reject(new ExitError(`${what}: ${findReason(stderr) || `exit status ${status}`}`))
    })
  })
  ended.catch(() => {})
  return { child, ended, stop }
}

/** The first complaint that names an error, else the last, without what is said around it. */
function findReason(stderr: string): string {
  const lines = stderr.trim().split('\n')
  const line = lines.find((text) => /error:|An error occurred/i.test(text)) ?? lines.at(-1)!
  return line.replace(/^.*?(?=An error occurred)|^\S+ failed: .*? to \S+ |^.*?error( response from daemon)?: +/i, '')
}

/** What a program is given: the variables that match, and PATH, to cron's with what that leaves out. */
export const programEnv = (env: Env, names: RegExp): Env => ({
  ...Object.fromEntries(Object.entries(env).filter(([name]) => names.test(name))),
  PATH: (env['PATH'] ?? '/usr/bin:/bin').replace(/^\/usr\/bin:\/bin$/, '/usr/local/bin:/usr/bin:/bin'),
})

/** What makes pg_dump and psql connect as we do: the password is nowhere else. */
export function postgresEnv({ hosts, port, name, user, password, ssl }: DatabaseConfig, env: Env): Env {
  const mode = !ssl ? 'disable' : ssl.rejectUnauthorized ? 'verify-full' : 'require'
  const system = mode === 'verify-full' ? '/etc/ssl/certs/ca-certificates.crt' : undefined
  return {
    ...programEnv(env, /^(HOME|PGPASSFILE)$/), LC_ALL: 'C',
    PGHOST: hosts.join(','), PGTARGETSESSIONATTRS: hosts.length > 1 ? 'read-write' : undefined,
    PGPORT: String(port), PGDATABASE: name, PGUSER: user, PGPASSWORD: password,
    PGSSLMODE: mode, PGSSLROOTCERT: createReader(env).text('DATABASE_CA_FILE') ?? system,
  }
}

/** The PostgreSQL program of the lowest major version that is not below `version`'s; or throws. */
export function findPostgres(program: string, version: string): string {
  const major = Number.parseInt(version, 10)
  for (let candidate = major; candidate < major + 8; candidate++) {
    const bin = findPostgresBin(program, String(candidate))
    if (bin !== null) return join(bin, program)
  }
  throw new ExitError(`${program} ${major} or newer is not installed (Debian: postgresql-client-${major})`)
}

/** Milliseconds of a duration from 1s to 20d such as 90s, 15m, 1h; null when it is none. */
export function parseDuration(text: string): number | null {
  const [, count, unit = ''] = /^(\d{1,5})([smhd])$/.exec(text) ?? []
  const ms = Number(count) * ({ s: 1, m: 60, h: 3600, d: 86_400 }[unit] ?? 0) * 1000
  return ms >= 1000 && ms <= 20 * 86_400_000 ? ms : null
}
