// The programs that commands run: with no environment but the given one, each in a process group of its own,
// which ends as a whole when the command is stopped or takes too long. Killed by SIGKILL, a command leaves its
// directory; the next one removes it.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, lstatSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { createReader, type DatabaseConfig, type Env } from '../config.ts'
import { ExitError } from '../errors.ts'

const controller = new AbortController()
/** Aborts when the command is stopped, for the reason that it then fails with. */
export const { signal } = controller

/** Stops the command: its programs are ended, and it fails. */
export const stop = (why: string, status = 1) => controller.abort(new ExitError(why, status))

/** Stops the command at SIGTERM, SIGINT, SIGHUP and after that time. */
export function stopAfter(limitMs: number, status = 1) {
  for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(name, () => stop(`got ${name}`, status))
  setTimeout(stop, limitMs, `given up after ${limitMs / 1000} s`, status).unref()
}

/** Makes a directory that only we can read, until the process ends; removes those of dead ones. */
export function makeDirectory(): string {
  const isDead = (pid: string) => existsSync('/proc/self') && !existsSync(`/proc/${pid}`)
  for (const name of readdirSync(tmpdir())) {
    const [, pid] = /^user-service-(\d+)-\w{6}$/.exec(name) ?? []
    const path = join(tmpdir(), name)
    // Ours alone: in a stranger's directory a link could be put in our way while we delete.
    const isOurs = lstatSync(path, { throwIfNoEntry: false })?.uid === process.getuid?.()
    if (pid && isDead(pid) && isOurs) rmSync(path, { recursive: true, force: true })
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
    if (child.pid && child.exitCode === null && child.signalCode === null) process.kill(-child.pid, how)
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
  if (status !== 0) throw new ExitError(`${what}: ${findReason(said.stderr) || `exit status ${status}`}`)
  return said
}

/** The first complaint that names an error, else the last, without what is said around it. */
function findReason(stderr: string): string {
  const lines = stderr.trim().split('\n')
  const line = lines.find((text) => /error:|An error occurred/i.test(text)) ?? lines.at(-1)!
  return line.replace(/^.*?(?=An error occurred)|^\S+ failed: .*? to \S+ |^.*?error( response from daemon)?: +/i, '')
}

// Of AWS, Docker and what they and PostgreSQL's programs are set up by: never a password of ours.
const passed = new RegExp('^(AWS_|DOCKER_|HOME$|LANG$|LC_|PGPASSFILE$|TMPDIR$|SSL_CERT_|REQUESTS_CA_BUNDLE$|' +
  'XDG_RUNTIME_DIR$|(https?|no)_proxy$)', 'i')

/** What a program is given; PATH, where it is cron's, with what that leaves out. */
export const programEnv = (env: Env): Env => ({
  ...Object.fromEntries(Object.entries(env).filter(([name]) => passed.test(name))),
  PATH: (env['PATH'] ?? '/usr/bin:/bin').replace(/^\/usr\/bin:\/bin$/, '/usr/local/bin:/usr/bin:/bin'),
})

/** What makes pg_dump and psql connect as we do: the password is nowhere else. */
export function postgresEnv({ hosts, port, name, user, password }: DatabaseConfig, env: Env): Env {
  const { text } = createReader(env)
  const mode = text('DATABASE_SSL') ?? 'disable'
  return {
    ...programEnv(env), LC_ALL: 'C', PGPORT: String(port), PGDATABASE: name, PGUSER: user, PGPASSWORD: password,
    PGHOST: hosts.join(','), PGTARGETSESSIONATTRS: hosts.length > 1 ? 'read-write' : undefined,
    // Neither is looked at on a Unix socket, such as a drill's.
    PGSSLMODE: mode, PGSSLROOTCERT: text('DATABASE_CA_FILE') ??
      (mode === 'verify-full' ? '/etc/ssl/certs/ca-certificates.crt' : undefined),
  }
}

/** Milliseconds of a duration from 1s to 20d such as 90s, 15m, 1h; undefined when it is none. */
export function parseDuration(text: string): number | undefined {
  const [, count, unit = ''] = /^(\d{1,5})([smhd])$/.exec(text) ?? []
  const ms = Number(count) * ({ s: 1, m: 60, h: 3600, d: 86_400 }[unit] ?? 0) * 1000
  return ms >= 1000 && ms <= 20 * 86_400_000 ? ms : undefined
}
