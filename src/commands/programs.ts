// The programs that commands run, with no environment but the given one; they end with the command.
import { existsSync, lstatSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { sslModeOf, type DatabaseConfig } from '../config.ts'
import * as programs from '../database/programs.ts'
import { createReader } from '../environment.ts'
import { ExitError } from '../errors.ts'
import { signal } from './command.ts'

type Program = Omit<programs.Program, 'signal'>

/** Starts a program, which ends with the command. */
export const startProgram = (called: Program) => programs.startProgram({ ...called, signal })

/** Runs a program to its end and returns its output; throws `what` and the program's own reason. */
export async function runProgram({ what, ...called }: Program & { what: string }) {
  try {
    return await programs.runProgram({ env: programEnv(), ...called, signal })
  } catch (error) {
    if (error instanceof ExitError) throw error
    throw new ExitError(`${what}: ${findReason((error as Error).message)}`)
  }
}

/** The first line that names an error, else the last, without the words around its reason. */
function findReason(stderr: string) {
  const lines = stderr.split('\n')
  const line = lines.find((text) => /error:|An error occurred/i.test(text)) ?? lines.at(-1)!
  return line
    .replace(/^.*?(?=An error occurred)/, '') // aws, where S3 has answered
    .replace(/^\S+ failed: .*? to \S+ /, '') // aws: upload failed: ./file to s3://bucket/file
    .replace(/^.*?error( response from daemon)?: +/i, '') // PostgreSQL's programs, docker
}

const passed = new RegExp(
  '^(AWS_|DOCKER_|HOME$|LANG$|LC_|PGPASSFILE$|TMPDIR$|SSL_CERT_|REQUESTS_CA_BUNDLE$|' +
    'XDG_RUNTIME_DIR$|(https?|no)_proxy$)',
  'i',
)
const cronPath = '/usr/bin:/bin'

/** A program's environment, without our passwords; to cron's PATH, /usr/local/bin is added. */
function programEnv() {
  const { PATH = cronPath } = process.env
  return {
    ...Object.fromEntries(Object.entries(process.env).filter(([name]) => passed.test(name))),
    PATH: PATH === cronPath ? `/usr/local/bin:${cronPath}` : PATH,
  }
}

/** The environment in which pg_dump and psql connect as we do; no argument has the password. */
export function postgresEnv(database: DatabaseConfig) {
  const { hosts, port, name, user, password } = database
  const { text } = createReader(process.env)
  const mode = sslModeOf(database)
  const systemCa = mode === 'verify-full' ? '/etc/ssl/certs/ca-certificates.crt' : undefined
  return {
    ...programEnv(),
    LC_ALL: 'C',
    PGPORT: String(port),
    PGDATABASE: name,
    PGUSER: user,
    PGPASSWORD: password,
    PGHOST: hosts.join(','),
    PGTARGETSESSIONATTRS: hosts.length > 1 ? 'read-write' : undefined,
    // libpq ignores these on a Unix socket, such as that of `restore --check`.
    PGSSLMODE: mode,
    PGSSLROOTCERT: text('DATABASE_CA_FILE') ?? systemCa,
    PGSSLCERT: text('DATABASE_CERT_FILE'),
    PGSSLKEY: text('DATABASE_KEY_FILE'),
  }
}

/**
 * Makes a directory that only we can read, removed when the process ends. Also removes those that
 * processes left behind when they were killed.
 */
export function makeDirectory() {
  for (const name of readdirSync(tmpdir())) {
    const [, pid] = /^user-service-(\d+)-\w{6}$/.exec(name) ?? []
    if (pid === undefined) continue
    const path = join(tmpdir(), name)
    const isDead = existsSync('/proc/self') && !existsSync(`/proc/${pid}`)
    // The owner of another directory could put a link into it while we delete it.
    const isOurs = lstatSync(path, { throwIfNoEntry: false })?.uid === process.getuid?.()
    if (isDead && isOurs) rmSync(path, { recursive: true, force: true })
  }
  const directory = mkdtempSync(join(tmpdir(), `user-service-${process.pid}-`))
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  return directory
}
