// What a key may do, and what it hands on: nothing that a key makes or rotates for its own user has
// more than it, of scope, permissions, factors, time of proof or end.
import assert from 'node:assert/strict'
import { test } from 'node:test'

import type { Route } from '../src/http/route.ts'
import { insertKey, type NewKey } from '../src/keys/queries.ts'
import { allRoutes, type Deps } from '../src/routes.ts'
import { brief, collide, hashCheaply, password, signing, startTestApp } from './support/helpers.ts'

hashCheaply()
const app = await startTestApp(signing)
const admin = await app.admin()
const forbidden = { status: 403, code: 'forbidden' }
const needed = { status: 401, code: 'authentication_needed' }

interface Owner {
  id: string
  key: string
}
const make = (owner: Owner, options: Partial<NewKey> = {}) =>
  insertKey(app.db, { userId: owner.id, kind: 'api', name: 'test', ...options })
const makeSession = (owner: Owner, options: Partial<NewKey> = {}) =>
  make(owner, { kind: 'session', seconds: 3600, ...options })
const makeStale = (owner: Owner) =>
  makeSession(owner, { authenticatedAt: new Date(Date.now() - 901_000).toJSON() })
const logIn = async (email: string, on = app) =>
  (await on.request('POST', '/users/sessions', { body: { email, password } })).details
const authorize = (key: string, query: string) =>
  app.request('GET', `/users/auth?${query}`, { key })
const inSeconds = (seconds: number) => new Date(Date.now() + seconds * 1000).toJSON()

/** Whether a key of this scope may call a route, as the contract has it. */
function isInScope(scope: string, { method, path }: Route): boolean {
  const isAuth = path.startsWith('/users/auth')
  if (scope === 'read') return method === 'GET' || isAuth
  if (scope === 'auth') return isAuth
  return path === '/metrics'
}

const routes = allRoutes({ signup: 'open', passwordMinLength: 8, signer: {} } as Deps).filter(
  ({ access }) => access !== 'anyone',
)
for (const scope of ['read', 'auth', 'metrics'] as const) {
  test(`an admin’s key of scope ${scope} opens that and nothing else`, async () => {
    const { key } = await make(admin, { scope })
    const { id } = await app.user()
    for (const route of routes) {
      const path = route.path.replace('{id}', id).replace('{keyId}', id).replace('*', 'x')
      const method = route.method.replace('ANY', 'POST')
      const body = route.body && { unknown: 1 }
      const answer = await app.request(method, path, { key, ...(body && { body }) })
      const isAllowed = answer.body?.code !== 'forbidden'
      assert.equal(isAllowed, isInScope(scope, route), `${method} ${path}: ${answer.status}`)
    }
  })
}

test('of a key with permissions counts what its user has too, at each request', async () => {
  const user = await app.user({ permissions: ['a', 'b'] })
  const { key } = await make(user, { permissions: ['b', 'c'] })
  const held = async () => (await authorize(key, '')).headers.get('x-auth-permissions')
  assert.equal(await held(), 'b')
  const body = { permissions: ['c', 'a'] }
  await app.request('PATCH', `/users/${user.id}`, { key: admin.key, body })
  assert.equal(await held(), 'c')
  assert.deepEqual(brief(await authorize(key, 'require-permission=a')), forbidden)
  const seen = await app.request('GET', '/users/me', { key })
  assert.deepEqual(seen.details.permissions, ['c', 'a'])
})

test('an admin’s key with permissions has the role user, here and at gateways', async () => {
  const boss = await app.admin()
  const { key } = await make(boss, { permissions: [] })
  assert.deepEqual(brief(await app.request('GET', '/users', { key })), forbidden)
  assert.deepEqual(brief(await app.request('GET', '/metrics', { key })), forbidden)
  assert.equal((await authorize(key, '')).headers.get('x-auth-role'), 'user')
  assert.deepEqual(brief(await authorize(key, 'require-role=admin')), forbidden)
  assert.equal((await app.request('GET', '/users/me', { key })).details.role, 'admin')
})

