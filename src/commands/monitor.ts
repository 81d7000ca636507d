import { mkdirSync, readdirSync, rmSync, statSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

import { createReader, type Env } from '../config.ts'
import { ExitError } from '../errors.ts'
import { command, parseDuration, programEnv, run, signal, stop, stopAfter } from './command.ts'

const usage = `Usage: node bin/monitor.js

Asks the service's health check. When it fails three times in a row, prints the container's last log
lines, restarts it and waits until it is healthy, at most 60 s. Silent when all is well.

SERVICE_URL       default http://127.0.0.1:SERVICE_PORT/SERVICE_ENDPOINT, which are 80 and v1
SERVICE_NAME      the container's exact name, default user-service
MONITOR_COOLDOWN  no second restart within that time, default 10m, at least 5m

Exit status: 0 healthy, 1 restarted and healthy again, 2 not healthy, stopped, or misuse, 3 docker is missing,
not permitted or does not answer, or there is no such container.`

await command(usage, /^$/, async ({ env }) => {
  const reader = createReader(env)
  const port = reader.integer('SERVICE_PORT', 80, 1, 65_535)
  const base = `http://127.0.0.1:${port}/${reader.text('SERVICE_ENDPOINT') ?? 'v1'}`
  const url = reader
    .read('SERVICE_URL', base, 'must be an address', (given) =>
      /^https?:/.test(new URL(given).href) ? given : undefined,
    )
    .replace(/\/*$/, '/healthcheck')
  const name = reader.read(
    'SERVICE_NAME',
    'user-service',
    'must name a container',
    (given) => /^[A-Za-z0-9][\w.-]*$/.exec(given)?.[0],
  )
  // A shorter one might end while another monitor still restarts.
  const cooldownMs = reader.read(
    'MONITOR_COOLDOWN',
    600_000,
    'must be such as 10m, at least 5m',
    (given) => [parseDuration(given) ?? 0].find((ms) => ms >= 300_000),
  )
  reader.finish()

  stopAfter(280_000, 2)
  const failure = await watch(url, 3, Infinity)
  if (failure === null) return
  const sick = `${name} is not healthy (${failure})`
  const fail = (why: string, status = 2) => {
    throw new ExitError(why, status)
  }
  if (failure === 'database_unavailable')
    fail(`${sick}: a restart would not help, look at PostgreSQL`)

  const docker = (status: number, command: string, ...args: string[]) =>
    run(`docker ${command} failed`, 'docker', [command, ...args], programEnv(env)).catch(
      ({ message }: Error) => fail(message, status),
    )
  const answers = setTimeout(stop, 20_000, 'docker does not answer', 3).unref()
  const { stdout } = await docker(
    3,
    'inspect',
    '--type=container',
    '--format={{.Id}} {{.Name}}',
    name,
  )
  clearTimeout(answers)
  const [id = '', found] = stdout.trim().split(' ')
  // Docker also takes the beginning of an id for a name.
  if (found !== `/${name}`) fail(`there is no container named ${name}`, 3)
  if (!claimRestart(env, name, cooldownMs)) fail(`${sick}, but was restarted a short while ago`)
  const log = await docker(2, 'logs', '--timestamps', '--tail=50', id).then(
    ({ stdout, stderr }) => stdout + stderr,
    ({ message }: Error) => message,
  )
  console.error(
    `${sick}, it is restarted. Its last log lines:\n${log.trim().split('\n').sort().join('\n')}`,
  )
  await docker(2, 'restart', id)
  const startedAt = Date.now()
  const still = await watch(url, Infinity, startedAt + 60_000)
  const seconds = Math.round((Date.now() - startedAt) / 1000)
  if (still !== null) fail(`${name} is still not healthy ${seconds} s after a restart (${still})`)
  console.log(`${sick} and was restarted; it is healthy again after ${seconds} s`)
  process.exitCode = 1
})

/** Asks each second until the service is healthy: null; or so often, or so long: why it is not. */
async function watch(url: string, tries: number, until: number) {
  for (let attempt = 1; ; attempt++) {
    const failure = await ask(url)
    if (failure === null || attempt === tries || Date.now() > until) return failure
    await sleep(1000, undefined, { signal })
  }
}

function ask(url: string): Promise<string | null> {
  // No AbortSignal.any or timeout: on Node 20 they may be collected before they fire.
  const limit = new AbortController()
  setTimeout(() => limit.abort(new Error('no answer in 5 s')), 5000).unref()
  return fetch(url, { redirect: 'manual', signal: limit.signal })
    .then(async (reply) => {
      const body = await reply.text()
      if (reply.status === 200) return null
      return body.includes('"database_unavailable"')
        ? 'database_unavailable'
        : `status ${reply.status}`
    })
    .catch(({ message, cause }: Error & { cause?: { code?: string } }) => cause?.code ?? message)
}

/** Takes the right to restart: the directory after the last one, which only one of two monitors makes. */
function claimRestart(env: Env, name: string, cooldownMs: number): boolean {
  const directory = join(
    env['XDG_STATE_HOME'] || join(homedir(), '.local/state'),
    'user-service',
    name,
  )
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const last = Math.max(0, ...readdirSync(directory).map(Number))
  const claimedAt = statSync(`${directory}/${last}`, { throwIfNoEntry: false })?.mtimeMs ?? 0
  if (Math.abs(Date.now() - claimedAt) < cooldownMs) return false
  // Returns the first that it made, so nothing where the other was faster.
  if (mkdirSync(`${directory}/${last + 1}`, { recursive: true }) === undefined) return false
  rmSync(`${directory}/${last}`, { recursive: true, force: true })
  return true
}
