// Needs nginx, caddy, haproxy, traefik and envoy. Each runs with the configuration of bin/gateways,
// but for the addresses; the service is a process of its own, with its usual throttle of ten
// requests a second.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { test } from 'node:test'

import {
  type Answer,
  type Ask,
  ask,
  digest,
  echoMark,
  gateways,
  sendRaw,
  startBackend,
  startOnPort,
} from '../support/gateways.ts'
import { makeKeyFile, signing, startTestApp } from '../support/helpers.ts'
import { installJose } from '../support/jose.ts'
import { freePort, root, until } from '../support/process.ts'

const backend = await startBackend()
const app = await startTestApp()
const servicePort = await freePort()
const service = await startOnPort(servicePort, [process.execPath, 'bin/start.js'], {
  ...app.database.env,
  SERVER_HOST: '127.0.0.1',
  SERVER_PORT: String(servicePort),
  TRUSTED_PROXIES: '127.0.0.1',
})
/** One that signs who its callers are, on the same database. */
const signingPort = await freePort()
const issuer = `http://127.0.0.1:${signingPort}/v1`
await startOnPort(signingPort, [process.execPath, 'bin/start.js'], {
  ...app.database.env,
  SERVER_HOST: '127.0.0.1',
  SERVER_PORT: String(signingPort),
  TRUSTED_PROXIES: '127.0.0.1',
  RATE_LIMIT: '0',
  SECRETS_KEY_FILE: makeKeyFile(),
  ...signing,
  TOKEN_ISSUER: issuer,
})
const log: string[] = []
createInterface({ input: service.stdout! }).on('line', (line) => log.push(line))
const user = await app.user({
  email: `zoë-${randomBytes(4).toString('hex')}@example.org`,
  permissions: ['a', 'b:c'],
})
const reporter = await app.user({ permissions: ['reports:read'] })
/** Has the longest identity that there is. */
const longReporter = await app.user({
  email: `${randomBytes(4).toString('hex')}${'\u{20000}'.repeat(234)}@example.org`,
  permissions: [
    'reports:read',
    ...Array.from({ length: 31 }, (_, i) => `${'p'.repeat(62)}${i + 10}`),
  ],
})
const admin = await app.admin()
const as = ({ key }: { key: string }): [string, string][] => [['X-Api-Key', key]]

const names = [
  'X-Auth-User-Id',
  'X-Auth-User-Email',
  'X-Auth-User-Email-Verified',
  'X-Auth-Role',
  'X-Auth-Permissions',
  'X-Auth-Key-Id',
  'X-Auth-Key-Kind',
  'X-Auth-Factors',
  'X-Auth-Token',
]

/** The identity that reached the backend; a header that came twice is a list. */
const identity = ({ reached }: Answer) =>
  Object.fromEntries(
    names.map((name) => {
      const values = reached!.headers
        .filter(([key]) => key.toLowerCase() === name.toLowerCase())
        .map(([, value]) => value)
      // To a backend an empty one is the same as none.
      return [name, values.length > 1 ? values : values[0] || undefined]
    }),
  )

const own = await fetch(`http://127.0.0.1:${servicePort}/v1/users/auth`, {
  headers: { 'X-Api-Key': user.key },
})
const identityOfUser = {
  ...Object.fromEntries(names.map((name) => [name, own.headers.get(name) || undefined])),
  'X-Auth-User-Id': user.id,
  'X-Auth-User-Email': encodeURI(user.email),
  'X-Auth-Role': 'user',
  'X-Auth-Permissions': 'a,b:c',
  'X-Auth-Key-Id': user.keyId,
  'X-Auth-Key-Kind': 'api',
}

