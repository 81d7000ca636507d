import { mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

import { createReader } from '../config.ts'
import type { Env } from '../config.ts'
import { ExitError } from '../errors.ts'
import { command, misuse } from './command.ts'
import { lastWords, parseDuration, run, searchPath, stoppable } from './process.ts'

const usage = `Usage: node bin/monitor.js

Asks the service's health check. When it fails three times in a row, restarts the container and waits
until the service is healthy, at most 60 s. Silent when all is well.

SERVICE_URL       the service (default http://127.0.0.1:SERVICE_PORT/SERVICE_ENDPOINT)
SERVICE_PORT      default 80
SERVICE_ENDPOINT  the base path (default v1)
SERVICE_NAME      the container's exact name (default user-service)
MONITOR_COOLDOWN  no second restart within that time (default 10m; at least 2m)

Exit status: 0 healthy, 1 restarted and healthy again (or the monitor itself failed), 2 not healthy,
or misuse, 3 docker is missing, not permitted, or there is no such container.
`

const askLimitMs = 5000
const healthyWithinMs = 60_000
const dockerLimitMs = 90_000

await command(usage, {}, async ({ words, env }) => {
  if (words.length > 0) throw misuse('monitor takes no words')
  const { url, name, cooldownMs } = readSettings(env)
  return stoppable(dockerLimitMs * 3 + healthyWithinMs, async (signal) => {
    const failure = await findFailure(url, signal)
    if (failure === null) return 0
    if (failure === 'database_unavailable') {
      throw new ExitError(`${name} answers but cannot use its database; a restart would not help, look at PostgreSQL`, 2)
    }
    const docker = createDocker(env, signal)
    const { id, paused } = await docker.find(name)
    claimRestart(env, name, cooldownMs, failure)

    console.error(`${name} is not healthy (${failure}): restarting it. Its last log lines:\n${await docker.log(id)}`)
    if (paused) await docker.act('unpause', id)
    await docker.act('restart', id)
    const seconds = await waitUntilHealthy(url, signal)
    if (seconds === null) {
      throw new ExitError(`${name} was restarted, and is still not healthy after ${healthyWithinMs / 1000} s`, 2)
    }
    console.log(`${name} was not healthy (${failure}) and was restarted; healthy again after ${seconds} s`)
    return 1
  })
})

function readSettings(env: Env) {
  const reader = createReader(env)
  const port = reader.integer('SERVICE_PORT', 80, 1, 65_535)
  const endpoint = (reader.text('SERVICE_ENDPOINT') ?? 'v1').replace(/^\/+|\/+$/g, '')
  const base = reader.text('SERVICE_URL')?.replace(/\/+$/, '') ?? `http://127.0.0.1:${port}/${endpoint}`
  const url = `${base.replace(/\/$/, '')}/healthcheck`
  if (!URL.canParse(url) || !/^https?:\/\//.test(url)) reader.wrong('SERVICE_URL', 'must be such as http://127.0.0.1/v1')
  const name = reader.text('SERVICE_NAME') ?? 'user-service'
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(name)) reader.wrong('SERVICE_NAME', 'must be the name of a container')
  // Less would be shorter than a restart takes: two monitors could do it at once.
  const cooldownMs = parseDuration(reader.text('MONITOR_COOLDOWN') ?? '10m') ?? 0
  if (cooldownMs < 120_000) reader.wrong('MONITOR_COOLDOWN', 'must be a duration of at least 2m, such as 10m or 1h')
  reader.finish()
  return { url, name, cooldownMs }
}

/** Null when one of three tries finds the service healthy; else why the last one did not. */
async function findFailure(url: string, signal: AbortSignal): Promise<string | null> {
  for (let attempt = 1; ; attempt++) {
    const failure = await ask(url, signal)
    if (failure === null || attempt === 3) return failure
    await sleep(1000, undefined, { signal })
  }
}

async function ask(url: string, signal: AbortSignal): Promise<string | null> {
  try {
    const reply = await fetch(url, {
      redirect: 'manual', signal: AbortSignal.any([signal, AbortSignal.timeout(askLimitMs)]),
    })
    const text = (await reply.text()).slice(0, 1000)
    if (reply.status === 200) return null
    return /"code":\s*"database_unavailable"/.test(text) ? 'database_unavailable' : `status ${reply.status}`
  } catch (error) {
    signal.throwIfAborted()
    const { name, message, cause } = error as Error & { cause?: { code?: string } }
    return name === 'TimeoutError' ? `no answer within ${askLimitMs / 1000} s` : cause?.code ?? message
  }
}

async function waitUntilHealthy(url: string, signal: AbortSignal): Promise<number | null> {
  const startedAt = Date.now()
  const passedMs = () => Date.now() - startedAt
  while (passedMs() < healthyWithinMs) {
    if (await ask(url, signal) === null) return Math.round(passedMs() / 1000)
    await sleep(1000, undefined, { signal })
  }
  return null
}

function createDocker(env: Env, signal: AbortSignal) {
  const own = Object.entries(env).filter(([name]) => /^(DOCKER_|HOME$|XDG_RUNTIME_DIR$)/.test(name))
  const dockerEnv = { ...Object.fromEntries(own), PATH: searchPath(env) }

  async function docker(...args: string[]) {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(dockerLimitMs)])
    return run('docker', args, { env: dockerEnv, signal: limit }).catch((error: Error) => {
      if (error instanceof ExitError) throw new ExitError(error.message, 3)
      throw new ExitError(`docker ${args[0]} did not end within ${dockerLimitMs / 1000} s`, 2)
    })
  }

  return {
    async find(name: string): Promise<{ id: string; paused: boolean }> {
      const { status, stdout, stderr } = await docker('inspect', '--type=container', name)
      const missing = new ExitError(`there is no container named ${name}`, 3)
      if (status !== 0) throw /no such/i.test(stderr) ? missing : new ExitError(`docker: ${lastWords(stderr)}`, 3)
      // The argument may also be the beginning of an id: only the very name will do.
      const [found] = JSON.parse(stdout) as { Id: string; Name: string; State: { Paused: boolean } }[]
      if (found?.Name !== `/${name}`) throw missing
      return { id: found.Id, paused: found.State.Paused }
    },
    async log(id: string): Promise<string> {
      const { stdout, stderr } = await docker('logs', '--tail=50', '--timestamps', id)
      return (stdout + stderr).split('\n').filter((line) => line !== '').sort().slice(-50).join('\n')
    },
    async act(verb: 'restart' | 'unpause', id: string) {
      const { status, stderr } = await docker(verb, id)
      if (status !== 0) throw new ExitError(`docker ${verb} failed: ${lastWords(stderr)}`, 2)
    },
  }
}

