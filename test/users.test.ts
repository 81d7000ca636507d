import assert from 'node:assert/strict'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

import { locks } from '../src/database/codes.ts'
import type { Caller } from '../src/http/route.ts'
import { createSecret } from '../src/keys/format.ts'
import { insertKey } from '../src/keys/queries.ts'
import type { Hasher } from '../src/passwords/hasher.ts'
import { changePassword } from '../src/users/change.ts'
import { bootstrap } from '../src/users/first-admin.ts'
import {
  brief,
  collide,
  createTestDatabase,
  hashCheaply,
  nobody,
  password,
  startTestApp,
} from './support/helpers.ts'
import { makeFolder, until } from './support/process.ts'

hashCheaply()
const app = await startTestApp()
const admin = await app.admin()

test('anyone signs up and gets a key that works, shown this once', async () => {
  const made = await app.request('POST', '/users', {
    body: { email: ' Ada@Example.org ', password },
  })
  assert.equal(made.status, 201)
  const { keyId, ...shown } = made.details
  const { id, apiKeys, createdAt, updatedAt, ...rest } = shown
  assert.deepEqual(rest, {
    email: 'Ada@Example.org',
    emailVerified: false,
    role: 'user',
    permissions: [],
    metadata: {},
    enabled: true,
    secondFactor: false,
    version: 1,
  })
  assert.equal(made.headers.get('location'), `./users/${id}`)
  assert.equal(made.headers.get('etag'), '"1"')
  assert.equal(createdAt, updatedAt)
  assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)

  const read = await app.request('GET', `/users/${id}`, { key: apiKeys[0] })
  assert.deepEqual(read.details, { ...shown, apiKeys: [] })
  const keys = await app.request('GET', `/users/${id}/keys`, { key: apiKeys[0] })
  assert.deepEqual(
    keys.details.map((each: any) => each.id),
    [keyId],
  )
})

test('an address is taken whatever its case', async () => {
  await app.user({ email: 'Grace@Example.org' })
  const second = await app.request('POST', '/users', {
    body: { email: 'grace@example.ORG', password },
  })
  assert.deepEqual(brief(second), { status: 409, code: 'email_in_use' })
})

test('of four racing sign-ups with one address one gets 201, the others 409', async () => {
  const body = { email: 'race@example.org', password }
  const requests = Array.from({ length: 4 }, () => () => app.request('POST', '/users', { body }))
  const all = await collide(app.db, { table: 'users', requests })
  assert.deepEqual(all.map(({ status }) => status).sort(), [201, 409, 409, 409])
})

for (const [name, body, code, fields] of [
  ['no body at all', undefined, 'invalid_body', ['body']],
  ['no object', [], 'invalid_body', ['body']],
  ['nothing', {}, 'invalid_body', ['email', 'password']],
  ['an unknown member', { email: 'a@b', password, pasword: 1 }, 'invalid_body', ['pasword']],
  ['a member of another type', { email: 1, password }, 'invalid_body', ['email']],
  ['an address without @', { email: 'ada', password }, 'invalid_email', ['email']],
  ['an address with two @', { email: 'a@b@c', password }, 'invalid_email', ['email']],
  ['an address with nothing before @', { email: '@b', password }, 'invalid_email', ['email']],
  ['an address with white space', { email: 'a b@c', password }, 'invalid_email', ['email']],
  [
    'an address with a control character',
    { email: 'a\u0000@c', password },
    'invalid_email',
    ['email'],
  ],
  [
    'an address of 255 characters',
    { email: `${'a'.repeat(253)}@b`, password },
    'invalid_email',
    ['email'],
  ],
  [
    'a password of 7 characters',
    { email: 'a@b', password: 'sh0rt-7' },
    'invalid_password',
    ['password'],
  ],
  [
    'a password of 129 characters',
    { email: 'a@b', password: 'x'.repeat(129) },
    'invalid_password',
    ['password'],
  ],
  [
    'a common password',
    { email: 'a@b', password: 'PassWord123' },
    'invalid_password',
    ['password'],
  ],
  [
    'the address as the password',
    { email: 'ada@example.org', password: 'ADA@example.org' },
    'invalid_password',
    ['password'],
  ],
  [
    'the address as the password beside another fault',
    { email: 'ada@example.org', password: 'ada@example.org', x: 1 },
    'invalid_body',
    ['x', 'password'],
  ],
  ['both at fault', { email: 'a', password: 'b' }, 'invalid_email', ['email', 'password']],
  ['text that is not JSON', '{"email":', 'invalid_body', ['body']],
] as const) {
  test(`sign-up with ${name} is refused, naming what is at fault`, async () => {
    const answer = await app.request('POST', '/users', { body })
    assert.deepEqual(
      [answer.status, answer.body.code, answer.body.errors.map(({ field }: any) => field)],
      [400, code, fields],
    )
    if (code === 'invalid_body') assert.equal(answer.details, 'Invalid user syntax')
  })
}

