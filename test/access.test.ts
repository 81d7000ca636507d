// Every route x every kind of caller x ids that exist and that do not: what comes back follows from
// the route's `access` alone, so that nobody reaches, guesses or probes another, and a refusal
// leaves no trace.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import { test } from 'node:test'

import { createKey } from '../src/keys/format.ts'
import type { Access, Route } from '../src/http/route.ts'
import { insertKey } from '../src/keys/queries.ts'
import { allRoutes, type Deps } from '../src/routes.ts'
import { showCode } from './support/authenticator.ts'
import {
  type Answer,
  brief,
  collide,
  hashCheaply,
  nobody,
  password,
  signing,
  startTestApp,
  type TestApp,
} from './support/helpers.ts'
import { startReceiver } from './support/receiver.ts'

hashCheaply()
const receiver = await startReceiver()
const app = await startTestApp({ ...receiver.env, ...signing })
const [victim, formerAdmin, admin, another, gone, disabled] = await Promise.all([
  app.user(),
  app.admin(),
  app.admin(),
  app.user(),
  app.admin(),
  app.user({ role: 'admin', enabled: false }),
])

const makeKey = (userId: string) => insertKey(app.db, { userId, kind: 'api', name: 'test' })

async function makeChangedKey(userId: string, change: string) {
  const { id, key } = await makeKey(userId)
  await app.db.query(`update api_keys set ${change} where id = $1`, [id])
  return key
}

async function makeSession(userId: string) {
  const made = { userId, kind: 'session', name: 'session', seconds: 600 } as const
  return (await insertKey(app.db, made)).key
}

async function mustSucceed(method: string, path: string, key = admin.key) {
  const { status } = await app.request(method, path, { key })
  assert.ok(status < 300, `${method} ${path}: ${status}`)
}

type Kind = 'none' | 'bad' | 'self' | 'another' | 'admin'
interface Caller {
  kind: Kind
  name: string
  key?: string
}
const badKey = (name: string, key: string): Caller => ({ kind: 'bad', name, key })

/** Keys that opened something once, each of an owner who may do it still. */
async function makeSpoiltKeys(owner: string, { id }: { id: string }): Promise<Caller[]> {
  const ended = await makeSession(id)
  const endedEverywhere = await makeSession(id)
  const deleted = await makeKey(id)
  const rotated = await makeKey(id)
  await mustSucceed('DELETE', '/users/sessions', ended)
  await mustSucceed('DELETE', `/users/sessions/${id}`)
  await mustSucceed('DELETE', `/users/${id}/keys/${deleted.id}`)
  await mustSucceed('POST', `/users/${id}/keys/${rotated.id}/rotate`)
  return [
    badKey(`a disabled key of ${owner}`, await makeChangedKey(id, 'enabled = false')),
    badKey(`an expired key of ${owner}`, await makeChangedKey(id, 'valid_until = now()')),
    badKey(`a session of ${owner} after its log-out`, ended),
    badKey(`a session of ${owner} after log-out everywhere`, endedEverywhere),
    badKey(`a deleted key of ${owner}`, deleted.key),
    badKey(`a rotated key of ${owner}`, rotated.key),
  ]
}

const sessionOfGone = await makeSession(gone.id)
await mustSucceed('DELETE', `/users/${gone.id}`)
const otherEnd = victim.key.endsWith('0') ? '1' : '0'
const strangers: Caller[] = [
  { kind: 'none', name: 'nobody' },
  badKey('a malformed key', 'usk_x'),
  badKey('a key with a wrong checksum', victim.key.slice(0, -1) + otherEnd),
  badKey('a well-formed key that nobody has', createKey()),
  badKey('another case of a key', victim.key.toLowerCase()),
  badKey('a key of a disabled admin', disabled.key),
  badKey('a session of a disabled admin', await makeSession(disabled.id)),
  badKey('a key of a deleted admin', gone.key),
  badKey('a session of a deleted admin', sessionOfGone),
  ...(await makeSpoiltKeys('the user itself', victim)),
  ...(await makeSpoiltKeys('an admin', formerAdmin)),
  { kind: 'another', name: 'another user', key: another.key },
]

