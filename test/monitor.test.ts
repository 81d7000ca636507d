// The service's health check and the docker in PATH are played here; the real docker in
// test/system.
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'

import { runCommand, until } from './support/process.ts'

const undo: (() => unknown)[] = []
after(async () => {
  for (const each of undo.splice(0).reverse()) await each()
})

const fakeDocker = `#!/bin/sh
echo "$*" >>"$HOME/calls"
case $1 in
inspect)
  cat "$HOME/inspect" 2>/dev/null && exit
  echo 'Error: No such container: user-service' >&2
  exit 1;;
logs)
  echo '2026-01-01T00:00:02Z second'
  echo '2026-01-01T00:00:01Z first' >&2
  [ ! -e "$HOME/no-logs" ];;
restart)
  if [ -e "$HOME/no-restart" ]; then
    echo 'Error response from daemon: port is already allocated' >&2
    exit 1
  fi
  touch "$HOME/restarted";;
esac
`

/** A machine whose service answers with `status`, or hangs up for 0, until it is restarted. */
async function startMachine(status: number, body = '', host = '127.0.0.1') {
  const home = mkdtempSync(join(tmpdir(), 'monitor-test-'))
  undo.push(() => rmSync(home, { recursive: true }))
  const file = (name: string) => join(home, name)
  writeFileSync(file('docker'), fakeDocker, { mode: 0o755 })
  writeFileSync(file('inspect'), 'd0c4e4 /user-service\n')
  let asked = 0
  const machine = {
    file,
    status,
    env: {},
    asked: () => asked,
    calls: () =>
      existsSync(file('calls')) ? readFileSync(file('calls'), 'utf8').trim().split('\n') : [],
    run: (env = {}) => runCommand('monitor', [], { ...machine.env, ...env }),
  }
  const server = createServer((request, response) => {
    asked++
    assert.equal(request.url, '/base/healthcheck')
    response.statusCode = existsSync(file('restarted')) ? 200 : machine.status
    if (response.statusCode === 0) request.socket.destroy()
    else response.end(body)
  }).listen(0, host)
  undo.push(() => server.close())
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address() as AddressInfo
  machine.env = {
    HOME: home,
    PATH: `${home}:/usr/bin:/bin`,
    SERVICE_PORT: String(port),
    SERVICE_ENDPOINT: 'base',
  }
  return machine
}

const restart = [
  'inspect --type=container --format={{.Id}} {{.Name}} user-service',
  'logs --timestamps --tail=50 d0c4e4',
  'restart d0c4e4',
]

const sick = 'user-service is not healthy (status 500)'