test('characters are counted as code points, after NFKC', async () => {
  const seven = await app.request('POST', '/users', {
    body: { email: 'cp@example.org', password: '😀'.repeat(7) },
  })
  assert.deepEqual(brief(seven), { status: 400, code: 'invalid_password' })
  const eight = await app.request('POST', '/users', {
    body: { email: 'cp@example.org', password: '😀'.repeat(8) },
  })
  assert.equal(eight.status, 201)
  for (const [given, status] of [
    ['\u1e9b\u0323'.repeat(8), 201],
    ['ﬁ'.repeat(4), 201],
    ['\ufdfa'.repeat(8), 400],
  ] as const) {
    const body = { email: `${encodeURI(given).length}@example.org`, password: given }
    assert.equal((await app.request('POST', '/users', { body })).status, status, given)
  }
})

test('a password is the same in every form that NFKC makes one', async () => {
  const { id, key, email } = await app.user()
  const body = { password: 'ﬁne Ångström①', currentPassword: password }
  assert.equal((await app.request('PATCH', `/users/${id}`, { key, body })).status, 200)
  for (const [given, status] of [
    ['fine A\u030angstro\u0308m1', 201],
    ['fine \u212bngström①', 201],
    ['fine Angstrom1', 401],
  ] as const) {
    const account = { email, password: given }
    const answer = await app.request('POST', '/users/sessions', { body: account })
    assert.equal(answer.status, status, given)
  }
})

test('only an admin may give role, permissions and enabled', async () => {
  const body = { email: 'boss@example.org', password, role: 'admin' }
  const { key } = await app.user()
  assert.deepEqual(brief(await app.request('POST', '/users', { body })), {
    status: 403,
    code: 'forbidden',
  })
  assert.deepEqual(brief(await app.request('POST', '/users', { body, key })), {
    status: 403,
    code: 'forbidden',
  })
  const made = await app.request('POST', '/users', {
    key: admin.key,
    body: { email: 'clerk@example.org', password, permissions: ['orders:read'], enabled: false },
  })
  assert.deepEqual(
    [made.status, made.details.permissions, made.details.enabled],
    [201, ['orders:read'], false],
  )
})

test('where a key decides who creates, an invalid one is refused', async () => {
  const answer = await app.request('POST', '/users', {
    body: { email: 'x@y', password },
    key: 'usk_wrong',
  })
  assert.deepEqual(brief(answer), { status: 401, code: 'key_invalid' })
})

test('with SIGNUP=admin only an admin creates', async () => {
  const closed = await startTestApp({ SIGNUP: 'admin' }, app.database)
  const body = { email: 'closed@example.org', password }
  const { key } = await app.user()
  assert.deepEqual(brief(await closed.request('POST', '/users', { body })), {
    status: 401,
    code: 'key_missing',
  })
  assert.deepEqual(brief(await closed.request('POST', '/users', { body, key })), {
    status: 403,
    code: 'forbidden',
  })
  assert.equal((await closed.request('POST', '/users', { body, key: admin.key })).status, 201)
})