/** What a kind of caller must get; null: it may. `isOwn`: the id in the path is its own. */
function refusal(access: Access, kind: Kind, isOwn: boolean) {
  if (access === 'anyone') return null
  if (access === 'optional' && kind === 'none') return null
  if (kind === 'none') return { status: 401, code: 'key_missing' }
  if (kind === 'bad') return { status: 401, code: 'key_invalid' }
  if (kind === 'admin' || (access === 'self' && isOwn)) return null
  if (access === 'admin' || access === 'self') return { status: 403, code: 'forbidden' }
  return null
}

/** What the routes of factors refuse API keys, of users who have none. */
const factorRefusals: Record<string, Record<string, { status: number; code: string }>> = {
  'POST /users/{id}/factor': {
    self: { status: 403, code: 'forbidden' },
    admin: { status: 403, code: 'forbidden' },
  },
  'GET /users/{id}/factor': {
    self: { status: 404, code: 'factor_not_found' },
    admin: { status: 404, code: 'factor_not_found' },
  },
  'POST /users/{id}/factor/recovery-codes': {
    self: { status: 404, code: 'factor_not_found' },
    admin: { status: 403, code: 'forbidden' },
  },
  'DELETE /users/{id}/factor': {
    self: { status: 403, code: 'forbidden' },
    admin: { status: 401, code: 'authentication_needed' },
  },
}

/** What a route refuses besides: an API key ends no session, and reads its own events alone. */
function exception({ path, method }: Route, { kind, name }: Caller) {
  const ofFactors = factorRefusals[`${method} ${path}`]?.[kind]
  if (ofFactors !== undefined) return ofFactors
  const isSession = name.startsWith('a session')
  if (method === 'DELETE' && path === '/users/sessions' && !isSession) {
    return { status: 409, code: 'not_a_session' }
  }
  return path === '/audit' && kind !== 'admin' ? { status: 403, code: 'forbidden' } : null
}

const readState = () =>
  app.db.query(`
    select
      (select count(*) from audit_events),
      (select json_agg(u order by id) from users u),
      (select json_agg(
        json_build_array(id, user_id, digest, enabled, valid_until, name) order by id
      ) from api_keys)`)

/** All of an answer that does not differ from one request to the next. */
const comparable = ({ status, headers, body }: Answer) => ({
  status,
  body: { ...body, requestId: '' },
  headers: [...headers].filter(([name]) => !['date', 'x-request-id'].includes(name)),
})

/** What is asked of a route: about whom, and whether that is the caller. */
interface Asked {
  id: string
  keyId: string
  isOwn?: boolean
}
const aboutNobody: Asked = { id: nobody, keyId: nobody }

/** What a caller who may use the route gets for what is sent: a body that is refused. */
function expectedOf(route: Route, id: string) {
  if (route.body) return 400
  return id === nobody ? 404 : Number(Object.keys(route.replies)[0])
}

/** Calls the route and compares with what its access has for such a caller. */
async function checkCall(route: Route, caller: Caller, asked: Asked & { on?: typeof app }) {
  const { id, keyId, isOwn = false, on = app } = asked
  const path = route.path.replace('{id}', id).replace('{keyId}', keyId).replace('*', 'x')
  const answer = await on.request(route.method.replace('ANY', 'POST'), path, {
    ...(caller.key !== undefined && { key: caller.key }),
    ...(route.body && { body: { '?': 1 } }),
  })
  const refused = refusal(route.access, caller.kind, isOwn) ?? exception(route, caller)
  const what = `${caller.name}, ${id === nobody ? 'unknown' : 'known'} id`
  if (refused === null) assert.equal(answer.status, expectedOf(route, id), what)
  else assert.deepEqual(brief(answer), refused, what)
  return answer
}