/**
 * Takes the right to restart, which is a file with the number after the last one: of two monitors
 * only one can create it. Throws when the last restart is more recent than the cooldown.
 */
function claimRestart(env: Env, name: string, cooldownMs: number, failure: string) {
  const directory = join(env['XDG_STATE_HOME'] || join(homedir(), '.local/state'), 'user-service', name)
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const numbers = readdirSync(directory).map((file) => /^restart-(\d+)$/.exec(file)?.[1] ?? 0).map(Number)
  const last = Math.max(0, ...numbers)
  const fileOf = (number: number) => join(directory, `restart-${number}`)
  const ageMs = Date.now() - (statSync(fileOf(last), { throwIfNoEntry: false })?.mtimeMs ?? 0)
  const refuse = () => new ExitError(`${name} is not healthy (${failure}); it was restarted less than ` +
    `${cooldownMs / 60_000} min ago, so not again: look at its log`, 2)
  if (ageMs >= 0 && ageMs < cooldownMs) throw refuse()
  try {
    writeFileSync(fileOf(last + 1), '', { flag: 'wx', mode: 0o600 })
  } catch (error) {
    throw (error as { code?: string }).code === 'EEXIST' ? refuse() : error
  }
  for (const number of numbers) if (number > 0) rmSync(fileOf(number), { force: true })
}
