import { mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

import { createReader } from '../config.ts'
import type { Env } from '../config.ts'
import { ExitError } from '../errors.ts'
import { command, misuse } from './command.ts'
import { parseDuration, run, searchPath, stoppable } from './process.ts'

const usage = `Usage: node bin/monitor.js

Asks the service's health check. When it fails three times in a row, prints the container's last log
lines, restarts it and waits until it is healthy, at most 60 s. Silent when all is well.

SERVICE_URL       default http://127.0.0.1:SERVICE_PORT/SERVICE_ENDPOINT, which are 80 and v1
SERVICE_NAME      the container's exact name, default user-service
MONITOR_COOLDOWN  no second restart within that time, default 10m, at least 5m

Exit status: 0 healthy, 1 restarted and healthy again (or stopped), 2 not healthy, or misuse,
3 docker is missing or not permitted, or there is no such container.
`

const askLimitMs = 5000
const dockerLimitMs = 60_000
const healthyWithinMs = 60_000

await command(usage, {}, async ({ words, env }) => {
  if (words.length > 0) throw misuse('monitor takes no words')
  const { url, name, cooldownMs } = readSettings(env)
  return stoppable(280_000, async (signal) => {
    const failure = await watch(url, 3, Infinity, signal)
    if (failure === null) return 0
    const sick = `${name} is not healthy (${failure})`
    if (failure === 'database_unavailable') {
      throw new ExitError(`${sick}: a restart would not help, look at PostgreSQL`, 2)
    }
    const docker = createDocker(env, signal)
    const id = await docker.find(name)
    if (!claimRestart(env, name, cooldownMs)) {
      throw new ExitError(`${sick}, but was restarted less than ${cooldownMs / 60_000} min ago`, 2)
    }
    console.error(`${sick}, it is restarted. Its last log lines:\n${await docker.readLog(id)}`)
    await docker.restart(id)
    const startedAt = Date.now()
    const still = await watch(url, Infinity, startedAt + healthyWithinMs, signal)
    const seconds = Math.round((Date.now() - startedAt) / 1000)
    if (still !== null) throw new ExitError(`${sick}, nor ${seconds} s after a restart (${still})`, 2)
    console.log(`${sick} and was restarted; it is healthy again after ${seconds} s`)
    return 1
  })
})

function readSettings(env: Env) {
  const reader = createReader(env)
  const port = reader.integer('SERVICE_PORT', 80, 1, 65_535)
  const base = reader.text('SERVICE_URL') ??
    `http://127.0.0.1:${port}/${reader.text('SERVICE_ENDPOINT') ?? 'v1'}`
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
    const failure = await ask(url, signal)
    if (failure === null || attempt === tries || Date.now() > until) return failure
    await sleep(1000, undefined, { signal })
  }
}

async function ask(url: string, signal: AbortSignal): Promise<string | null> {
  try {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(askLimitMs)])
    const reply = await fetch(url, { redirect: 'manual', signal: limit })
    const text = await reply.text()
    if (reply.status === 200) return null
    const isDatabase = reply.status === 503 && /"code":\s*"database_unavailable"/.test(text)
    return isDatabase ? 'database_unavailable' : `status ${reply.status}`
  } catch (error) {
    const { name, message, cause } = error as Error & { cause?: { code?: string } }
    return name === 'TimeoutError' ? `no answer in ${askLimitMs / 1000} s` : cause?.code ?? message
  }
}

function createDocker(env: Env, signal: AbortSignal) {
  const own = Object.entries(env).filter(([key]) => /^(DOCKER_|HOME$|XDG_RUNTIME_DIR$)/.test(key))
  const childEnv = { ...Object.fromEntries(own), PATH: searchPath(env) }

  async function docker(failed: number, ...args: string[]) {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(dockerLimitMs)])
    try {
      return await run(`docker ${args[0]} failed`, 'docker', args, { env: childEnv, signal: limit })
    } catch (error) {
      const hung = `docker ${args[0]} did not end within ${dockerLimitMs / 1000} s`
      throw new ExitError(error instanceof ExitError ? error.message : hung, failed)
    }
  }

  return {
    async find(name: string): Promise<string> {
      const format = '--format={{.Id}} {{.Name}}'
      const { stdout } = await docker(3, 'inspect', '--type=container', format, name)
      const [id = '', found] = stdout.trim().split(' ')
      // Docker also takes the beginning of an id for a name.
      if (found !== `/${name}`) throw new ExitError(`there is no container named ${name}`, 3)
      return id
    },
    async readLog(id: string): Promise<string> {
      const read = docker(3, 'logs', '--timestamps', '--tail=50', id)
      const { stdout, stderr } = await read.catch(({ message }) => ({ stdout: '', stderr: message }))
      return (stdout + stderr).trim().split('\n').sort().slice(-50).join('\n')
    },
    restart: (id: string) => docker(2, 'restart', id),
  }
}

/**
 * Takes the right to restart: the file after the last one, which only one of two monitors can
 * create. Refuses it within the cooldown.
 */
function claimRestart(env: Env, name: string, cooldownMs: number): boolean {
  const state = env['XDG_STATE_HOME'] || join(homedir(), '.local/state')
  const directory = join(state, 'user-service', name)
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const last = Math.max(0, ...readdirSync(directory).map((file) => Number(file) || 0))
  const fileOf = (number: number) => join(directory, String(number))
  const found = statSync(fileOf(last), { throwIfNoEntry: false })
  const claimedAt = found?.mtimeMs ?? (last === 0 ? 0 : Date.now())
  if (claimedAt <= Date.now() && claimedAt + cooldownMs > Date.now()) return false
  try {
    writeFileSync(fileOf(last + 1), '', { flag: 'wx' })
  } catch (error) {
    if ((error as { code?: string }).code === 'EEXIST') return false
    throw error
  }
  rmSync(fileOf(last), { force: true })
  return true
}
