import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'

import { createPipeline, type PipelineOptions } from '../src/http/pipeline.ts'
import { createRefusalLog } from '../src/http/refusals.ts'
import { createLog } from '../src/log.ts'
import { brief, hashCheaply, password, startTestApp, undo, type Answer } from './support/helpers.ts'
import { startPlainGateway } from './support/plain-gateway.ts'
import { until } from './support/process.ts'

hashCheaply()
const app = await startTestApp()
const { key } = await app.admin()
const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

test('an answer is an envelope with the id of the request', async () => {
  const good = await app.request('GET', '/healthcheck')
  assert.deepEqual(good.body, {
    requestId: good.headers.get('x-request-id')!,
    status: 'SUCCESS',
    details: 'OK',
  })
  assert.match(good.body.requestId, uuid)
  const bad = await app.request('GET', '/nothing')
  assert.deepEqual(bad.body, {
    requestId: bad.headers.get('x-request-id'),
    status: 'ERROR',
    details: 'Not found',
    code: 'not_found',
  })
})

test('with DRAIN_SECONDS a stop begins with health checks that fail', async () => {
  const own = await startTestApp({ DRAIN_SECONDS: '1' }, app.database)
  const stopped = own.stop()
  const paths = ['/healthcheck', '/users/healthcheck', '/livez', '/users']
  const answers = await Promise.all(paths.map((path) => own.request('GET', path, { key })))
  assert.deepEqual(
    answers.map(({ status, body: { code } }) => code ?? status),
    ['stopping', 'stopping', 200, 200],
  )
  assert.equal(answers[0]!.headers.get('retry-after'), '1')
  await stopped
  await assert.rejects(own.request('GET', '/livez'))
})

test('every body ends with a newline', async () => {
  for (const path of ['/livez', '/nothing', '/openapi.json', '/docs', '/metrics']) {
    const { text } = await app.request('GET', path, { key })
    assert.match(text, /[^\n]\n$/, path)
  }
})

test('`me` in place of an id in a path is the caller', async () => {
  const user = await app.user()
  const read = await app.request('GET', '/users/me', { key: user.key })
  assert.equal(read.details.id, user.id)
  const keys = await app.request('GET', '/users/me/keys', { key: user.key })
  assert.deepEqual(
    keys.details.map(({ id }: any) => id),
    [user.keyId],
  )
  const elsewhere = await app.request('DELETE', '/users/me/keys/me', { key: user.key })
  assert.deepEqual(brief(elsewhere), { status: 400, code: 'invalid_id' })
  const nobody = await app.request('GET', '/users/me')
  assert.deepEqual(brief(nobody), { status: 401, code: 'key_missing' })
  const ended = await app.request('DELETE', '/users/me', { key: user.key })
  assert.equal(ended.status, 204)
})

test('an id in capitals is the same id', async () => {
  const user = await app.user()
  const read = await app.request('GET', `/users/${user.id.toUpperCase()}`, { key: user.key })
  assert.deepEqual([read.status, read.details.id], [200, user.id])
})

test('null for an optional body is none', async () => {
  const user = await app.user()
  const path = `/users/me/keys/${user.keyId}/rotate`
  const rotated = await app.request('POST', path, { key: user.key, body: 'null' })
  assert.equal(rotated.status, 201)
  const refused = await app.request('POST', '/users', { body: 'null' })
  assert.deepEqual(brief(refused), { status: 400, code: 'invalid_body' })
})

test('sign-up ignores credentials that are no key', async () => {
  for (const authorization of ['Basic YTpi', 'Negotiate abc']) {
    const body = { email: `${authorization.length}@basic.example`, password }
    const made = await app.request('POST', '/users', { body, headers: { authorization } })
    assert.equal(made.status, 201, authorization)
  }
})

test('an If-Match that is no list of tags is refused', async () => {
  const user = await app.user()
  const change = (etag: string) =>
    app.request('PATCH', '/users/me', { key: user.key, body: {}, headers: { 'if-match': etag } })
  for (const etag of ['1', 'W/1', '"1', '1, "1"', '*, "1"']) {
    const refused = await change(etag)
    assert.deepEqual(brief(refused), { status: 400, code: 'invalid_request' }, etag)
  }
  for (const etag of ['"1"', ' "0" ,"1"', '*']) assert.equal((await change(etag)).status, 200, etag)
  for (const etag of ['"2"', 'W/"1"', '"1,1"']) assert.equal((await change(etag)).status, 412, etag)
})