/** Calls the route as everybody who may and who may not, with ids that exist and that do not. */
async function checkRoute(route: Route, on = app) {
  const hasId = route.path.includes('{id}')
  const known = { id: victim.id, keyId: victim.keyId, on }
  const unknown = { ...aboutNobody, on }
  const session = await makeSession(another.id)
  const callers: Caller[] = [
    ...strangers,
    { kind: 'another', name: 'a session of another user', key: session },
  ]
  const isRefused = (caller: Caller) =>
    (refusal(route.access, caller.kind, false) ?? exception(route, caller)) !== null

  const before = await readState()
  for (const caller of callers.filter(isRefused)) {
    const answer = await checkCall(route, caller, known)
    if (!hasId) continue
    const other = await checkCall(route, caller, unknown)
    const what = `${caller.name} can tell whether the id exists`
    assert.deepEqual(comparable(other), comparable(answer), what)
  }
  assert.deepEqual(await readState(), before)
  for (const caller of callers) if (!isRefused(caller)) await checkCall(route, caller, known)

  // Each with users of its own: some routes end users and keys.
  const [self, managed] = await Promise.all([app.user(), app.user()])
  const own = { ...self, isOwn: true, on }
  await checkCall(route, { kind: 'self', name: 'the user itself', key: self.key }, own)
  const adminCaller: Caller = { kind: 'admin', name: 'an admin', key: admin.key }
  await checkCall(route, adminCaller, { ...managed, on })
  if (!hasId) return
  const stranger = await app.user()
  const strangerCaller: Caller = { kind: 'self', name: 'a user', key: stranger.key }
  await checkCall(route, strangerCaller, unknown)
  await checkCall(route, adminCaller, unknown)
}

const tableOf = (signup: 'open' | 'admin') =>
  allRoutes({
    signup,
    basePath: '/v1',
    passwordMinLength: 8,
    hasWebhook: true,
    hasAdminPage: true,
    signer: {},
  } as Deps)
for (const route of tableOf('open').filter(({ undocumented }) => !undocumented)) {
  test(`${route.method} ${route.path} is for ${route.access}`, () => checkRoute(route))
}

test('with SIGNUP=admin, POST /users is for admin', async () => {
  const signUp = tableOf('admin').find(
    ({ method, path }) => method === 'POST' && path === '/users',
  )!
  await checkRoute(signUp, await startTestApp({ SIGNUP: 'admin' }, app.database))
})

test('the keys of another cannot be told from keys that nobody has', async () => {
  const before = await readState()
  const { key, id } = another
  for (const { method, end, body } of [
    { method: 'PATCH', end: '', body: { enabled: false } },
    { method: 'PATCH', end: '', body: { validUntil: null } },
    { method: 'DELETE', end: '', body: undefined },
    { method: 'POST', end: '/rotate', body: {} },
  ]) {
    const ask = (keyId: string) =>
      app.request(method, `/users/${id}/keys/${keyId}${end}`, { key, body })
    const ofVictim = await ask(victim.keyId)
    assert.deepEqual(brief(ofVictim), { status: 404, code: 'key_not_found' })
    assert.deepEqual(comparable(ofVictim), comparable(await ask(nobody)))
  }
  const list = await app.request('GET', `/users/${id}/keys?after=${victim.keyId}`, { key })
  assert.doesNotMatch(list.text, new RegExp(victim.keyId))
  assert.deepEqual(await readState(), before)
})

interface Slow {
  on?: TestApp
  key: string
  body: object
  /** Runs once the service has asked for the body. */
  meanwhile: () => Promise<unknown>
}

/** Sends the headers of a request, and its body only after `meanwhile`; returns the status. */
async function sendSlowly(method: string, path: string, { on = app, ...slow }: Slow) {
  const { key, body, meanwhile } = slow
  const text = JSON.stringify(body)
  const request = http.request(`${on.url}/v1${path}`, {
    method,
    headers: {
      'X-Api-Key': key,
      'Content-Type': 'application/json',
      'Content-Length': text.length,
      Expect: '100-continue',
    },
  })
  request.flushHeaders()
  await once(request, 'continue', { signal: AbortSignal.timeout(3000) })
  await meanwhile()
  request.end(text)
  const [response] = (await once(request, 'response')) as [http.IncomingMessage]
  return response.resume().statusCode
}

