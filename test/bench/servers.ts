import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { openSync } from 'node:fs'
import http from 'node:http'
import { availableParallelism } from 'node:os'
import type { Writable } from 'node:stream'
import { fileURLToPath } from 'node:url'

import type { Env } from '../../src/environment.ts'
import { cpuMs, freePort, root, rssMb } from '../support/process.ts'

export interface Server {
  port: number
  child: ChildProcess
  /** From its start to its first healthy answer. */
  startMs: number
  cpuMs(): number
  rssMb(): number
  stop(): Promise<void>
}

const running = new Set<Server>()

/** Stops what is still running after a failure. */
export const stopServers = () => Promise.all([...running].map((server) => server.stop()))

process.on('exit', () => {
  for (const { child } of running) child.kill('SIGKILL')
})

const here = fileURLToPath(new URL('.', import.meta.url))
export const reference = `${here}reference.js`
const plain: Env = { PATH: process.env['PATH'] }

/** Starts `node ARGS` and waits until `path` answers `status`. */
export async function startServer(
  args: (port: number) => string[],
  path: string,
  {
    env = {},
    log = 'ignore',
    status = 200,
  }: { env?: Env; log?: Writable | 'ignore'; status?: number } = {},
): Promise<Server> {
  const port = await freePort()
  const start = performance.now()
  const child = spawn(process.execPath, args(port), {
    env: { ...plain, ...env, SERVER_PORT: String(port) },
    stdio: ['ignore', log, 'inherit', 'ipc'],
  })
  const exited = once(child, 'exit')
  while ((await ask(port, path)) !== status) {
    if (child.exitCode !== null || performance.now() - start > 20_000) {
      child.kill('SIGKILL')
      throw new Error(`${args(port).join(' ')} did not start`)
    }
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
  const pid = child.pid!
  const server: Server = {
    port,
    child,
    startMs: performance.now() - start,
    cpuMs: () => cpuMs(pid),
    rssMb: () => rssMb(pid),
    async stop() {
      running.delete(server)
      child.kill('SIGTERM')
      await exited
    },
  }
  running.add(server)
  return server
}

/**
 * The service as it would run: its access log goes through a pipe to a program that writes it into
 * a file, as Docker's does.
 */
export async function startService(
  database: { env: Env },
  directory: string,
  { env = {} as Env, nodeArgs = [] as string[], tree = root } = {},
): Promise<Server> {
  const reader = spawn('cat', {
    stdio: ['pipe', openSync(`${directory}/access.log`, 'a'), 'inherit'],
  })
  const server = await startServer(() => [...nodeArgs, `${tree}/bin/start.js`], '/v1/healthcheck', {
    env: {
      SERVER_HOST: '127.0.0.1',
      RATE_LIMIT: '1000000',
      SHUTDOWN_SECONDS: '1',
      ...database.env,
      ...env,
    },
    log: reader.stdin!,
  })
  // Ours; the service has its own, with which the reader ends.
  reader.stdin!.destroy()
  pin([reader.pid!], onOtherCores)
  return server
}

function ask(port: number, path: string): Promise<number> {
  return new Promise((resolve) => {
    const req = http.get({ port, host: '127.0.0.1', path, agent: false }, (res) => {
      res.resume()
      resolve(res.statusCode ?? 0)
    })
    req.on('error', () => resolve(0))
  })
}

const cores = availableParallelism()
const hasTaskset = (() => {
  try {
    return cores > 1 && execFileSync('taskset', ['--version']) && true
  } catch {
    return false
  }
})()

/** The cores of a server that is measured, and of all else. */
export const onServerCore = '0'
export const onOtherCores = cores > 2 ? `1-${cores - 1}` : '1'
export const onAllCores = `0-${cores - 1}`

/** Keeps processes and what they start on some cores; does nothing where that cannot be. */
export function pin(pids: number[], to: string) {
  if (hasTaskset)
    for (const pid of pids) execFileSync('taskset', ['-apc', to, String(pid)], { stdio: 'ignore' })
}

export const pinned = (command: string[], to: string) =>
  hasTaskset ? ['taskset', '-c', to, ...command] : command
