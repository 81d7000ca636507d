// Programs that the operator's commands run: without a shell, with the environment that they are
// given and no more, each in a process group of its own, which ends as a whole when the command is
// stopped by a signal or takes too long. A command that is killed by SIGKILL leaves its directory
// behind; the next one removes it.
import { spawn } from 'node:child_process'
import { lstatSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'

import type { Env } from '../config.ts'
import { ExitError } from '../errors.ts'

/** What a program is given: all of its environment, and the signal that ends it. */
export interface Surroundings {
  env: Env
  signal: AbortSignal
}

/** What a program left; of its output up to 16 MiB, of its complaints the end. */
export interface Finished {
  status: number | null
  stdout: string
  stderr: string
}

const maxOutput = 2 ** 24
const maxComplaints = 2 ** 14
const graceMs = 3000

/**
 * Runs `work` with a signal that aborts at SIGTERM, SIGINT, SIGHUP or after `limitMs`. It fails with
 * that reason then, whatever `work` made of it.
 */
export async function stoppable<T>(
  limitMs: number | null,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController()
  const stop = (why: string) => controller.abort(new ExitError(why))
  const onSignal = (name: string) => stop(`stopped by ${name}`)
  const signals = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const
  for (const name of signals) process.on(name, onSignal)
  const timer = limitMs === null ? undefined
    : setTimeout(stop, Math.min(limitMs, 2 ** 31 - 1), `not done after ${limitMs / 1000} s, given up`)
  try {
    return await work(controller.signal)
  } catch (error) {
    throw controller.signal.aborted ? controller.signal.reason : error
  } finally {
    clearTimeout(timer)
    for (const name of signals) process.off(name, onSignal)
  }
}

/** Gives `work` a directory that only we can read, removed afterwards with those of dead processes. */
export async function withDirectory<T>(work: (directory: string) => Promise<T>): Promise<T> {
  for (const name of readdirSync(tmpdir())) {
    const pid = /^user-service-(\d+)-\w{6}$/.exec(name)?.[1]
    if (pid !== undefined && !isAlive(Number(pid))) removeOwn(join(tmpdir(), name))
  }
  const directory = mkdtempSync(join(tmpdir(), `user-service-${process.pid}-`))
  try {
    return await work(directory)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as { code?: string }).code !== 'ESRCH'
  }
}

/** In a directory of somebody else's a link could be put in our way while we delete. */
function removeOwn(directory: string) {
  const found = lstatSync(directory, { throwIfNoEntry: false })
  if (found?.isDirectory() && found.uid === process.getuid?.()) {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** Runs a program to its end, feeding it `input`; throws when it is missing or was stopped. */
export async function run(
  program: string,
  args: string[],
  { input = [], ...surroundings }: Surroundings & { input?: AsyncIterable<unknown> | [] },
): Promise<Finished> {
  const { child, ended, complaints } = start(program, args, surroundings)
  let stdout = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    if (stdout.length < maxOutput) stdout += text
  })
  const fed = pipeline(input, child.stdin).catch((error: unknown) => error)
  const status = await ended
  const broken = await fed
  surroundings.signal.throwIfAborted()
  if (broken instanceof ExitError) throw broken
  return { status, stdout, stderr: complaints() }
}

/** The output of a program as it comes; throws at its end unless it ended well. */
export async function* outputOf(program: string, args: string[], surroundings: Surroundings) {
  const { child, ended, complaints, stop } = start(program, args, surroundings)
  try {
    child.stdin.end()
    yield* child.stdout as AsyncIterable<Buffer>
    const status = await ended
    surroundings.signal.throwIfAborted()
    check({ status, stdout: '', stderr: complaints() }, program)
  } finally {
    stop()
  }
}

/** Throws, with the last thing the program said, unless it ended well. */
export function check({ status, stderr }: Finished, what: string) {
  if (status !== 0) throw new ExitError(`${what}: ${lastWords(stderr) || `exit status ${status}`}`)
}

/** The line that says why: the first that names an error, else the last. */
export function lastWords(stderr: string): string {
  const lines = stderr.split('\n').map((line) => line.trim()).filter((line) => line !== '')
  const line = lines.find((text) => /error:|ERROR:|An error occurred/.test(text)) ?? lines.at(-1) ?? ''
  return line.replace(/^.*?(?=An error occurred)|^\S+ failed: .* to \S+ |^.*?(error|ERROR): +/, '')
}

function start(program: string, args: string[], { env, signal }: Surroundings) {
  signal.throwIfAborted()
  const child = spawn(program, args, { env, detached: true, stdio: 'pipe' })
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-maxComplaints)
  })
  child.stdin.on('error', () => {})
  let killer: NodeJS.Timeout | undefined
  const end = (how: NodeJS.Signals) => {
    if (child.pid !== undefined) try { process.kill(-child.pid, how) } catch { /* it has ended */ }
  }
  // SIGINT: on it the AWS CLI takes an unfinished multipart upload back.
  const stop = () => {
    if (killer !== undefined || child.exitCode !== null || child.signalCode !== null) return
    end('SIGINT')
    killer = setTimeout(end, graceMs, 'SIGKILL')
  }
  signal.addEventListener('abort', stop)
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('close', resolve)
    child.once('error', (error: NodeJS.ErrnoException) => {
      const missing = error.code === 'ENOENT' || error.code === 'EACCES'
      reject(missing ? new ExitError(`${program} is not installed, or not in ${env['PATH']}`) : error)
    })
  }).finally(() => {
    clearTimeout(killer)
    signal.removeEventListener('abort', stop)
  })
  ended.catch(() => {})
  return { child, ended, stop, complaints: () => stderr }
}

/** PATH with what cron leaves out. */
export const searchPath = (env: Env) => `${env['PATH'] ?? '/usr/bin:/bin'}:/usr/local/bin`

/** Milliseconds of a duration such as 90s, 15m, 1h or 2d, or null when it is none. */
export function parseDuration(text: string): number | null {
  const [, count = '', unit = ''] = /^(\d{1,5})([smhd])$/.exec(text) ?? []
  const seconds = { s: 1, m: 60, h: 3600, d: 86_400 }[unit]
  return seconds === undefined ? null : Number(count) * seconds * 1000
}