test('a key with permissions changes nothing of its user but keys', async () => {
  const user = await app.user()
  const { key } = await make(user, { permissions: [] })
  for (const [method, path, body] of [
    ['PATCH', '/users/me', { email: 'narrow@example.org' }],
    ['DELETE', '/users/me', undefined],
    ['DELETE', '/users/sessions/me', undefined],
    ['DELETE', '/users/me/tokens', undefined],
  ] as const) {
    assert.deepEqual(brief(await app.request(method, path, { key, body })), forbidden, path)
  }
  const body = { name: 'narrower', permissions: [] }
  assert.equal((await app.request('POST', '/users/me/keys', { key, body })).status, 201)
})

test('a key makes none with more than it has; left out is what it has', async () => {
  const user = await app.user({ permissions: ['a', 'b'] })
  const validUntil = inSeconds(3600)
  const { key } = await make(user, { permissions: ['a'], validUntil, factors: 2 })
  const create = (body: object) =>
    app.request('POST', '/users/me/keys', { key, body: { name: 'made', ...body } })
  const same = await create({})
  assert.deepEqual(same.status, 201)
  const { scope, permissions, factors } = same.details
  assert.deepEqual(
    { scope, permissions, factors },
    { scope: 'all', permissions: ['a'], factors: 2 },
  )
  assert.equal(same.details.validUntil, validUntil)
  const less = { scope: 'auth', permissions: [], validUntil: inSeconds(60) }
  const lesser = await create(less)
  assert.deepEqual({ ...lesser.details, ...less }, lesser.details)
  for (const wider of [{ permissions: ['a', 'b'] }, { validUntil: inSeconds(7200) }]) {
    assert.deepEqual(brief(await create(wider)), forbidden)
  }
})

test('a session makes keys that outlive it, proved when it was', async () => {
  const user = await app.user()
  const session = await logIn(user.email)
  const made = await app.request('POST', '/users/me/keys', {
    key: session.key,
    body: { name: 'made' },
  })
  assert.equal(made.details.validUntil, null)
  const [row] = await app.db.query<{ same: boolean }>(
    `select count(distinct date_trunc('milliseconds', authenticated_at)) = 1 as same
     from api_keys where user_id = $1 and authenticated_at is not null having count(*) = 2`,
    [user.id],
  )
  assert.equal(row?.same, true)
})

test('an API key prolongs no key of its user beyond its own end, nor itself', async () => {
  const user = await app.user()
  const ending = await make(user, { validUntil: inSeconds(3600) })
  const other = await make(user, { validUntil: inSeconds(60) })
  const change = (id: string, key: string, validUntil: string | null) =>
    app.request('PATCH', `/users/me/keys/${id}`, { key, body: { validUntil } })
  for (const { id } of [ending, other]) {
    assert.deepEqual(brief(await change(id, ending.key, null)), forbidden)
    assert.deepEqual(brief(await change(id, ending.key, inSeconds(7200))), forbidden)
  }
  assert.equal((await change(other.id, ending.key, inSeconds(1800))).status, 200)
  assert.equal((await change(ending.id, user.key, null)).status, 200)
})

test('a key of scope read may HEAD; one of scope metrics is worth what its user is', async () => {
  const user = await app.user()
  const { key: reads } = await make(user, { scope: 'read' })
  const head = await app.request('HEAD', '/users/me', { key: reads })
  assert.equal(head.status, 200)
  const { key: measures } = await make(user, { scope: 'metrics' })
  const metrics = await app.request('GET', '/metrics', { key: measures })
  assert.deepEqual(brief(metrics), forbidden)
})

const early = '2026-01-01T00:00:00.000Z'
const held: [name: string, powers: Partial<NewKey>][] = [
  ['everything', {}],
  ['some permissions', { permissions: ['a', 'b'] }],
  ['other permissions', { permissions: ['b', 'c'] }],
  ['no permission', { permissions: [] }],
  ['half an hour', { validUntil: inSeconds(1800) }],
  ['an hour', { validUntil: inSeconds(3600) }],
  ['two factors', { factors: 2 }],
  ['a proof', { authenticatedAt: inSeconds(-60) }],
  ['an early proof', { authenticatedAt: early, factors: 2 }],
]

type Held = Pick<NewKey, 'permissions' | 'factors' | 'authenticatedAt' | 'validUntil'>
const heldBy = async (id: string) => {
  const [row] = await app.db.query<Required<Held>>(
    `select permissions, factors, authenticated_at as "authenticatedAt",
       valid_until as "validUntil" from api_keys where id = $1`,
    [id],
  )
  return row!
}

