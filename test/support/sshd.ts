import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('../..', import.meta.url))

export interface Outcome {
  status: number | null
  stdout: string
  stderr: string
}

/** Runs a program to its end. One that is not installed fails the test, with its name. */
export async function run(
  file: string,
  args: string[],
  env: NodeJS.ProcessEnv = {},
): Promise<Outcome> {
  const child = spawn(file, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const output = { stdout: '', stderr: '' }
  child.stdout.on('data', (chunk: Buffer) => (output.stdout += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (output.stderr += chunk.toString()))
  const ended = once(child, 'close') as Promise<[number | null]>
  await Promise.race([
    ended,
    once(child, 'error').then(([error]) => {
      throw new Error(`${file} could not be started; is it installed?`, { cause: error })
    }),
  ])
  return { status: (await ended)[0], ...output }
}

/** Runs a program that must succeed; returns its output. */
export async function succeed(
  file: string,
  args: string[],
  env: NodeJS.ProcessEnv = {},
): Promise<string> {
  const { status, stdout, stderr } = await run(file, args, env)
  assert.equal(status, 0, `${file} ${args.join(' ')}: ${stdout}${stderr}`)
  return stdout.trim()
}

let lastPort = randomInt(20_000, 32_000)

/** A port that nobody listens on now, below those that the kernel gives to whoever asks for any. */
export async function freePort(): Promise<number> {
  const port = ++lastPort
  const server = createServer().listen(port, '127.0.0.1')
  const isFree = await once(server, 'listening').then(
    () => true,
    () => false,
  )
  if (!isFree) return freePort()
  server.close()
  await once(server, 'close')
  return port
}

/** The first that a connection to the port is sent, or the code of the error. */
export async function ask(port: number): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  try {
    const [chunk] = (await once(socket, 'data', { signal: AbortSignal.timeout(5000) })) as [Buffer]
    return chunk.toString()
  } catch (error) {
    return (error as { code: string }).code
  } finally {
    socket.destroy()
  }
}

/**
 * A real sshd: an ordinary process on a free port of 127.0.0.1, with its keys and its configuration
 * in `folder`: `right` may log in, `wrong` may not, `known` is a known_hosts file.
 */
export async function startSshd(folder: string, settings: string[] = []) {
  assert.ok(existsSync('/usr/sbin/sshd'), 'These tests need /usr/sbin/sshd: install openssh-server')
  for (const key of ['host', 'right', 'wrong']) {
    await succeed('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(folder, key)])
  }
  const port = await freePort()
  const key = await readFile(join(folder, 'host.pub'), 'utf8')
  await writeFile(join(folder, 'known'), `[127.0.0.1]:${port},[localhost]:${port} ${key}`)
  await writeFile(
    join(folder, 'sshd_config'),
    [
      'ListenAddress 127.0.0.1',
      `Port ${port}`,
      `HostKey ${join(folder, 'host')}`,
      'PidFile none',
      'UsePAM no',
      `AuthorizedKeysFile ${join(folder, 'right.pub')}`,
      'PasswordAuthentication no',
      'StrictModes no',
      'KbdInteractiveAuthentication no',
      'PermitRootLogin prohibit-password',
      ...settings,
      '',
    ].join('\n'),
  )
  // sshd under root gives up its rights there; it is empty, and made anew at every boot.
  if (process.getuid?.() === 0) await mkdir('/run/sshd', { recursive: true })
  const sshd = spawn('/usr/sbin/sshd', ['-D', '-e', '-f', join(folder, 'sshd_config')], {
    stdio: 'ignore',
  })
  for (let i = 0; i < 100 && !(await ask(port)).startsWith('SSH'); i++) await sleep(50)
  return {
    port,
    pid: sshd.pid!,
    async stop() {
      if (sshd.exitCode === null && sshd.kill()) await once(sshd, 'exit')
    },
  }
}
