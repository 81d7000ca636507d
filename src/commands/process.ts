// The programs that the operator's commands run: without a shell, with no environment but the given
// one, each in a process group of its own, which ends as a whole when the command is stopped or
// takes too long. Killed by SIGKILL, a command leaves its directory; the next one removes it.
import { spawn } from 'node:child_process'
import { lstatSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'

import type { Env } from '../config.ts'
import { ExitError } from '../errors.ts'

/** All of a program's environment, and the signal that ends it. */
export interface Surroundings { env: Env; signal: AbortSignal }

const maxOutput = 2 ** 24
const maxComplaints = 2 ** 14
const graceMs = 3000

/** Runs `work`; at SIGTERM, SIGINT, SIGHUP and after `limitMs` its signal aborts, and it fails. */
export async function stoppable<T>(
  limitMs: number, work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController()
  const stop = (why: string) => controller.abort(new ExitError(why))
  for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(name, () => stop(`got ${name}`))
  setTimeout(stop, limitMs, `given up after ${limitMs / 1000} s`).unref()
  try {
    return await work(controller.signal)
  } catch (error) {
    throw controller.signal.aborted ? controller.signal.reason : error
  }
}

/** Gives `work` a directory that only we can read; removes it, and those of dead processes. */
export async function withDirectory<T>(work: (directory: string) => Promise<T>): Promise<T> {
  for (const path of readdirSync(tmpdir()).map((name) => join(tmpdir(), name))) {
    const pid = /\/user-service-(\d+)-\w{6}$/.exec(path)?.[1]
    if (pid === undefined || isAlive(Number(pid))) continue
    // In a stranger's directory a link could be put in our way while we delete.
    const isOurs = lstatSync(path, { throwIfNoEntry: false })?.uid === process.getuid?.()
    if (isOurs) rmSync(path, { recursive: true, force: true })
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
  } catch {
    return false
  }
}

/**
 * Runs a program to its end, feeding it `input`. Throws when it is missing or was stopped; when it
 * failed, with `what` it was for and its own reason.
 */
export async function run(
  what: string, program: string, args: string[], surroundings: Surroundings,
  input: AsyncIterable<unknown> | [] = [],
): Promise<{ stdout: string; stderr: string }> {
  const { child, ended } = start(what, program, args, surroundings)
  let stdout = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    if (stdout.length < maxOutput) stdout += text
  })
  const fed = pipeline(input, child.stdin).catch((error: unknown) => error)
  const stderr = await ended.catch((error: unknown) => error)
  // When the input failed, that is the cause; when the program ended early, only a broken pipe.
  for (const failure of [await fed, stderr]) if (failure instanceof ExitError) throw failure
  if (typeof stderr !== 'string') throw stderr
  return { stdout, stderr }
}

/** The output of a program as it comes; throws at its end as `run` does. */
export async function* outputOf(
  what: string, program: string, args: string[], surroundings: Surroundings,
) {
  const { child, ended, stop } = start(what, program, args, surroundings)
  try {
    yield* child.stdout as AsyncIterable<Buffer>
    await ended
  } finally {
    stop()
  }
}

/** The first complaint that names an error, else the last, without what is said around it. */
function findReason(stderr: string): string {
  const lines = stderr.trim().split('\n')
  const line = lines.find((text) => /error:|An error occurred/i.test(text)) ?? lines.at(-1)!
  return line.replace(/^.*?(?=An error occurred)|^\S+ failed: .*? to \S+ |^.*?error: +/i, '')
}

function start(what: string, program: string, args: string[], { env, signal }: Surroundings) {
  signal.throwIfAborted()
  const child = spawn(program, args, { env, detached: true, stdio: 'pipe' })
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-maxComplaints)
  })
  const kill = (how: NodeJS.Signals) => {
    const runs = child.exitCode === null && child.signalCode === null
    if (runs && child.pid !== undefined) process.kill(-child.pid, how)
  }
  // SIGINT, on which the AWS CLI takes an unfinished multipart upload back.
  const stop = () => {
    kill('SIGINT')
    setTimeout(kill, graceMs, 'SIGKILL').unref()
  }
  signal.addEventListener('abort', stop)
  const ended = new Promise<string>((resolve, reject) => {
    const missing = `${program} is not installed, or not in ${env['PATH']}`
    child.once('error', () => reject(new ExitError(missing)))
    child.once('close', (status) => {
      if (signal.aborted) return reject(signal.reason)
      if (status === 0) return resolve(stderr)
      reject(new ExitError(`${what}: ${findReason(stderr) || `exit status ${status}`}`))
    })
  })
  ended.catch(() => {})
  return { child, ended, stop }
}

/** PATH with what cron leaves out. */
export const searchPath = (env: Env) => `${env['PATH'] ?? '/usr/bin:/bin'}:/usr/local/bin`

/** Milliseconds of a duration from 1s to 20d such as 90s, 15m, 1h; null when it is none. */
export function parseDuration(text: string): number | null {
  const [, count, unit = ''] = /^(\d{1,5})([smhd])$/.exec(text) ?? []
  const ms = Number(count) * ({ s: 1, m: 60, h: 3600, d: 86_400 }[unit] ?? 0) * 1000
  return ms >= 1000 && ms <= 20 * 86_400_000 ? ms : null
}