test('users are listed in the order of creation, page by page', async () => {
  const own = await startTestApp()
  const { key, id: first } = await own.admin()
  const ids = [first]
  for (let i = 0; i < 6; i++) ids.push((await own.user()).id)

  const seen: string[] = []
  let path = '/users?limit=3'
  for (;;) {
    const page = await own.request('GET', path, { key })
    assert.equal(page.status, 200)
    seen.push(...page.details)
    if (page.next === undefined) break
    path = page.next
  }
  assert.deepEqual(seen, ids)

  const full = await own.request('GET', '/users?limit=1&view=full', { key })
  assert.deepEqual([full.details[0].id, full.details[0].apiKeys], [first, []])
})

test('a user is found by its address, whatever the case', async () => {
  const { id } = await app.user({ email: 'Find.Me@example.org' })
  const found = await app.request('GET', '/users?email=FIND.me@example.org', { key: admin.key })
  assert.deepEqual(found.details, [id])
  assert.deepEqual(
    (await app.request('GET', '/users?email=nobody', { key: admin.key })).details,
    [],
  )
})

for (const query of [
  'limit=0',
  'limit=1001',
  'limit=x',
  'limit=1&limit=2',
  'after=x',
  'view=all',
  'lmit=3',
]) {
  test(`the query ${query} is refused`, async () => {
    const answer = await app.request('GET', `/users?${query}`, { key: admin.key })
    assert.deepEqual(
      [...Object.values(brief(answer)), answer.body.errors.length],
      [400, 'invalid_query', 1],
    )
  })
}

test('If-None-Match spares the body', async () => {
  const { id, key } = await app.user()
  const known = await app.request('GET', `/users/${id}`, {
    key,
    headers: { 'if-none-match': 'W/"0", "1"' },
  })
  assert.deepEqual([known.status, known.text, known.headers.get('etag')], [304, '', '"1"'])
})

test('a user changes its address, but neither role, permissions nor enabled', async () => {
  const { id, key } = await app.user()
  const changed = await app.request('PATCH', `/users/${id}`, {
    key,
    body: { email: 'new@example.org' },
  })
  assert.deepEqual(
    [changed.status, changed.details.email, changed.details.version],
    [200, 'new@example.org', 2],
  )
  for (const body of [{ role: 'admin' }, { permissions: ['x'] }, { enabled: false }]) {
    assert.deepEqual(brief(await app.request('PATCH', `/users/${id}`, { key, body })), {
      status: 403,
      code: 'forbidden',
    })
  }
  const promoted = await app.request('PATCH', `/users/${id}`, {
    key: admin.key,
    body: { role: 'admin', permissions: ['a'] },
  })
  assert.deepEqual([promoted.details.role, promoted.details.permissions], ['admin', ['a']])
})

test('a change to an address that is taken is refused', async () => {
  const { id, key } = await app.user()
  const answer = await app.request('PATCH', `/users/${id}`, {
    key,
    body: { email: admin.email.toUpperCase() },
  })
  assert.deepEqual(brief(answer), { status: 409, code: 'email_in_use' })
})

test('nothing to change leaves the version', async () => {
  const { id, key } = await app.user()
  const answer = await app.request('PATCH', `/users/${id}`, { key, body: {} })
  assert.deepEqual([answer.status, answer.details.version], [200, 1])
})

test('of four racing changes of one version one gets 200, the others 412', async () => {
  const { id, key } = await app.user()
  const headers = { 'if-match': '"1"' }
  const requests = Array.from({ length: 4 }, (_, i) => () => {
    const body = { email: `race${i}@example.net` }
    return app.request('PATCH', `/users/${id}`, { key, body, headers })
  })
  const all = await collide(app.db, { table: 'users', requests })
  assert.deepEqual(all.map(({ status }) => status).sort(), [200, 412, 412, 412])
  assert.ok(all.every(({ status, body }) => status === 200 || body.code === 'stale_version'))
})

test('a weak or another ETag is stale, a star is not', async () => {
  const { id, key } = await app.user()
  const patch = (tag: string) =>
    app.request('PATCH', `/users/${id}`, {
      key,
      body: { email: `${id}@x` },
      headers: { 'if-match': tag },
    })
  assert.equal((await patch('W/"1"')).status, 412)
  assert.equal((await patch('"7"')).status, 412)
  assert.equal((await patch('*')).status, 200)
})