/** Fails if a key has anything that the other, where it has a limit, has not. */
function assertWithin(inner: Required<Held>, outer: Held, what: string) {
  const { permissions = null, factors = 1, authenticatedAt = null, validUntil = null } = outer
  if (permissions !== null) {
    assert.ok(
      inner.permissions?.every((name) => permissions.includes(name)),
      what,
    )
  }
  assert.ok(inner.factors! <= factors, what)
  if (validUntil !== null) assert.ok((inner.validUntil ?? '9') <= validUntil, what)
  if (authenticatedAt === null) assert.equal(inner.authenticatedAt, null, what)
  else if (inner.authenticatedAt !== null)
    assert.ok(inner.authenticatedAt! <= authenticatedAt, what)
}

for (const [name, powers] of held) {
  test(`a key with ${name} makes and rotates none that has more`, async () => {
    const user = await app.user({ permissions: ['a', 'b', 'c'] })
    const other = await app.user()
    const { key } = await make(user, powers)
    const body = { name: 'made' }
    const made = await app.request('POST', '/users/me/keys', { key, body })
    assert.equal(made.status, 201)
    assertWithin(await heldBy(made.details.id), powers, 'made')
    for (const [target, old] of held) {
      const { id } = await make(user, old)
      const rotated = await app.request('POST', `/users/me/keys/${id}/rotate`, { key })
      assert.equal(rotated.status, 201, target)
      const result = await heldBy(rotated.details.id)
      assertWithin(result, powers, target)
      assertWithin(result, old, target)
      assert.equal(result.factors, Math.min(powers.factors ?? 1, old.factors ?? 1), target)
    }
    if (powers.permissions !== undefined) return

    const boss = await app.user({ role: 'admin' })
    const admins = await make(boss, powers)
    const account = { email: `${admins.id}@example.org`, password }
    const created = await app.request('POST', '/users', { key: admins.key, body: account })
    const [first] = await app.db.query<{ id: string }>(
      'select id from api_keys where user_id = $1',
      [created.details.id],
    )
    const given = await app.request('POST', `/users/${other.id}/keys`, { key: admins.key, body })
    for (const id of [first!.id, given.details.id]) {
      const { factors, authenticatedAt } = await heldBy(id)
      assert.deepEqual(
        [factors, authenticatedAt],
        [powers.factors ?? 1, powers.authenticatedAt ?? null],
      )
    }
  })
}

test('a key switches on and prolongs no key of its user that may do more', async () => {
  const user = await app.user({ role: 'admin', permissions: ['a', 'b'] })
  const narrow = await make(user, { permissions: ['a'] })
  const session = await makeSession(user)
  const change = (id: string, key: string, body: object) =>
    app.request('PATCH', `/users/me/keys/${id}`, { key, body })
  for (const [wide, key] of [
    [{}, narrow.key],
    [{ permissions: ['b'] }, narrow.key],
    [{ factors: 2 }, session.key],
  ] as const) {
    const { id } = await make(user, { ...wide, validUntil: inSeconds(60) } as Partial<NewKey>)
    assert.deepEqual(brief(await change(id, key, { validUntil: inSeconds(90) })), forbidden)
    assert.deepEqual(brief(await change(id, key, { validUntil: null })), forbidden)
    assert.equal((await change(id, key, { enabled: false })).status, 200)
    assert.deepEqual(brief(await change(id, key, { enabled: true })), forbidden)
  }
  const own = await make(user, { permissions: ['a'] })
  for (const enabled of [false, true]) {
    assert.equal((await change(own.id, narrow.key, { enabled })).status, 200)
  }
  const other = await app.user()
  await app.db.query('update api_keys set enabled = false where id = $1', [other.keyId])
  const path = `/users/${other.id}/keys/${other.keyId}`
  const on = await app.request('PATCH', path, { key: user.key, body: { enabled: true } })
  assert.equal(on.status, 200)
})

