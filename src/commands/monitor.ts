import { mkdirSync, readdirSync, rmSync, statSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

import { createReader, type Env } from '../config.ts'
import { ExitError } from '../errors.ts'
import { command, misuse } from './command.ts'
import { parseDuration, programEnv, run } from './process.ts'

const usage = `Usage: node bin/monitor.js

Asks the service's health check. When it fails three times in a row, prints the container's last log
lines, restarts it and waits until it is healthy, at most 60 s. Silent when all is well.

SERVICE_URL       default http://127.0.0.1:SERVICE_PORT/SERVICE_ENDPOINT, which are 80 and v1
SERVICE_NAME      the container's exact name, default user-service
MONITOR_COOLDOWN  no second restart within that time, default 10m, at least 5m

Exit status: 0 healthy, 1 restarted and healthy again, 2 not healthy, stopped, or misuse, 3 docker is missing
or not permitted, or there is no such container.
`

await command(usage, {}, async ({ words, env, stopAfter }) => {
  if (words.length > 0) throw misuse('monitor takes no words')
  const { url, name, cooldownMs } = readSettings(env)
  const signal = stopAfter(280_000, 2)
  const failure = await watch(url, 3, Infinity, signal)
  if (failure === null) return
  const sick = `${name} is not healthy (${failure})`
  const fail = (why: string, status = 2) => { throw new ExitError(why, status) }
  if (failure === 'database_unavailable') fail(`${sick}: a restart would not help, look at PostgreSQL`)

  const surroundings = { env: programEnv(env, /^(DOCKER_|HOME$|XDG_RUNTIME_DIR$)/), signal }
  const docker = (command: string, ...args: string[]) =>
    run(`docker ${command} failed`, 'docker', [command, ...args], surroundings)
      .catch(({ message }: Error) => fail(message, command === 'inspect' ? 3 : 2))
  const { stdout } = await docker('inspect', '--type=container', '--format={{.Id}} {{.Name}}', name)
  const [id = '', found] = stdout.trim().split(' ')
  // Docker also takes the beginning of an id for a name.
  if (found !== `/${name}`) fail(`there is no container named ${name}`, 3)
  if (!claimRestart(env, name, cooldownMs)) fail(`${sick}, but was restarted a short while ago`)
  const log = await docker('logs', '--timestamps', '--tail=50', id)
    .then(({ stdout, stderr }) => stdout + stderr, ({ message }: Error) => message)
  console.error(`${sick}, it is restarted. Its last log lines:\n${log.trim().split('\n').sort().join('\n')}`)

  await docker('restart', id)
  const startedAt = Date.now()
  const still = await watch(url, Infinity, startedAt + 60_000, signal)
  const seconds = Math.round((Date.now() - startedAt) / 1000)
  if (still !== null) fail(`${name} is still not healthy ${seconds} s after a restart (${still})`)
  console.log(`${sick} and was restarted; it is healthy again after ${seconds} s`)
  process.exitCode = 1
})

function readSettings(env: Env) {
  const reader = createReader(env)
  const port = reader.integer('SERVICE_PORT', 80, 1, 65_535)
  const base = reader.text('SERVICE_URL') ?? `http://127.0.0.1:${port}/${reader.text('SERVICE_ENDPOINT') ?? 'v1'}`
  const url = `${base.replace(/\/+$/, '')}/healthcheck`
  if (!URL.canParse(url) || !/^https?:/.test(url)) reader.wrong('SERVICE_URL', 'must be an address')
  const name = reader.text('SERVICE_NAME') ?? 'user-service'
  if (!/^[A-Za-z0-9][\w.-]*$/.test(name)) reader.wrong('SERVICE_NAME', 'must name a container')
  // A shorter one might end while another monitor still restarts.
  const cooldownMs = parseDuration(reader.text('MONITOR_COOLDOWN') ?? '10m') ?? 0
  if (cooldownMs < 300_000) reader.wrong('MONITOR_COOLDOWN', 'must be such as 10m, at least 5m')
  reader.finish()
  return { url, name, cooldownMs }
}

/** Asks each second until the service is healthy: null; or so often, or so long: why it is not. */
async function watch(url: string, tries: number, until: number, signal: AbortSignal) {
  for (let attempt = 1; ; attempt++) {
    const failure = await ask(url)
    if (failure === null || attempt === tries || Date.now() > until) return failure
    await sleep(1000, undefined, { signal })
  }
}

async function ask(url: string): Promise<string | null> {
  // No AbortSignal.any or timeout: on Node 20 they may be collected before they fire.
  const limit = new AbortController()
  setTimeout(() => limit.abort(new Error('no answer in 5 s')), 5000).unref()
  try {
    const reply = await fetch(url, { redirect: 'manual', signal: limit.signal })
    const body = await reply.text()
    if (reply.status === 200) return null
    return body.includes('"database_unavailable"') ? 'database_unavailable' : `status ${reply.status}`
  } catch (error) {
    const { message, cause } = error as Error & { cause?: { code?: string } }
    return cause?.code ?? message
  }
}

/** Takes the right to restart: the directory after the last one, which only one of two monitors makes. */
function claimRestart(env: Env, name: string, cooldownMs: number): boolean {
  const directory = join(env['XDG_STATE_HOME'] || join(homedir(), '.local/state'), 'user-service', name)
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const last = Math.max(0, ...readdirSync(directory).map(Number))
  const pathOf = (number: number) => join(directory, String(number))
  const claimedAt = statSync(pathOf(last), { throwIfNoEntry: false })?.mtimeMs ?? 0
  if (Math.abs(Date.now() - claimedAt) < cooldownMs) return false
  // Returns the first that it made, so nothing where the other was faster.
  if (mkdirSync(pathOf(last + 1), { recursive: true }) === undefined) return false
  rmSync(pathOf(last), { recursive: true, force: true })
  return true
}