test('an owner changes its password with the current one; every other session ends', async () => {
  const user = await app.user()
  const login = async () =>
    (await app.request('POST', '/users/sessions', { body: { email: user.email, password } }))
      .details.key
  const mine = await login()
  const other = await login()
  const patch = (body: object) => app.request('PATCH', `/users/${user.id}`, { key: mine, body })
  const next = 'another fine password'

  const missing = await patch({ password: next })
  assert.deepEqual(
    [missing.status, missing.body.errors],
    [400, [{ field: 'currentPassword', message: 'is missing' }]],
  )
  assert.deepEqual(brief(await patch({ password: next, currentPassword: 'wrong' })), {
    status: 401,
    code: 'invalid_credentials',
  })
  assert.equal((await patch({ password: next, currentPassword: password })).status, 200)

  assert.equal((await app.request('GET', `/users/${user.id}`, { key: mine })).status, 200)
  assert.equal((await app.request('GET', `/users/${user.id}`, { key: other })).status, 401)
  assert.equal((await app.request('GET', `/users/${user.id}`, { key: user.key })).status, 200)
  const again = await app.request('POST', '/users/sessions', {
    body: { email: user.email, password: next },
  })
  assert.equal(again.status, 201)
})

test('an admin sets the password of another without knowing it; all its sessions end', async () => {
  const user = await app.user()
  const session = (
    await app.request('POST', '/users/sessions', { body: { email: user.email, password } })
  ).details.key
  const set = await app.request('PATCH', `/users/${user.id}`, {
    key: admin.key,
    body: { password: 'set by the admin' },
  })
  assert.equal(set.status, 200)
  assert.equal((await app.request('GET', `/users/${user.id}`, { key: session })).status, 401)
})

test('a user deletes itself with its keys', async () => {
  const { id, key } = await app.user()
  assert.deepEqual([(await app.request('DELETE', `/users/${id}`, { key })).text], [''])
  assert.deepEqual(brief(await app.request('GET', `/users/${id}`, { key })), {
    status: 401,
    code: 'key_invalid',
  })
  assert.deepEqual(brief(await app.request('GET', `/users/${id}`, { key: admin.key })), {
    status: 404,
    code: 'user_not_found',
  })
})

test('the last admin can be neither demoted, disabled nor deleted', async () => {
  const own = await startTestApp()
  const { id, key } = await own.admin()
  // One who is disabled cannot act.
  await own.user({ role: 'admin', enabled: false })
  for (const body of [{ role: 'user' }, { enabled: false }]) {
    const answer = await own.request('PATCH', `/users/${id}`, { key, body })
    assert.deepEqual(brief(answer), { status: 409, code: 'last_admin' })
  }
  assert.deepEqual(brief(await own.request('DELETE', `/users/${id}`, { key })), {
    status: 409,
    code: 'last_admin',
  })
})

for (const method of ['PATCH', 'DELETE']) {
  test(`of two admins who leave at once by ${method}, one has to stay`, async () => {
    const own = await startTestApp()
    const admins = [await own.admin(), await own.admin()]
    const body = method === 'PATCH' ? { role: 'user' } : undefined
    const requests = admins.map(({ id, key }) => () => {
      return own.request(method, `/users/${id}`, { key, body })
    })
    const answers = await collide(own.db, { table: 'users', requests })
    const refused = answers.filter(({ status }) => status >= 300).map(brief)
    assert.deepEqual(refused, [{ status: 409, code: 'last_admin' }])
  })

  test(`of two admins who remove each other at once by ${method}, one is left`, async () => {
    const own = await startTestApp()
    const one = await own.admin()
    const two = await own.admin()
    const body = method === 'PATCH' ? { role: 'user' } : undefined
    await Promise.all([
      own.request(method, `/users/${two.id}`, { key: one.key, body }),
      own.request(method, `/users/${one.id}`, { key: two.key, body }),
    ])
    assert.equal((await own.db.query(`select from users where role = 'admin'`)).length, 1)
  })
}

