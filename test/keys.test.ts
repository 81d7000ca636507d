import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'

import { createBatch } from '../src/database/batch.ts'
import { createKey } from '../src/keys/format.ts'
import { deleteEndedSessions, lockStoredKey, markUsed } from '../src/keys/queries.ts'
import { brief, collide, nobody, startTestApp } from './support/helpers.ts'
import { until } from './support/process.ts'

const app = await startTestApp()
const admin = await app.admin()
const owner = await app.user()
const keys = `/users/${owner.id}/keys`
const works = async (key: string) =>
  (await app.request('GET', '/users/auth', { key })).status === 200
const inSeconds = (seconds: number) => new Date(Date.now() + seconds * 1000).toISOString()

test('an owner makes a further key, shown this once', async () => {
  const made = await app.request('POST', keys, { key: owner.key, body: { name: 'ci' } })
  const { id, key, createdAt, ...rest } = made.details
  assert.equal(made.status, 201)
  assert.match(key, /^usk_[0-9A-Za-z]{49}$/)
  assert.deepEqual(rest, {
    kind: 'api',
    name: 'ci',
    scope: 'all',
    permissions: null,
    factors: 1,
    enabled: true,
    validUntil: null,
    lastUsedAt: null,
    address: null,
    agent: null,
  })
  assert.ok(await works(key))

  const listed = await app.request('GET', keys, { key: owner.key })
  assert.deepEqual(
    listed.details.map((each: any) => [each.id, each.name]),
    [
      [owner.keyId, 'test'],
      [id, 'ci'],
    ],
  )
  assert.ok(listed.details.every((each: any) => !('key' in each)))
  assert.ok(createdAt)
})

test('an instant is shown in UTC to the millisecond, in any time zone of the session', async () => {
  for (const zone of ['UTC', 'Asia/Kolkata', 'America/St_Johns']) {
    const [row] = await app.db.transaction(async (tx) => {
      await tx.query(`set local timezone = '${zone}'`)
      return tx.query(`
        select
          '2026-01-31T23:59:59.98765Z'::timestamptz as a,
          '2026-07-01T00:00:00.5Z'::timestamptz as b,
          '1999-12-31T23:59:59Z'::timestamptz as c,
          'infinity'::timestamptz as d,
          null::timestamptz as e,
          '12026-01-01Z'::timestamptz as f`)
    })
    assert.deepEqual(
      { ...row! },
      {
        a: '2026-01-31T23:59:59.987Z',
        b: '2026-07-01T00:00:00.500Z',
        c: '1999-12-31T23:59:59.000Z',
        d: null,
        e: null,
        f: '+012026-01-01T00:00:00.000Z',
      },
    )
  }
})

test('a key with an end works until then', async () => {
  const validUntil = inSeconds(1.5)
  const { details } = await app.request('POST', keys, {
    key: owner.key,
    body: { name: 'short', validUntil },
  })
  assert.equal(details.validUntil, validUntil)
  assert.ok(await works(details.key))
  await app.db.query(`update api_keys set valid_until = now() where id = $1`, [details.id])
  assert.ok(!(await works(details.key)))
})

for (const [name, body, fields] of [
  ['no name', {}, ['name']],
  ['an empty name', { name: '' }, ['name']],
  ['a name of 101 characters', { name: 'x'.repeat(101) }, ['name']],
  ['a control character', { name: 'a\nb' }, ['name']],
  ['an end in the past', { name: 'x', validUntil: '2020-01-01T00:00:00Z' }, ['validUntil']],
  ['an end on 30 February', { name: 'x', validUntil: '2030-02-30T00:00:00Z' }, ['validUntil']],
  [
    'an end before the year 1',
    { name: 'x', validUntil: '0001-01-01T00:00:00+01:00' },
    ['validUntil'],
  ],
  [
    'an end past the year 9999',
    { name: 'x', validUntil: '9999-12-31T23:59:59-12:00' },
    ['validUntil'],
  ],
  ['an end that is a number', { name: 'x', validUntil: 1 }, ['validUntil']],
  ['an end a minute ago', { name: 'x', validUntil: inSeconds(-60) }, ['validUntil']],
  [
    'an end in the past and no name',
    { validUntil: '2020-01-01T00:00:00Z' },
    ['name', 'validUntil'],
  ],
  ['everything wrong', { nam: 'x', validUntil: 'tomorrow' }, ['nam', 'name', 'validUntil']],
] as const) {
  test(`a key with ${name} is refused, and not made`, async () => {
    const count = async () => (await app.request('GET', keys, { key: owner.key })).details.length
    const before = await count()
    const { status, body: answer } = await app.request('POST', keys, { key: owner.key, body })
    assert.equal(await count(), before)
    assert.deepEqual(
      [status, answer.code, answer.details, answer.errors.map(({ field }: any) => field)],
      [400, 'invalid_body', 'Invalid request body', fields],
    )
  })
}