test('a rotated key has the lesser of what the old and the calling key have', async () => {
  const user = await app.user({ permissions: ['a', 'b', 'c'] })
  const validUntil = inSeconds(3600)
  const early = '2026-01-01T00:00:00.000Z'
  const caller = await make(user, { permissions: ['a', 'b'], validUntil, authenticatedAt: early })
  const rotate = async (options: Partial<NewKey>) => {
    const old = await make(user, options)
    const path = `/users/me/keys/${old.id}/rotate`
    const { details } = await app.request('POST', path, { key: caller.key })
    const [row] = await app.db.query<{ proved: string | null }>(
      'select authenticated_at as proved from api_keys where id = $1',
      [details.id],
    )
    const { scope, permissions, factors } = details
    return { scope, permissions, factors, validUntil: details.validUntil, ...row! }
  }
  assert.deepEqual(await rotate({ factors: 2, authenticatedAt: inSeconds(0) }), {
    scope: 'all',
    permissions: ['a', 'b'],
    factors: 1,
    validUntil,
    proved: early,
  })
  const sooner = inSeconds(60)
  assert.deepEqual(await rotate({ scope: 'read', permissions: ['b', 'c'], validUntil: sooner }), {
    scope: 'read',
    permissions: ['b'],
    factors: 1,
    validUntil: sooner,
    proved: null,
  })
})

test('another’s key keeps its powers when an admin rotates it, proved no better', async () => {
  const user = await app.user({ permissions: ['a'] })
  const old = await make(user, { permissions: ['a'], scope: 'auth', factors: 2 })
  const path = `/users/${user.id}/keys/${old.id}/rotate`
  const { details } = await app.request('POST', path, { key: admin.key })
  const { scope, permissions, factors } = details
  assert.deepEqual(
    { scope, permissions, factors },
    {
      scope: 'auth',
      permissions: ['a'],
      factors: 1,
    },
  )
})

test('a session is rotated by itself alone, and keeps its times, address and agent', async () => {
  const user = await app.user()
  const session = await logIn(user.email)
  const { details: keys } = await app.request('GET', '/users/me/keys?kind=session', session)
  const { id, createdAt, lastUsedAt, ...before } = keys[0]
  for (const { key } of [user, admin, await makeSession(user)]) {
    const path = `/users/${user.id}/keys/${id}/rotate`
    assert.deepEqual(brief(await app.request('POST', path, { key })), forbidden)
  }
  const rotated = await app.request('POST', `/users/me/keys/${id}/rotate`, session)
  const { key } = rotated.details
  assert.deepEqual({ ...rotated.details, ...before }, rotated.details)
  assert.equal(before.address, '127.0.0.1')
  assert.equal(before.agent, 'node')
  assert.equal((await authorize(session.key, '')).status, 401)
  assert.equal((await authorize(key, 'require-max-age=900')).status, 200)
})

/** What wants a session that was started a short while ago; each may be called again and again. */
const sensitive = (id: string, off: string): [string, string, object?][] => [
  ['POST', '/users', { email: 'made-by-admin@example.org', password }],
  ['PATCH', `/users/${id}`, { email: 'elsewhere@example.org' }],
  ['PATCH', `/users/${id}`, { password: 'another fine passphrase' }],
  ['PATCH', `/users/${id}`, { role: 'admin' }],
  ['PATCH', `/users/${id}`, { permissions: ['x'] }],
  ['PATCH', `/users/${id}`, { emailVerified: true }],
  ['POST', `/users/${id}/keys`, { name: 'x' }],
  ['PATCH', `/users/${id}/keys/${off}`, { enabled: true }],
  ['PATCH', `/users/${id}/keys/${off}`, { validUntil: null }],
  ['POST', `/users/${id}/keys/${off}/rotate`],
  ['POST', `/users/${id}/tokens`, { purpose: 'password-reset' }],
  ['DELETE', `/users/${id}`],
]

test('a session that is no longer fresh changes nothing of who holds an account', async () => {
  const user = await app.user()
  const off = await make(user, { validUntil: inSeconds(60) })
  await app.db.query('update api_keys set enabled = false where id = $1', [off.id])
  const stale = await makeStale(admin)
  const future = await makeSession(admin, { authenticatedAt: inSeconds(3600) })
  const never = await makeSession(admin, { authenticatedAt: null })
  for (const { key } of [stale, future, never]) {
    for (const [method, path, body] of sensitive(user.id, off.id)) {
      const answer = await app.request(method, path, { key, ...(body && { body }) })
      assert.deepEqual(brief(answer), needed, `${method} ${path}`)
      assert.equal(
        answer.headers.get('www-authenticate'),
        'Bearer realm="user-service", error="insufficient_user_authentication", max_age="900"',
      )
    }
  }
  for (const body of [{ metadata: { a: 1 } }, { enabled: false }]) {
    const path = `/users/${user.id}`
    assert.equal((await app.request('PATCH', path, { key: stale.key, body })).status, 200)
  }
  const enabling = { key: stale.key, body: { enabled: true } }
  assert.deepEqual(brief(await app.request('PATCH', `/users/${user.id}`, enabling)), needed)
})

