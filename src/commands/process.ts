// The programs that commands run: without a shell, with no environment but the given one, each in a process group
// of its own, which ends as a whole when the command is stopped or takes too long. Killed by SIGKILL, a command
// leaves its directory; the next one removes it.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, lstatSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'

import { createReader, type DatabaseConfig, type Env } from '../config.ts'
import { findPostgresBin } from '../database/embedded.ts'
import { ExitError } from '../errors.ts'

/** All of a program's environment, and the signal that ends it. */
export type Surroundings = { env: Env; signal: AbortSignal }

/** Makes a directory that only we can read, until the process ends; removes those of dead ones. */
export function makeDirectory(): string {
  const isDead = (pid: string) => existsSync('/proc/self') && !existsSync(`/proc/${pid}`)
  // In a stranger's directory a link could be put in our way while we delete.
  const isOurs = (path: string) => lstatSync(path, { throwIfNoEntry: false })?.uid === process.getuid?.()
  for (const name of readdirSync(tmpdir())) {
    const [, pid] = /^user-service-(\d+)-\w{6}$/.exec(name) ?? []
    const path = join(tmpdir(), name)
    if (pid && isDead(pid) && isOurs(path)) rmSync(path, { recursive: true, force: true })
  }
  const directory = mkdtempSync(join(tmpdir(), `user-service-${process.pid}-`))
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** Runs a program to its end, feeding it `input`. When it failed, throws `what` and its own reason. */
export async function run(
  what: string, program: string, args: string[], surroundings: Surroundings, input: AsyncIterable<unknown> | [] = [],
) {
  const { child, ended } = start(what, program, args, surroundings)
  let stdout = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => void (stdout += text))
  const [fed] = await Promise.allSettled([pipeline(input, child.stdin), ended])
  // When the input failed, that is the cause; when the program ended early, only a broken pipe.
  if (fed.status === 'rejected' && fed.reason instanceof ExitError) throw fed.reason
  return { stdout, stderr: await ended }
}

/** Starts a program; `ended` resolves with what it said on stderr, or rejects as `run` does. */
export function start(what: string, program: string, args: string[], { env, signal }: Surroundings) {
  signal.throwIfAborted()
  const child = spawn(program, args, { env, detached: true, stdio: 'pipe' })
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => void (stderr += text))
  const kill = (how: NodeJS.Signals) => {
    if (child.pid && child.exitCode === null && child.signalCode === null) process.kill(-child.pid, how)
  }
  signal.addEventListener('abort', () => {
    // First, because on it the AWS CLI takes an unfinished multipart upload back.
    kill('SIGINT')
    setTimeout(kill, 3000, 'SIGKILL').unref()
  })
  const ended = once(child, 'close').then(([status]) => {
    signal.throwIfAborted()
    if (status !== 0) throw new ExitError(`${what}: ${findReason(stderr) || `exit status ${status}`}`)
    return stderr
  }, () => {
    throw new ExitError(`${program} is not installed, or not in ${env['PATH']}`)
  })
  ended.catch(() => {})
  return { child, ended }
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
export function postgresEnv({ hosts, port, name, user, password }: DatabaseConfig, env: Env): Env {
  const { text } = createReader(env)
  const mode = text('DATABASE_SSL') ?? 'disable'
  const system = mode === 'verify-full' ? '/etc/ssl/certs/ca-certificates.crt' : undefined
  return {
    ...programEnv(env, /^(HOME|PGPASSFILE)$/), LC_ALL: 'C',
    PGHOST: hosts.join(','), PGTARGETSESSIONATTRS: hosts.length > 1 ? 'read-write' : undefined,
    PGPORT: String(port), PGDATABASE: name, PGUSER: user, PGPASSWORD: password,
    // Neither is looked at on a Unix socket, such as a drill's.
    PGSSLMODE: mode, PGSSLROOTCERT: text('DATABASE_CA_FILE') ?? system,
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