/** How a client may write the name of a header, so that a backend reads it as another. */
const variants = [
  (header: string) => header,
  (header: string) => header.toUpperCase(),
  (header: string) =>
    header.replace(/[a-z]/g, (letter, i: number) => (i % 2 ? letter.toUpperCase() : letter)),
  (header: string) => header.replace('-', '_'),
  (header: string) => header.replace(/-(?!.*-)/, '_'),
  ..."_.!#$%&'*+^`|~"
    .split('')
    .map((sign) => (header: string) => header.replaceAll('-', () => sign)),
]

/** How the most lenient of backends may read a path. */
function readLeniently(url: string): string {
  let path = url.replace(/^https?:\/\/[^/]*/i, '')
  for (let i = 0; i < 4; i++) {
    path = path
      .replace(/[?#].*$/, '')
      .replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(parseInt(hex, 16)))
  }
  path = path
    .replace(/\0.*$/, '')
    .replaceAll('\\', '/')
    .replace(/;[^/]*/g, '')
    .replace(/\/{2,}/g, '/')
    .toLowerCase()
  return new URL(path.startsWith('/') ? path : `/${path}`, 'http://backend').pathname
}

const tricks = [
  '//admin',
  '///admin/x',
  '/./admin',
  '/x/../admin',
  '/x/..',
  '/..;/admin',
  '/x/..;/admin',
  '/x/..;a=b/admin',
  '/;/admin',
  '/admin;x',
  '/;x=y/admin',
  '/%61dmin',
  '/%2561dmin',
  '/ADMIN/',
  '/%2fadmin',
  '/x%2f..%2fadmin',
  '/x/%2e%2e/admin',
  '/x/.%2e/admin',
  '/x/%2e%2e%2fadmin',
  '/x%5c..%5cadmin',
  '/\\admin',
  '/x\\..\\admin',
  '/admin%00',
  '/%00/../admin',
  '/admin%20',
  '/admin/',
  '/admin/.',
  '/admin/..',
  '/admin%2f',
  '/admin%3fx',
  '/admin%23x',
  '/x/%252e%252e/admin',
  '/x/..%3b/admin',
  '/admin#x',
  '/x#/../admin',
  '/admin?',
  '/?/admin',
  '/x?/../admin',
  '/_auth',
  '/%5fauth',
  '/x/../_auth',
  'http://backend.example.org/admin',
  'http://backend.example.org//admin',
  'http://other@backend.example.org/admin',
  'HTTP://backend.example.org/%2e/admin',
  '/v1/users/auth',
  '/x/%c0%ae%c0%ae/admin',
  '/admin%u002f',
  '/admin/x%zz',
  '/admin%',
  '/admin/%2',
  '/admin/x%u0061',
  '/%',
  '/x/%%61',
]

/** What makes a connection a tunnel, where a gateway lets it. */
const switches = [
  'CONNECT backend.example.org:80 HTTP/1.1\r\nHost: backend.example.org:80\r\n',
  'CONNECT 127.0.0.1:22 HTTP/1.0\r\n',
  'CONNECT / HTTP/1.1\r\nHost: x\r\n',
  'GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n' +
    'HTTP2-Settings: AAMAAABkAAQAAP__\r\n',
  'GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n' +
    'HTTP2-Settings: AAMAAABkAAQAAP__\r\n',
  'GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, uPGRADE\r\nUpgrade: h2c, websocket\r\n',
  'GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: anything\r\n',
  'GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n' +
    'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n',
  'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nConnection: upgrade\r\nUpgrade: websocket\r\n',
  'GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n',
  'POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
    'Content-Length: 0\r\n',
  'OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: TLS/1.0\r\n',
  'GET /unasked HTTP/1.1\r\nHost: x\r\n',
  'GET /unasked HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n',
  'GET /unasked HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n',
  'PRI * HTTP/2.0\r\n',
]

/** A frame of HTTP/2, of the first stream or of the connection. */
function frame(type: number, flags: number, { payload = '', stream = 1 }) {
  const head = Buffer.from([0, 0, 0, type, flags, 0, 0, 0, stream])
  head.writeUIntBE(payload.length, 0, 3)
  return head.toString('latin1') + payload
}

const settingsFrame = frame(4, 0, { stream: 0 })

/** Without compression. */
const encodeHeader = (text: string) => String.fromCharCode(text.length) + text

/** In HTTP/2 without TLS: a request that asks for a tunnel, and what would go through it. */
function openInHttp2(headers: Record<string, string>, through: string) {
  const fields = Object.entries(headers).map(
    ([name, value]) => `\0${encodeHeader(name)}${encodeHeader(value)}`,
  )
  return [
    `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${settingsFrame}`,
    frame(1, 4, { payload: fields.join('') }),
    frame(0, 0, { payload: through }),
  ].join('')
}

/** Bodies whose end a gateway and a backend might see at different places. */
const chunkedSmuggled = '0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\nX-Auth-Role: forged\r\n\r\n'
const framings = [
  `Content-Length: ${chunkedSmuggled.length}\r\nTransfer-Encoding: chunked`,
  `Transfer-Encoding: chunked\r\nContent-Length: ${chunkedSmuggled.length}`,
  `Content-Length: ${chunkedSmuggled.length}\r\nTransfer-Encoding : chunked`,
  `Content-Length: ${chunkedSmuggled.length}\r\nTransfer-Encoding: xchunked`,
  `Content-Length: ${chunkedSmuggled.length}\r\nTransfer-Encoding:\x0bchunked`,
  `Content-Length: ${chunkedSmuggled.length}\r\nTransfer-Encoding: chunked, identity`,
  `Content-Length: ${chunkedSmuggled.length}\r\nTransfer-Encoding: identity`,
  `Content-Length: ${chunkedSmuggled.length}\r\nTransfer-Encoding:\r\n chunked`,
  `Content-Length: ${chunkedSmuggled.length}\r\nTransfer_Encoding: chunked`,
  `Content-Length: ${chunkedSmuggled.length}\r\nConnection: Content-Length`,
  `Content-Length: ${chunkedSmuggled.length}\r\nContent-Length: 5`,
  `Content-Length: 5\r\nContent-Length: ${chunkedSmuggled.length}`,
  `Content-Length: +${chunkedSmuggled.length}`,
  `Content-Length: ${chunkedSmuggled.length}, ${chunkedSmuggled.length}`,
  `X: y\nTransfer-Encoding: chunked\r\nContent-Length: ${chunkedSmuggled.length}`,
]

/** The edit of bin/gateways/README.md, which is the same in all files. */
function askForTokens(text: string) {
  const area = 'require-permission=reports:read'
  return text.replace(area, `${area}&token-audience=orders`)
}

// All are started before the first test: a test file ends when the tests that it has so far do.
const ports = new Map<string, number>()
/** Those whose area of reports asks for a signed identity. */
const signingPorts = new Map<string, number>()
for (const [name, startGateway] of Object.entries(gateways)) {
  const port = await freePort()
  await startGateway({ gateway: port, service: servicePort, backend: backend.port })
  ports.set(name, port)
  const gateway = await freePort()
  await startGateway({ gateway, service: signingPort, backend: backend.port, edit: askForTokens })
  signingPorts.set(name, gateway)
}

// What src/signing/README.md says, with npm's jose, behind nginx.
const { folder, jose } = await installJose()
const readme = readFileSync(join(root, 'src/signing/README.md'), 'utf8')
writeFileSync(join(folder, 'orders.mjs'), /```js\n(.*?)```/s.exec(readme)![1]!)
const ordersPort = await freePort()
await startOnPort(ordersPort, [process.execPath, join(folder, 'orders.mjs')], {
  TOKEN_ISSUER: issuer,
  PORT: String(ordersPort),
})
const ordersGateway = await freePort()
await gateways['nginx']!({
  gateway: ordersGateway,
  service: signingPort,
  backend: ordersPort,
  edit: askForTokens,
})

const jwks = jose.createRemoteJWKSet(new URL(`${issuer}/jwks.json`))

/** As a backend of the audience does it; throws unless the token is proof of who calls. */
async function verify(token: unknown) {
  const expected = { issuer, audience: 'orders', algorithms: ['ES256'] }
  return (await jose.jwtVerify(String(token), jwks, expected)).payload
}

/** Has a caller's identity signed. */
async function sign({ key }: { key: string }, audience: string) {
  const response = await fetch(`${issuer}/users/jwt`, {
    method: 'POST',
    headers: { 'X-Api-Key': key, 'Content-Type': 'application/json' },
    body: JSON.stringify({ audience }),
  })
  return ((await response.json()) as { details: { token: string } }).details.token
}

for (const [name, port] of ports) {
  const get = (path: string, headers: [string, string][], more: Ask = {}) =>
    ask(port, { path, headers, ...more })

  test(`${name}: the caller reaches the backend, the key does not, wherever it was`, async () => {
    for (const sent of [
      ['X-Api-Key', user.key],
      ['x-aPI-kEY', user.key],
      ['Authorization', `Bearer ${user.key}`],
    ]) {
      const answer = await get('/some/path?q=1', [sent as [string, string]])
      assert.deepEqual([answer.status, answer.reached?.url], [200, '/some/path?q=1'])
      assert.deepEqual(identity(answer), identityOfUser)
      assert.equal(JSON.stringify(answer.reached).includes(user.key), false)
    }
    const answer = await get('/', as(admin))
    assert.equal(identity(answer)['X-Auth-Role'], 'admin')
    assert.equal(identity(answer)['X-Auth-Permissions'] ?? '', '')
  })

  test(`${name}: an identity that a client makes up does not reach the backend`, async () => {
    for (const vary of variants) {
      const forged = names.map((header) => [vary(header), 'forged'] as [string, string])
      for (const headers of [
        [...as(user), ...forged],
        [...forged, ...forged, ...as(user)],
      ]) {
        const answer = await get('/', headers)
        if (name === 'envoy' && vary('X-Auth-Role').includes('_')) {
          assert.deepEqual(answer, { status: 400, challenge: undefined, reached: undefined })
          continue
        }
        assert.deepEqual(identity(answer), identityOfUser, vary('X-Auth-Role'))
        const left = answer.reached!.headers.filter(([, value]) => value.includes('forged'))
        assert.deepEqual(left, [], vary('X-Auth-Role'))
      }
    }
  })

  test(`${name}: a client cannot have the identity dropped as a hop-by-hop header`, async () => {
    // In two halves: Envoy refuses a Connection with more than ten names.
    for (const half of [names.slice(0, 5), names.slice(5)]) {
      const answer = await get('/', [...as(user), ['Connection', `close, ${half.join(', ')}`]])
      assert.deepEqual(identity(answer), identityOfUser)
    }
  })

  test(`${name}: the trailers of a body are no identity`, async () => {
    const trailers = names.map((header) => [header, 'forged'] as [string, string])
    const answer = await get('/', [...as(user), ['Trailer', names.join(', ')]], {
      method: 'POST',
      body: Buffer.from('body'),
      chunked: true,
      trailers,
    })
    assert.deepEqual(identity(answer), identityOfUser)
    // It passes them on, as trailers.
    if (name !== 'haproxy') assert.deepEqual(answer.reached?.trailers, [])
  })

  test(`${name}: 401 comes with its challenge`, async () => {
    const challenge = 'Bearer realm="user-service"'
    const invalid = `${challenge}, error="invalid_token"`
    for (const [headers, expected] of [
      [[], challenge],
      [[['X-Api-Key', 'usk_wrong']], invalid],
      [[['Authorization', 'Basic dXNlcjpwYXNz']], challenge],
      [
        [
          ['X-Auth-User-Id', user.id],
          ['X-Auth-Role', 'admin'],
        ],
        challenge,
      ],
    ] as [[string, string][], string][]) {
      for (const more of [
        {},
        { method: 'POST', body: Buffer.alloc(100_000) },
        { method: 'OPTIONS' },
      ]) {
        assert.deepEqual(await get('/', headers, more), {
          status: 401,
          challenge: expected,
          reached: undefined,
        })
      }
    }
  })

  test(`${name}: a key whose header has underscores is none`, async () => {
    const answer = await get('/', [['X_Api_Key', user.key]])
    assert.deepEqual([answer.status, answer.reached], [name === 'envoy' ? 400 : 401, undefined])
  })

  test(`${name}: nothing turns a connection into a tunnel to the backend`, async () => {
    const forged =
      'GET /admin HTTP/1.1\r\nHost: x\r\nX-Auth-Role: forged\r\nConnection: close\r\n\r\n'
    for (const opening of switches) {
      backend.takeReceived()
      const answer = await sendRaw(port, `${opening}X-Api-Key: ${user.key}\r\n\r\n${forged}`)
      const received = backend.takeReceived().join('')
      assert.doesNotMatch(received, /^connect |^upgrade:|forged/im, opening)
      assert.equal(answer.includes(echoMark), false, `${opening}: ${answer}`)
      const status = /^HTTP\/1\.[01] (\d+)/.exec(answer)?.[1] ?? ''
      if (opening.startsWith('CONNECT')) assert.match(status, /^([45]\d\d|)$/, opening)
    }
  })

  test(`${name}: nor does CONNECT in HTTP/2 without TLS`, async () => {
    const connect = { ':method': 'CONNECT', ':authority': 'backend.example.org:80' }
    const extended = { ':protocol': 'websocket', ':scheme': 'http', ':path': '/' }
    const forged = 'GET /admin HTTP/1.1\r\nHost: x\r\nX-Auth-Role: forged\r\n\r\n'
    for (const headers of [connect, { ...connect, ...extended }]) {
      backend.takeReceived()
      const sent = openInHttp2({ ...headers, 'x-api-key': user.key }, forged)
      const answer = await sendRaw(port, sent)
      assert.doesNotMatch(backend.takeReceived().join(''), /^connect |^upgrade:|forged/im)
      assert.equal(answer.includes(echoMark), false)
    }
  })

  test(`${name}: a second request cannot hide in the body of another`, async () => {
    for (const framing of framings) {
      backend.takeReceived()
      const head = `POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: ${user.key}\r\n${framing}\r\n\r\n`
      const end = 'GET /end HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'
      await sendRaw(port, `${head}${chunkedSmuggled}${end}`)
      for (const text of backend.takeReceived().filter((received) => received !== '')) {
        const received = text.split('\r\n\r\n')[0]!
        const lengths = received.match(/^content-length:.*/gim) ?? []
        const codings = received.match(/^transfer.encoding.*/gim) ?? []
        assert.ok(lengths.length + codings.length <= 1, `${framing}: ${received}`)
        assert.doesNotMatch(codings.join(), /^transfer-encoding:(?! *chunked$)/i, framing)
      }
      assert.doesNotMatch(backend.takeUrls().join(), /smuggled/, framing)
    }
  })

  test(`${name}: what a client says of its own address reaches nobody`, async () => {
    const { key, keyId } = await app.user()
    const headers: [string, string][] = [
      ['X-Api-Key', key],
      ['X-Forwarded-For', '203.0.113.9'],
    ]
    const { reached } = await get('/', headers, { from: '127.0.0.2' })
    assert.doesNotMatch(JSON.stringify(reached), /203\.0\.113\.9/)
    const asked = await until('the question is logged', () =>
      log.find((line) => line.includes(`"key":"${keyId}"`)),
    )
    const { address } = JSON.parse(asked!) as { address: string }
    // Envoy tells its own address in place of a loopback one.
    if (name === 'envoy') assert.notEqual(address, '203.0.113.9')
    else assert.equal(address, '127.0.0.2')
  })

  test(`${name}: a long path and long cookies reach the backend`, async () => {
    // Through Caddy each is more than the service itself takes.
    const length = name === 'caddy' ? 17_000 : 6000
    const path = `/x?${'y'.repeat(length)}`
    const answer = await get(path, [...as(user), ['Cookie', `a=${'b'.repeat(length)}`]])
    assert.deepEqual([answer.status, answer.reached?.url], [200, path])
  })

  test(`${name}: bodies of 1.1 and 5 MB reach the backend`, async () => {
    for (const size of [1_100_000, 5_000_000]) {
      const body = randomBytes(size)
      const { status, reached } = await get('/', as(user), { method: 'POST', body })
      assert.deepEqual([status, reached?.body], [200, digest(body)])
    }
  })

  test(`${name}: an area wants a role or permission, and its 403 reaches the client`, async () => {
    const statuses = async (path: string) =>
      Promise.all([user, reporter, admin].map(async (each) => (await get(path, as(each))).status))
    assert.deepEqual(await statuses('/admin'), [403, 403, 200])
    assert.deepEqual(await statuses('/admin/x?y'), [403, 403, 200])
    assert.deepEqual(await statuses('/administrators'), [200, 200, 200])
    assert.deepEqual(await statuses('/reports/1'), [403, 200, 403])
    assert.deepEqual(
      await get('/admin', as(user), { method: 'POST', body: Buffer.alloc(100_000), chunked: true }),
      { status: 403, challenge: undefined, reached: undefined },
    )
  })

  test(`${name}: a client's own parameters loosen nothing`, async () => {
    for (const query of [
      'require-role=user',
      'require-role=',
      'require-role',
      'require-role=user&require-role=user',
      'require%2Drole=user',
      '',
      '?',
      '&',
      '?require-role=user',
      '/../auth',
      'require-permission=a',
      'x=%00',
      `x=${'y'.repeat(4000)}`,
    ]) {
      assert.equal((await get(`/admin?${query}`, as(user))).status, 403, query)
      assert.equal((await get(`/reports?${query}`, as(user))).status, 403, query)
    }
    const tightened = await get('/?require-role=admin', as(user))
    assert.ok(tightened.status === 403 || tightened.reached!.url === '/?require-role=admin')
    assert.equal(
      (await get('/?require-role=admin', as(admin))).reached?.url,
      '/?require-role=admin',
    )
  })

  test(`${name}: 200 requests at once from one address are not throttled`, async () => {
    const answers = await Promise.all(Array.from({ length: 200 }, (_, i) => get(`/${i}`, as(user))))
    const seen = answers.map(({ status, reached }) => [status, reached?.url])
    assert.deepEqual(
      seen,
      answers.map((_, i) => [200, `/${i}`]),
    )
  })

  test(`${name}: a body reaches the backend whole, with its length or in chunks`, async () => {
    const body = randomBytes(300_000)
    for (const chunked of [false, true]) {
      for (const method of ['POST', 'PUT', 'PATCH', 'DELETE']) {
        const { status, reached } = await get('/', as(user), { method, body, chunked })
        assert.deepEqual([status, reached?.method, reached?.body], [200, method, digest(body)])
      }
    }
  })

  test(`${name}: a revoked key is refused by the next request`, async () => {
    const leaver = await app.user()
    const before = await get('/', as(leaver))
    await app.request('DELETE', `/users/${leaver.id}/keys/${leaver.keyId}`, { key: admin.key })
    assert.deepEqual([before.status, (await get('/', as(leaver))).status], [200, 401])
  })

  test(`${name}: no way of writing a path passes without the key that it needs`, async () => {
    for (const path of tricks) {
      const { status, reached } = await get(path, [])
      assert.equal(reached, undefined, path)
      assert.ok(status >= 400 && status < 500, `${path}: ${status}`)
      const asUser = await get(path, as(user))
      if (asUser.reached) assert.doesNotMatch(readLeniently(asUser.reached.url), /^\/admin\b/, path)
      else assert.ok(asUser.status >= 400 && asUser.status < 500, `${path}: ${asUser.status}`)
    }
  })
}

for (const [name, port] of signingPorts) {
  const get = (path: string, headers: [string, string][]) => ask(port, { path, headers })
  const tokenOf = (answer: Answer) => identity(answer)['X-Auth-Token']

  test(`${name}: a signed identity reaches the backend where its area asks for one`, async () => {
    const answer = await get('/reports/1', as(reporter))
    const { sub, email, permissions, key_id } = await verify(tokenOf(answer))
    assert.deepEqual(
      [sub, email, permissions, key_id],
      [reporter.id, reporter.email, ['reports:read'], reporter.keyId],
    )
    assert.equal(identity(answer)['X-Auth-User-Id'], reporter.id)
    for (const path of ['/', '/admin']) {
      const elsewhere = await get(path, as(admin))
      assert.deepEqual([elsewhere.status, tokenOf(elsewhere)], [200, undefined], path)
    }
  })

  test(`${name}: a signed identity of the client's own does not reach the backend`, async () => {
    const token = await sign(user, 'orders')
    assert.equal((await verify(token))['sub'], user.id)
    for (const vary of variants) {
      const own: [string, string] = [vary('X-Auth-Token'), token]
      for (const path of ['/', '/reports/1']) {
        for (const headers of [
          [...as(reporter), own],
          [own, own, ...as(reporter)],
        ]) {
          const answer = await get(path, headers)
          if (name === 'envoy' && own[0].includes('_')) {
            assert.deepEqual([answer.status, answer.reached], [400, undefined])
            continue
          }
          assert.equal(JSON.stringify(answer.reached).includes(token), false, own[0])
          if (path === '/') assert.equal(tokenOf(answer), undefined, own[0])
          else assert.equal((await verify(tokenOf(answer)))['sub'], reporter.id, own[0])
        }
      }
    }
  })

  test(`${name}: a client's query changes nothing about for whom is signed`, async () => {
    for (const query of [
      'token-audience=billing',
      'x&token-audience=billing',
      '?token-audience=billing',
      '&token-audience=billing',
      'token%2Daudience=billing',
      'token-audience=billing&token-audience=billing',
      'token-audience=',
      'x&token-audience=nobody',
      'path=/&token-audience=billing',
    ]) {
      const inArea = await get(`/reports/1?${query}`, as(reporter))
      assert.deepEqual([inArea.status, inArea.reached?.url], [200, `/reports/1?${query}`])
      assert.equal((await verify(tokenOf(inArea)))['sub'], reporter.id, query)
      const elsewhere = await get(`/x?${query}`, as(reporter))
      assert.deepEqual([elsewhere.status, tokenOf(elsewhere)], [200, undefined], query)
    }
  })

  test(`${name}: the longest identity reaches the backend, with what else is long`, async () => {
    const cookie: [string, string] = ['Cookie', `a=${'b'.repeat(6000)}`]
    const path = `/reports/1?${'y'.repeat(6000)}`
    const answer = await get(path, [...as(longReporter), cookie])
    assert.deepEqual([answer.status, answer.reached?.url], [200, path])
    const { 'X-Auth-Permissions': permissions, 'X-Auth-User-Email': email } = identity(answer)
    assert.equal(permissions, longReporter.permissions.join())
    assert.equal(email, encodeURI(longReporter.email))
    assert.equal((await verify(tokenOf(answer)))['email'], longReporter.email)
  })

  test(`${name}: a request passes with the whole identity, or not at all`, async () => {
    const whole = identity(await get('/reports/1', as(longReporter)))
    for (let length = 5000; length < 70_000; length += length < 40_000 ? 500 : 5000) {
      const headers = Array.from({ length: length / 500 }, (_, i): [string, string] => [
        `X-Long-${i}`,
        'x'.repeat(480),
      ])
      const answer = await get('/reports/1', [...as(longReporter), ...headers])
      if (answer.reached) assert.deepEqual(identity(answer), whole, String(length))
      else assert.ok(answer.status >= 400, String(length))
    }
  })
}

test('the backend of src/signing/README.md believes what is proved alone', async () => {
  const throughGateway = async (each: { key: string }) => {
    const headers = { 'X-Api-Key': each.key, Connection: 'close' }
    const response = await fetch(`http://127.0.0.1:${ordersGateway}/reports/1`, { headers })
    return [response.status, await response.text()]
  }
  assert.deepEqual(await throughGateway(reporter), [200, `Reports for ${reporter.id}\n`])

  const direct = async (token?: string) => {
    const headers = token === undefined ? {} : { 'X-Auth-Token': token }
    return (await fetch(`http://127.0.0.1:${ordersPort}/`, { headers })).status
  }
  const token = await sign(reporter, 'orders')
  const [head, claims, signature] = token.split('.')
  const raised = JSON.parse(Buffer.from(claims!, 'base64url').toString()) as object
  const encoded = Buffer.from(JSON.stringify({ ...raised, sub: admin.id })).toString('base64url')
  assert.equal(await direct(token), 200)
  assert.equal(await direct(await sign(user, 'orders')), 403)
  assert.equal(await direct(await sign(reporter, 'billing')), 401)
  assert.equal(await direct(`${head}.${encoded}.${signature}`), 401)
  assert.equal(await direct(), 401)
})

test('an answer that begins after 33 s, or pauses for 35 s, reaches the client', async () => {
  const statuses = async (path: string) => {
    const answers = [...ports.values()].map((port) =>
      ask(port, { path, headers: as(user), limitMs: 60_000 }),
    )
    return (await Promise.all(answers)).map(({ status, reached }) => [status, reached?.url])
  }
  const [late, long] = await Promise.all([statuses('/late'), statuses('/long')])
  assert.deepEqual(late, Array(ports.size).fill([200, '/late']))
  assert.deepEqual(long, Array(ports.size).fill([200, '/long']))
})

/** The statuses of ten requests at once to each gateway, and whether they came within 3 s. */
async function observe() {
  const seen: Record<string, unknown> = {}
  const observeOne = async ([name, port]: [string, number]) => {
    const startedAt = performance.now()
    const answers = await Promise.all(
      Array.from({ length: 10 }, () => ask(port, { headers: as(user) })),
    )
    const isInTime = performance.now() - startedAt < 3000
    const statuses = [...new Set(answers.map(({ status }) => status))]
    seen[name] = [...statuses, isInTime ? 'in time' : 'late']
  }
  await Promise.all([...ports].map(observeOne))
  return seen
}

test('each gateway says within 3 s that the service hangs or is down, and recovers', async () => {
  const inTime = (statuses: Record<string, number>) =>
    Object.fromEntries(
      Object.entries(statuses).map(([name, status]) => [name, [status, 'in time']]),
    )
  const well = inTime({ nginx: 200, caddy: 200, haproxy: 200, traefik: 200, envoy: 200 })

  assert.deepEqual(await observe(), well)
  service.kill('SIGSTOP')
  const hanging = await observe()
  service.kill('SIGCONT')
  assert.deepEqual(
    hanging,
    inTime({ nginx: 503, caddy: 504, haproxy: 503, traefik: 504, envoy: 503 }),
  )
  await ask(servicePort, { path: '/v1/livez' })
  assert.deepEqual(await observe(), well)
  service.kill('SIGKILL')
  await once(service, 'exit')
  assert.deepEqual(
    await observe(),
    inTime({ nginx: 503, caddy: 502, haproxy: 503, traefik: 502, envoy: 503 }),
  )
})