test('a key is renamed, switched off and on, ended and prolonged', async () => {
  const {
    details: { id, key },
  } = await app.request('POST', keys, { key: owner.key, body: { name: 'one' } })
  const patch = (body: object) => app.request('PATCH', `${keys}/${id}`, { key: owner.key, body })

  assert.equal((await patch({ name: 'two' })).details.name, 'two')
  assert.equal((await patch({ enabled: false })).details.enabled, false)
  assert.ok(!(await works(key)))
  await patch({ enabled: true })
  assert.ok(await works(key))
  await patch({ validUntil: '2020-01-01T00:00:00Z' })
  assert.ok(!(await works(key)))
  const { details: events } = await app.request('GET', '/audit?limit=1', { key: admin.key })
  assert.equal((await patch({})).status, 200)
  assert.deepEqual((await app.request('GET', '/audit?limit=1', { key: admin.key })).details, events)
  assert.equal((await patch({ validUntil: null })).details.validUntil, null)
  assert.ok(await works(key))
})

test('a rotated key is replaced at once, with its name and end', async () => {
  const validUntil = inSeconds(3600)
  const { details: old } = await app.request('POST', keys, {
    key: owner.key,
    body: { name: 'r', validUntil },
  })
  const rotated = await app.request('POST', `${keys}/${old.id}/rotate`, { key: owner.key })
  assert.deepEqual(
    [rotated.status, rotated.details.name, rotated.details.validUntil],
    [201, 'r', validUntil],
  )
  assert.deepEqual([await works(old.key), await works(rotated.details.key)], [false, true])
})

test('a rotated key works on for the overlap, but never past its end', async () => {
  const { details: old } = await app.request('POST', keys, { key: owner.key, body: { name: 'o' } })
  const rotate = (id: string, overlapSeconds: unknown) =>
    app.request('POST', `${keys}/${id}/rotate`, { key: owner.key, body: { overlapSeconds } })
  const { details: next } = await rotate(old.id, 60)
  assert.deepEqual([await works(old.key), await works(next.key)], [true, true])
  const [row] = await app.db.query<{ left: number }>(
    'select extract(epoch from valid_until - now())::float as left from api_keys where id = $1',
    [old.id],
  )
  assert.ok(row!.left > 50 && row!.left <= 60)

  const validUntil = inSeconds(30)
  const { details: short } = await app.request('POST', keys, {
    key: owner.key,
    body: { name: 'short', validUntil },
  })
  await rotate(short.id, 60)
  const { details: listed } = await app.request('GET', keys, { key: owner.key })
  const ended = listed.find(({ id }: { id: string }) => id === short.id)
  assert.equal(ended.validUntil, validUntil)
  for (const overlap of [-1, 604_801, 1.5, '5'])
    assert.equal((await rotate(next.id, overlap)).status, 400)
})

test('a key that has ended is not rotated, nor one twice at once', async () => {
  const { details: old } = await app.request('POST', keys, { key: owner.key, body: { name: 'e' } })
  const rotate = () => app.request('POST', `${keys}/${old.id}/rotate`, { key: owner.key })
  const both = await collide(app.db, { table: 'api_keys', requests: [rotate, rotate] })
  assert.deepEqual(both.map(({ status }) => status).sort(), [201, 404])
  assert.equal((await rotate()).body.code, 'key_not_found')
})

test('a key is not rotated by a request that began before it ended', async () => {
  const { details: old } = await app.request('POST', keys, { key: owner.key, body: { name: 'e' } })
  await app.db.transaction(async (tx) => {
    await tx.query('select')
    const body = { validUntil: new Date().toJSON() }
    const ended = await app.request('PATCH', `${keys}/${old.id}`, { key: owner.key, body })
    assert.equal(ended.status, 200)
    assert.equal((await lockStoredKey(tx, owner.id, old.id)).hasEnded, true)
  })
  const late = await app.request('POST', `${keys}/${old.id}/rotate`, { key: owner.key })
  assert.deepEqual(brief(late), { status: 404, code: 'key_not_found' })
})

test('a deleted key is refused at once and then unknown', async () => {
  const {
    details: { id, key },
  } = await app.request('POST', keys, { key: owner.key, body: { name: 'd' } })
  assert.equal((await app.request('DELETE', `${keys}/${id}`, { key: owner.key })).status, 204)
  assert.ok(!(await works(key)))
  for (const [method, path, body] of [
    ['DELETE', `${keys}/${id}`],
    ['PATCH', `${keys}/${id}`, { name: 'x' }],
    ['POST', `${keys}/${id}/rotate`],
  ] as const) {
    const answer = await app.request(method, path, { key: owner.key, body })
    assert.deepEqual(brief(answer), { status: 404, code: 'key_not_found' })
  }
})

