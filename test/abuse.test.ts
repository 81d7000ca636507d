import assert from 'node:assert/strict'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { test } from 'node:test'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'

import { accountOfUser } from '../src/passwords/guessing.ts'
import { createKey } from '../src/keys/format.ts'
import { createIdentify } from '../src/keys/identify.ts'
import type { Database } from '../src/database/pool.ts'
import type { Pipeline } from '../src/http/pipeline.ts'
import { listen } from '../src/http/server.ts'
import { createLog } from '../src/log.ts'
import { hashCheaply, password, startTestApp, undo } from './support/helpers.ts'
import { until } from './support/process.ts'
import { exchange, open, type RawAnswer, type Sending } from './support/raw.ts'

// A password still takes a moment.
hashCheaply(12)
const app = await startTestApp()
const admin = await app.admin()
const user = await app.user()
const h = 'Host: x\r\n'
const close = 'Connection: close\r\n'
const json = 'Content-Type: application/json\r\n'
const good = `GET /v1/livez HTTP/1.1\r\n${h}\r\n`
const post = `POST /v1/users/sessions HTTP/1.1\r\n${h}${json}`
const auth = `X-Api-Key: ${user.key}\r\n`
// Hashes a password, which takes a moment, and is refused. Failures are counted by address, so each
// attempt has another one.
let logins = 0
const slow = () =>
  `${post}Content-Length: 35\r\n\r\n` +
  `{"email":"a@${String(logins++).padStart(4, '0')}","password":"wr0"}`
/** How long a password may take, on a machine that is busy with other things. */
const hashMs = 20_000
const fields = (count: number) => Array.from({ length: count }, (_, i) => `A${i}: b\r\n`).join('')
const chunked = 'Transfer-Encoding: chunked\r\n'

const raw = (bytes: string | Buffer, options?: Sending) => exchange(app.url, bytes, options)
const brief = ({ status, body }: RawAnswer) => [status, body?.code]

/** The one answer to a request that asks for the connection to be closed. */
async function ask(line: string, headers = '', body: string | Buffer = ''): Promise<RawAnswer> {
  const head = Buffer.from(`${line} HTTP/1.1\r\n${h}${close}${headers}\r\n`, 'latin1')
  const { answers } = await raw(Buffer.concat([head, Buffer.from(body)]), {
    head: line.startsWith('HEAD '),
  })
  assert.equal(answers.length, 1)
  return answers[0]!
}

const sendJson = (line: string, body: string | Buffer, headers = json) =>
  ask(line, `${headers}Content-Length: ${Buffer.byteLength(body)}\r\n`, body)

// It takes seconds, while the others run.
const slowHeaders = raw('', {
  limitMs: 9000,
  send: (socket) => {
    socket.write('GET /v1/livez HTTP/1.1\r\n')
    const dribble = setInterval(() => socket.write('X-A: b\r\n'), 400)
    socket.on('close', () => clearInterval(dribble))
  },
})