test('a right that is taken while a request is sent does not count for it', async () => {
  const [boss, one, two, three, user] = await Promise.all([
    app.admin(),
    app.admin(),
    app.admin(),
    app.admin(),
    app.user(),
  ])
  const ask = (method: string, path: string, body?: object) =>
    app.request(method, path, { key: boss.key, body })
  const take = (id: string, body: object) => async () =>
    assert.equal((await ask('PATCH', `/users/${id}`, body)).status, 200)

  const ofDisabled = await sendSlowly('PATCH', `/users/${one.id}`, {
    key: one.key,
    body: { role: 'admin', enabled: true },
    meanwhile: take(one.id, { role: 'user', enabled: false }),
  })
  assert.equal(ofDisabled, 401)
  const { role, enabled } = (await ask('GET', `/users/${one.id}`)).details
  assert.deepEqual({ role, enabled }, { role: 'user', enabled: false })

  const ofDemoted = await sendSlowly('PATCH', `/users/${user.id}`, {
    key: two.key,
    body: { role: 'admin' },
    meanwhile: take(two.id, { role: 'user' }),
  })
  assert.equal(ofDemoted, 403)
  const address = 'made-late@example.org'
  const signUp = await sendSlowly('POST', '/users', {
    key: three.key,
    body: { email: address, password },
    meanwhile: take(three.id, { enabled: false }),
  })
  assert.equal(signUp, 401)
  assert.deepEqual((await ask('GET', `/users?email=${address}`)).details, [])
})

test('a token is signed for nobody whose key ends while the request is sent', async () => {
  const user = await app.user()
  const status = await sendSlowly('POST', '/users/jwt', {
    key: user.key,
    body: { audience: 'orders' },
    meanwhile: () => app.request('DELETE', `/users/${user.id}`, { key: admin.key }),
  })
  assert.equal(status, 401)
})

test('who becomes an admin while a request is sent is asked for what admins are', async () => {
  const strict = await startTestApp({ ...signing, REQUIRE_FACTOR: 'admins' }, app.database)
  const user = await app.user()
  const status = await sendSlowly('POST', '/users/jwt', {
    on: strict,
    key: user.key,
    body: { audience: 'orders' },
    meanwhile: () =>
      app.request('PATCH', `/users/${user.id}`, { key: admin.key, body: { role: 'admin' } }),
  })
  assert.equal(status, 401)
})

test('a session that ends while its code is sent confirms no factor', async () => {
  const user = await app.user()
  const made = await app.request('POST', '/users/sessions', {
    body: { email: user.email, password },
  })
  const { key } = made.details
  const { details } = await app.request('POST', '/users/me/factor', { key })
  const status = await sendSlowly('POST', '/users/me/factor/confirm', {
    key,
    body: { code: await showCode(app.db, details.secret) },
    meanwhile: () => app.request('DELETE', '/users/sessions', { key }),
  })
  assert.equal(status, 401)
  assert.equal(
    (await app.request('GET', '/users/me/factor', { key: user.key })).body.code,
    'factor_not_found',
  )
})

test('a second factor that is confirmed while a request is sent counts for it', async () => {
  const user = await app.user()
  const address = `late-${user.email}`
  const changed = await sendSlowly('PATCH', `/users/${user.id}`, {
    key: user.key,
    body: { email: address },
    meanwhile: () =>
      app.db.query('update users set factor_confirmed_at = now() where id = $1', [user.id]),
  })
  assert.equal(changed, 401)
  const found = await app.request('GET', `/users?email=${address}`, { key: admin.key })
  assert.deepEqual(found.details, [])
})

test('a session that a new password ends while a request is sent makes no key', async () => {
  const user = await app.user()
  const session = await app.request('POST', '/users/sessions', {
    body: { email: user.email, password },
  })
  const made = await sendSlowly('POST', `/users/${user.id}/keys`, {
    key: session.details.key,
    body: { name: 'late' },
    meanwhile: () =>
      app.request('PATCH', `/users/${user.id}`, {
        key: admin.key,
        body: { password: 'a new and longer one' },
      }),
  })
  assert.equal(made, 401)
  const { details: keys } = await app.request('GET', `/users/${user.id}/keys`, { key: admin.key })
  assert.deepEqual(
    keys.map(({ name }: { name: string }) => name),
    ['test'],
  )
})