test('Location and Link lead on behind a gateway that strips a prefix', async () => {
  const outside = await startPlainGateway([app.url], { prefix: '/accounts' })
  const admin = await app.admin()
  const headers = { 'x-api-key': admin.key, 'content-type': 'application/json' }
  const made: string[] = []
  for (const name of ['one', 'two', 'three']) {
    const body = JSON.stringify({ email: `${name}@behind.example` })
    const created = await fetch(`${outside}/v1/users`, { method: 'POST', headers, body })
    const place = new URL(created.headers.get('location')!, created.url)
    const read = await fetch(place, { headers })
    const { details } = (await read.json()) as { details: { id: string } }
    assert.deepEqual([created.status, place.href], [201, `${outside}/v1/users/${details.id}`])
    made.push(details.id)
  }

  const list = async (path: string) => {
    const found: string[] = []
    let next: string | undefined = `${outside}/v1${path}`
    while (next !== undefined) {
      const page: Response = await fetch(next, { headers })
      const { details } = (await page.json()) as { details: (string | { subject: string })[] }
      found.push(...details.map((each) => (typeof each === 'string' ? each : each.subject)))
      const link = /^<([^>]*)>; rel="next"$/.exec(page.headers.get('link') ?? '')?.[1]
      next = link === undefined ? undefined : new URL(link, page.url).href
    }
    return found
  }
  assert.deepEqual(await list('/users?limit=1&search=@behind.example'), made)
  const newest = (await list('/audit?limit=1&action=user.created')).slice(0, 3)
  assert.deepEqual(newest, made.toReversed())

  for (const path of ['/', '/docs', '/docs/', '/v1', '/v1/']) {
    const page = await fetch(outside + path)
    assert.deepEqual([page.status, page.url], [200, `${outside}/v1/docs`], path)
  }
})

test('a body of another type is told which type is taken', async () => {
  const send = (method: string, path: string) =>
    app.request(method, path, { key, body: '{}', headers: { 'content-type': 'text/plain' } })
  const accepted = ({ status, headers }: Answer) => ({
    status,
    post: headers.get('accept-post'),
    patch: headers.get('accept-patch'),
  })
  const type = 'application/json'
  const posted = await send('POST', '/users')
  assert.deepEqual(accepted(posted), { status: 415, post: type, patch: null })
  const patched = await send('PATCH', '/users/me')
  assert.deepEqual(accepted(patched), { status: 415, post: null, patch: type })
})

test('no answer holds half a character', async () => {
  const send = async (name: string) => {
    const { body } = await app.request('POST', '/users', { body: `{"${name}":1}` })
    return body.errors[0].field
  }
  assert.equal(await send('\\ud800'), '\ufffd')
  assert.equal(await send(`${'a'.repeat(63)}😀b`), `${'a'.repeat(63)}😀`)
  assert.equal(await send(`${'a'.repeat(64)}😀`), 'a'.repeat(64))
})

test('a text with half a character is refused', async () => {
  const body = '{"name":"\\ud83d laptop"}'
  const made = await app.request('POST', '/users/me/keys', { key, body })
  assert.deepEqual(brief(made), { status: 400, code: 'invalid_body' })
})

test('a number in a query is one to nine digits', async () => {
  const list = (limit: string) => app.request('GET', `/users?limit=${limit}`, { key })
  for (const limit of ['1e1', '0x10', '%2B5', '%205', '5.0', '5n', '0000000005'])
    assert.deepEqual(brief(await list(limit)), { status: 400, code: 'invalid_query' }, limit)
  assert.equal((await list('005')).status, 200)
})

test('a caller’s request id is kept when it has the form, else replaced', async () => {
  const ask = async (id: string) =>
    (await app.request('GET', '/livez', { headers: { 'x-request-id': id } })).headers.get(
      'x-request-id',
    )!
  assert.equal(await ask('abc.DEF_1-2'), 'abc.DEF_1-2')
  for (const id of ['', 'a b', 'a"b', 'x'.repeat(65), 'a,b']) assert.match(await ask(id), uuid)
})

test('nothing is cached', async () => {
  for (const path of ['/livez', '/nothing', '/users']) {
    assert.equal((await app.request('GET', path)).headers.get('cache-control'), 'no-store')
  }
})