for (const [name, bytes] of [
  ['no Host', 'GET /v1/livez HTTP/1.1\r\n\r\n'],
  ['an empty Host', 'GET /v1/livez HTTP/1.1\r\nHost: \r\n\r\n'],
  ['two different Hosts', 'GET /v1/livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n'],
  ['one Host twice', 'GET /v1/livez HTTP/1.1\r\nHost: x\r\nhost: x\r\n\r\n'],
  ['a Host with user information', 'GET /v1/livez HTTP/1.1\r\nHost: me@x\r\n\r\n'],
  ['a Host with a path', 'GET /v1/livez HTTP/1.1\r\nHost: x/y\r\n\r\n'],
  ['a list of Hosts', 'GET /v1/livez HTTP/1.1\r\nHost: x, y\r\n\r\n'],
  ['a Host with a space', 'GET /v1/livez HTTP/1.1\r\nHost: x y\r\n\r\n'],
  ['a Host whose port is none', 'GET /v1/livez HTTP/1.1\r\nHost: x:http\r\n\r\n'],
  ['GET *', `GET * HTTP/1.1\r\n${h}\r\n`],
  ['a target that is neither path nor URL', `GET v1/livez HTTP/1.1\r\n${h}\r\n`],
  ['a target of another scheme', `GET ftp://x/v1/livez HTTP/1.1\r\n${h}\r\n`],
  ['an absolute target without host', `GET http:///v1/livez HTTP/1.1\r\n${h}\r\n`],
  ['a fragment in the target', `GET /v1/livez#a HTTP/1.1\r\n${h}\r\n`],
  [
    'bytes beyond ASCII in the target',
    Buffer.from(`GET /v1/caf\xe9 HTTP/1.1\r\n${h}\r\n`, 'latin1'),
  ],
  ['NUL in the target', `GET /v1/\0livez HTTP/1.1\r\n${h}\r\n`],
  ['a space in the target', `GET /v1/li vez HTTP/1.1\r\n${h}\r\n`],
  ['no target', `GET HTTP/1.1\r\n${h}\r\n`],

  ['a tab in the request line', `GET\t/v1/livez HTTP/1.1\r\n${h}\r\n`],
  ['no version', 'GET /v1/livez\r\n\r\n'],
  ['HTTP/9.9', `GET /v1/livez HTTP/9.9\r\n${h}\r\n`],
  ['HTTP/2.0 in a request line', `GET /v1/livez HTTP/2.0\r\n${h}\r\n`],
  ['HTTP/1', `GET /v1/livez HTTP/1\r\n${h}\r\n`],
  ['http/1.1 in lower case', `GET /v1/livez http/1.1\r\n${h}\r\n`],
  ['a method in lower case', `get /v1/livez HTTP/1.1\r\n${h}\r\n`],
  ['an unknown method', `FOOBAR /v1/livez HTTP/1.1\r\n${h}\r\n`],
  ['a method of 100,000 letters', `${'A'.repeat(100_000)} /v1/livez HTTP/1.1\r\n${h}\r\n`],
  ['the HTTP/2 preface', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
  ['a TLS handshake', Buffer.from('16030100a5010000a10303', 'hex')],
  ['nothing but bytes', Buffer.from(Array.from({ length: 256 }, (_, i) => 255 - i))],
  ['a bare LF after the request line', `GET /v1/livez HTTP/1.1\n${h}\r\n`],
  ['a bare LF after a header', 'GET /v1/livez HTTP/1.1\r\nHost: x\nA: b\r\n\r\n'],
  ['a bare CR', 'GET /v1/livez HTTP/1.1\rHost: x\r\n\r\n'],
  ['a folded header', `GET /v1/livez HTTP/1.1\r\n${h}A: b\r\n c\r\n\r\n`],
  ['a space before a colon', `GET /v1/livez HTTP/1.1\r\n${h}A : b\r\n\r\n`],
  ['a header without a name', `GET /v1/livez HTTP/1.1\r\n${h}: b\r\n\r\n`],
  ['a header without a colon', `GET /v1/livez HTTP/1.1\r\n${h}A\r\n\r\n`],
  ['white space before the headers', `GET /v1/livez HTTP/1.1\r\n \r\n${h}\r\n`],
  ['a bracket in the name of a header', `GET /v1/livez HTTP/1.1\r\n${h}A[b: c\r\n\r\n`],
  ['letters beyond ASCII in the name of a header', `GET /v1/livez HTTP/1.1\r\n${h}Ä: b\r\n\r\n`],
  ['NUL in a header', `GET /v1/livez HTTP/1.1\r\n${h}A: b\0c\r\n\r\n`],
  ['a control character in a header', `GET /v1/livez HTTP/1.1\r\n${h}A: b\x07c\r\n\r\n`],
  ['a Content-Length that is no number', `${post}Content-Length: abc\r\n\r\n`],
  ['a Content-Length with a sign', `${post}Content-Length: +2\r\n\r\n{}`],
  ['a negative Content-Length', `${post}Content-Length: -1\r\n\r\n`],
  ['a hexadecimal Content-Length', `${post}Content-Length: 0x2\r\n\r\n{}`],
  ['a list of Content-Lengths', `${post}Content-Length: 2, 2\r\n\r\n{}`],
  ['an empty Content-Length', `${post}Content-Length: \r\n\r\n`],
  ['a Content-Length beyond 64 bits', `${post}Content-Length: 99999999999999999999\r\n\r\n`],
  ['two Content-Lengths', `${post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} `],
  ['Content-Length and Transfer-Encoding', `${post}Content-Length: 4\r\n${chunked}\r\n0\r\n\r\n`],
  ['Transfer-Encoding and Content-Length', `${post}${chunked}Content-Length: 30\r\n\r\n0\r\n\r\n`],
  ['an empty Transfer-Encoding', `${post}Transfer-Encoding: \r\n\r\n`],
  [
    'an empty Transfer-Encoding and Content-Length',
    `${post}Transfer-Encoding: \r\nContent-Length: 2\r\n\r\n{}`,
  ],
  ['an unknown Transfer-Encoding', `${post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n`],
  [
    'a Transfer-Encoding before chunked',
    `${post}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`,
  ],
  [
    'a Transfer-Encoding after chunked',
    `${post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n`,
  ],
  ['chunked twice', `${post}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n`],
  ['two Transfer-Encodings', `${post}${chunked}${chunked}\r\n0\r\n\r\n`],
  ['a quoted Transfer-Encoding', `${post}Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n`],
  ['a vertical tab in Transfer-Encoding', `${post}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n`],
  [
    'Transfer-Encoding in HTTP/1.0',
    `POST /v1/users/sessions HTTP/1.0\r\n${h}${json}${chunked}\r\n0\r\n\r\n`,
  ],
  ['a chunk whose size is no number', `${post}${chunked}\r\nz\r\n{}\r\n0\r\n\r\n`],
  ['a chunk with a negative size', `${post}${chunked}\r\n-1\r\n{}\r\n0\r\n\r\n`],
  ['a chunk whose size starts with 0x', `${post}${chunked}\r\n0x2\r\n{}\r\n0\r\n\r\n`],
  ['a chunk whose size overflows', `${post}${chunked}\r\nffffffffffffffff1\r\n{}\r\n0\r\n\r\n`],
  ['a chunk that is longer than its size', `${post}${chunked}\r\n1\r\n{}\r\n0\r\n\r\n`],
  ['a chunk that ends in a bare LF', `${post}${chunked}\r\n2\r\n{}\n0\r\n\r\n`],
  ['a chunk size that ends in a bare LF', `${post}${chunked}\r\n2\n{}\r\n0\r\n\r\n`],
] as const) {
  test(`${name} is refused and the connection closed`, async () => {
    const { answers, closed, ms } = await raw(bytes)
    assert.deepEqual(answers.map(brief), [[400, 'invalid_request']])
    assert.ok(closed)
    assert.ok(ms < 2000, `${ms} ms`)
  })
}

for (const [name, bytes, status, code] of [
  ['an absolute target', `GET http://elsewhere:1/v1/livez HTTP/1.1\r\n${h}${close}\r\n`, 200],
  [
    'an empty line before the request line',
    `\r\n\r\nGET /v1/livez HTTP/1.1\r\n${h}${close}\r\n`,
    200,
  ],
  [
    'a Host that is an IPv6 address',
    `GET /v1/livez HTTP/1.1\r\nHost: [::1]:80\r\n${close}\r\n`,
    200,
  ],
  ['a hundred headers', `GET /v1/livez HTTP/1.1\r\n${close}${fields(98)}${h}\r\n`, 200],
  ['HTTP/1.0', `GET /v1/livez HTTP/1.0\r\n${h}\r\n`, 200],
  ['HTTP/1.0 without Host', 'GET /v1/livez HTTP/1.0\r\n\r\n', 200],
  ['OPTIONS *', `OPTIONS * HTTP/1.1\r\n${h}${close}\r\n`, 204],
  [
    'a target of 7,900 octets',
    `GET /v1/${'a'.repeat(7896)} HTTP/1.1\r\n${h}${close}\r\n`,
    404,
    'not_found',
  ],
  ['TRACE', `TRACE /v1/livez HTTP/1.1\r\n${h}${close}${auth}\r\n`, 405, 'method_not_allowed'],
  [
    'an Upgrade that nobody offers',
    `GET /v1/livez HTTP/1.1\r\n${h}Connection: Upgrade, close\r\nUpgrade: websocket\r\n` +
      'Sec-WebSocket-Version: 13\r\n\r\n',
    200,
  ],
  [
    'an Upgrade to HTTP/2',
    `GET /v1/livez HTTP/1.1\r\n${h}Connection: Upgrade, HTTP2-Settings, close\r\n` +
      'Upgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n',
    200,
  ],
  [
    'Expect: 100-continue',
    `${post}${close}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}`,
    400,
    'invalid_body',
  ],
  [
    'Expect: 100-continue in HTTP/1.0',
    `POST /v1/users/sessions HTTP/1.0\r\n${json}Expect: 100-continue\r\n` +
      'Content-Length: 2\r\n\r\n{}',
    400,
    'invalid_body',
  ],
  [
    'another Expect',
    `GET /v1/livez HTTP/1.1\r\n${h}${close}Expect: 200-ok\r\n\r\n`,
    417,
    'expectation_failed',
  ],
  [
    'a chunk extension',
    `${post}${close}${chunked}\r\n2;a=b\r\n{}\r\n0\r\n\r\n`,
    400,
    'invalid_body',
  ],
  [
    'a trailer',
    `${post}${close}${chunked}\r\n2\r\n{}\r\n0\r\nX-Api-Key: ${admin.key}\r\n\r\n`,
    400,
    'invalid_body',
  ],
  [
    'another method in a header',
    `GET /v1/livez HTTP/1.1\r\n${h}${close}X-HTTP-Method-Override: DELETE\r\n\r\n`,
    200,
  ],
  ['a range', `GET /v1/openapi.json HTTP/1.1\r\n${h}${close}Range: bytes=0-1\r\n\r\n`, 200],
] as const) {
  test(`${name} gets ${status}`, async () => {
    const { answers, ms } = await raw(bytes)
    assert.deepEqual(answers.map(brief), [[status, code]])
    assert.ok(ms < 2000, `${ms} ms`)
  })
}

test('only a 1.1 client whose body will be read is told to continue', async () => {
  const interim = async (request: string) => {
    let seen = ''
    await raw('', {
      send(socket) {
        socket.on('data', (chunk) => {
          seen += String(chunk)
        })
        socket.write(request)
      },
    })
    return seen.startsWith('HTTP/1.1 100 Continue\r\n\r\n')
  }
  const expecting = (version: string, headers: string) =>
    `POST /v1/users/sessions HTTP/${version}\r\n${h}${close}${headers}Expect: 100-continue\r\n` +
    'Content-Length: 2\r\n\r\n{}'
  assert.equal(await interim(expecting('1.1', json)), true)
  assert.equal(await interim(expecting('1.0', json)), false)
  assert.equal(await interim(expecting('1.1', 'Content-Type: text/plain\r\n')), false)
})

for (const [path, status, code] of [
  ['/v1/livez/', 404, 'not_found'],
  ['//v1/livez', 404, 'not_found'],
  ['/v1//livez', 404, 'not_found'],
  ['/V1/livez', 404, 'not_found'],
  ['/v1/Livez', 404, 'not_found'],
  ['/v1/%6civez', 404, 'not_found'],
  ['/v1/x/../livez', 404, 'not_found'],
  ['/v1/x/%2e%2e/livez', 404, 'not_found'],
  ['/v1/livez%00', 404, 'not_found'],
  ['/v1/livez;a=b', 404, 'not_found'],
  ['/v1\\livez', 404, 'not_found'],
  ['/v1', 302, undefined],
  ['/v1/', 302, undefined],
  ['/', 302, undefined],
  ['/v1/livez?%zz=%zz&a[]=1', 200, undefined],
  ['/v1/users/', 404, 'not_found'],
  ['/v1/users/%zz', 400, 'invalid_id'],
  ['/v1/users/%2e%2e', 400, 'invalid_id'],
  ['/v1/users/..', 400, 'invalid_id'],
  ['/v1/users/%00', 400, 'invalid_id'],
  [`/v1/users/${user.id}%20`, 400, 'invalid_id'],
  [`/v1/users/{${user.id}}`, 400, 'invalid_id'],
  [`/v1/users/${user.id.toUpperCase()}`, 200, undefined],
  [`/v1/users/${user.id}/keys/x`, 405, 'method_not_allowed'],
  [`/v1/users/${user.id}/keys/x/y/z`, 404, 'not_found'],
  ['/v1/users?limit=%zz', 400, 'invalid_query'],
  ['/v1/users?limit=1&limit=2', 400, 'invalid_query'],
  ['/v1/users?limit[]=1', 400, 'invalid_query'],
  ['/v1/users?limit=1e2', 400, 'invalid_query'],
  ['/v1/users?limit=-1', 400, 'invalid_query'],
  ['/v1/users?limit=9999999999999999999999', 400, 'invalid_query'],
  ['/v1/users?__proto__=1', 400, 'invalid_query'],
  ['/v1/users?constructor=1&toString=2', 400, 'invalid_query'],
  ['/v1/users?after=%00', 400, 'invalid_query'],
  ["/v1/users?after=1'--", 400, 'invalid_query'],
  ['/v1/users?email=%00', 200, undefined],
  ['/v1/users?email=%ed%a0%80', 200, undefined],
  ["/v1/users?email='or(1=1)--", 200, undefined],
  ["/v1/users?email='%20or%201=1--", 400, 'invalid_query'],
  [`/v1/users?email=${'%ef%b7%ba'.repeat(254)}`, 200, undefined],
  [`/v1/users?email=${'%ef%b7%ba'.repeat(255)}`, 400, 'invalid_query'],
  ['/v1/users/auth/../../admin', 200, undefined],
  ['/v1/users/auth//%zz/%00', 200, undefined],
  ['/v1/users/auth?require-role=%00&%zz', 403, 'forbidden'],
] as const) {
  test(`the path ${path.slice(0, 60)} gets ${status}`, async () => {
    assert.deepEqual(brief(await ask(`GET ${path}`, `X-Api-Key: ${admin.key}\r\n`)), [status, code])
  })
}

for (const [name, bytes] of [
  ['a target of 20,000 octets', `GET /${'a'.repeat(20_000)} HTTP/1.1\r\n${h}\r\n`],
  ['a header of 20,000 octets', `GET /v1/livez HTTP/1.1\r\n${h}A: ${'a'.repeat(20_000)}\r\n\r\n`],
  [
    'the name of a header of 20,000 octets',
    `GET /v1/livez HTTP/1.1\r\n${h}${'a'.repeat(20_000)}: a\r\n\r\n`,
  ],
  ['101 headers', `GET /v1/livez HTTP/1.1\r\n${h}${fields(100)}\r\n`],
  ['ten thousand headers', `GET /v1/livez HTTP/1.1\r\n${h}${fields(10_000)}\r\n`],
] as const) {
  test(`${name} gets 431 and the connection closed`, async () => {
    const { answers, closed } = await raw(bytes)
    assert.deepEqual(answers.map(brief), [[431, 'headers_too_large']])
    assert.ok(closed)
  })
}

test('CONNECT is cut', async () => {
  assert.deepEqual(
    (await raw('CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n')).answers,
    [],
  )
})

test('after an Upgrade nothing more of its connection is taken for a request', async () => {
  const smuggled = `GET /v1/livez HTTP/1.1\r\n${h}X-Request-Id: smuggled\r\n\r\n`
  const upgrade = `GET /v1/livez HTTP/1.1\r\n${h}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n`
  const { answers, closed } = await raw('', {
    send(socket) {
      socket.write(`${upgrade}${post}Content-Length: ${smuggled.length}\r\n\r\n`)
      socket.once('data', () => socket.write(smuggled))
    },
  })
  assert.deepEqual(
    answers.map(({ status, headers }) => [status, headers['connection']]),
    [[200, 'close']],
  )
  assert.ok(closed)
})

test('two Authorization headers are no key, whichever of them would be one', async () => {
  for (const more of [
    auth.replace(/X-Api-Key: /i, 'Authorization: Bearer '),
    'Authorization: x\r\n',
  ]) {
    const twice = `${auth.replace(/X-Api-Key: /i, 'Authorization: Bearer ')}${more}`
    const { answers } = await raw(`GET /v1/users/auth HTTP/1.1\r\n${h}${close}${twice}\r\n`)
    assert.deepEqual(answers.map(brief), [[401, 'key_invalid']])
  }
})

test('pipelined requests are answered in order, slow ones among them', async () => {
  const login = JSON.stringify({ email: user.email, password })
  const requests = Array.from({ length: 20 }, (_, i) => {
    const id = `X-Request-Id: n${i}\r\n`
    if (i % 10 === 5) return `${post}${id}Content-Length: ${login.length}\r\n\r\n${login}`
    if (i % 3 > 0) return `GET /v1/livez HTTP/1.1\r\n${h}${id}\r\n`
    return `GET /v1/users/${user.id} HTTP/1.1\r\n${h}${auth}${id}\r\n`
  })
  const { answers } = await raw(requests.join(''), { count: 20, limitMs: hashMs })
  assert.deepEqual(
    answers.map(({ status, headers }) => [status, headers['x-request-id']]),
    requests.map((_, i) => [i % 10 === 5 ? 201 : 200, `n${i}`]),
  )
})

test('of pipelined requests one is handled a turn, so that others come between', async () => {
  const named = (id: string) => `GET /v1/livez HTTP/1.1\r\n${h}X-Request-Id: ${id}\r\n\r\n`
  const before = app.log.length
  const other = open(app.url)
  undo.push(() => other.destroy())
  await once(other, 'connect')
  const pipelined = Array.from({ length: 20 }, (_, i) => named(`p${i}`)).join('')
  await raw('', {
    count: 20,
    send(socket) {
      socket.write(pipelined)
      socket.once('data', () => other.write(named('between')))
    },
  })
  await until('the other is answered', () => app.log.some((line) => line.includes('"between"')))
  const ids = app.log.slice(before).map((line) => JSON.parse(line).requestId)
  assert.ok(ids.indexOf('between') < ids.indexOf('p19'), ids.join())
})

test('twenty requests may wait on one connection, and one that has more is cut', async () => {
  const waits = await raw(slow() + good.repeat(19), { count: 20, limitMs: hashMs })
  assert.deepEqual(new Set(waits.answers.slice(1).map(({ status }) => status)), new Set([200]))
  const floods = await raw(slow() + good.repeat(20))
  assert.deepEqual([floods.answers.length, floods.closed], [0, true])
  const cut = app.log.map((line) => JSON.parse(line)).filter(({ failure }) => /wait/.test(failure))
  assert.deepEqual(
    cut.map(({ message, address }) => ({ message, address })),
    [{ message: 'connection cut', address: '127.0.0.1' }],
  )
})

test('what follows in the same read of a connection that is cut is not even parsed', async () => {
  let parsed = 0
  const count = () => parsed++
  subscribe('http.server.request.start', count)
  await raw(`${slow()}${good.repeat(2000)}`)
  unsubscribe('http.server.request.start', count)
  assert.equal(parsed, 21)
})

test('the requests of one read are answered in turns with those of other connections', async () => {
  const order: string[] = []
  const ask = (name: string, bytes: string, count: number) =>
    raw('', {
      count,
      send(socket) {
        socket.on('data', () => order.push(name))
        socket.write(bytes)
      },
    })
  const single = good.replace('livez', 'healthcheck')
  await Promise.all([ask('many', good.repeat(20), 20), ask('single', single, 1)])
  assert.ok(order.indexOf('single') < 20, order.join(' '))
})

/** Key look-ups on a database that answers when it is told to. */
function startLookups() {
  const asked: { digests: Buffer[]; answer: () => void }[] = []
  const query = (_: string, [digests]: [Buffer[]]) =>
    new Promise((resolve) => asked.push({ digests, answer: () => resolve([]) }))
  return { asked, identify: createIdentify({ query } as unknown as Database, 0, false) }
}

test('of the keys that wait for the database, five thousand at most are kept', async () => {
  const { identify } = startLookups()
  const key = createKey()
  const refused: string[] = []
  for (let i = 0; i < 6000; i++) {
    identify({ 'x-api-key': key }, 'one').catch(({ code, retryAfterSeconds }) =>
      refused.push(`${code} ${retryAfterSeconds}`),
    )
  }
  await sleep(1)
  assert.deepEqual([refused.length, ...new Set(refused)], [1000, 'overloaded 1'])
})

test('a client with many keys to look up neither keeps another out nor makes it wait', async () => {
  const { asked, identify } = startLookups()
  const outcomes: Record<string, string[]> = { flood: [], other: [] }
  const look = (client: string) =>
    identify({ 'x-api-key': createKey() }, client).catch(({ code }) => outcomes[client]!.push(code))
  const all = Array.from({ length: 5000 }, () => look('flood'))
  await until('four statements are under way', () => asked.length === 4)
  all.push(...Array.from({ length: 100 }, () => look('flood')), look('other'))
  // Four statements are under way; the next one has the other client's key.
  for (const { answer } of asked.splice(0, 4)) answer()
  await until('four more are', () => asked.length === 4)
  assert.deepEqual(outcomes['flood']!.filter((code) => code === 'overloaded').length, 37)
  asked.shift()!.answer()
  await until('it is answered', () => outcomes['other']!.length > 0)
  assert.deepEqual(outcomes['other'], ['key_invalid'])
  let isDone = false
  const done = Promise.all(all).then(() => {
    isDone = true
  })
  while (!isDone) {
    for (const { answer } of asked.splice(0)) answer()
    await nextTurn()
  }
  await done
})

test('a connection that was made before a stop is answered', async () => {
  const answer: Pipeline = async (_, res) => {
    res.end()
  }
  const nowhere = { host: '127.0.0.1', port: 0, tls: null }
  const listener = await listen(answer, nowhere, createLog('error', assert.fail))
  const ask = async () => {
    const socket = open(listener.url)
    socket.write(good)
    const [bytes] = await once(socket, 'data')
    return String(bytes).slice(0, 15)
  }
  const answers = Array.from({ length: 20 }, ask)
  // They connect, but nothing was accepted yet.
  await Promise.resolve()
  await new Promise(process.nextTick)
  await listener.stop(1)
  assert.deepEqual(await Promise.all(answers), Array(20).fill('HTTP/1.1 200 OK'))
})

test('a body is never taken for a request', async () => {
  const inner = `DELETE /v1/users/${user.id} HTTP/1.1\r\n${h}${auth}\r\n`
  const outer = `GET /v1/livez HTTP/1.1\r\n${h}Content-Length: ${inner.length}\r\n\r\n${inner}`
  const { answers } = await raw(outer + good.replace('\r\n', `\r\n${close}`))
  assert.deepEqual(answers.map(brief), [
    [200, undefined],
    [200, undefined],
  ])
})

for (const [name, first, expected] of [
  ['a quick one', good, [200, undefined]],
  [
    'one that asks the database',
    `GET /v1/users/${user.id} HTTP/1.1\r\n${h}${auth}\r\n`,
    [200, undefined],
  ],
  ['one that hashes a password', null, [401, 'invalid_credentials']],
] as const) {
  test(`a valid request before a malformed one gets its answer: ${name}`, async () => {
    for (const broken of ['BROKEN\r\n\r\n', `${post}${chunked}\r\nz\r\n\r\n`]) {
      const { answers, closed } = await raw((first ?? slow()) + broken, { limitMs: hashMs })
      assert.deepEqual(answers.map(brief), [expected, [400, 'invalid_request']])
      assert.ok(closed)
    }
  })
}

test('what follows a malformed request is not looked at, however much it is', async () => {
  let sent = 0
  const { answers } = await raw('', {
    limitMs: hashMs,
    send(socket) {
      socket.write(`${slow()}BROKEN\r\n`)
      const more = setInterval(() => socket.write(sent++ % 2 === 0 ? good : 'BROKEN\r\n'), 1)
      socket.on('close', () => clearInterval(more))
    },
  })
  assert.deepEqual(answers.map(brief), [
    [401, 'invalid_credentials'],
    [400, 'invalid_request'],
  ])
  assert.ok(sent > 12, `${sent}`)
})

test('a body that goes wrong after its answer gets no second one', async () => {
  const { answers, closed } = await raw('', {
    send(socket) {
      socket.write(`POST /v1/nowhere HTTP/1.1\r\n${h}${chunked}\r\n`)
      socket.once('data', () => socket.write('z\r\n'))
    },
  })
  assert.deepEqual(answers.map(brief), [[404, 'not_found']])
  assert.ok(closed)
})

test('a client that says it will send no more still gets its answers', async () => {
  const read = `GET /v1/users/${user.id} HTTP/1.1\r\n${h}${auth}\r\n`
  const { answers, closed } = await raw('', { send: (socket) => socket.end(good + read + read) })
  assert.deepEqual(
    answers.map(({ status }) => status),
    [200, 200, 200],
  )
  assert.ok(closed)
})

const padded = (length: number) => `{"email":"${'a'.repeat(length - 12)}"}`

test('a body of 16 KiB is read, one octet more is refused, chunked or not', async () => {
  const limit = 16 * 1024
  const chunks = (length: number) =>
    `1000\r\n${padded(length).slice(0, 4096)}\r\n` +
    `${(length - 4096).toString(16)}\r\n${padded(length).slice(4096)}\r\n0\r\n\r\n`
  const line = 'POST /v1/users/sessions'
  assert.deepEqual(brief(await sendJson(line, padded(limit))), [400, 'invalid_body'])
  assert.deepEqual(brief(await sendJson(line, padded(limit + 1))), [413, 'body_too_large'])
  assert.deepEqual(brief(await ask(line, json + chunked, chunks(limit))), [400, 'invalid_body'])
  assert.deepEqual(brief(await ask(line, json + chunked, chunks(limit + 1))), [
    413,
    'body_too_large',
  ])
})

test('an upload of 10 MB is told why it is refused, and the connection goes on', async () => {
  const body = Buffer.alloc(10_000_000, 'a')
  const sized = `${post}Content-Length: ${body.length}\r\n\r\n`
  const inChunks = `${post}${chunked}\r\n${body.length.toString(16)}\r\n`
  const last = good.replace('\r\n', `\r\n${close}`)
  for (const [before, after] of [
    [sized, ''],
    [inChunks, '\r\n0\r\n\r\n'],
  ] as const) {
    const { answers } = await raw(
      Buffer.concat([Buffer.from(before), body, Buffer.from(after + last)]),
    )
    assert.deepEqual(answers.map(brief), [
      [413, 'body_too_large'],
      [200, undefined],
    ])
  }
})

test('an upload without end is cut', async () => {
  const chunk = Buffer.concat([
    Buffer.from('10000\r\n'),
    Buffer.alloc(65_536, 'a'),
    Buffer.from('\r\n'),
  ])
  let sent = 0
  const { answers, closed } = await raw('', {
    send(socket) {
      socket.write(`${post}${chunked}\r\n`)
      const more = () => {
        while (!socket.destroyed && socket.write(chunk)) sent += chunk.length
        socket.once('drain', more)
      }
      more()
    },
  })
  assert.deepEqual(answers.map(brief), [[413, 'body_too_large']])
  assert.ok(closed)
  assert.ok(sent < 64_000_000, `${sent}`)
})

const gzipped = Buffer.from(
  '1f8b08000000000000ffab56ca4dcccc51b252720403a55a0056b0ba1d15000000',
  'hex',
)
for (const [name, body, headers, status, code] of [
  ['of no type', '{}', '', 415, 'unsupported_media_type'],
  ['of plain text', '{}', 'Content-Type: text/plain\r\n', 415, 'unsupported_media_type'],
  [
    'of a form',
    'a=b',
    'Content-Type: application/x-www-form-urlencoded\r\n',
    415,
    'unsupported_media_type',
  ],
  [
    'of a type that only begins so',
    '{}',
    'Content-Type: application/jsonp\r\n',
    415,
    'unsupported_media_type',
  ],
  [
    'that is compressed',
    gzipped,
    `${json}Content-Encoding: gzip\r\n`,
    415,
    'unsupported_media_type',
  ],
  [
    'with a charset',
    '{}',
    'Content-Type: application/json; charset=utf-8\r\n',
    400,
    'invalid_body',
  ],
  [
    'with 15,000 spaces in its type',
    '{}',
    `Content-Type: application/json${' '.repeat(15_000)}x\r\n`,
    415,
    'unsupported_media_type',
  ],
  ['in UTF-16', Buffer.from('{"email":"a@b"}', 'utf16le'), json, 400, 'invalid_body'],
  [
    'with an overlong encoding',
    Buffer.from('7b22656d61696c223a22c0af227d', 'hex'),
    json,
    400,
    'invalid_body',
  ],
  [
    'with a surrogate in UTF-8',
    Buffer.from('7b22656d61696c223a22eda080227d', 'hex'),
    json,
    400,
    'invalid_body',
  ],
  ['with NUL outside a string', '{}\0', json, 400, 'invalid_body'],
  ['with two values', '{}{}', json, 400, 'invalid_body'],
  ['with a comment', '{}//', json, 400, 'invalid_body'],
  ['of 8,000 nested lists', '['.repeat(8000) + ']'.repeat(8000), json, 400, 'invalid_body'],
  [
    'of 2,500 nested objects',
    '{"a":'.repeat(2500) + '1' + '}'.repeat(2500),
    json,
    400,
    'invalid_body',
  ],
  ['of 16,000 open lists', '['.repeat(16_000), json, 400, 'invalid_body'],
  [
    'of 1,500 unknown members',
    `{${Array.from({ length: 1500 }, (_, i) => `"a${i}":1`).join()}}`,
    json,
    400,
    'invalid_body',
  ],
  ['with a huge number', '{"email":1e999,"password":-0}', json, 400, 'invalid_body'],
  ['with a number for a body', '1'.repeat(16_000), json, 400, 'invalid_body'],
  ['with null', 'null', json, 400, 'invalid_body'],
] as const) {
  test(`a body ${name} gets ${status}`, async () => {
    const start = performance.now()
    assert.deepEqual(brief(await sendJson('POST /v1/users/sessions', body, headers)), [
      status,
      code,
    ])
    assert.ok(performance.now() - start < 1000)
  })
}

test('queries of thousands of parameters cost no time', async () => {
  const members = Object.fromEntries(Array.from({ length: 1700 }, (_, i) => [i.toString(36), 1]))
  const body = await sendJson('POST /v1/users/sessions', JSON.stringify(members))
  assert.deepEqual([...brief(body), body.body.errors.length], [400, 'invalid_body', 1000])
  for (const [query, faults] of [
    ['a&'.repeat(7000), 1],
    ['limit=1&'.repeat(1700), 1],
    ['&'.repeat(14_000) + 'limit=0', 1],
    [Array.from({ length: 4000 }, (_, i) => i.toString(36)).join('&'), 1000],
  ] as const) {
    const times = []
    for (let i = 0; i < 3; i++) {
      const start = performance.now()
      const answer = await ask(`GET /v1/users/${user.id}/keys?${query}`, auth)
      assert.deepEqual(
        [...brief(answer), answer.body.errors.length],
        [400, 'invalid_query', faults],
      )
      times.push(performance.now() - start)
    }
    // Once each value was looked up among all others: 300 ms, during which nobody else was
    // answered.
    assert.ok(Math.min(...times) < 150, `${query.slice(0, 20)}: ${times} ms`)
  }
})

test('names that every object inherits are unknown members like any other', async () => {
  const body =
    '{"__proto__":{"role":"admin"},"constructor":{"prototype":{"role":"admin"}},' +
    '"toString":1,"hasOwnProperty":1}'
  const answer = await sendJson('POST /v1/users', body)
  assert.deepEqual(
    answer.body.errors.map(({ field }: any) => field),
    ['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'email', 'password'],
  )
  assert.equal(({} as any).role, undefined)
  const nested = await sendJson(
    `PATCH /v1/users/${user.id}`,
    '{"email":{"__proto__":null}}',
    json + auth,
  )
  assert.deepEqual(brief(nested), [400, 'invalid_body'])
})

const nasty = [
  '\0',
  'a\0@b',
  '\ud800',
  'a\udfff@b',
  '\u202e@\ufeff',
  '\ufdfa'.repeat(4000),
  'a'.repeat(16_000),
  '@'.repeat(8000),
  "' or 1=1; drop table users; --",
  '%s%n%x',
  '${jndi:ldap://x}',
  'a\r\nX-Evil: 1',
  '<script>',
  '../../etc/passwd',
  '{{7*7}}',
]
test('no text in any field is more than text', async () => {
  // Throttled for an hour, so that no attempt is hashed.
  const waiting = await app.user()
  await app.db.query(
    `insert into login_failures (account, client, failures, wait_until)
    values ($1, '127.0.0.1', 9, now() + interval '1 hour')`,
    [accountOfUser(waiting.id)],
  )
  const fields: [string, string, (text: string) => object][] = [
    ['POST', '/users', (text) => ({ email: text, password })],
    ['POST', '/users', (text) => ({ email: 'a', password: text })],
    ['POST', '/users', (text) => ({ email: 'a@b', password, [text]: 1 })],
    ['POST', '/users/sessions', (text) => ({ email: waiting.email, password: text })],
    ['POST', '/users/sessions', (text) => ({ email: text })],
    ['PATCH', `/users/${user.id}`, (text) => ({ email: text, currentPassword: text, role: text })],
    ['PATCH', `/users/${user.id}`, (text) => ({ permissions: [text] })],
    ['PATCH', `/users/${user.id}`, (text) => ({ enabled: text })],
    ['POST', `/users/${user.id}/keys`, (text) => ({ name: text })],
    ['POST', `/users/${user.id}/keys`, (text) => ({ name: 'a', validUntil: text })],
    ['POST', `/users/${user.id}/keys/${user.keyId}/rotate`, (text) => ({ overlapSeconds: text })],
  ]
  for (const text of nasty) {
    await Promise.all(
      fields.map(async ([method, path, body]) => {
        const { status, headers } = await app.request(method, path, {
          key: admin.key,
          body: body(text),
        })
        assert.ok(status < 500, `${method} ${path} ${JSON.stringify(text).slice(0, 40)}: ${status}`)
        assert.equal(headers.get('x-evil'), null)
      }),
    )
    const found = await app.request(
      'GET',
      `/users?email=${encodeURIComponent(text.toWellFormed())}`.slice(0, 8000),
      { key: admin.key },
    )
    assert.ok(found.status < 500)
  }
  for (const email of ['a\0@b', '\ud800@b', 'a\r\nX-Evil: 1']) {
    const login = await app.request('POST', '/users/sessions', { body: { email, password } })
    assert.deepEqual([login.status, login.body.code], [401, 'invalid_credentials'])
  }
  const read = await app.request('GET', `/users/${user.id}`, { key: user.key })
  assert.equal(read.details.role, 'user')
})

test('spellings of one address are one user, look-alikes are others', async () => {
  const found = async (email: string) =>
    (await app.request('GET', `/users?email=${encodeURIComponent(email)}`, { key: admin.key }))
      .details
  for (const [index, [stored, other, same]] of (
    [
      ['\u212aelvin', 'KELVIN', true],
      ['\u00e9', 'e\u0301', true],
      ['\u00c9', 'e\u0301', true],
      ['\u1e9e', '\u00df', true],
      ['\u0130', 'i\u0307', true],
      ['\u0131', 'i', false],
      ['\u0130', 'i', false],
      ['\u017f', 's', false],
      ['\u00df', 'ss', false],
      ['\u0430', 'a', false],
      ['\ufb03', 'ffi', false],
      ['\uff41', 'a', false],
    ] as const
  ).entries()) {
    const user = await app.user({ email: `${stored}@${index}.example` })
    assert.deepEqual(
      await found(`${other}@${index}.example`),
      same ? [user.id] : [],
      `${stored} ${other}`,
    )
  }
  for (const hidden of [
    '\u200b',
    '\u200d',
    '\u202e',
    '\u2066',
    '\u00ad',
    '\ufeff',
    '\u0085',
    '\u2028',
    '\u3000',
  ]) {
    const { status, body } = await app.request('POST', '/users', {
      body: { email: `a${hidden}b@c`, password },
    })
    assert.deepEqual([status, body.code], [400, 'invalid_email'], JSON.stringify(hidden))
  }
})

test('headers that look like a key, a date or a list cost no time', async () => {
  for (const header of [
    `Authorization: Bearer ${' '.repeat(15_000)}`,
    `Authorization: Bearer a${' '.repeat(15_000)}b`,
    `Authorization: ${'Bearer '.repeat(2000)}`,
    `X-Api-Key: ${'usk_'.repeat(3000)}`,
    `X-Api-Key: usk_${'0'.repeat(49)}`,
    `If-None-Match: ${','.repeat(15_000)}`,
    `If-None-Match: ${'W/'.repeat(7000)}`,
    `X-Forwarded-For: ${'1.1.1.1,'.repeat(1800)}`,
    `X-Request-Id: ${'a'.repeat(15_000)}`,
    `Origin: ${'a'.repeat(15_000)}`,
    `Cookie: ${'a=b;'.repeat(3000)}`,
  ]) {
    const start = performance.now()
    const { status } = await ask(`GET /v1/users/${user.id}`, `${header}\r\n`)
    assert.equal(status, 401)
    assert.ok(performance.now() - start < 1000, header.slice(0, 30))
  }
})

test('two different keys in two places are refused, however they are written', async () => {
  for (const other of [
    `Bearer ${admin.key}`,
    `bearer ${admin.key}`,
    `Bearer\t${admin.key}`,
    `Bearer ${admin.key}, x`,
    'Bearer x y',
  ]) {
    const answer = await ask(`GET /v1/users/${user.id}`, `${auth}Authorization: ${other}\r\n`)
    assert.deepEqual(brief(answer), [401, 'key_invalid'], other)
  }
  for (const other of ['Basic YTpi', `Bearer ${user.key}`, `BEARER  ${user.key}`, '']) {
    assert.deepEqual(
      brief(await ask(`GET /v1/users/${user.id}`, `${auth}Authorization: ${other}\r\n`)),
      [200, undefined],
      other,
    )
  }
  for (const [headers, code] of [
    [`X-Api-Key: ${user.key}\r\n${auth}`, 'key_invalid'],
    [`X-Api-Key: "${user.key}"\r\n`, 'key_invalid'],
    [`Authorization: Basic x, Bearer ${user.key}\r\n`, 'key_missing'],
    [`X_Api_Key: ${user.key}\r\n`, 'key_missing'],
    [`Cookie: X-Api-Key=${user.key}\r\n`, 'key_missing'],
    [`Proxy-Authorization: Bearer ${user.key}\r\n`, 'key_missing'],
  ] as const)
    assert.deepEqual(
      brief(await ask(`GET /v1/users/${user.id}`, headers)),
      [401, code],
      headers.slice(0, 30),
    )
  assert.deepEqual(brief(await ask(`GET /v1/users/${user.id}?x-api-key=${user.key}`)), [
    401,
    'key_missing',
  ])
})

test('an id that a caller gives is kept, or replaced by a new one', async () => {
  const given = async (id: string) =>
    (await ask('GET /v1/livez', `X-Request-Id: ${id}\r\n`)).headers['x-request-id']
  assert.equal(await given('a.B-9_'), 'a.B-9_')
  for (const id of ['', 'a b', 'a"b', 'a%0d%0ab', '<b>', 'é', 'a'.repeat(65), 'a,b']) {
    assert.match((await given(id))!, /^[0-9a-f]{8}-[0-9a-f-]{27}$/, id)
  }
})

test('neither Host nor Origin comes back in an answer', async () => {
  const list = await exchange(
    app.url,
    `GET /v1/users?limit=1 HTTP/1.1\r\nHost: evil.example\r\n${close}X-Api-Key: ${admin.key}\r\n` +
      'Origin: https://evil.example\r\nX-Forwarded-Host: evil.example\r\n\r\n',
  )
  assert.equal(list.answers[0]!.status, 200)
  assert.ok(list.answers[0]!.headers['link'])
  assert.doesNotMatch(JSON.stringify(list.answers), /evil/)
})

test('clients that hang up in the middle leave nothing behind', async () => {
  const login = JSON.stringify({ email: 'gone@example.org', password })
  const before = app.log.length
  for (const start of [
    'GET /v1/li',
    `${post}Content-Length: 100\r\n\r\n{"em`,
    `${post}${chunked}\r\n5\r\nab`,
    `${post}Content-Length: ${login.length}\r\n\r\n${login}`,
    `GET /v1/openapi.json HTTP/1.1\r\n${h}\r\n`.repeat(50),
    `GET /v1/users/${user.id} HTTP/1.1\r\n${h}${auth}\r\n`.repeat(20),
  ]) {
    const socket = open(app.url)
    await once(socket, 'connect')
    await new Promise((resolve) => socket.write(start, resolve))
    socket.resetAndDestroy()
    const other = open(app.url)
    other.write(start)
    other.destroySoon()
    await once(other, 'close')
  }
  await raw(good, { count: 1 })
  assert.equal(
    (await app.request('POST', '/users/sessions', { body: { email: user.email, password } }))
      .status,
    201,
  )
  for (const line of app.log.slice(before)) assert.notEqual(JSON.parse(line).level, 'error', line)
})

test('answers queued for a client that hung up do not hold up a stop', async () => {
  const other = await startTestApp({ SHUTDOWN_SECONDS: '30' }, app.database)
  const socket = open(other.url)
  socket.write(slow() + good.repeat(19))
  while (other.log.filter((line) => line.includes('/livez')).length < 19) await sleep(10)
  socket.resetAndDestroy()
  const start = performance.now()
  await other.stop()
  // Held up, it takes the thirty seconds; a busy machine takes some by itself.
  assert.ok(performance.now() - start < 20_000)
})

test('two thousand idle connections leave room for requests', async () => {
  const sockets = Array.from({ length: 2000 }, () => open(app.url))
  undo.push(() => sockets.forEach((socket) => socket.destroy()))
  await Promise.all(sockets.map((socket) => once(socket, 'connect')))
  const start = performance.now()
  assert.equal((await app.request('GET', `/users/${user.id}`, { key: user.key })).status, 200)
  assert.ok(performance.now() - start < 1000)
  for (const socket of sockets) socket.destroy()
})

test('headers that come too slowly are cut within eight seconds', async () => {
  const { answers, closed, ms } = await slowHeaders
  assert.deepEqual(answers.map(brief), [[408, 'request_timeout']])
  assert.ok(closed)
  assert.ok(ms > 4000 && ms < 8000, `${ms} ms`)
})

test('what never became a request has its line in the log, too', async () => {
  const {
    answers: [answer],
  } = await raw('NONSENSE\r\n\r\n')
  const { requestId, route, status, address, failure } = JSON.parse(
    app.log.find((line) => line.includes(answer!.body.requestId))!,
  )
  assert.deepEqual(
    [requestId, route, status, address, failure],
    [answer!.headers['x-request-id'], 'none', 400, '127.0.0.1', 'invalid_request'],
  )
})

test('every line of the log is one record, and none holds what was sent', () => {
  for (const line of app.log) {
    const { time, level, message } = JSON.parse(line)
    assert.ok(time && level && message, line)
    assert.notEqual(level, 'error', line)
    assert.ok(
      ![password, 'usk_', 'evil', 'jndi', 'drop table'].some((text) => line.includes(text)),
      line,
    )
  }
})

test('a request whose connection was reset leaves no event without an address', async () => {
  const { id, key } = await app.user()
  for (let i = 0; i < 20; i++) {
    const body = JSON.stringify({ name: `reset ${i}` })
    const socket = open(app.url)
    await once(socket, 'connect')
    socket.write(
      `POST /v1/users/${id}/keys HTTP/1.1\r\n${h}X-Api-Key: ${key}\r\n${json}` +
        `Content-Length: ${body.length}\r\n\r\n${body}`,
    )
    socket.resetAndDestroy()
  }
  await app.request('GET', `/users/${id}`, { key })
  await sleep(100)
  const events = await app.db.query(
    `select from audit_events where subject = $1 and address = ''`,
    [id],
  )
  assert.equal(events.length, 0)
})
