import assert from 'node:assert/strict'
import { once } from 'node:events'
import {
  chownSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { explain, isHopeless } from '../src/database/explain.ts'
import { AppError, ExitError } from '../src/errors.ts'
import { createTestDatabase, undo } from './support/helpers.ts'
import { loader, root, run, succeed } from './support/process.ts'
import { startService, type Service } from './support/service.ts'

const server = {
  DATABASE_HOST: process.env['TEST_DATABASE_SOCKET'],
  DATABASE_PORT: process.env['TEST_DATABASE_PORT'],
  DATABASE_NAME: 'template1',
}

/**
 * A server that answers what each connection sends with the next of `answers`, and keeps it open.
 */
async function startFakePostgres(...answers: Buffer[]) {
  const sockets: Socket[] = []
  const fake = createServer((socket) => {
    sockets.push(socket)
    socket.on('error', () => {})
    const left = [...answers]
    socket.on('data', () => socket.write(left.shift() ?? ''))
  })
  fake.listen(0, '127.0.0.1')
  await once(fake, 'listening')
  undo.push(() => {
    for (const socket of sockets) socket.destroy()
    fake.close()
  })
  const { port } = fake.address() as AddressInfo
  return { DATABASE_HOST: '127.0.0.1', DATABASE_PORT: String(port) }
}

function message(type: string, body: string) {
  const head = Buffer.from(`${type}0000`)
  head.writeInt32BE(4 + body.length, 1)
  return Buffer.concat([head, Buffer.from(body)])
}

/** What an operator sees of a start that does not come to listen. */
async function outcome(service: Service) {
  const status = await service.ended
  const waited = service.log.map((line) => JSON.parse(line).message)
  return { status, waited, stderr: service.said() }
}

const refused = message('E', 'SFATAL\0VFATAL\0C28P01\0Mno entry for "me"\0\0')
const wantsPassword = [
  message('R', '\0\0\0\x0aSCRAM-SHA-256\0\0'),
  message('R', '\0\0\0\x0br=nonce,s=c2FsdA==,i=4096'),
]
const hopeless = [
  {
    name: 'a wrong password',
    env: async () => startFakePostgres(refused),
    stderr: 'no entry for "me": see DATABASE_PASSWORD, DATABASE_PASSWORD_FILE or DATABASE_URL',
  },
  {
    name: 'no password',
    env: async () => startFakePostgres(...wantsPassword),
    stderr: 'there is no DATABASE_PASSWORD, nor one in ~/.pgpass',
  },
  {
    name: 'a role that is not there',
    env: async () => ({ ...server, DATABASE_USER: 'me' }),
    stderr: 'role "me" does not exist: see DATABASE_USER and DATABASE_SSL',
  },
  {
    name: 'a database that is not there',
    env: async () => ({ ...server, DATABASE_NAME: 'none' }),
    stderr:
      'database "none" does not exist: see DATABASE_NAME; node bin/database.js create makes one',
  },
]
for (const { name, env, stderr } of hopeless) {
  test(`with ${name} it fails at once and names what to set`, async () => {
    assert.deepEqual(await outcome(await startService(await env())), {
      status: 1,
      waited: [],
      stderr: `user-service: ${stderr}\n`,
    })
  })
}

const launcher = 'bin/start.js'
/** The launcher alone, with the packages of these names. */
function makeCheckout(...packages: string[]) {
  const directory = mkdtempSync(join(tmpdir(), 'user-service-start-'))
  undo.push(() => rmSync(directory, { recursive: true }))
  for (const name of packages) {
    const path = join(directory, 'node_modules', name)
    mkdirSync(path, { recursive: true })
    writeFileSync(join(path, 'index.js'), '')
  }
  cpSync(join(root, 'bin'), join(directory, 'bin'), { recursive: true })
  writeFileSync(join(directory, 'package.json'), '{"type":"module"}')
  return directory
}

test('a checkout without packages, or with an old Node, is told in one sentence', async () => {
  const bare = join(makeCheckout(), launcher)
  const old = join(makeCheckout('pg'), 'old.cjs')
  writeFileSync(old, `Object.defineProperty(process, 'versions', { value: { node: '18.20.0' } })`)
  const lines = [
    await run(process.execPath, [bare]),
    await run(process.execPath, ['--require', old, bare]),
  ]
  assert.deepEqual(
    lines.map(({ status, stdout, stderr }) => ({ status, stdout, stderr })),
    [
      'its packages are not installed: run npm ci',
      'needs Node 20.15 or later, or 22.2 or later; this is 18.20.0',
    ].map((sentence) => ({ status: 1, stdout: '', stderr: `user-service: ${sentence}\n` })),
  )
})

test('a Node that needs tsx says so where it was left out', async () => {
  const flags = loader.length === 0 ? ['--no-experimental-strip-types'] : []
  const args = [...flags, join(makeCheckout('pg'), launcher)]
  const { status, stderr } = await run(process.execPath, args)
  const advice = 'run npm ci without --omit=dev, or use Node 22.18 or later'
  const sentence = `Node ${process.versions.node} runs TypeScript with tsx alone: ${advice}`
  assert.deepEqual({ status, stderr }, { status: 1, stderr: `user-service: ${sentence}\n` })
})

test('nothing is kept in, or run from, the folder for temporary files', async () => {
  const TMPDIR = makeCheckout()
  const before = readdirSync(TMPDIR)
  // The tests' own.
  const env = { TMPDIR, TSX_DISABLE_CACHE: undefined }
  const { status } = await run(process.execPath, [join(root, launcher), '--help'], env)
  assert.deepEqual({ status, after: readdirSync(TMPDIR) }, { status: 0, after: before })
})

test('npm start keeps what Node compiles beside packages that are its own', async () => {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  const start = scripts.start.replace('exec node bin/start.js', 'printf %s "$NODE_COMPILE_CACHE"')
  const directory = makeCheckout('pg')
  const ask = (env: NodeJS.ProcessEnv) =>
    succeed('sh', ['-c', `cd "$0" && ${start}`, directory], {
      NODE_COMPILE_CACHE: undefined,
      ...env,
    })
  assert.equal(await ask({}), join(directory, 'node_modules/.cache'))
  assert.equal(await ask({ NODE_COMPILE_CACHE: '/x' }), '/x')
  const packages = join(directory, 'node_modules')
  if (process.getuid!() === 0) chownSync(packages, 65_533, 65_533)
  else {
    rmSync(packages, { recursive: true })
    symlinkSync('/usr', packages)
  }
  assert.equal(await ask({}), '')
})

test('of a .env that lies there one line says that it is not read', async () => {
  const directory = makeCheckout()
  writeFileSync(join(directory, '.env'), 'SIGNUP=admin\n')
  const start = [process.execPath, ...loader, join(root, launcher)]
  const args = ['-c', 'cd "$0" && exec "$@"', directory, ...start]
  const { status, stderr } = await run('sh', args, { SERVER_PORT: 'none' })
  assert.deepEqual(
    { status, lines: stderr.trimEnd().split('\n') },
    {
      status: 2,
      lines: [
        'user-service: .env is not read; node --env-file=.env bin/start.js does',
        'user-service: Configuration: SERVER_PORT must be a whole number from 0 to 65535',
      ],
    },
  )
})

const see = 'see DATABASE_HOST, DATABASE_PORT or DATABASE_URL'

test('every failure is one sentence, and no stack', () => {
  const refused = ['::1', '127.0.0.1'].map((host) => new Error(`connect ECONNREFUSED ${host}:1`))
  const cause = new AggregateError([...refused, ...refused])
  const faults = [{ field: 'email', message: 'must have one @' }]
  assert.deepEqual(
    [
      new AppError('database_unavailable', { cause }),
      cause,
      new AppError('invalid_email', { faults }),
      new ExitError('Configuration: x', 2),
      Object.assign(new Error('EACCES: permission denied'), { syscall: 'mkdir', code: 'EACCES' }),
      Object.assign(new Error('certificate has expired'), { code: 'CERT_HAS_EXPIRED' }),
      new TypeError('x is not a function'),
    ].map(explain),
    [
      'Database unavailable: connect ECONNREFUSED ::1:1, connect ECONNREFUSED 127.0.0.1:1: ' + see,
      'connect ECONNREFUSED ::1:1, connect ECONNREFUSED 127.0.0.1:1',
      'Invalid email: must have one @',
      'Configuration: x',
      'EACCES: permission denied',
      'the certificate is not accepted: certificate has expired: ' +
        'see DATABASE_CA_FILE, DATABASE_SSL and DATABASE_HOST',
      'Unexpected: x is not a function (LOG_LEVEL=debug shows where)',
    ],
  )
})

// What Node calls the errors that OpenSSL finds in a certificate.
for (const code of [
  'CRL_HAS_EXPIRED',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'ERR_TLS_CERT_ALTNAME_INVALID',
  'INVALID_CA',
  'INVALID_PURPOSE',
  'PATH_LENGTH_EXCEEDED',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'UNSPECIFIED',
]) {
  test(`a certificate of the database with the fault ${code} names the settings, at once`, () => {
    const cause = Object.assign(new Error('no'), { code })
    const unavailable = new AppError('database_unavailable', { cause })
    const settings = 'DATABASE_CA_FILE, DATABASE_SSL and DATABASE_HOST'
    assert.equal(explain(unavailable), `the certificate is not accepted: no: see ${settings}`)
    assert.equal(isHopeless(unavailable), true)
  })
}

test('what else Node calls invalid is no fault of a certificate', () => {
  for (const code of ['ERR_INVALID_ARG_TYPE', 'ERR_HTTP_CONTENT_LENGTH_MISMATCH']) {
    const mistake = Object.assign(new TypeError('x'), { code })
    assert.equal(explain(mistake), 'Unexpected: x (LOG_LEVEL=debug shows where)')
    assert.equal(isHopeless(mistake), false)
  }
})

test('a signal that is repeated ends the process only after a second', async () => {
  const { env } = await createTestDatabase()
  const start = (seconds: string) => startService({ ...env, DRAIN_SECONDS: seconds })
  const [patient, impatient] = await Promise.all([start('1'), start('60')])
  for (const service of [patient, impatient]) {
    service.child.kill('SIGINT')
    service.child.kill('SIGTERM')
  }
  await sleep(1050)
  impatient.child.kill('SIGINT')
  assert.deepEqual([await patient.ended, await impatient.ended], [0, 1])
})

test('a start that waits says why, and SIGTERM ends it with 0', async () => {
  const env = { DATABASE_HOST: 'localhost', DATABASE_PORT: '1' }
  const service = await startService(env, { until: 'waiting for the database' })
  const waiting = JSON.parse(service.log[0]!)
  assert.match(
    waiting.reason,
    RegExp(`^Database unavailable: connect ECONNREFUSED \\S+:1(, connect \\S+ \\S+)?: ${see}$`),
  )
  assert.deepEqual([waiting.try, waiting.of], [1, 10])
  assert.equal(await service.kill(), 0)
  assert.equal(service.said(), '')
})