test('the key of another user is not found under one’s own id', async () => {
  const other = await app.user()
  const answer = await app.request('DELETE', `${keys}/${other.keyId}`, { key: owner.key })
  assert.deepEqual(brief(answer), { status: 404, code: 'key_not_found' })
  assert.ok(await works(other.key))
})

test('an admin asking for the keys of nobody is told so', async () => {
  for (const [method, body] of [['GET'], ['POST', { name: 'x' }]] as const) {
    const answer = await app.request(method, `/users/${nobody}/keys`, {
      key: admin.key,
      body,
    })
    assert.deepEqual(brief(answer), { status: 404, code: 'user_not_found' })
  }
})

test('the use of a key is noted to the minute, by one write for many uses', async () => {
  const { id, key, keyId } = await app.user()
  const readVersion = async () => {
    const [row] = await app.db.query<{ version: string }>(
      'select xmin::text as version from api_keys where id = $1 and last_used_at is not null',
      [keyId],
    )
    return row?.version
  }
  const minute = () => Math.floor(Date.now() / 60_000)

  await works(key)
  await until('the first use is noted', readVersion)
  // Uses before and after the end of a minute prove nothing: then it takes others.
  let began: number
  do {
    began = minute()
    const before = await readVersion()
    for (let i = 0; i < 20; i++) await works(key)
    const after = await readVersion()
    if (minute() === began) assert.equal(after, before)
  } while (minute() !== began)
  const { details } = await app.request('GET', `/users/${id}/keys`, { key })
  assert.match(details[0].lastUsedAt, /:00\.000Z$/)
})

test('of keys that are looked up together each gets its own answer', async () => {
  const users = await Promise.all(Array.from({ length: 12 }, () => app.user()))
  const asked = users.flatMap((user) => [
    { key: createKey(), id: null },
    { key: user.key, id: user.id },
  ])
  const answers = await Promise.all(
    asked.map(({ key }) => app.request('GET', '/users/auth', { key })),
  )
  assert.deepEqual(
    answers.map(({ headers }) => headers.get('x-auth-user-id')),
    asked.map(({ id }) => id),
  )
})

test('noting the use of a key does not wait for the disk', async () => {
  const { keyId } = await app.user()
  const [setting] = await app.db.transaction(async (tx) => {
    await markUsed(tx, [keyId])
    return tx.query(`select current_setting('synchronous_commit') as waits`)
  })
  assert.deepEqual({ ...setting! }, { waits: 'off' })
})

test('both ways of sending a key work, two different keys do not', async () => {
  const ask = (headers: Record<string, string>) => app.request('GET', '/users/auth', { headers })
  const bearer = { authorization: `Bearer ${owner.key}` }
  assert.equal((await ask(bearer)).status, 200)
  assert.equal((await ask({ ...bearer, 'x-api-key': owner.key })).status, 200)
  assert.equal((await ask({ ...bearer, 'x-api-key': admin.key })).body.code, 'key_invalid')
  assert.equal((await ask({ authorization: 'Basic YTpi' })).body.code, 'key_missing')
  assert.equal((await ask({ authorization: 'Basic YTpi', 'x-api-key': owner.key })).status, 200)
})

test('every 401 says how to authenticate, and unusable keys are not told apart', async () => {
  const off = await app.user()
  await app.db.query('update api_keys set enabled = false where id = $1', [off.keyId])
  const unknown = `usk_${'0'.repeat(43)}`
  for (const key of ['x', unknown, off.key, `${owner.key.slice(0, -1)}~`]) {
    const answer = await app.request('GET', '/users/auth', { key })
    assert.deepEqual(
      [answer.status, answer.body.code, answer.body.details],
      [401, 'key_invalid', 'Invalid API key'],
    )
    assert.match(answer.headers.get('www-authenticate')!, /^Bearer realm=/)
  }
  const missing = await app.request('GET', '/users/auth')
  assert.deepEqual(
    [missing.status, missing.body.code, missing.body.details],
    [401, 'key_missing', 'API key not found'],
  )
  assert.match(missing.headers.get('www-authenticate')!, /^Bearer realm=/)
})

test('forward-auth tells who asks, in every header always', async () => {
  const user = await app.user({ email: 'zoë%@example.org', permissions: ['a:read', 'b'] })
  for (const method of ['GET', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'HEAD', 'PATCH']) {
    const answer = await app.request(method, '/users/auth/any/thing%zz/../?x=%zz', {
      key: user.key,
    })
    const identity = [...answer.headers].filter(([name]) => name.startsWith('x-auth-'))
    assert.deepEqual(
      [answer.status, answer.text, Object.fromEntries(identity)],
      [
        200,
        '',
        {
          'x-auth-user-id': user.id,
          'x-auth-user-email': 'zo%C3%AB%25@example.org',
          'x-auth-user-email-verified': 'false',
          'x-auth-role': 'user',
          'x-auth-permissions': 'a:read,b',
          'x-auth-key-id': user.keyId,
          'x-auth-key-kind': 'api',
          'x-auth-factors': '1',
        },
      ],
    )
  }
})