test('a known path with another method names those it has', async () => {
  for (const [method, path, allow] of [
    ['PUT', '/users', 'POST, GET, HEAD, OPTIONS'],
    ['GET', '/users/sessions', 'POST, DELETE, OPTIONS'],
    ['POST', '/users/0190b8a0-6f1c-7cc3-98c4-dc0c0c07398f', 'GET, HEAD, PATCH, DELETE, OPTIONS'],
    ['DELETE', '/healthcheck', 'GET, HEAD, OPTIONS'],
  ] as const) {
    const refused = await app.request(method, path, { key })
    assert.deepEqual(
      [refused.status, refused.body.code, refused.headers.get('allow')],
      [405, 'method_not_allowed', allow],
    )
    const options = await app.request('OPTIONS', path)
    assert.deepEqual([options.status, options.text, options.headers.get('allow')], [204, '', allow])
  }
})

test('HEAD answers as GET does, without the body', async () => {
  for (const path of ['/livez', '/users', '/openapi.json']) {
    const get = await app.request('GET', path, { key })
    const head = await app.request('HEAD', path, { key })
    assert.deepEqual([head.status, head.text], [get.status, ''])
    assert.equal(head.headers.get('content-length'), get.headers.get('content-length'))
  }
})

test('paths are taken as they are sent', async () => {
  for (const path of [
    '/users/',
    '//users',
    '/Users',
    '/users/../users',
    '/%75sers',
    '/users/%zz/keys/x/y',
  ]) {
    const response = await app.request('GET', path, { key })
    // fetch itself resolves dot segments; test/abuse.test.ts sends them raw.
    if (!path.includes('..'))
      assert.deepEqual([response.status, response.body.code], [404, 'not_found'], path)
  }
})

test('a body is JSON of at most 16 KiB, sent as such', async () => {
  const post = (body: string, type: string) =>
    app.request('POST', '/users', { body, headers: { 'content-type': type } })
  const body = JSON.stringify({ email: 'a@b', password: 'short' })
  for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'application/jsonp']) {
    assert.deepEqual([(await post(body, type)).body.code], ['unsupported_media_type'])
  }
  for (const type of ['application/json', 'Application/JSON; charset=utf-8']) {
    assert.equal((await post(body, type)).body.code, 'invalid_password')
  }
  assert.equal(
    (await post(' '.repeat(16_384 - body.length) + body, 'application/json')).body.code,
    'invalid_password',
  )
  const large = await post(' '.repeat(16_385 - body.length) + body, 'application/json')
  assert.deepEqual([large.status, large.body.code], [413, 'body_too_large'])
})

test('an unhandled error is a 500 with a fixed text, and its stack in the log alone', async () => {
  const own = await startTestApp()
  const { id, key } = await own.user()
  await own.db.query('alter table audit_events add constraint none check (action is null)')
  const answer = await own.request('POST', `/users/${id}/keys`, { key, body: { name: 'a' } })
  assert.deepEqual(
    [answer.status, answer.body.code, answer.body.details],
    [500, 'internal', 'Internal error'],
  )
  const record = own.log
    .map((line) => JSON.parse(line))
    .find(({ requestId }) => requestId === answer.body.requestId)
  assert.deepEqual([record.level, record.code], ['error', '23514'])
  assert.match(record.error, /violates check constraint "none"\n +at /)
  assert.equal((await own.request('GET', '/livez')).status, 200)
})

test('of a 503 the log has the reason in a sentence, and stacks at debug alone', async () => {
  const own = await startTestApp()
  const { id, key } = await own.user()
  await own.db.query('alter table audit_events rename to elsewhere')
  const answer = await own.request('POST', `/users/${id}/keys`, { key, body: { name: 'a' } })
  assert.deepEqual(brief(answer), { status: 503, code: 'database_unavailable' })
  const [record, cause, ...others] = own.log
    .map((line) => JSON.parse(line))
    .filter(({ requestId }) => requestId === answer.body.requestId)
  assert.deepEqual(others, [])
  const reason = 'relation "audit_events" does not exist: see node bin/migrate.js status'
  assert.deepEqual([record.level, record.reason, record.error], ['warn', reason, undefined])
  assert.deepEqual([cause.level, cause.message], ['debug', 'cause'])
  assert.match(
    cause.error,
    /^Error: Database unavailable\n +at [^]*\nCaused by error: relation "audit_events" [^]*\n +at /,
  )
})

test('an answer is sent once, also if it cannot be recorded', async () => {
  const failure = new Error('no room for another number')
  const pipeline = createPipeline({
    router: () => ({ allow: 'OPTIONS', params: {}, throttled: false }),
    readClient: () => ({ address: '', client: '' }),
    metrics: {
      request() {
        throw failure
      },
    },
    corsOrigins: [],
    throttle: null,
    log: () => {},
  } as unknown as PipelineOptions)
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  undo.push(() => server.close())
  const asking = fetch(`http://127.0.0.1:${port}/`, { method: 'OPTIONS' })
  const [req, res] = await once(server, 'request')
  await assert.rejects(pipeline(req, res), failure)
  assert.equal((await asking).status, 204)
})