describe('monitor', { concurrency: true }, () => {
  test('is silent when the service is healthy, and asks docker nothing', async () => {
    const machine = await startMachine(200, '"OK"')
    const url = `http://127.0.0.1:${(machine.env as { SERVICE_PORT: string }).SERVICE_PORT}/base/`

    assert.deepEqual(await machine.run(), { status: 0, stdout: '', stderr: '' })
    assert.deepEqual(await machine.run({ SERVICE_URL: url, SERVICE_PORT: '' }), {
      status: 0,
      stdout: '',
      stderr: '',
    })
    assert.deepEqual([machine.asked(), machine.calls()], [2, []])
  })

  test('asks where the service listens', async () => {
    const machine = await startMachine(200, '"OK"', '127.0.0.2')
    const silent = { status: 0, stdout: '', stderr: '' }

    assert.deepEqual(await machine.run({ SERVER_HOST: '127.0.0.2' }), silent)
    const { status, stderr } = await machine.run({ SERVER_HOST: '::', PATH: '/nowhere' })
    assert.equal(status, 3)
    assert.match(stderr, /^monitor: user-service is not healthy \(ECONNREFUSED\), and docker is /)
  })

  test('restarts nothing when one of three answers is good', async () => {
    const machine = await startMachine(500)
    const running = machine.run()
    await until('two bad answers', () => machine.asked() === 2, 60)
    machine.status = 200

    assert.deepEqual(await running, { status: 0, stdout: '', stderr: '' })
    assert.deepEqual(machine.calls(), [])
  })

  test('restarts it after three bad answers, prints its log, reports recovery', async () => {
    const machine = await startMachine(500)
    const { status, stdout, stderr } = await machine.run()

    const sick = 'user-service is not healthy (status 500)'
    const done = `${sick} and was restarted; it is healthy again after N s\n`
    assert.equal(stdout.replace(/\d (?=s\n$)/, 'N '), done)
    assert.equal(
      stderr,
      'user-service is not healthy (status 500), it is restarted. Its last log lines:\n' +
        '2026-01-01T00:00:01Z first\n2026-01-01T00:00:02Z second\n',
    )
    assert.equal(status, 1)
    assert.deepEqual(machine.calls(), restart)
    assert.equal(machine.asked(), 4)
  })

  test('restarts it when nothing answers, even if docker cannot read its log', async () => {
    const machine = await startMachine(0)
    writeFileSync(machine.file('no-logs'), '')
    const { status, stderr } = await machine.run()

    assert.match(stderr, /^user-service is not healthy \(\w+\), it is restarted/)
    assert.match(stderr, /Its last log lines:\ndocker logs failed: /)
    assert.equal(status, 1)
  })

  test('does not restart a service that cannot use its database', async () => {
    const machine = await startMachine(
      503,
      '{"code":"database_unavailable","message":"Database unavailable"}',
    )

    assert.deepEqual(await machine.run(), {
      status: 2,
      stdout: '',
      stderr:
        'monitor: user-service is not healthy (database_unavailable): a restart would not help, ' +
        'look at PostgreSQL\n',
    })
    assert.deepEqual(machine.calls(), [])
  })

  test('does not restart twice within the cooldown, and does after it', async () => {
    const machine = await startMachine(500)
    const state = machine.file('.local/state/user-service/user-service')
    await machine.run()
    rmSync(machine.file('restarted'))
    const soon = await machine.run({ MONITOR_COOLDOWN: '5m' })
    const minutesAgo = Date.now() / 1000 - 301
    utimesSync(join(state, '1'), minutesAgo, minutesAgo)
    const later = await machine.run({ MONITOR_COOLDOWN: '5m' })

    assert.deepEqual(soon, {
      status: 2,
      stdout: '',
      stderr:
        'monitor: user-service is not healthy (status 500), but was restarted a short while ago\n',
    })
    assert.equal(later.status, 1)
    assert.deepEqual(machine.calls(), [...restart, restart[0], ...restart])
    assert.deepEqual(readdirSync(state), ['2'])
  })

  test('of five at once one restarts', async () => {
    const machine = await startMachine(500)
    const results = await Promise.all([1, 2, 3, 4, 5].map(() => machine.run()))

    assert.equal(machine.calls().filter((call) => call.startsWith('restart')).length, 1)
    assert.equal(results.filter(({ status }) => status === 1).length, 1)
  })

  test('says that docker is missing, not permitted, or has no such container: 3', async () => {
    const machine = await startMachine(500)
    rmSync(machine.file('inspect'))
    const none = await machine.run()
    // What docker answers when the name is the beginning of an id.
    writeFileSync(machine.file('inspect'), 'user-service00 /another\n')
    const other = await machine.run()
    const missing = await machine.run({ PATH: machine.file('nowhere') })
    writeFileSync(
      machine.file('docker'),
      '#!/bin/sh\necho "permission denied while trying to connect" >&2; exit 1\n',
    )
    const denied = await machine.run()

    assert.deepEqual(
      [none, other, missing, denied].map(({ status, stderr }) => [status, stderr]),
      [
        [3, `monitor: ${sick}, and docker inspect failed: No such container: user-service\n`],
        [3, `monitor: ${sick}, and there is no container named user-service\n`],
        [
          3,
          `monitor: ${sick}, and docker is not installed, or not in ${machine.file('nowhere')}\n`,
        ],
        [
          3,
          `monitor: ${sick}, and docker inspect failed: permission denied while trying to ` +
            'connect\n',
        ],
      ],
    )
  })

  test('says that docker does not answer: 3', async () => {
    const machine = await startMachine(500)
    writeFileSync(machine.file('docker'), '#!/bin/sh\nsleep 100\n')

    assert.deepEqual(await machine.run(), {
      status: 3,
      stdout: '',
      stderr: `monitor: ${sick}, and docker does not answer\n`,
    })
  })

  test('says what docker says when it cannot restart: 2', async () => {
    const machine = await startMachine(500)
    writeFileSync(machine.file('no-restart'), '')
    const { status, stderr } = await machine.run()

    const failed = 'docker restart failed: port is already allocated'
    const last = `monitor: user-service is not healthy (status 500), and ${failed}`
    assert.equal(stderr.trim().split('\n').at(-1), last)
    assert.equal(status, 2)
  })

  test('lists every setting that is wrong, and takes no arguments', async () => {
    const wrong = await runCommand('monitor', [], {
      SERVICE_NAME: '--all',
      SERVICE_PORT: '0',
      SERVICE_URL: 'ftp://x',
      MONITOR_COOLDOWN: '10',
    })
    const word = await runCommand('monitor', ['now'], {})

    assert.deepEqual(wrong, {
      status: 2,
      stdout: '',
      stderr:
        'monitor: Configuration: SERVICE_PORT must be a whole number from 1 to 65535; ' +
        'SERVICE_URL must be an address; SERVICE_NAME must name a container; MONITOR_COOLDOWN ' +
        'must be such as 10m, at least 5m\n',
    })
    assert.deepEqual(word, {
      status: 2,
      stdout: '',
      stderr: 'monitor: Usage: node bin/monitor.js\nSee --help.\n',
    })
  })
})
