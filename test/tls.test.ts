import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { generateKeyPairSync } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import https from 'node:https'
import type { IncomingMessage } from 'node:http'
import { connect as connectPlain } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls'

import { ExitError } from '../src/errors.ts'
import { createKey } from '../src/keys/format.ts'
import { createCertificate } from './support/certificate.ts'
import { createTestDatabase, startTestApp, undo } from './support/helpers.ts'
import { freePort, launch, root } from './support/process.ts'

const folder = mkdtempSync(join(tmpdir(), 'tls-'))
undo.push(() => rmSync(folder, { recursive: true }))

/** Settings that name a pair of files, and a way to write them. */
function createFiles(name: string) {
  const env = {
    TLS_CERT_FILE: join(folder, `${name}.crt`),
    TLS_KEY_FILE: join(folder, `${name}.key`),
  }
  return {
    env,
    write({ cert, key }: { cert: string; key: string }) {
      writeFileSync(env.TLS_CERT_FILE, cert)
      writeFileSync(env.TLS_KEY_FILE, key)
    },
  }
}

const pair = createCertificate({ name: 'first' })
const files = createFiles('service')
files.write(pair)
const database = await createTestDatabase()
const app = await startTestApp(files.env, database)
const port = Number(new URL(app.url).port)

/** Shakes hands; throws an error that has the code as its message when that fails. */
async function shake(options: ConnectionOptions = {}, at = port): Promise<TLSSocket> {
  const socket = connect({
    host: '127.0.0.1',
    port: at,
    servername: 'localhost',
    ca: pair.cert,
    ...options,
  })
  await once(socket, 'secureConnect').catch((error: { code: string }) => {
    throw new Error(error.code)
  })
  return socket
}

/** The common name of the certificate that new connections get. */
async function presented(at = port): Promise<string> {
  const socket = await shake({ rejectUnauthorized: false }, at)
  const CN = String(socket.getPeerCertificate().subject.CN)
  socket.destroy()
  return CN
}

/** Sends bytes as they are and returns what comes until the other side closes. */
async function send(bytes: string): Promise<string> {
  const socket = await shake()
  let text = ''
  socket.on('data', (chunk: Buffer) => {
    text += chunk.toString()
  })
  socket.write(bytes)
  await once(socket, 'close')
  return text
}

function get(agent: https.Agent, path = '/v1/livez'): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    https
      .get({ host: '127.0.0.1', port, path, agent, servername: 'localhost' }, (res) => {
        res.resume().on('end', () => resolve(res))
      })
      .on('error', reject)
  })
}

test('TLS 1.2 and 1.3 are spoken, with forward secrecy and authenticated ciphers', async () => {
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    const socket = await shake({ minVersion: version, maxVersion: version })
    assert.deepEqual([socket.authorized, socket.getProtocol()], [true, version])
    assert.match(
      socket.getCipher().standardName,
      /^TLS_(ECDHE_ECDSA_WITH_)?(AES_\d+_GCM|CHACHA20_POLY1305)_SHA\d+$/,
    )
    socket.destroy()
  }
})