test('everything below forward-auth is forward-auth, even where others have ids', async () => {
  const { key } = await app.user()
  for (const below of [
    'keys',
    `keys/${admin.keyId}`,
    `keys/${admin.keyId}/rotate`,
    'healthcheck',
    '',
  ]) {
    for (const method of ['GET', 'POST', 'DELETE']) {
      const { status, headers } = await app.request(method, `/users/auth/${below}`, { key })
      assert.deepEqual([below, status, headers.get('x-auth-key-kind')], [below, 200, 'api'])
    }
  }
})

test('forward-auth refuses a caller for whom not every requirement holds', async () => {
  const user = await app.user({ permissions: ['a', 'b'] })
  const of = (role: string) => (role === 'admin' ? admin.key : user.key)
  for (const { as, query, status } of [
    { as: 'user', query: 'require-permission=a', status: 200 },
    { as: 'user', query: 'require-permission=a&require-permission=b', status: 200 },
    { as: 'user', query: 'require-permission=c', status: 403 },
    { as: 'user', query: 'require-permission=a&require-permission=c', status: 403 },
    { as: 'user', query: 'require-permission=c&require-permission=a', status: 403 },
    { as: 'user', query: 'require-role=user', status: 200 },
    { as: 'user', query: 'require-role=admin', status: 403 },
    { as: 'user', query: 'require-role=user&require-role=admin', status: 403 },
    { as: 'user', query: 'require-role=admin&require-role=user', status: 403 },
    { as: 'user', query: 'require-role=user&require-permission=c', status: 403 },
    { as: 'user', query: 'require-role=admin&require-permission=a', status: 403 },
    { as: 'admin', query: 'require-role=admin', status: 200 },
    { as: 'admin', query: 'require-role=user', status: 200 },
    { as: 'admin', query: 'require-role=root', status: 403 },
    { as: 'admin', query: 'require-role=', status: 403 },
    { as: 'user', query: 'whatever=1&limit=x', status: 200 },
  ]) {
    const answer = await app.request('GET', `/users/auth?${query}`, { key: of(as) })
    assert.equal(answer.status, status, `${as}: ${query}`)
  }
})

test('what was put into a user by hand cannot break the headers', async () => {
  const user = await app.user()
  await app.db.query(
    `update users set permissions = array[E'a\\r\\nX-Auth-Role: admin'] where id = $1`,
    [user.id],
  )
  const { status, headers } = await app.request('GET', '/users/auth', { key: user.key })
  assert.deepEqual(
    [status, headers.get('x-auth-role'), headers.get('x-auth-permissions')],
    [200, 'user', 'a%0D%0AX-Auth-Role:%20admin'],
  )
})

test('sessions that ended are removed, however many, and no others', async () => {
  await app.db.query(
    `insert into api_keys (user_id, digest, kind, name, valid_until)
    select
      $1, sha256(convert_to('ended' || n, 'utf8')), 'session', 'ended',
      now() - n * interval '1 minute'
    from generate_series(1, 12000) n`,
    [owner.id],
  )
  await deleteEndedSessions(app.db)
  const [left] = await app.db.query<{ n: number }>(
    `select count(*)::int as n from api_keys where name = 'ended'`,
  )
  assert.ok(left!.n >= 59 && left!.n <= 60, String(left!.n))
  assert.ok(await works(owner.key))
})

test('of look-ups together no more statements run at once than are allowed', async () => {
  const ends: (() => void)[] = []
  let most = 0
  const lookUp = createBatch({ statements: 2, items: 1, waiting: 100 }, (items: number[]) => {
    const answered = new Promise<number[]>((resolve) => ends.push(() => resolve(items)))
    most = Math.max(most, ends.length)
    return answered
  })
  const one = lookUp(1, 'a')
  await until('it runs', () => ends.length === 1)
  // The next one would start at the next turn; before that, the first one ends.
  const next = lookUp(2, 'a')
  ends.shift()!()
  await one
  const others = [lookUp(3, 'a'), lookUp(4, 'a'), lookUp(5, 'a')]
  await until('two run', () => ends.length === 2)
  for (let turn = 0; turn < 10; turn++) await nextTurn()
  assert.equal(most, 2)
  const all = Promise.all([next, ...others])
  const ending = setInterval(() => ends.shift()?.())
  assert.deepEqual(await all, [2, 3, 4, 5])
  clearInterval(ending)
  assert.equal(most, 2)
})
