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
import { type Answer, hashCheaply, password, startTestApp } from './support/helpers.ts'

hashCheaply()
const app = await startTestApp()
const unknownId = '0190b8a0-6f1c-7cc3-98c4-dc0c0c07398f'
const [victim, formerAdmin, admin, another] = await Promise.all([
  app.user(),
  app.admin(),
  app.admin(),
  app.user(),
])

const keyOf = (userId: string) => insertKey(app.db, { userId, kind: 'api', name: 'test' })
const changed = async (userId: string, change: string) => {
  const { id, key } = await keyOf(userId)
  return app.db.query(`update api_keys set ${change} where id = $1`, [id]).then(() => key)
}
const session = async (userId: string) =>
  (await insertKey(app.db, { userId, kind: 'session', name: 'session', seconds: 600 })).key
const done = async (method: string, path: string, key = admin.key) =>
  assert.ok((await app.request(method, path, { key })).status < 300, `${method} ${path}`)

/** Keys that opened something once, each of an owner who may do it still. */
async function spoil(what: string, { id }: { id: string }) {
  const [ended, everywhere] = [await session(id), await session(id)]
  const [deleted, rotated] = [await keyOf(id), await keyOf(id)]
  await done('DELETE', '/users/sessions', ended)
  await done('DELETE', `/users/sessions/${id}`)
  await done('DELETE', `/users/${id}/keys/${deleted.id}`)
  await done('POST', `/users/${id}/keys/${rotated.id}/rotate`)
  return [
    bad(`a disabled key of ${what}`, await changed(id, 'enabled = false')),
    bad(`an expired key of ${what}`, await changed(id, 'valid_until = now()')),
    bad(`a session of ${what} after its log-out`, ended),
    bad(`a session of ${what} after log-out everywhere`, everywhere),
    bad(`a deleted key of ${what}`, deleted.key),
    bad(`a rotated key of ${what}`, rotated.key),
  ]
}
const [gone, disabled] = [await app.admin(), await app.user({ role: 'admin', enabled: false })]
const sessionOfGone = await session(gone.id)
await done('DELETE', `/users/${gone.id}`)
type Kind = 'none' | 'bad' | 'self' | 'another' | 'admin'
const bad = (name: string, key: string) => ['bad', name, key] as const
const strangers: (readonly [kind: Kind, name: string, key: string | undefined])[] = [
  ['none', 'nobody', undefined],
  bad('a malformed key', 'usk_x'),
  bad(
    'a key with a wrong checksum',
    victim.key.slice(0, -1) + (victim.key.endsWith('0') ? '1' : '0'),
  ),
  bad('a well-formed key that nobody has', createKey()),
  bad('another case of a key', victim.key.toLowerCase()),
  bad('a key of a disabled admin', disabled.key),
  bad('a session of a disabled admin', await session(disabled.id)),
  bad('a key of a deleted admin', gone.key),
  bad('a session of a deleted admin', sessionOfGone),
  ...(await spoil('the user itself', victim)),
  ...(await spoil('an admin', formerAdmin)),
  ['another', 'another user', another.key],
]

/** What a kind of caller must get; null: it may. `isOwn`: the id in the path is its own. */
function refusal(
  access: Access,
  kind: Kind,
  isOwn: boolean,
): [status: number, code: string] | null {
  if (access === 'anyone' || (access === 'optional' && kind === 'none')) return null
  if (kind === 'none') return [401, 'key_missing']
  if (kind === 'bad') return [401, 'key_invalid']
  if (access === 'admin') return kind === 'admin' ? null : [403, 'forbidden']
  return access !== 'self' || kind === 'admin' || isOwn ? null : [403, 'forbidden']
}

const state = () =>
  app.db
    .query(`select (select count(*) from audit_events), (select json_agg(u order by id) from users u),
  (select json_agg(json_build_array(id, user_id, digest, enabled, valid_until, name) order by id) from api_keys)`)
/** All of an answer that does not differ from one request to the next. */
const same = ({ status, headers, body }: Answer) => [
  status,
  { ...body, requestId: '' },
  [...headers].filter(([name]) => !['date', 'x-request-id'].includes(name)),
]