test('an admin goes while a backup, which holds its lock, is running', async () => {
  const other = await app.user({ role: 'admin' })
  await app.db.transaction(async (tx) => {
    await tx.query('select pg_advisory_xact_lock($1)', [locks.backup])
    assert.equal(
      (await app.request('DELETE', `/users/${other.id}`, { key: other.key })).status,
      204,
    )
  })
})

test('whom an admin promotes, demotes or disables feels it on the next request', async () => {
  const { id, key } = await app.user()
  const list = async () => (await app.request('GET', '/users?limit=1', { key })).status
  const set = (body: object) => app.request('PATCH', `/users/${id}`, { key: admin.key, body })
  assert.equal(await list(), 403)
  await set({ role: 'admin' })
  assert.equal(await list(), 200)
  await set({ role: 'user' })
  assert.equal(await list(), 403)
  await set({ enabled: false })
  assert.equal(await list(), 401)
})

test('malformed ids are told from unknown ones', async () => {
  const { key } = admin
  assert.deepEqual(brief(await app.request('GET', '/users/17', { key })), {
    status: 400,
    code: 'invalid_id',
  })
  const unknown = `/users/${nobody}`
  for (const method of ['GET', 'DELETE']) {
    assert.deepEqual(brief(await app.request(method, unknown, { key })), {
      status: 404,
      code: 'user_not_found',
    })
  }
  assert.deepEqual(brief(await app.request('PATCH', unknown, { key, body: { enabled: true } })), {
    status: 404,
    code: 'user_not_found',
  })
})

test('a first password that was set meanwhile is not replaced without being proved', async () => {
  const { id, key, keyId } = await app.user({ passwordHash: null })
  const set = `update users set password_hash = 'set meanwhile' where id = $1`
  const hasher = {
    async hash() {
      await app.db.query(set, [id])
      return 'late'
    },
  } as unknown as Hasher
  const deps = { db: app.db, hasher, emailChange: 'direct', freshSeconds: 0 } as const
  const caller = { userId: id, keyId, keyKind: 'api', role: 'user' } as Caller
  const origin = { requestId: 'x', address: '127.0.0.1', client: '127.0.0.1' }
  const change = { id, caller, origin, headers: {}, given: {} }
  const given = { password: 'a new and fine one', currentPassword: undefined }
  await assert.rejects(changePassword(deps, change, given), { code: 'invalid_credentials' })
  const later = await app.request('PATCH', '/users/me', { key, body: { password } })
  assert.deepEqual(brief(later), { status: 400, code: 'invalid_body' })
})

test('a password is not changed to the address, the present or the next one', async () => {
  const user = await app.user()
  const change = (body: object) =>
    app.request('PATCH', `/users/${user.id}`, {
      key: user.key,
      body: { currentPassword: password, ...body },
    })
  const refused = { status: 400, code: 'invalid_password' }
  assert.deepEqual(brief(await change({ password: user.email.toUpperCase() })), refused)
  const next = `next-${user.email}`
  assert.deepEqual(brief(await change({ email: next, password: next })), refused)
})

test('a key for a user who is deleted at that moment is for no user', async () => {
  const { id } = await app.user()
  const late = await app.db.transaction(async (tx) => {
    await tx.query('delete from users where id = $1', [id])
    const making = insertKey(app.db, { userId: id, kind: 'api', name: 'late' })
    const refused = assert.rejects(making, { code: 'user_not_found' })
    const waiting = `select from pg_stat_activity
      where wait_event_type = 'Lock' and query like 'insert into api_keys%'`
    await until('the insertion waits', async () => (await app.db.query(waiting)).length > 0)
    return { refused }
  })
  await late.refused
})

test('the key that the service makes for its first admin is for its account alone', async () => {
  const own = await createTestDatabase()
  const keyFile = join(makeFolder('first-admin'), 'key')
  const admin = { email: 'first@example.org', keyFile, makesFile: true as const }
  const outcomes = await Promise.all([bootstrap(own.db, admin), bootstrap(own.db, admin)])
  assert.deepEqual(outcomes.sort(), [false, true])
  assert.equal(statSync(keyFile).mode & 0o777, 0o600)
})

