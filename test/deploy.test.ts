import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import type { AddressInfo, Server } from 'node:net'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const scripts = (await readdir(join(root, 'bin'))).filter((name) => name.endsWith('.sh')).sort()

interface Outcome {
  status: number | null
  stdout: string
  stderr: string
}

/** Runs a program to its end. A program that is not installed fails the test, with its name. */
async function run(file: string, args: string[], env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  const child = spawn(file, args, { cwd: root, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  const output = { stdout: '', stderr: '' }
  child.stdout.on('data', (chunk: Buffer) => (output.stdout += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (output.stderr += chunk.toString()))
  const ended = once(child, 'close') as Promise<[number | null]>
  await Promise.race([ended, once(child, 'error').then(([error]) => {
    throw new Error(`${file} could not be started; is it installed?`, { cause: error })
  })])
  return { status: (await ended)[0], ...output }
}

async function listen(): Promise<{ server: Server; port: number }> {
  const server = createServer((socket) => socket.on('error', () => {}).end('the database\n'))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { server, port: (server.address() as AddressInfo).port }
}

async function freePort(): Promise<number> {
  const { server, port } = await listen()
  server.close()
  await once(server, 'close')
  return port
}

/** The first that a connection to the port is sent, or the code of the error. */
async function ask(port: number): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  try {
    const [chunk] = await once(socket, 'data', { signal: AbortSignal.timeout(5000) }) as [Buffer]
    return chunk.toString()
  } catch (error) {
    return (error as { code: string }).code
  } finally {
    socket.destroy()
  }
}

test('shellcheck finds nothing in the shell scripts', async () => {
  const { status, stdout } = await run('shellcheck', scripts.map((name) => join('bin', name)))

  assert.equal(stdout, '')
  assert.equal(status, 0)
})

for (const name of scripts) {
  test(`${name} explains itself on stdout, and misuse on stderr with exit 2`, async () => {
    const help = await run(join('bin', name), ['--help'])
    const misuse = await run(join('bin', name), ['one', 'two', 'three'], { DEPLOY_HOST: '127.0.0.1' })

    assert.match(help.stdout, /^Usage: .+\n[^]*Exit: 0 /)
    assert.deepEqual({ status: help.status, stderr: help.stderr }, { status: 0, stderr: '' })
    assert.deepEqual({ status: misuse.status, stdout: misuse.stdout }, { status: 2, stdout: '' })
    assert.notEqual(misuse.stderr, '')
  })
}

test('every action of the workflows is pinned by its commit, and rights are given job by job', async () => {
  const folder = join(root, '.github/workflows')
  const files = await readdir(folder)
  for (const file of files) {
    const text = await readFile(join(folder, file), 'utf8')
    const actions = text.match(/uses:.*/g) ?? []
    assert.deepEqual(actions.filter((line) => !/^uses: [\w-]+\/[\w-]+@[0-9a-f]{40} # v\d/.test(line)), [])
    assert.match(text, /^permissions:\n  contents: read\n/m)
  }
  assert.ok(files.length > 0)
})

// A real sshd, an ordinary process on a free port of 127.0.0.1, with keys and a configuration of its
// own. ssh takes its configuration from the account, not from $HOME: the ssh first in PATH says which.
const folder = await mkdtemp(join(tmpdir(), 'deploy-'))
const sshPort = await freePort()
const tunnelPort = await freePort()
const database = await listen()
const socket = join(folder, '.ssh/user-service-db-tunnel')
const env: NodeJS.ProcessEnv = {
  HOME: folder,
  PATH: `${join(folder, 'bin')}:${process.env['PATH']}`,
  EC2_USER_NAME: userInfo().username,
  SSH_PORT: String(sshPort),
  TUNNEL_PORT: String(tunnelPort),
  DATABASE_PORT: String(database.port),
}
let sshd: ChildProcess | undefined

const open = (host = '127.0.0.1', key = 'right') =>
  run('bin/ec2-open-db-tunnel.sh', [host, join(folder, key)], env)
const close = () => run('bin/ec2-close-db-tunnel.sh', [], env)

/** The process id of the tunnel, as its control socket gives it; null without one. */
async function findMaster(): Promise<number | null> {
  const { stderr } = await run('ssh', ['-S', socket, '-O', 'check', 'db'], env)
  return Number(/pid=(\d+)/.exec(stderr)?.[1] ?? 0) || null
}

before(async () => {
  for (const key of ['host', 'right', 'wrong']) {
    const made = await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(folder, key)])
    assert.equal(made.status, 0, made.stderr)
  }
  const known = await readFile(join(folder, 'host.pub'), 'utf8')
  await writeFile(join(folder, 'known'), `[127.0.0.1]:${sshPort},[localhost]:${sshPort} ${known}`)
  await writeFile(join(folder, 'sshd_config'), [
    'ListenAddress 127.0.0.1', `Port ${sshPort}`, `HostKey ${join(folder, 'host')}`, 'PidFile none', 'UsePAM no',
    `AuthorizedKeysFile ${join(folder, 'right.pub')}`, 'PasswordAuthentication no', 'StrictModes no',
    'KbdInteractiveAuthentication no', 'PermitRootLogin prohibit-password', '',
  ].join('\n'))
  await mkdir(join(folder, 'bin'))
  await writeFile(join(folder, 'ssh_config'), `UserKnownHostsFile ${join(folder, 'known')}\nBatchMode yes\n`)
  const ssh = (await run('sh', ['-c', 'command -v ssh'])).stdout.trim()
  await writeFile(join(folder, 'bin/ssh'), `#!/bin/sh\nexec ${ssh} -F ${join(folder, 'ssh_config')} "$@"\n`)
  await chmod(join(folder, 'bin/ssh'), 0o755)

  assert.ok(existsSync('/usr/sbin/sshd'), 'These tests need /usr/sbin/sshd: install openssh-server')
  if (process.getuid?.() === 0) await mkdir('/run/sshd', { recursive: true })
  sshd = spawn('/usr/sbin/sshd', ['-D', '-e', '-f', join(folder, 'sshd_config')], { stdio: 'ignore' })
  for (let i = 0; i < 100 && !(await ask(sshPort)).startsWith('SSH'); i++) {
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
})

after(async () => {
  const master = await findMaster()
  if (master !== null) process.kill(master)
  if (sshd?.exitCode === null && sshd.kill()) await once(sshd, 'exit')
  database.server.close()
  await rm(folder, { recursive: true })
})

test('a tunnel opens, leads to the database, says when it is open already, and closes twice', async () => {
  const opened = await open()
  const answer = await ask(tunnelPort)
  const again = await open()
  const elsewhere = await open('localhost')
  const closed = await close()
  const closedAgain = await close()

  const hint = `Connect with: psql -h 127.0.0.1 -p ${tunnelPort} -U user_service_user db_user_service\n`
  const to = `${userInfo().username}@127.0.0.1`
  assert.deepEqual(opened, { status: 0, stdout: `The tunnel to ${to} is open.\n${hint}`, stderr: '' })
  assert.equal(answer, 'the database\n')
  assert.deepEqual(again, { status: 0, stdout: `The tunnel to ${to} is open already.\n${hint}`, stderr: '' })
  assert.equal(elsewhere.status, 1)
  assert.match(elsewhere.stderr, /a tunnel to another host is open: close it first/)
  assert.deepEqual(closed, { status: 0, stdout: 'The tunnel is closed.\n', stderr: '' })
  assert.deepEqual(closedAgain, { status: 0, stdout: 'No tunnel is open.\n', stderr: '' })
  assert.equal(await ask(tunnelPort), 'ECONNREFUSED')
  assert.equal(existsSync(socket), false)
})

test('a taken local port is an error, and no tunnel without a port stays behind', async () => {
  const other = await listen()
  const opened = await run('bin/ec2-open-db-tunnel.sh', ['127.0.0.1', join(folder, 'right')],
    { ...env, TUNNEL_PORT: String(other.port) })
  other.server.close()

  assert.deepEqual(opened, {
    status: 1,
    stdout: '',
    stderr: `ec2-open-db-tunnel: local port ${other.port} is taken by another program\n`,
  })
  assert.equal(await findMaster(), null)
})

test('the control socket of a killed tunnel blocks neither opening nor closing', async () => {
  for (const next of [open, close]) {
    await open()
    process.kill((await findMaster())!, 'SIGKILL')
    for (let i = 0; i < 100 && (await ask(tunnelPort)) !== 'ECONNREFUSED'; i++);
    assert.equal(existsSync(socket), true)

    assert.equal((await next()).status, 0)
    assert.equal(await ask(tunnelPort), next === open ? 'the database\n' : 'ECONNREFUSED')
    assert.equal((await close()).status, 0)
  }
})

test('a wrong key opens nothing and says so', async () => {
  const refused = await open('127.0.0.1', 'wrong')
  const missing = await open('127.0.0.1', 'nowhere')

  assert.deepEqual({ status: refused.status, stdout: refused.stdout }, { status: 1, stdout: '' })
  assert.match(refused.stderr, /Permission denied[^]*ec2-open-db-tunnel: no tunnel to /)
  assert.deepEqual([missing.status, missing.stdout], [2, ''])
  assert.equal(await ask(tunnelPort), 'ECONNREFUSED')
  assert.equal(existsSync(socket), false)
})

test('a deployment refuses a host whose key it does not know, and one that is not there', async () => {
  const settings = {
    ...env,
    DEPLOY_HOST: '127.0.0.1',
    DEPLOY_USER: userInfo().username,
    DEPLOY_KEY_FILE: join(folder, 'right'),
    DEPLOY_KNOWN_HOSTS: '/dev/null',
  }
  const stranger = await run('bin/deploy.sh', ['user-service:1'], { ...settings, DEPLOY_PORT: String(sshPort) })
  const nobody = await run('bin/deploy.sh', ['user-service:1'], { ...settings, DEPLOY_PORT: String(await freePort()) })

  assert.match(stranger.stderr, /Host key verification failed[^]*deploy: no connection to 127\.0\.0\.1/)
  assert.match(nobody.stderr, /Connection refused[^]*deploy: no connection to 127\.0\.0\.1/)
  assert.deepEqual([stranger.status, nobody.status], [1, 1])
})
