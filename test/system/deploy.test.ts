import assert from 'node:assert/strict'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'

import { freePort, root, run, succeed, until } from '../support/process.ts'
import { ask, startSshd } from '../support/sshd.ts'

const scripts = (await readdir(join(root, 'bin'))).filter((name) => name.endsWith('.sh')).sort()

test('shellcheck finds nothing in the shell scripts', async () => {
  const { status, stdout } = await run(
    'shellcheck',
    scripts.map((name) => join('bin', name)),
  )

  assert.equal(stdout, '')
  assert.equal(status, 0)
})

for (const name of scripts) {
  test(`${name} explains itself on stdout, and misuse on stderr with exit 2`, async () => {
    const help = await run(join('bin', name), ['--help'])
    const misuse = await run(join('bin', name), ['one', 'two', 'three'], {
      DEPLOY_HOST: '127.0.0.1',
    })

    assert.match(help.stdout, /^Usage: .+\n[^]*Exit: 0 /)
    assert.deepEqual({ status: help.status, stderr: help.stderr }, { status: 0, stderr: '' })
    assert.deepEqual({ status: misuse.status, stdout: misuse.stdout }, { status: 2, stdout: '' })
    assert.notEqual(misuse.stderr, '')
  })
}

/** A server that stands where the tunnel leads to. */
async function listen() {
  const server = createServer((socket) => socket.on('error', () => {}).end('the database\n'))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { server, port: (server.address() as AddressInfo).port }
}

const folder = await mkdtemp(join(tmpdir(), 'deploy-'))
const sshd = await startSshd(folder)
const database = await listen()
const tunnelPort = await freePort()
const socket = join(folder, '.ssh/user-service-db-tunnel')
const env: NodeJS.ProcessEnv = {
  HOME: folder,
  PATH: `${join(folder, 'bin')}:${process.env['PATH']}`,
  EC2_USER_NAME: userInfo().username,
  SSH_PORT: String(sshd.port),
  TUNNEL_PORT: String(tunnelPort),
  DATABASE_PORT: String(database.port),
}
// ssh reads the account's configuration, not that of $HOME: the ssh first in PATH is told which.
await mkdir(join(folder, 'bin'))
await writeFile(
  join(folder, 'ssh_config'),
  `UserKnownHostsFile ${join(folder, 'known')}\nBatchMode yes\n`,
)
const ssh = await succeed('sh', ['-c', 'command -v ssh'])
await writeFile(
  join(folder, 'bin/ssh'),
  `#!/bin/sh\nexec ${ssh} -F ${join(folder, 'ssh_config')} "$@"\n`,
)
await chmod(join(folder, 'bin/ssh'), 0o755)

after(async () => {
  const master = await findMaster()
  if (master !== null) process.kill(master)
  await sshd.stop()
  database.server.close()
  await rm(folder, { recursive: true })
})

const open = (host = '127.0.0.1', key = 'right') =>
  run('bin/ec2-open-db-tunnel.sh', [host, join(folder, key)], env)
const close = () => run('bin/ec2-close-db-tunnel.sh', [], env)

/** The process id of the tunnel, as its control socket gives it; null without one. */
async function findMaster(): Promise<number | null> {
  const { stderr } = await run('ssh', ['-S', socket, '-O', 'check', 'db'], env)
  return Number(/pid=(\d+)/.exec(stderr)?.[1] ?? 0) || null
}