test('a log-in and a search take an address as a sign-up took it', async () => {
  // In NFC it has 122 characters, as it is written here 342.
  const email = ` ${'e\u0323\u0302'.repeat(110)}@example.org`
  const account = { email, password }
  assert.equal((await app.request('POST', '/users', { body: account })).status, 201)
  assert.equal((await app.request('POST', '/users/sessions', { body: account })).status, 201)
  for (const name of ['email', 'search']) {
    const path = `/users?${name}=${encodeURIComponent(email)}`
    const found = await app.request('GET', path, { key: admin.key })
    assert.deepEqual([found.status, found.details?.length], [200, 1], name)
  }
  const wrong = { body: { email: 1, password } }
  const refused = await app.request('POST', '/users/sessions', wrong)
  assert.deepEqual(refused.body.errors, [{ field: 'email', message: 'must be text' }])
})

test('parameters that do not go together are told, beside other faults', async () => {
  const asked = '/users?email=ada@example.org&search=ada&limit=0'
  const answer = await app.request('GET', asked, { key: admin.key })
  assert.deepEqual(brief(answer), { status: 400, code: 'invalid_query' })
  const fields = answer.body.errors.map(({ field }: any) => field)
  assert.deepEqual(fields, ['limit', 'search'])
})

test('a blank in an address of a query is a plus that was not encoded', async () => {
  for (const name of ['email', 'search']) {
    const answer = await app.request('GET', `/users?${name}=ada+b@example.org`, { key: admin.key })
    assert.deepEqual(brief(answer), { status: 400, code: 'invalid_query' })
    const message = 'must not have a blank: write + as %2B'
    assert.deepEqual(answer.body.errors, [{ field: name, message }])
  }
})

test('no text is normalised that is much longer than what is allowed', async (t) => {
  const lengths: number[] = []
  const { normalize } = String.prototype
  t.mock.method(String.prototype, 'normalize', function (this: string, form?: string) {
    lengths.push(this.length)
    return normalize.call(this, form)
  })
  const slow = 'a' + '\u0345'.repeat(1900) + '\u0334'.repeat(1900)
  const { key } = await app.user()
  const resetToken = { token: createSecret('ust'), password: slow }
  for (const [method, path, body] of [
    ['POST', '/users', { email: 'a@b', password: slow }],
    ['POST', '/users', { email: `${slow}@b`, password }],
    ['POST', '/users', { email: `${slow}@b`, password: slow }],
    ['PATCH', '/users/me', { password: slow, currentPassword: password }],
    ['PATCH', '/users/me', { password, currentPassword: slow }],
    ['PATCH', '/users/me', { email: `${slow}@b` }],
    ['POST', '/users/sessions', { email: `${slow}@b`, password: slow }],
    ['POST', '/users/passwords', resetToken],
    ['POST', `/users/${nobody}/tokens`, { purpose: 'email', email: `${slow}@b` }],
  ] as const) {
    const answer = await app.request(method, path, {
      key: path.endsWith('tokens') ? admin.key : key,
      body,
    })
    assert.equal(answer.status, 400, `${method} ${path}`)
  }
  const bare = 'é'.repeat(1000)
  for (const name of ['email', 'search']) {
    const path = `/users?${name}=${encodeURIComponent(bare)}`
    assert.equal((await app.request('GET', path, { key: admin.key })).status, 400, name)
  }
  assert.ok(Math.max(...lengths) <= 1024, `${Math.max(...lengths)}`)
})

test('metadata of any depth is stored or refused', async () => {
  const user = await app.user()
  const body = (levels: number) =>
    `{"email":"deep@example.org","password":"${password}","metadata":` +
    `{"a":${'['.repeat(levels)}${']'.repeat(levels)}}}`
  for (const levels of [2048, 3000, 5000, 6500, 8000]) {
    for (const sender of [{}, { key: user.key }, { key: admin.key }]) {
      const answer = await app.request('POST', '/users', { ...sender, body: body(levels) })
      assert.deepEqual(brief(answer), { status: 400, code: 'invalid_body' }, `${levels}`)
    }
  }
})