test('a fresh session, an API key and FRESH_SECONDS=0 may', async () => {
  const lax = await startTestApp({ FRESH_SECONDS: '0' }, app.database)
  const stale = await makeStale(admin)
  const fresh = await makeSession(admin)
  for (const [on, key] of [
    [app, fresh.key],
    [app, admin.key],
    [lax, stale.key],
  ] as const) {
    const user = await app.user()
    const off = await make(user, { validUntil: inSeconds(60) })
    await app.db.query('update api_keys set enabled = false where id = $1', [off.id])
    for (const [method, path, body] of sensitive(user.id, off.id).slice(1)) {
      if (path.endsWith(`${off.id}/rotate`)) continue
      const email = `${user.id}@example.org`
      const unique = body && 'email' in body ? { email } : body
      const { status } = await on.request(method, path, { key, ...(unique && { body: unique }) })
      assert.ok(status < 300, `${method} ${path}: ${status}`)
    }
  }
})

test('whoever proves the own password needs no fresh session to change it', async () => {
  const user = await app.user()
  const { key } = await makeStale(user)
  const body = { password: 'another fine passphrase', currentPassword: password }
  assert.equal((await app.request('PATCH', '/users/me', { key, body })).status, 200)
})

test('gateways may require a recent log-in, a factor and a verified address', async () => {
  const user = await app.user({ emailVerified: true })
  const session = await makeSession(user)
  const stale = await makeStale(user)
  const strong = await makeSession(user, { factors: 2 })
  const machine = await make(user, { authenticatedAt: inSeconds(0) })
  const maxAge = (seconds: string) => ({ ...needed, asks: `max_age="${seconds}"` })
  const factor = { ...needed, asks: 'acr_values="2"' }
  for (const [key, query, expected] of [
    [session.key, 'require-max-age=900', { status: 200 }],
    [stale.key, 'require-max-age=902', { status: 200 }],
    [stale.key, 'require-max-age=900', maxAge('900')],
    [user.key, 'require-max-age=900', maxAge('900')],
    [machine.key, 'require-max-age=900', maxAge('900')],
    [session.key, 'require-max-age=900&require-max-age=x', forbidden],
    [session.key, 'require-max-age=', forbidden],
    [session.key, 'require-max-age=-1', forbidden],
    [strong.key, 'require-factor=2', { status: 200 }],
    [session.key, 'require-factor=1', { status: 200 }],
    [session.key, 'require-factor=2', factor],
    [session.key, 'require-factor=1&require-factor=2', factor],
    [session.key, 'require-factor=2&require-factor=1', factor],
    [stale.key, 'require-max-age=900&require-max-age=60&require-max-age=600', maxAge('60')],
    [
      stale.key,
      'require-factor=2&require-max-age=60',
      { ...needed, asks: 'acr_values="2", max_age="60"' },
    ],
    [strong.key, 'require-factor=3', forbidden],
    [session.key, 'require-verified=true', { status: 200 }],
    [session.key, 'require-verified=true&require-verified=false', forbidden],
    [session.key, 'require-verified=1', forbidden],
    [session.key, 'require-factor=2&require-role=admin', forbidden],
    [session.key, 'require-factor=2&require-max-age=x', forbidden],
  ] as const) {
    const answer = await authorize(key, query)
    const asks = /(?<=authentication", ).*/.exec(answer.headers.get('www-authenticate') ?? '')?.[0]
    assert.deepEqual({ ...brief(answer), ...(asks && { asks }) }, expected, query)
  }
})

test('a misspelt requirement is refused, any other parameter is ignored', async () => {
  const { key } = admin
  for (const name of [
    'require',
    'require-',
    'require-role[]',
    'require-role%5B%5D',
    'Require-Role',
    'require_role',
    'requireRole',
    'REQUIREPERMISSION',
    'require-roles',
    'require-rol',
    'require.permission',
    'require-factors',
    'require%2Dmaxage',
    '-require-verified',
  ]) {
    assert.deepEqual(brief(await authorize(key, `${name}=admin`)), forbidden, name)
  }
  for (const name of [
    'required',
    'requirement',
    'requires-role',
    'max_age',
    'role',
    'prerequire-role',
    'x',
  ]) {
    assert.equal((await authorize(key, `${name}=1`)).status, 200, name)
  }
})

test('a user has at most KEYS_PER_USER API keys, however many are made at once', async () => {
  const small = await startTestApp({ KEYS_PER_USER: '4' }, app.database)
  const user = await app.user()
  const create = () =>
    small.request('POST', '/users/me/keys', { key: user.key, body: { name: 'one more' } })
  for (let made = 1; made < 3; made++) assert.equal((await create()).status, 201)
  const requests = Array(4).fill(create) as (typeof create)[]
  const answers = await collide(app.db, { table: 'api_keys', requests })
  assert.deepEqual(answers.map(({ status }) => status).sort(), [201, 409, 409, 409])
  const { id } = answers.find(({ status }) => status === 201)!.details
  const rotate = (body: object) =>
    small.request('POST', `/users/me/keys/${id}/rotate`, { key: user.key, body })
  const full = { status: 409, code: 'too_many_keys' }
  assert.deepEqual(brief(await rotate({ overlapSeconds: 60 })), full)
  assert.equal((await rotate({ overlapSeconds: 0 })).status, 201)
  assert.deepEqual(brief(await create()), full)
  const off = { enabled: false, validUntil: '2020-01-01T00:00:00Z' }
  const { details: keys } = await small.request('GET', '/users/me/keys', { key: user.key })
  const path = `/users/me/keys/${keys.at(-1).id}`
  await small.request('PATCH', path, { key: user.key, body: off })
  assert.deepEqual(brief(await create()), full)
  await small.request('DELETE', path, { key: user.key })
  assert.equal((await create()).status, 201)
})

test('at SESSIONS_PER_USER a log-in ends the session that was used longest ago', async () => {
  const small = await startTestApp({ SESSIONS_PER_USER: '3' }, app.database)
  const user = await app.user()
  const sessions = []
  for (let i = 0; i < 3; i++) sessions.push(await logIn(user.email, small))
  await app.db.query(
    `update api_keys set created_at = now() - interval '1 hour',
       last_used_at = case when digest = sha256(convert_to($2, 'utf8'))
         then now() - interval '2 minutes' else now() - interval '3 minutes' end
     where user_id = $1 and kind = 'session'`,
    [user.id, sessions[0].key],
  )
  await Promise.all(Array.from({ length: 2 }, () => logIn(user.email, small)))
  const alive = await Promise.all(sessions.map(({ key }) => authorize(key, '')))
  assert.deepEqual(
    alive.map(({ status }) => status),
    [200, 401, 401],
  )
  await Promise.all(Array.from({ length: 20 }, () => logIn(user.email, small)))
  const { details } = await app.request('GET', '/users/me/keys?kind=session', { key: user.key })
  assert.equal(details.length, 3)
})

test('a session that was not used for SESSION_IDLE_SECONDS and a minute has ended', async () => {
  const strict = await startTestApp({ SESSION_IDLE_SECONDS: '120' }, app.database)
  const user = await app.user()
  const statusAfter = async (seconds: number, { id, key }: { id: string; key: string }) => {
    await app.db.query(
      `update api_keys set last_used_at = now() - $2::int * interval '1 second',
         created_at = now() - interval '1 hour' where id = $1`,
      [id, seconds],
    )
    return (await strict.request('GET', '/users/auth', { key })).status
  }
  assert.equal(await statusAfter(170, await makeSession(user)), 200)
  assert.equal(await statusAfter(190, await makeSession(user)), 401)
  assert.equal(await statusAfter(190, await make(user)), 200)
})

test('others=true ends all sessions of a user but the calling one', async () => {
  const user = await app.user()
  const here = await makeSession(user)
  const there = await makeSession(user)
  const path = '/users/sessions/me?others=true'
  assert.equal((await app.request('DELETE', path, { key: here.key })).status, 204)
  assert.deepEqual(
    await Promise.all([here, there].map(async ({ key }) => (await authorize(key, '')).status)),
    [200, 401],
  )
})
