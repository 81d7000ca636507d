// Programs, processes and ports, and waiting for what they do.
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, existsSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

/** The checkout. */
export const root = fileURLToPath(new URL('../..', import.meta.url))

function chooseLoader(): string[] {
  const { TEST_LOADER } = process.env
  if (TEST_LOADER) return ['--import', TEST_LOADER]
  if ((process.features as { typescript?: unknown }).typescript) return []
  return ['--import', import.meta.resolve('tsx')]
}

/** The flags with which this Node runs TypeScript. */
export const loader = chooseLoader()

/** The arguments with which this Node runs a program of bin/. */
export function launch(name: string): string[] {
  const compiled = /\?from=(.*)/.exec(process.env['TEST_LOADER'] ?? '')?.[1]
  return compiled ? [join(compiled, 'bin', name)] : [...loader, join(root, 'bin', name)]
}

export interface Outcome {
  status: number | null
  stdout: string
  stderr: string
}

export interface Started {
  child: ChildProcess
  /** Rejects when the program could not be started. */
  ended: Promise<Outcome>
}

/** Starts a program, at the top of the checkout, with no environment but `env`. */
export function startProgram(program: string, args: string[], env: NodeJS.ProcessEnv): Started {
  const child = spawn(program, args, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] })
  return { child, ended: collect(program, child) }
}

async function collect(program: string, child: ChildProcess): Promise<Outcome> {
  const output = { stdout: '', stderr: '' }
  child.stdout!.setEncoding('utf8').on('data', (text: string) => {
    output.stdout += text
  })
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    output.stderr += text
  })
  try {
    const [status] = (await once(child, 'close')) as [number | null]
    return { status, ...output }
  } catch (error) {
    throw new Error(`${program} could not be started; is it installed?`, { cause: error })
  }
}

/** Runs a program to its end. A program that is not installed fails the test, with its name. */
export function run(program: string, args: string[], env: NodeJS.ProcessEnv = {}) {
  return startProgram(program, args, { ...process.env, ...env }).ended
}

/** Runs a program that must succeed; returns its output. */
export async function succeed(
  program: string,
  args: string[],
  env: NodeJS.ProcessEnv = {},
): Promise<string> {
  const { status, stdout, stderr } = await run(program, args, env)
  assert.equal(status, 0, `${program} ${args.join(' ')}: ${stdout}${stderr}`)
  return stdout.trim()
}

/** Starts one of the commands in bin/ with no environment but `env`. */
export function startCommand(name: string, args: readonly string[], env: NodeJS.ProcessEnv) {
  return startProgram(process.execPath, [...launch(`${name}.js`), ...args], env)
}

/** Runs one of the commands in bin/ to its end. */
export function runCommand(name: string, args: readonly string[], env: NodeJS.ProcessEnv) {
  return startCommand(name, args, env).ended
}

/**
 * Waits until `isSo` returns something true, asking every few milliseconds, and returns that;
 * fails after `seconds`, with `what` in the message.
 */
export async function until<T>(
  what: string | (() => string),
  isSo: () => T | Promise<T>,
  seconds = 10,
): Promise<T> {
  const deadline = performance.now() + seconds * 1000
  for (;;) {
    const found = await isSo()
    if (found) return found
    if (performance.now() > deadline) {
      const text = typeof what === 'string' ? what : what()
      return assert.fail(`not within ${seconds} s: ${text}`)
    }
    await sleep(5)
  }
}

/** A folder for temporary files, with `name` in its name; removed when the process exits. */
export function makeFolder(name: string, parent = tmpdir()): string {
  const folder = mkdtempSync(join(parent, `user-service-${name}-`))
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
  return folder
}

let lastPort = randomInt(20_000, 32_000)

/** A port that nobody listens on now, below those that the kernel assigns. */
export async function freePort(): Promise<number> {
  for (;;) {
    lastPort++
    const port = lastPort
    const server = createServer().listen(port, '127.0.0.1')
    try {
      await once(server, 'listening')
    } catch {
      continue
    }
    server.close()
    await once(server, 'close')
    return port
  }
}

/** The fields of /proc/PID/stat behind the name of the program, which may hold blanks. */
const stat = (pid: number | string) =>
  readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ')

/**
 * CPU time of a process, all its threads, user and system; Linux counts 100 ticks a second. 0 if it
 * has ended.
 */
export function cpuMs(pid: number): number {
  if (!existsSync(`/proc/${pid}`)) return 0
  const fields = stat(pid)
  return (Number(fields[11]) + Number(fields[12])) * 10
}

/** Resident memory of a process. */
export function rssMb(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024
}

/** The most memory that a process had so far, in MB; 0 of one that has ended. */
export function peakMb(pid: number): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    return Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024
  } catch {
    return 0
  }
}

export interface ListedProcess {
  pid: number
  parent: number
  command: string
}

/** The processes of the machine, as anybody can list them. */
export function listProcesses(): ListedProcess[] {
  const listed: ListedProcess[] = []
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
      listed.push({ pid: Number(pid), parent: Number(stat(pid)[1]), command })
    } catch {
      // It has ended.
    }
  }
  return listed
}

/** A process and its children. */
export function familyOf(pid: number): number[] {
  const children = listProcesses().filter(({ parent }) => parent === pid)
  return [pid, ...children.map((child) => child.pid)]
}