for (const { what, change } of [
  { what: 'disabled', change: 'enabled = false' },
  { what: 'expired', change: 'valid_until = now()' },
]) {
  test(`a key that is ${what} while a request is sent does not count for it`, async () => {
    const { id } = await app.user({ passwordHash: null })
    for (const [method, path, body] of [
      ['POST', `/users/${id}/keys`, { name: 'late' }],
      ['PATCH', `/users/${id}`, { password }],
    ] as const) {
      const { id: keyId, key } = await makeKey(id)
      const meanwhile = () => app.db.query(`update api_keys set ${change} where id = $1`, [keyId])
      assert.equal(await sendSlowly(method, path, { key, body, meanwhile }), 401)
    }
    const kept = await app.db.query('select password_hash as hash from users where id = $1', [id])
    assert.deepEqual(kept, [{ hash: null }])
  })
}

test('a key that ends while a first password is hashed does not set it', async () => {
  const { id } = await app.user({ passwordHash: null })
  const { key } = await makeKey(id)
  const setPassword = () => app.request('PATCH', `/users/${id}`, { key, body: { password } })
  // It waits before the hash, and finds after it what was true at the end of the wait.
  const [answer] = await collide(app.db, {
    lock: `update api_keys set valid_until = now() where user_id = '${id}';
      select from users where id = '${id}' for update`,
    requests: [setPassword],
  })
  assert.equal(answer!.status, 401)
  const kept = await app.db.query('select password_hash as hash from users where id = $1', [id])
  assert.deepEqual(kept, [{ hash: null }])
})

test('who may call each route, and with which keys, is as it is written here', () => {
  const found: Record<string, string[]> = {}
  for (const route of tableOf('open')) {
    const { method, path, access, scope, fresh, changesKeys, atRoot } = route
    if (atRoot) continue
    const marks = [scope && `scope ${scope}`, fresh && 'fresh', changesKeys && 'narrow keys, too']
    const line = [`${method} ${path}`, ...marks.filter(Boolean)].join(', ')
    found[access] = [...(found[access] ?? []), line].sort()
  }
  assert.deepEqual(found, {
    anyone: [
      'GET /.well-known/openid-configuration',
      'GET /admin',
      'GET /docs',
      'GET /healthcheck',
      'GET /jwks.json',
      'GET /livez',
      'GET /openapi.json',
      'GET /users/healthcheck',
      'POST /users/password-resets',
      'POST /users/passwords',
      'POST /users/sessions',
      'POST /users/verifications',
    ],
    optional: ['POST /users'],
    key: [
      'ANY /users/auth, scope auth',
      'ANY /users/auth/*, scope auth',
      'DELETE /users/sessions',
      'GET /audit',
      'POST /users/jwt',
    ],
    self: [
      'DELETE /users/sessions/{id}',
      'DELETE /users/{id}, fresh',
      'DELETE /users/{id}/factor, fresh',
      'DELETE /users/{id}/keys/{keyId}, narrow keys, too',
      'DELETE /users/{id}/tokens',
      'GET /users/{id}',
      'GET /users/{id}/factor',
      'GET /users/{id}/keys',
      'PATCH /users/{id}',
      'PATCH /users/{id}/keys/{keyId}, narrow keys, too',
      'POST /users/{id}/factor, fresh',
      'POST /users/{id}/factor/confirm',
      'POST /users/{id}/factor/recovery-codes, fresh',
      'POST /users/{id}/keys, fresh, narrow keys, too',
      'POST /users/{id}/keys/{keyId}/rotate, fresh, narrow keys, too',
      'POST /users/{id}/verifications',
    ],
    admin: ['GET /metrics, scope metrics', 'GET /users', 'POST /users/{id}/tokens, fresh'],
  })
})