test('older versions and other ciphers are refused, and the log says so', async () => {
  const before = app.log.length
  const old = { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' } as const
  await assert.rejects(shake(old), /ALERT_PROTOCOL_VERSION$/)
  for (const ciphers of [
    'AES128-GCM-SHA256',
    'ECDHE-ECDSA-AES128-SHA256',
    'ECDHE-ECDSA-AES128-CCM',
    'DHE-RSA-AES128-GCM-SHA256',
  ]) {
    await assert.rejects(shake({ maxVersion: 'TLSv1.2', ciphers }), /ALERT_HANDSHAKE_FAILURE$/)
  }
  const told = app.log
    .slice(before)
    .map((line) => JSON.parse(line))
    .filter(({ address }) => address === '127.0.0.1')
  assert.deepEqual(
    told.map(({ message }) => message),
    Array(5).fill('handshake failed'),
  )
})

test('every answer tells browsers to stay with HTTPS, even one to what is no request', async () => {
  for (const [request, status] of [
    ['GET /v1/livez HTTP/1.1\r\nHost: x', 200],
    ['GET /v1/docs HTTP/1.1\r\nHost: x', 200],
    ['GET /v1/users HTTP/1.1\r\nHost: x', 401],
    ['GET /v1/nothing HTTP/1.1\r\nHost: x', 404],
    ['PUT /v1/users HTTP/1.1\r\nHost: x', 405],
    ['OPTIONS /v1/users HTTP/1.1\r\nHost: x', 204],
    ['GET /v1/livez HTTP/1.1', 400],
    ['no request', 400],
    [`GET /v1/livez HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(20_000)}`, 431],
  ] as const) {
    const answer = await send(`${request}\r\nConnection: close\r\n\r\n`)
    assert.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `))
    const said = answer.match(/^strict-transport-security: .*$/gim)
    assert.deepEqual(said, ['Strict-Transport-Security: max-age=31536000'], answer)
    for (const header of ['Referrer-Policy: no-referrer', 'X-Frame-Options: DENY']) {
      assert.ok(answer.includes(`\r\n${header}\r\n`), header)
    }
    assert.match(
      answer,
      /\r\nContent-Security-Policy: default-src 'none'; .*frame-ancestors 'none'/,
    )
  }
  const plain = await startTestApp({}, database)
  assert.equal(
    (await plain.request('GET', '/livez')).headers.get('strict-transport-security'),
    null,
  )
})

test('who does not shake hands is cut within 7 seconds', async () => {
  const startedAt = performance.now()
  await Promise.all(
    ['', '\x16\x03\x01', 'GET / HTTP/1.1\r\n\r\n'].map(async (bytes) => {
      const socket = connectPlain(port, '127.0.0.1')
      socket
        .on('error', () => {})
        .resume()
        .write(bytes)
      await once(socket, 'close')
    }),
  )
  assert.ok(performance.now() - startedAt < 7000, `${performance.now() - startedAt} ms`)
  assert.equal(await presented(), 'first')
})

test('a renewed pair is for new connections, also resumed ones; open ones go on', async () => {
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ca: pair.cert })
  await get(agent)
  const [before] = Object.values(agent.freeSockets)[0]!
  const old = await shake({ maxVersion: 'TLSv1.2' })
  const session = old.getSession()!

  files.write(createCertificate({ name: 'second' }))
  assert.equal(await presented(), 'first')
  app.rereadTls()
  assert.equal(await presented(), 'second')
  const resumed = await shake({ maxVersion: 'TLSv1.2', session, rejectUnauthorized: false })
  assert.deepEqual(
    [resumed.isSessionReused(), resumed.getPeerCertificate().subject.CN],
    [false, 'second'],
  )
  assert.equal((await get(agent)).statusCode, 200)
  assert.equal(Object.values(agent.freeSockets)[0]![0], before)

  for (const socket of [old, resumed]) socket.destroy()
  agent.destroy()
  files.write(pair)
  app.rereadTls()
  assert.equal(await presented(), 'first')
})

const weak = () => generateKeyPairSync('rsa', { modulusLength: 512 }).privateKey
const encrypted = () =>
  generateKeyPairSync('ec', {
    namedCurve: 'P-256',
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: {
      type: 'pkcs8',
      format: 'pem',
      cipher: 'aes-256-cbc',
      passphrase: 'secret',
    },
  }).privateKey
const noPair = /: the first has no certificate, or the second no key: they may be swapped$/
const unusable: [what: string, bad: { cert: string; key: string }, reason: RegExp][] = [
  ['expired', createCertificate({ from: -20, to: -10 }), /it expired on \w+ +\d+ /],
  ['not valid yet', createCertificate({ from: 10, to: 20 }), /it is valid from \w+ +\d+ /],
  [
    'of two certificates',
    { ...pair, key: createCertificate().key },
    /the key is of another certificate/,
  ],
  ['without a certificate', { ...pair, cert: 'nothing' }, noPair],
  ['of an empty certificate', { ...pair, cert: '' }, noPair],
  ['without a key', { ...pair, key: '' }, noPair],
  ['of swapped files', { cert: pair.key, key: pair.cert }, noPair],
  ['whose certificate is damaged', { ...pair, cert: pair.cert.replace('MII', 'MIJ') }, /asn1|PEM/i],
  ['whose key wants a password', { ...pair, key: encrypted() }, /the key wants a password/],
  ['whose key is too weak', createCertificate({ key: weak() }), /key too small/],
  [
    'whose chain is cut short',
    { ...pair, cert: `${pair.cert}-----BEGIN CERTIFICATE-----\nMIIB` },
    /bad end line|PEM/i,
  ],
]

for (const [what, bad, reason] of unusable) {
  test(`a pair ${what} is refused at the start, and on reread the old pair stays`, async () => {
    const refused = (error: unknown) => {
      assert.ok(error instanceof ExitError)
      assert.match(error.message, /^TLS_CERT_FILE and TLS_KEY_FILE cannot be used: /)
      assert.match(error.message, reason)
      assert.doesNotMatch(error.message, /-----|\n/)
      assert.equal(error.status, 2)
      return true
    }
    const other = createFiles('unusable')
    other.write(bad)
    await assert.rejects(startTestApp(other.env, database), refused)

    files.write(bad)
    assert.throws(() => app.rereadTls(), refused)
    assert.equal(await presented(), 'first')
    files.write(pair)
  })
}

test('files that are not there are refused with the name of the settings', async () => {
  const cannot = 'names a file that cannot be read'
  await assert.rejects(
    startTestApp({ TLS_CERT_FILE: '/nowhere', TLS_KEY_FILE: '/nowhere' }, database),
    { message: `Configuration: TLS_CERT_FILE ${cannot}; TLS_KEY_FILE ${cannot}` },
  )
})

test('a pair that cannot be used is told before anything is made', async () => {
  const own = await createTestDatabase()
  const early = createFiles('early')
  early.write({ cert: '', key: '' })
  const keyFile = join(folder, 'admin-key')
  writeFileSync(keyFile, `${createKey()}\n`)
  const admin = { BOOTSTRAP_ADMIN_EMAIL: 'a@example.org', BOOTSTRAP_ADMIN_KEY_FILE: keyFile }
  await assert.rejects(startTestApp({ ...early.env, ...admin }, own), noPair)
  assert.deepEqual(await own.db.query('select from users'), [])
})

test('SIGHUP renews, or logs why not; a start with such a pair ends with status 2', async () => {
  const own = createFiles('process')
  own.write(createCertificate({ name: 'first' }))
  const at = await freePort()
  const start = () => {
    const child = spawn(process.execPath, launch('start.js'), {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        ...database.env,
        ...own.env,
        SERVER_HOST: '127.0.0.1',
        SERVER_PORT: String(at),
      },
    })
    const output = { stdout: '', stderr: '' }
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].on('data', (chunk: Buffer) => {
        output[name] += chunk.toString()
      })
    }
    const until = async (pattern: RegExp) => {
      for (let i = 0; i < 400 && !pattern.test(output.stdout); i++) await sleep(50)
      const line = output.stdout.split('\n').find((each) => pattern.test(each))
      return JSON.parse(line ?? assert.fail(JSON.stringify(output)))
    }
    return { child, output, until, ended: once(child, 'close') as Promise<[number | null]> }
  }

  const { child, until, ended } = start()
  undo.push(() => child.kill('SIGKILL') && ended)
  await until(/listening/)
  assert.equal(await presented(at), 'first')

  own.write(createCertificate({ name: 'second' }))
  child.kill('SIGHUP')
  assert.equal((await until(/certificate reread/)).level, 'info')
  assert.equal(await presented(at), 'second')

  own.write(createCertificate({ from: -20, to: -10 }))
  child.kill('SIGHUP')
  const { level, error } = await until(/not reread/)
  assert.equal(level, 'error')
  assert.match(error, /it expired on/)
  assert.equal(await presented(at), 'second')
  child.kill('SIGTERM')
  assert.deepEqual((await ended)[0], 0)

  const again = start()
  assert.deepEqual((await again.ended)[0], 2)
  assert.match(
    again.output.stderr,
    /^user-service: TLS_CERT_FILE and TLS_KEY_FILE cannot be used: it expired on .*\n$/,
  )
})
