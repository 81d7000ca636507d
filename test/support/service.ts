import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

import type { Env } from '../../src/environment.ts'
import { launch } from './process.ts'
import { undo } from './undo.ts'

export interface Service {
  child: ChildProcess
  /** Scheme, host, port and base path; empty when it did not come to listen. */
  url: string
  /** Lines of the log. */
  log: string[]
  /** What it said on stderr. */
  said(): string
  /** Resolves with the exit status, or the signal, when it has ended. */
  ended: Promise<number | string>
  kill(signal?: NodeJS.Signals): Promise<number | string>
}

export interface ServiceOptions {
  /** Instead of node and the launcher: a command that ends in them. */
  before?: string[]
  nodeFlags?: string[]
  /** Where another version of the service lies. */
  version?: string
  /** What the log is written to, instead of a pipe that is read. */
  stdout?: number
  /** The message of its log to wait for, instead of `listening`. */
  until?: string
}

/**
 * Runs the service as its operator does, in a process of its own with an environment of its own;
 * resolves once it listens (or logs `until`) or has ended.
 */
export async function startService(env: Env, options: ServiceOptions = {}): Promise<Service> {
  const command = [
    ...(options.before ?? []),
    process.execPath,
    ...(options.nodeFlags ?? []),
    ...(options.version ? [join(options.version, 'bin/start.js')] : launch('start.js')),
  ]
  const child = spawn(command[0]!, command.slice(1), {
    env: {
      PATH: process.env['PATH'],
      SERVER_HOST: '127.0.0.1',
      SERVER_PORT: '0',
      RATE_LIMIT: '0',
      ...env,
    },
    stdio: ['ignore', options.stdout ?? 'pipe', 'pipe'],
  })
  const log: string[] = []
  let said = ''
  let url = ''
  child.stderr!.on('data', (chunk: Buffer) => {
    said += String(chunk)
  })
  const ended = once(child, 'close').then(([code, signal]) => (code ?? signal) as number | string)
  undo.push(() => {
    child.kill('SIGKILL')
    return ended
  })
  await new Promise<void>((resolve) => {
    void ended.then(() => resolve())
    if (child.stdout === null) return resolve()
    createInterface(child.stdout).on('line', (line) => {
      log.push(line)
      const record = JSON.parse(line)
      if (record.message === 'listening') url = record.url
      if (record.message === (options.until ?? 'listening')) resolve()
    })
  })
  return {
    child,
    url,
    log,
    ended,
    said: () => said,
    kill(signal = 'SIGTERM') {
      child.kill(signal)
      return ended
    },
  }
}
