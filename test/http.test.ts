import assert from 'node:assert/strict'
import { test } from 'node:test'

import { password, startTestApp } from './support/helpers.ts'

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

test('with DRAIN_SECONDS a stop begins with health checks that fail, while all else is served', async () => {
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
    const [get, head] = [
      await app.request('GET', path, { key }),
      await app.request('HEAD', path, { key }),
    ]
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

test('an unhandled error is a 500 with a fixed text, and its reason in the log alone', async () => {
  const own = await startTestApp()
  const admin = await own.admin()
  await own.db.query('alter table audit_events rename to elsewhere')
  const answer = await own.request('GET', '/audit', { key: admin.key })
  assert.deepEqual(
    [answer.status, answer.body.code, answer.body.details],
    [500, 'internal', 'Internal error'],
  )
  const record = own.log
    .map((line) => JSON.parse(line))
    .find(({ requestId }) => requestId === answer.body.requestId)
  assert.deepEqual([record.level, record.code], ['error', '42P01'])
  assert.match(record.error, /relation "audit_events" does not exist/)
  assert.equal((await own.request('GET', '/livez')).status, 200)
})

test('a change that cannot be audited does not happen', async () => {
  const own = await startTestApp()
  const admin = await own.admin()
  const user = await own.user()
  await own.db.query('alter table audit_events rename to elsewhere')
  assert.equal((await own.request('DELETE', `/users/${user.id}`, { key: admin.key })).status, 500)
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
  assert.deepEqual(await ask('https://evil.example'), [401, null, 'Origin'])
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
  assert.match(preflight.headers.get('access-control-allow-headers')!, /X-Api-Key/)
})

test('metrics are for admins and label requests by the route table alone', async () => {
  await app.request('GET', '/made/up/path')
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
  assert.match(text, /^failed_logins_total 1$/m)
  assert.match(text, /^build_info\{version="1\.0\.0",commit="unknown"\} 1$/m)
  assert.ok(!text.includes('made/up'))
  const numbers = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  for (const line of numbers) assert.match(line, /^[a-z_]+(\{.*\})? -?\d+(\.\d+)?(e[+-]?\d+)?$/)
  const { key: plain } = await app.user()
  assert.equal((await app.request('GET', '/metrics', { key: plain })).status, 403)
})