test('a change that cannot be audited does not happen', async () => {
  const own = await startTestApp()
  const admin = await own.admin()
  const user = await own.user()
  await own.db.query('alter table audit_events rename to elsewhere')
  assert.equal((await own.request('DELETE', `/users/${user.id}`, { key: admin.key })).status, 503)
  assert.equal((await own.request('GET', `/users/${user.id}`, { key: user.key })).status, 200)
})

test('each request is one line of the log', async () => {
  const id = 'one-line'
  await app.request('GET', '/users?limit=5', { key, headers: { 'x-request-id': id } })
  const records = app.log
    .map((line) => JSON.parse(line))
    .filter(({ requestId }) => requestId === id)
  const [{ time, ms, user, key: keyId, ...rest }] = records
  assert.equal(records.length, 1)
  assert.deepEqual(rest, {
    level: 'info',
    message: 'request',
    requestId: id,
    method: 'GET',
    route: '/users',
    status: 200,
    address: '127.0.0.1',
  })
  assert.ok(time && ms >= 0 && user && keyId)
})

test('a log writes what its level asks for and what is worse', () => {
  for (const [level, count] of [
    ['error', 1],
    ['warn', 2],
    ['info', 3],
    ['debug', 4],
  ] as const) {
    let text = ''
    const log = createLog(level, (written) => {
      text += written
    })
    for (const each of ['error', 'warn', 'info', 'debug'] as const) log(each, 'told')
    log.flush()
    assert.equal(text.split('\n').length - 1, count, level)
  }
})

test('health checks and preflights that succeed are logged at level debug only', async () => {
  const own = await startTestApp({}, app.database)
  for (const path of ['/livez', '/healthcheck', '/users/healthcheck'])
    await own.request('GET', path)
  await own.request('OPTIONS', '/livez')
  const stopped = own.stop()
  await stopped
  const levels = own.log.map((line) => JSON.parse(line)).filter(({ route }) => route !== undefined)
  assert.deepEqual(
    levels.map(({ level }) => level),
    ['debug', 'debug', 'debug', 'debug'],
  )
})

test('a flood of refusals leaves a few lines, a sum and numbers', async () => {
  const own = await startTestApp({}, app.database)
  const start = performance.now()
  const flood = Array.from({ length: 200 }, () => own.request('GET', '/users/auth', { key: 'x' }))
  await Promise.all(flood)
  const seconds = (performance.now() - start) / 1000
  const records = () => own.log.map((line) => JSON.parse(line))
  const lines = records().filter(({ status }) => status === 401).length
  const sums = () => records().filter(({ message }) => message === 'refusals not logged')
  const sum = () => sums().reduce((total, { count }) => total + count, 0)
  await until('all are summed up', () => lines + sum() === 200)
  for (const { count, clients, most } of sums())
    assert.deepEqual({ clients, most }, { clients: 1, most: [`127.0.0.1 ${count}`] })
  assert.ok(lines <= 20 + 5 * seconds, `${lines} in ${seconds} s`)
  const { text } = await own.request('GET', '/metrics', { key })
  assert.match(text, /^user_service_failures_total\{code="key_invalid"\} 200$/m)
})

test('a flood of many clients leaves a sum that names the ten with most refusals', async () => {
  const lines: string[] = []
  const logRefusal = createRefusalLog(
    createLog('info', (text) => lines.push(...text.trim().split('\n'))),
  )
  for (let client = 0; client < 12; client++)
    for (let i = 0; i < 30 + client; i++) logRefusal(`203.0.113.${client}`, 'request', {})
  await until('all are summed up', () => lines.length > 12 * 20)
  const { count, clients, most } = JSON.parse(lines.at(-1)!)
  const named = [11, 10, 9, 8, 7, 6, 5, 4, 3, 2].map((i) => `203.0.113.${i} ${10 + i}`)
  assert.deepEqual({ count, clients, most }, { count: 12 * 10 + 66, clients: 12, most: named })
})

test('while the database cannot be used a flood leaves a few lines and a sum, too', async () => {
  const away = await startTestApp()
  await away.db.query('alter table api_keys rename to elsewhere')
  await Promise.all(Array.from({ length: 200 }, () => away.request('GET', '/healthcheck')))
  const records = () => away.log.map((line) => JSON.parse(line))
  const lines = records().filter(({ level, status }) => level === 'warn' && status === 503)
  assert.ok(lines.length >= 20 && lines.length < 40, `${lines.length} lines`)
  await until('the others are summed up', () =>
    records().some(({ message }) => message === 'refusals not logged'),
  )
})