test('a tunnel opens, leads to the database, is opened once, and closes twice', async () => {
  const opened = await open()
  const answer = await ask(tunnelPort)
  assert.equal(await ask(tunnelPort, '127.0.0.2'), 'ECONNREFUSED')
  const again = await open()
  const elsewhere = await open('localhost')
  const otherPort = await run('bin/ec2-open-db-tunnel.sh', ['127.0.0.1', join(folder, 'right')], {
    ...env,
    TUNNEL_PORT: String(tunnelPort + 1),
  })
  const closed = await close()
  const closedAgain = await close()

  const where = `-h 127.0.0.1 -p ${tunnelPort} -U user_service_user db_user_service`
  const hint = `Connect with: psql ${where}\n`
  const to = `${userInfo().username}@127.0.0.1`
  assert.deepEqual(opened, {
    status: 0,
    stdout: `The tunnel to ${to} is open.\n${hint}`,
    stderr: '',
  })
  assert.equal(answer, 'the database\n')
  assert.deepEqual(again, {
    status: 0,
    stdout: `The tunnel to ${to} is open already.\n${hint}`,
    stderr: '',
  })
  assert.equal(elsewhere.status, 1)
  assert.match(elsewhere.stderr, /a tunnel elsewhere is open: close it first/)
  assert.deepEqual(
    { status: otherPort.status, stdout: otherPort.stdout },
    { status: 1, stdout: '' },
  )
  assert.match(otherPort.stderr, /a tunnel elsewhere is open: close it first/)
  assert.deepEqual(closed, { status: 0, stdout: 'The tunnel is closed.\n', stderr: '' })
  assert.deepEqual(closedAgain, { status: 0, stdout: 'No tunnel is open.\n', stderr: '' })
  assert.equal(await ask(tunnelPort), 'ECONNREFUSED')
  assert.equal(existsSync(socket), false)
})

test('a taken local port is an error, and no tunnel without a port stays behind', async () => {
  const other = await listen()
  const opened = await run('bin/ec2-open-db-tunnel.sh', ['127.0.0.1', join(folder, 'right')], {
    ...env,
    TUNNEL_PORT: String(other.port),
  })
  other.server.close()

  assert.deepEqual(opened, {
    status: 1,
    stdout: '',
    stderr: `ec2-open-db-tunnel: local port ${other.port} is taken by another program\n`,
  })
  assert.equal(await findMaster(), null)
})

test('a tunnel to a port on which nothing listens opens with a warning', async () => {
  const unused = await freePort()
  const opened = await run('bin/ec2-open-db-tunnel.sh', ['127.0.0.1', join(folder, 'right')], {
    ...env,
    DATABASE_PORT: String(unused),
  })
  await close()

  assert.equal(opened.status, 0)
  assert.match(opened.stderr, new RegExp(`nothing listens on port ${unused} of the instance`))
})

test('the control socket of a killed tunnel blocks neither opening nor closing', async () => {
  for (const next of [open, close]) {
    await open()
    process.kill((await findMaster())!, 'SIGKILL')
    await until('the tunnel ends', async () => (await ask(tunnelPort)) === 'ECONNREFUSED')
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

test('a deployment refuses a host with an unknown key, and one that is not there', async () => {
  const settings = {
    ...env,
    DEPLOY_HOST: '127.0.0.1',
    DEPLOY_USER: userInfo().username,
    DEPLOY_KEY_FILE: join(folder, 'right'),
    DEPLOY_KNOWN_HOSTS: '/dev/null',
  }
  const stranger = await run('bin/deploy.sh', ['user-service:1'], {
    ...settings,
    DEPLOY_PORT: String(sshd.port),
  })
  const nobody = await run('bin/deploy.sh', ['user-service:1'], {
    ...settings,
    DEPLOY_PORT: String(await freePort()),
  })

  const unreached = String.raw`deploy: no connection to 127\.0\.0\.1: nothing changed\n$`
  assert.match(stranger.stderr, new RegExp(`Host key verification failed[^]*${unreached}`))
  assert.match(nobody.stderr, new RegExp(`Connection refused[^]*${unreached}`))
  assert.deepEqual([stranger.status, nobody.status], [1, 1])
})

test('a deployment refuses what a shell would read as more than an image', async () => {
  const words = [
    'user-service',
    'user-service:1;reboot',
    'user-service:$(reboot)',
    "u:1'",
    'u:1\nid',
  ]
  const refused = await Promise.all(
    words.map((word) => run('bin/deploy.sh', [word], { ...env, DEPLOY_HOST: '127.0.0.1' })),
  )

  for (const { status, stderr } of refused) {
    assert.equal(status, 2)
    assert.match(stderr, /^deploy: expected IMAGE:TAG, IMAGE@sha256:DIGEST or --roll-back/)
  }
})