async function holds(route: Route, on = app) {
  const expect = async (
    kind: Kind,
    name: string,
    key: string | undefined,
    id: string,
    keyId: string,
    isOwn = false,
  ) => {
    const path = route.path.replace('{id}', id).replace('{keyId}', keyId).replace('*', 'x')
    const answer = await on.request(route.method.replace('ANY', 'POST'), path, {
      ...(key !== undefined && { key }),
      ...(route.body && { body: { '?': 1 } }),
    })
    const no = refusal(route.access, kind, isOwn)
    const yes = route.body ? 400 : id === unknownId ? 404 : Number(Object.keys(route.replies)[0])
    assert.deepEqual(
      [answer.status, no && answer.body.code],
      no ?? [yes, null],
      `${name}, ${id === unknownId ? 'unknown' : 'known'} id`,
    )
    return answer
  }
  const ids = route.path.includes('{id}') ? [victim.id, unknownId] : [victim.id]
  const callers = [
    ...strangers,
    ['another', 'a session of another user', await session(another.id)] as const,
  ]
  const isRefused = ([kind]: (typeof callers)[number]) =>
    refusal(route.access, kind, false) !== null
  const before = await state()
  for (const [kind, name, key] of callers.filter(isRefused)) {
    const answers = await Promise.all(
      ids.map((id) => expect(kind, name, key, id, id === unknownId ? id : victim.keyId)),
    )
    for (const answer of answers)
      assert.deepEqual(same(answer), same(answers[0]!), `${name} can tell whether the id exists`)
  }
  assert.deepEqual(await state(), before)
  for (const [kind, name, key] of callers)
    if (!isRefused([kind, name, key])) await expect(kind, name, key, victim.id, victim.keyId)

  // Who may, each with a user of its own: some of it ends users and keys.
  for (const known of ids.map((id) => id === victim.id)) {
    const [one, two] = await Promise.all([app.user(), app.user()])
    await expect(
      'self',
      'the user itself',
      one.key,
      known ? one.id : unknownId,
      known ? one.keyId : unknownId,
      known,
    )
    await expect(
      'admin',
      'an admin',
      admin.key,
      known ? two.id : unknownId,
      known ? two.keyId : unknownId,
    )
  }
}

const tableOf = (signup: 'open' | 'admin') =>
  allRoutes({ signup, basePath: '/v1', passwordMinLength: 8 } as Deps)
for (const route of tableOf('open')) {
  test(`${route.method} ${route.path} is for ${route.access}`, () =>
    holds(route))
}

test('with SIGNUP=admin, POST /users is for admin', async () => {
  const signUp = tableOf('admin').find(
    ({ method, path }) => method === 'POST' && path === '/users',
  )!
  await holds(signUp, await startTestApp({ SIGNUP: 'admin' }, app.database))
})

test('the keys of another cannot be told from keys that nobody has', async () => {
  const before = await state()
  for (const [method, end, body] of [
    ['PATCH', '', { enabled: false }],
    ['PATCH', '', { validUntil: null }],
    ['DELETE', '', undefined],
    ['POST', '/rotate', {}],
  ] as const) {
    const [of, none] = await Promise.all(
      [victim.keyId, unknownId].map((keyId) =>
        app.request(method, `/users/${another.id}/keys/${keyId}${end}`, { key: another.key, body }),
      ),
    )
    assert.deepEqual([of!.status, of!.body.code, same(of!)], [404, 'key_not_found', same(none!)])
  }
  const list = await app.request('GET', `/users/${another.id}/keys?after=${victim.keyId}`, {
    key: another.key,
  })
  assert.doesNotMatch(list.text, new RegExp(victim.keyId))
  assert.deepEqual(await state(), before)
})

/**
 * Sends the headers of a request, waits until the body is asked for, does `meanwhile`, and sends
 * the body.
 */
async function hold(
  method: string,
  path: string,
  key: string,
  body: object,
  meanwhile: () => Promise<unknown>,
) {
  const text = JSON.stringify(body)
  const request = http.request(`${app.url}/v1${path}`, {
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

test('who may not act any more does not, also with a request that began before', async () => {
  const [boss, one, two, user] = [
    await app.admin(),
    await app.admin(),
    await app.admin(),
    await app.user(),
  ]
  const as = (method: string, path: string, body?: object) =>
    app.request(method, path, { key: boss.key, body })
  const take = (id: string, body: object) => async () =>
    assert.equal((await as('PATCH', `/users/${id}`, body)).status, 200)

  assert.equal(
    await hold(
      'PATCH',
      `/users/${one.id}`,
      one.key,
      { role: 'admin', enabled: true },
      take(one.id, { role: 'user', enabled: false }),
    ),
    401,
  )
  const { role, enabled } = (await as('GET', `/users/${one.id}`)).details
  assert.deepEqual([role, enabled], ['user', false])

  const address = 'made-late@example.org'
  assert.equal(
    await hold(
      'PATCH',
      `/users/${user.id}`,
      two.key,
      { role: 'admin' },
      take(two.id, { role: 'user' }),
    ),
    403,
  )
  assert.equal(
    await hold(
      'POST',
      '/users',
      two.key,
      { email: address, password },
      take(two.id, { enabled: false }),
    ),
    401,
  )
  assert.deepEqual((await as('GET', `/users?email=${address}`)).details, [])

  const {
    details: { key: session },
  } = await app.request('POST', '/users/sessions', { body: { email: user.email, password } })
  assert.equal(
    await hold(
      'POST',
      `/users/${user.id}/keys`,
      session,
      { name: 'late' },
      take(user.id, { password: 'a new and longer one' }),
    ),
    401,
  )
  assert.deepEqual(
    (await as('GET', `/users/${user.id}/keys`)).details.map(({ name }: { name: string }) => name),
    ['test'],
  )
})
