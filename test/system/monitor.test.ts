// Needs a Docker engine that `docker` reaches, and of Debian: busybox-static. The service is played
// by busybox in a container of the host's network.
import assert from 'node:assert/strict'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'

import { freePort, run, runCommand, succeed } from '../support/process.ts'

const undo: (() => unknown)[] = []
after(async () => {
  for (const each of undo.splice(0).reverse()) await each()
})

const docker = (...args: string[]) => succeed('docker', args)
const engine = await run('docker', ['version'])
assert.equal(engine.status, 0, `These tests need a Docker engine: ${engine.stderr}`)

const folder = mkdtempSync(join(tmpdir(), 'monitor-test-'))
undo.push(() => rmSync(folder, { recursive: true }))
for (const name of ['bin', 'www/v1']) mkdirSync(join(folder, 'root', name), { recursive: true })
copyFileSync('/bin/busybox', join(folder, 'root/bin/busybox'))
writeFileSync(join(folder, 'root/www/v1/healthcheck'), '"OK"')
await succeed('tar', ['-C', join(folder, 'root'), '-cf', join(folder, 'image.tar'), '.'])
const image = 'user-service-monitor-test'
await docker('import', join(folder, 'image.tar'), image)
undo.push(() => run('docker', ['image', 'rm', '-f', image]))

/** A container with the service, and its monitor. */
async function startService(name: string) {
  const port = String(await freePort())
  const home = join(folder, name)
  mkdirSync(home)
  undo.push(() => run('docker', ['rm', '-f', name]))
  const serve = `exec /bin/busybox httpd -f -p 127.0.0.1:${port} -h /www`
  const script = `/bin/busybox echo "$$ says hello"; ${serve}`
  const id = await docker(
    'run',
    '-d',
    '--name',
    name,
    '--network',
    'host',
    image,
    '/bin/busybox',
    'sh',
    '-c',
    script,
  )
  const env = {
    HOME: home,
    PATH: process.env['PATH'],
    DOCKER_HOST: process.env['DOCKER_HOST'],
    SERVICE_NAME: name,
    SERVICE_PORT: port,
  }
  const monitor = (more = {}) => runCommand('monitor', [], { ...env, ...more })
  const startedAt = () => docker('inspect', '--format={{.State.StartedAt}}', name)
  for (let i = 0; i < 3; i++) if ((await monitor()).status === 0) break
  return { id, monitor, startedAt }
}

describe('monitor', { concurrency: true }, () => {
  test('leaves a healthy container alone', async () => {
    const service = await startService('monitored-well')
    const before = await service.startedAt()

    assert.deepEqual(await service.monitor(), { status: 0, stdout: '', stderr: '' })
    assert.equal(await service.startedAt(), before)
  })

  test('brings back a container that was stopped, and leaves its neighbours alone', async () => {
    const service = await startService('monitored-stopped')
    const neighbour = await startService('monitored-stopped-2')
    const before = await neighbour.startedAt()
    await docker('stop', '-t', '0', 'monitored-stopped')
    const { status, stdout, stderr } = await service.monitor()

    const sick = 'monitored-stopped is not healthy (ECONNREFUSED)'
    const done = `${sick} and was restarted; it is healthy again after N s\n`
    assert.equal(stdout.replace(/\d+ (?=s\n$)/, 'N '), done)
    const told = `${sick}, it is restarted. Its last log lines:\nZ 1 says hello\n`
    assert.equal(stderr.replace(/\n\S+(?=Z 1 )/, '\n'), told)
    assert.equal(status, 1)
    assert.equal((await service.monitor()).status, 0)
    assert.equal(await neighbour.startedAt(), before)
  })

  test('brings back a container whose process hangs', async () => {
    const service = await startService('monitored-hanging')
    await docker('kill', '--signal=STOP', 'monitored-hanging')
    const { status, stdout } = await service.monitor()

    assert.match(
      stdout,
      /^monitored-hanging is not healthy \(no answer in 5 s\) and was restarted; /,
    )
    assert.equal(status, 1)
    assert.equal((await service.monitor()).status, 0)
  })

  test('brings back a container that was paused', async () => {
    const service = await startService('monitored-paused')
    // A busy machine does not freeze it at the first try.
    for (let i = 0; i < 20; i++)
      if ((await run('docker', ['pause', 'monitored-paused'])).status === 0) break
    const { status, stderr } = await service.monitor()

    assert.equal(status, 1, stderr)
    assert.equal((await service.monitor()).status, 0)
  })

  test('says that a container does not become healthy', async () => {
    const service = await startService('monitored-sick')
    const { status, stderr } = await service.monitor({ SERVICE_ENDPOINT: 'v2' })

    assert.match(
      stderr,
      /\nmonitor: monitored-sick is still not healthy 6\d s after a restart \(status 404\)\n$/,
    )
    assert.equal(status, 2)
  })

  test('takes neither the beginning of a name nor that of an id for a container', async () => {
    const service = await startService('monitored-named')
    const before = await service.startedAt()
    await docker('stop', '-t', '0', 'monitored-named')
    for (const SERVICE_NAME of ['monitored', service.id, service.id.slice(0, 12)]) {
      const { status, stderr } = await service.monitor({ SERVICE_NAME })
      assert.equal(status, 3)
      assert.match(
        stderr,
        new RegExp(
          `^monitor: ${SERVICE_NAME} is not healthy \\(ECONNREFUSED\\), and ` +
            '(docker inspect failed: No such container: |there is no container named )\\w+\\n$',
        ),
      )
    }
    assert.equal(await service.startedAt(), before)
  })
})