test('without CORS_ORIGINS no other origin may read an answer', async () => {
  const answer = await app.request('GET', '/livez', { headers: { origin: 'https://evil.example' } })
  assert.deepEqual(
    [answer.headers.get('access-control-allow-origin'), answer.headers.get('vary')],
    [null, null],
  )
})

test('an origin that CORS_ORIGINS names may call, another may not', async () => {
  const cors = await startTestApp(
    { CORS_ORIGINS: 'https://app.example, https://b.example' },
    app.database,
  )
  const ask = async (origin: string, method = 'GET', headers = {}) => {
    const answer = await cors.request(method, '/users', { headers: { origin, ...headers } })
    return [
      answer.status,
      answer.headers.get('access-control-allow-origin'),
      answer.headers.get('vary'),
    ]
  }
  assert.deepEqual(await ask('https://app.example'), [401, 'https://app.example', 'Origin'])
  for (const other of [
    'https://evil.example',
    'https://app.example.evil.org',
    'https://b.exampl',
  ]) {
    assert.deepEqual(await ask(other), [401, null, 'Origin'])
  }
  const preflight = await cors.request('OPTIONS', '/users', {
    headers: {
      origin: 'https://b.example',
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'x-api-key',
    },
  })
  assert.equal(preflight.status, 204)
  assert.equal(preflight.headers.get('access-control-allow-origin'), 'https://b.example')
  assert.match(preflight.headers.get('access-control-allow-methods')!, /POST/)
  assert.equal(
    preflight.headers.get('access-control-allow-headers'),
    'Authorization, Content-Type, If-Match, If-None-Match, X-Api-Key, X-Request-Id, ' +
      'traceparent, tracestate, baggage, sentry-trace, X-Requested-With',
  )
  const read = await cors.request('GET', '/livez', { headers: { origin: 'https://b.example' } })
  assert.equal(
    read.headers.get('access-control-expose-headers'),
    'ETag, Link, Location, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, ' +
      'X-Request-Id',
  )
})

test('metrics tell of files and of a loop that is late, to any number of scrapers', async () => {
  async function scrape() {
    const lines = (await app.request('GET', '/metrics', { key })).text.split('\n')
    return (name: string) => {
      const line = lines.find((each) => each.startsWith(`${name} `))
      return Number(line?.slice(name.length))
    }
  }
  const before = await scrape()
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 150)
  const late = (read: typeof before) =>
    read('user_service_event_loop_delay_seconds_count') -
    read('user_service_event_loop_delay_seconds_bucket{le="0.1"}')
  await until('the late turn is counted', async () => late(await scrape()) > late(before))
  const one = await scrape()
  assert.ok(late(one) > late(before))
  assert.ok(one('process_open_fds') > 3)
  assert.ok(one('process_max_fds') > one('process_open_fds'))
  const started = Date.now() / 1000 - one('process_start_time_seconds')
  assert.ok(Math.abs(started - process.uptime()) < 1)
})

test('metrics are for admins and label requests by the route table alone', async () => {
  await app.request('GET', '/made/up/path')
  await app.request('PROPFIND', '/users')
  await app.request('GET', '/users/0190b8a0-6f1c-7cc3-98c4-dc0c0c07398f', { key })
  await app.request('POST', '/users/sessions', { body: { email: 'a@b', password } })
  const { text, headers } = await app.request('GET', '/metrics', { key })
  assert.equal(headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8')
  assert.match(
    text,
    /^http_requests_total\{method="GET",route="\/users\/\{id\}",status="404"\} 1$/m,
  )
  assert.match(
    text,
    /^http_request_duration_seconds_bucket\{method="GET",route="none",le="\+Inf"\} \d+$/m,
  )
  assert.match(text, /^user_service_failures_total\{code="invalid_credentials"\} 1$/m)
  assert.match(text, /^user_service_failures_total\{code="last_admin"\} 0$/m)
  assert.match(text, /^user_service_build_info\{version="1\.0\.0",commit="unknown"\} 1$/m)
  assert.match(text, /^http_requests_total\{method="other",route="none",status="405"\} 1$/m)
  assert.ok(!/made\/up|PROPFIND/.test(text))
  const numbers = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  for (const line of numbers) assert.match(line, /^[a-z_]+(\{.*\})? -?\d+(\.\d+)?(e[+-]?\d+)?$/)
  const { key: plain } = await app.user()
  assert.equal((await app.request('GET', '/metrics', { key: plain })).status, 403)
})
