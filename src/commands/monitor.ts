import { mkdirSync, readdirSync, rmSync, statSync } from 'node:fs'
import { isIPv6 } from 'node:net'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

import { createReader } from '../environment.ts'
import { ExitError } from '../errors.ts'
import { command, parseDuration, signal, stop, stopAfter } from './command.ts'
import { runProgram } from './programs.ts'

const usage = `Restarts the container when its health check fails three times in a row.
Prints nothing when all is well.

SERVICE_URL       default http://SERVER_HOST:SERVICE_PORT/SERVICE_ENDPOINT
SERVICE_NAME      the container's exact name, default user-service
MONITOR_COOLDOWN  no second restart within that time, default 10m, at least 5m
`

await command({
  name: 'monitor',
  synopsis: '',
  usage,
  statuses:
    '0 healthy, 1 restarted and healthy again, 2 not healthy, stopped or misuse, 3 docker failed',
  pattern: /^$/,
  run: monitor,
})

async function monitor() {
  const { url, name, cooldownMs } = readSettings()
  stopAfter(280_000, 2)
  const failure = await watch(url, 3)
  if (failure === null) return
  const sick = `${name} is not healthy (${failure})`
  if (failure === 'database_unavailable')
    throw new ExitError(`${sick}: a restart would not help, look at PostgreSQL`, 2)

  const id = await findContainer(name, sick)
  if (!claimRestart(name, cooldownMs))
    throw new ExitError(`${sick}, but was restarted a short while ago`, 2)
  const log = await readLog(id)
  console.error(`${sick}, it is restarted. Its last log lines:\n${log}`)
  await blaming(sick, 2, docker('restart', id))

  const startedAt = Date.now()
  const still = await watch(url, Infinity, startedAt + 60_000)
  const seconds = Math.round((Date.now() - startedAt) / 1000)
  if (still !== null)
    throw new ExitError(`${name} is still not healthy ${seconds} s after a restart (${still})`, 2)
  console.log(`${sick} and was restarted; it is healthy again after ${seconds} s`)
  process.exitCode = 1
}

function docker(...args: string[]) {
  return runProgram({ what: `docker ${args[0]} failed`, program: 'docker', args })
}

/** Adds to a failure of docker why it was needed. */
async function blaming<T>(sick: string, status: number, work: Promise<T>) {
  try {
    return await work
  } catch (error) {
    throw new ExitError(`${sick}, and ${(error as Error).message}`, status)
  }
}

function readSettings() {
  const reader = createReader(process.env)
  const port = reader.integer('SERVICE_PORT', 80, 1, 65_535)
  const host = reachable(reader.text('SERVER_HOST') ?? '')
  const base = `http://${host}:${port}/${reader.text('SERVICE_ENDPOINT') ?? 'v1'}`
  const url = reader.read('SERVICE_URL', base, 'must be an address', (given) =>
    /^https?:/.test(new URL(given).href) ? given : undefined,
  )
  const name = reader.read('SERVICE_NAME', 'user-service', 'must name a container', (given) =>
    /^[A-Za-z0-9][\w.-]*$/.test(given) ? given : undefined,
  )
  const rule = 'must be such as 10m, at least 5m'
  // A shorter one might end while another monitor is still restarting the service.
  const cooldownMs = reader.read('MONITOR_COOLDOWN', 600_000, rule, (given) => {
    const ms = parseDuration(given) ?? 0
    return ms >= 300_000 ? ms : undefined
  })
  reader.finish()
  return { url: url.replace(/\/*$/, '/healthcheck'), name, cooldownMs }
}

/** The host to ask for a service that listens on `host`, or on all addresses. */
function reachable(host: string) {
  if (['', '0.0.0.0', '::'].includes(host)) return '127.0.0.1'
  return isIPv6(host) ? `[${host}]` : host
}

/**
 * Asks each second; returns null once the service is healthy, or why it is not after so many tries
 * or after the instant `until`.
 */
async function watch(url: string, tries: number, until = Infinity) {
  for (let attempt = 1; ; attempt++) {
    const failure = await ask(url)
    if (failure === null || attempt === tries || Date.now() > until) return failure
    await sleep(1000, undefined, { signal })
  }
}

async function ask(url: string) {
  // No AbortSignal.any or timeout: on Node 20 they may be collected before they fire.
  const limit = new AbortController()
  setTimeout(() => limit.abort(new Error('no answer in 5 s')), 5000).unref()
  try {
    const reply = await fetch(url, { redirect: 'manual', signal: limit.signal })
    const body = await reply.text()
    if (reply.status === 200) return null
    const isDatabase = body.includes('"database_unavailable"')
    return isDatabase ? 'database_unavailable' : `status ${reply.status}`
  } catch (error) {
    const { message, cause } = error as Error & { cause?: { code?: string } }
    return cause?.code ?? message
  }
}

/** The id of the container; throws when there is none of that name. */
async function findContainer(name: string, sick: string) {
  const timer = setTimeout(stop, 20_000, `${sick}, and docker does not answer`, 3).unref()
  const format = '--format={{.Id}} {{.Name}}'
  const asked = docker('inspect', '--type=container', format, name)
  const { stdout } = await blaming(sick, 3, asked)
  clearTimeout(timer)
  const [id = '', found] = stdout.trim().split(' ')
  // Docker also accepts the beginning of an id as a name.
  if (found === `/${name}`) return id
  throw new ExitError(`${sick}, and there is no container named ${name}`, 3)
}

/** The last lines of its log, in their order, or why it cannot be read. */
async function readLog(id: string) {
  try {
    const { stdout, stderr } = await docker('logs', '--timestamps', '--tail=50', id)
    const lines = (stdout + stderr).trim().split('\n')
    return lines.sort().join('\n')
  } catch (error) {
    return (error as Error).message
  }
}

/** Claims the restart: the directory after the last one, which only one monitor can make. */
function claimRestart(name: string, cooldownMs: number) {
  const state = process.env['XDG_STATE_HOME'] || join(homedir(), '.local/state')
  const directory = join(state, 'user-service', name)
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const last = Math.max(0, ...readdirSync(directory).map(Number))
  const claimedAt = statSync(`${directory}/${last}`, { throwIfNoEntry: false })?.mtimeMs ?? 0
  if (Math.abs(Date.now() - claimedAt) < cooldownMs) return false
  // Returns the first directory that it made, so nothing when another monitor was faster.
  if (mkdirSync(`${directory}/${last + 1}`, { recursive: true }) === undefined) return false
  rmSync(`${directory}/${last}`, { recursive: true, force: true })
  return true
}
