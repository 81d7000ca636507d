// An account's whole life: invited, verified, reset, moved to another address, ended. Tokens open
// one act, once, for a limited time; one that does not open it tells nobody why.
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { createSecret } from '../src/keys/format.ts'
import { deleteEndedTokens } from '../src/tokens/queries.ts'
import { brief, collide, hashCheaply, nobody, password, startTestApp } from './support/helpers.ts'

hashCheaply()
const app = await startTestApp({ TRUSTED_PROXIES: '127.0.0.0/8' })
const admin = await app.admin()
const next = 'another fine passphrase'

const logIn = (email: string, given = password, from = '192.0.2.1') =>
  app.request('POST', '/users/sessions', {
    body: { email, password: given },
    headers: { 'x-forwarded-for': from },
  })
const read = async (id: string) =>
  (await app.request('GET', `/users/${id}`, { key: admin.key })).details
const works = async (key: string) =>
  (await app.request('GET', '/users/auth', { key })).status === 200
const makeToken = async (id: string, body: object) =>
  (await app.request('POST', `/users/${id}/tokens`, { key: admin.key, body })).details.token
const makeReset = (id: string) => makeToken(id, { purpose: 'password-reset' })
const reset = (token: string, more: object = {}) =>
  app.request('POST', '/users/passwords', { body: { token, password: next, ...more } })
const verify = (token: string) => app.request('POST', '/users/verifications', { body: { token } })
const events = async (id: string) => {
  const { details } = await app.request('GET', `/audit?user=${id}&limit=1000`, { key: admin.key })
  return details.reverse().map(({ action, changes }: any) => [action, ...changes].join(' '))
}
const tokenInvalid = { status: 401, code: 'token_invalid' }
const noContent = { status: 204 }

test('an invited user logs in once it has set a password with the token', async () => {
  const email = 'invited@example.org'
  const made = await app.request('POST', '/users', { key: admin.key, body: { email } })
  const { id } = made.details
  assert.deepEqual([made.status, made.details.emailVerified], [201, false])
  assert.deepEqual(brief(await logIn(email)), { status: 401, code: 'invalid_credentials' })

  const body = { purpose: 'password-reset', seconds: 604_800 }
  const invitation = await app.request('POST', `/users/${id}/tokens`, { key: admin.key, body })
  assert.equal(invitation.status, 201)
  assert.deepEqual(Object.keys(invitation.details), ['token', 'validUntil'])
  assert.match(invitation.details.token, /^ust_[0-9A-Za-z]{49}$/)
  const days = (Date.parse(invitation.details.validUntil) - Date.now()) / 86_400_000
  assert.ok(days > 6.99 && days <= 7, `${days} days`)

  assert.deepEqual(brief(await reset(invitation.details.token)), noContent)
  assert.equal((await logIn(email, next)).status, 201)
  assert.equal(await works(made.details.apiKeys[0]), true)
  assert.deepEqual(await events(id), [
    'user.created',
    'session.failed',
    'token.created',
    'user.changed password',
    'session.started',
  ])
})

test('only an admin leaves out the password of a new user', async () => {
  const answer = await app.request('POST', '/users', { body: { email: 'x' } })
  assert.deepEqual(brief(answer), { status: 400, code: 'invalid_body' })
  assert.deepEqual(
    answer.body.errors.map(({ field }: any) => field),
    ['email', 'password'],
  )
})

test('a reset ends sessions, tokens and waits, and makes no session', async () => {
  const user = await app.user()
  const session = (await logIn(user.email)).details.key
  for (let i = 0; i < 5; i++) await logIn(user.email, 'wrong', '192.0.2.2')
  assert.equal((await logIn(user.email, password, '192.0.2.2')).status, 429)
  const used = await makeReset(user.id)
  const other = await makeReset(user.id)
  const proof = await makeToken(user.id, { purpose: 'email' })

  assert.deepEqual(brief(await reset(used)), noContent)
  assert.equal(await works(session), false)
  for (const token of [used, other]) assert.deepEqual(brief(await reset(token)), tokenInvalid)
  assert.deepEqual(brief(await verify(proof)), tokenInvalid)
  assert.equal((await logIn(user.email, password)).status, 401)
  assert.equal((await logIn(user.email, next, '192.0.2.2')).status, 201)
})

test('a key that a stranger made in advance ends with the owner’s reset', async () => {
  const email = 'owner@example.org'
  const made = await app.request('POST', '/users', { body: { email, password } })
  const { id, apiKeys } = made.details
  assert.deepEqual(brief(await reset(await makeReset(id))), noContent)
  assert.equal(await works(apiKeys[0]), false)
})

for (const { name, user, body, kept } of [
  { name: 'of a verified user', user: { emailVerified: true }, body: {}, kept: true },
  { name: 'of a user without password', user: { passwordHash: null }, body: {}, kept: true },
  { name: 'if they are to be kept', user: {}, body: { endKeys: false }, kept: true },
  { name: 'if `endKeys` is null', user: {}, body: { endKeys: null }, kept: false },
  {
    name: 'if they are to end',
    user: { emailVerified: true },
    body: { endKeys: true },
    kept: false,
  },
]) {
  test(`API keys ${kept ? 'outlive' : 'end with'} a reset ${name}`, async () => {
    const { id, key } = await app.user(user)
    assert.deepEqual(brief(await reset(await makeReset(id), body)), noContent)
    assert.equal(await works(key), kept)
  })
}

test('a refused password leaves the token good', async () => {
  const user = await app.user({ email: 'long-enough@example.org' })
  const token = await makeReset(user.id)
  for (const refused of ['short', 'password1', user.email.toUpperCase()]) {
    const answer = await reset(token, { password: refused })
    assert.deepEqual(brief(answer), { status: 400, code: 'invalid_password' })
    assert.deepEqual(answer.body.errors[0].field, 'password')
  }
  assert.deepEqual(brief(await reset(token)), noContent)
})

test('whatever is wrong with a token, the answer is the same', async () => {
  const user = await app.user()
  const disabled = await app.user()
  const late = await makeReset(user.id)
  const ofDisabled = await makeReset(disabled.id)
  const proof = await makeToken(user.id, { purpose: 'email' })
  const good = await makeReset(user.id)
  await app.request('PATCH', `/users/${disabled.id}`, { key: admin.key, body: { enabled: false } })
  await app.db.query(
    `update tokens set valid_until = now() where digest = sha256(convert_to($1, 'utf8'))`,
    [late],
  )
  const bad = [
    createSecret('ust'),
    'ust_x',
    '',
    good.slice(0, -1),
    user.key,
    late,
    ofDisabled,
    proof,
  ]
  const answers = await Promise.all(bad.map((token) => reset(token)))
  for (const answer of answers) {
    assert.deepEqual(brief(answer), tokenInvalid)
    assert.equal(answer.body.details, 'Invalid token')
  }
  assert.deepEqual(brief(await verify(good)), tokenInvalid)
  assert.equal(await works(good), false)
  await deleteEndedTokens(app.db)
  assert.deepEqual(brief(await reset(good)), noContent)
})

test('what is no token is refused without a hash', async () => {
  const settings = { TRUSTED_PROXIES: '127.0.0.0/8', DATABASE_POOL: '24' }
  const busy = await startTestApp(settings, app.database)
  const { id, email } = await app.user()
  const good = { token: await makeReset(id), password: next }
  const headers = { 'x-forwarded-for': '192.0.2.3' }
  const post = (path: string, body: object) => busy.request('POST', path, { body, headers })
  const started = await app.db.transaction(async (tx) => {
    // No log-in gets to its hash, so their places in the queue stay taken.
    await tx.query('lock table login_failures')
    const logIns = Array.from({ length: 20 }, (_, i) =>
      post('/users/sessions', { email, password: `${i}` }),
    )
    assert.equal((await Promise.race(logIns)).body.code, 'overloaded')
    // At once: their statements wait no longer than any other.
    const [junk, full] = await Promise.all([
      post('/users/passwords', { token: createSecret('ust'), password: next }),
      post('/users/passwords', good),
    ])
    assert.deepEqual(brief(junk), tokenInvalid)
    assert.deepEqual(brief(full), { status: 503, code: 'overloaded' })
    return { logIns }
  })
  await Promise.all(started.logIns)
  assert.deepEqual(brief(await post('/users/passwords', good)), noContent)
})

for (const [what, method, path, body] of [
  ['a key', 'POST', '/users/me/keys', { name: 'survivor' }],
  ['a key that is rotated', 'POST', '/users/me/keys/KEY/rotate', {}],
  ['a key for another', 'POST', '/users/OTHER/keys', { name: 'survivor' }],
  ['a user', 'POST', '/users', { email: 'survivor@example.org', role: 'admin' }],
  ['a change of another', 'PATCH', '/users/OTHER', { role: 'admin' }],
  ['a token', 'POST', '/users/me/tokens', { purpose: 'password-reset' }],
  ['a token for another', 'POST', '/users/OTHER/tokens', { purpose: 'password-reset' }],
  ['the end of another', 'DELETE', '/users/OTHER', undefined],
] as const) {
  test(`a key that ends with a reset makes no more of it: ${what}`, async () => {
    const other = await app.user()
    const thief = await app.user({ role: 'admin' })
    const { details: keys } = await app.request('GET', '/users/me/keys', { key: thief.key })
    const to = path.replace('OTHER', other.id).replace('KEY', keys[0].id)
    const token = await makeReset(thief.id)
    const act = () => app.request(method, to, { key: thief.key, ...(body && { body }) })
    const [done, late] = await collide(app.db, {
      lock: `select from users where id = '${thief.id}' for update`,
      requests: [() => reset(token, { endKeys: true }), act],
      inTurn: true,
    })
    assert.deepEqual(brief(done!), noContent)
    assert.deepEqual(brief(late!), { status: 401, code: 'key_invalid' })
  })
}

test('a user with tokens can be deleted by what does not know of them', async () => {
  const { id } = await app.user()
  await makeReset(id)
  // As version 1.0 does beside this one, or an operator.
  await app.db.query('delete from users where id = $1', [id])
  const left = await app.db.query('select from tokens where user_id = $1', [id])
  assert.deepEqual(left, [])
})

test('a user with tokens can be deleted, and they end', async () => {
  const { id } = await app.user()
  const token = await makeReset(id)
  const deleted = await app.request('DELETE', `/users/${id}`, { key: admin.key })
  assert.deepEqual(brief(deleted), noContent)
  assert.deepEqual(brief(await reset(token)), tokenInvalid)
})

test('of two resets of a user at once one wins, without a deadlock', async () => {
  const { database } = app
  // A deadlock is not resolved before the statements' own time is over.
  await app.db.query(`alter database ${database.name} set deadlock_timeout = '1min'`)
  const own = await startTestApp({}, database)
  const { id } = await app.user()
  const tokens = [await makeReset(id), await makeReset(id)]
  const requests = tokens.map((token) => () => {
    return own.request('POST', '/users/passwords', { body: { token, password: next } })
  })
  const lock = `select from users where id = '${id}' for update`
  const answers = await collide(app.db, { lock, requests })
  assert.deepEqual(answers.map(({ status }) => status).sort(), [204, 401])
})

test('RESET_SECONDS and VERIFICATION_SECONDS are how long tokens are good', async () => {
  const settings = { RESET_SECONDS: '600', VERIFICATION_SECONDS: '1200' }
  const own = await startTestApp(settings, app.database)
  const { id } = await app.user()
  for (const [on, purpose, seconds] of [
    [own, 'password-reset', 600],
    [own, 'email', 1200],
    [app, 'password-reset', 3600],
    [app, 'email', 86_400],
  ] as const) {
    const before = Date.now()
    const asked = { key: admin.key, body: { purpose } }
    const { details } = await on.request('POST', `/users/${id}/tokens`, asked)
    const end = Date.parse(details.validUntil) - seconds * 1000
    assert.ok(end > before - 2000 && end < Date.now() + 2000, `${purpose} ${details.validUntil}`)
  }
})

test('cleaning removes the tokens that have ended, and no other', async () => {
  const { id } = await app.user()
  const ended = await makeReset(id)
  await app.db.query(`update tokens set valid_until = now() - interval '1 s'`)
  const live = await makeReset(id)
  await deleteEndedTokens(app.db)
  const [left] = await app.db.query<{ count: number }>('select count(*)::int from tokens')
  assert.equal(left!.count, 1)
  assert.deepEqual(brief(await reset(ended)), tokenInvalid)
  assert.deepEqual(brief(await reset(live)), noContent)
})

test('of four who present one token at once, one wins', async () => {
  for (const [purpose, present] of [
    ['password-reset', reset],
    ['email', verify],
  ] as const) {
    const token = await makeToken((await app.user()).id, { purpose })
    const requests = Array.from({ length: 4 }, () => () => present(token))
    const answers = await collide(app.db, { table: 'tokens', requests })
    assert.deepEqual(answers.map(({ status }) => status).sort(), [204, 401, 401, 401], purpose)
  }
})

test('the present address is verified, and another change of it makes it unverified', async () => {
  const user = await app.user()
  const { version } = await read(user.id)
  assert.deepEqual(brief(await verify(await makeToken(user.id, { purpose: 'email' }))), noContent)
  const verified = await read(user.id)
  assert.deepEqual([verified.emailVerified, verified.version], [true, version + 1])
  assert.equal((await events(user.id)).at(-1), 'email.verified')
  const auth = await app.request('GET', '/users/auth?require-verified=true', { key: user.key })
  assert.equal(auth.headers.get('x-auth-user-email-verified'), 'true')

  const body = { email: 'unproved@example.org' }
  const moved = await app.request('PATCH', `/users/${user.id}`, { key: user.key, body })
  assert.deepEqual([moved.status, moved.details.emailVerified], [200, false])
  const refused = await app.request('GET', '/users/auth?require-verified=true', { key: user.key })
  assert.deepEqual(brief(refused), { status: 403, code: 'forbidden' })
})

test('only an admin keeps an address verified while changing it', async () => {
  const user = await app.user({ emailVerified: true })
  const change = (key: string, email: string) =>
    app.request('PATCH', `/users/${user.id}`, { key, body: { email, emailVerified: true } })
  assert.equal((await change(user.key, 'mine@example.org')).details.emailVerified, false)
  assert.equal((await change(admin.key, 'said@example.org')).details.emailVerified, true)
})

test('a token for another address changes to it, verified, if it is free by then', async () => {
  const user = await app.user()
  const email = 'Moved@example.org'
  const proof = await makeToken(user.id, { purpose: 'email', email })
  const older = await makeReset(user.id)
  assert.deepEqual(brief(await verify(proof)), noContent)
  const moved = await read(user.id)
  assert.deepEqual([moved.email, moved.emailVerified], [email, true])
  assert.deepEqual(brief(await reset(older)), tokenInvalid)
  assert.equal((await logIn(email)).status, 201)

  const late = await makeToken(user.id, { purpose: 'email', email: 'late@example.org' })
  const winner = await app.user({ email: 'LATE@example.org' })
  assert.deepEqual(brief(await verify(late)), { status: 409, code: 'email_in_use' })
  const taken = { purpose: 'email', email: winner.email }
  const refused = await app.request('POST', `/users/${user.id}/tokens`, {
    key: admin.key,
    body: taken,
  })
  assert.deepEqual(brief(refused), { status: 409, code: 'email_in_use' })
})

for (const { name, change } of [
  { name: 'password', change: { password: next, currentPassword: password } },
  { name: 'address', change: { email: 'ends-tokens@example.org' } },
]) {
  test(`a changed ${name} ends the user’s tokens`, async () => {
    const user = await app.user()
    const tokens = [await makeReset(user.id), await makeToken(user.id, { purpose: 'email' })]
    const own = { key: user.key, body: change }
    assert.equal((await app.request('PATCH', `/users/${user.id}`, own)).status, 200)
    assert.deepEqual(brief(await reset(tokens[0])), tokenInvalid)
    assert.deepEqual(brief(await verify(tokens[1])), tokenInvalid)
  })
}

test('an owner ends tokens that went to the wrong person, and nobody else’s', async () => {
  const user = await app.user()
  const mine = await makeReset(user.id)
  const others = await makeReset((await app.user()).id)
  const ended = await app.request('DELETE', '/users/me/tokens', { key: user.key })
  assert.deepEqual(brief(ended), noContent)
  assert.deepEqual(brief(await reset(mine)), tokenInvalid)
  assert.deepEqual(brief(await reset(others)), noContent)
  assert.deepEqual(await events(user.id), ['token.created', 'tokens.ended'])
})

test('tokens are the admin’s to make, for a minute to a week, of users that exist', async () => {
  const user = await app.user()
  const make = (key: string, id: string, body: object) =>
    app.request('POST', `/users/${id}/tokens`, { key, body })
  const purpose = 'password-reset'
  assert.equal((await make(user.key, user.id, { purpose })).status, 403)
  assert.equal((await make(admin.key, nobody, { purpose })).body.code, 'user_not_found')
  for (const body of [
    { purpose, seconds: 59 },
    { purpose, seconds: 604_801 },
    { purpose: 'log-in' },
    { purpose, email: 'a@b' },
    {},
  ]) {
    const code = 'invalid_body'
    assert.deepEqual(brief(await make(admin.key, user.id, body)), { status: 400, code })
  }
})

test('no token is found in dump, log, audit or metrics', async () => {
  const user = await app.user()
  const token = await makeReset(user.id)
  await reset(createSecret('ust'))
  const stored = await app.db.query(`select row_to_json(t)::text as row from tokens t
    union all select row_to_json(e)::text from audit_events e`)
  const { text } = await app.request('GET', '/metrics', { key: admin.key })
  assert.ok(!JSON.stringify([stored, app.log, text]).includes(token.slice(4, 30)))
  assert.deepEqual(brief(await reset(token)), noContent)
})

test('with EMAIL_CHANGE=confirmed a user’s own address changes by a token alone', async () => {
  const strict = await startTestApp({ EMAIL_CHANGE: 'confirmed' }, app.database)
  const user = await app.user()
  const change = (key: string, email: string) =>
    strict.request('PATCH', `/users/${user.id}`, { key, body: { email } })
  assert.deepEqual(brief(await change(user.key, 'no@example.org')), {
    status: 403,
    code: 'forbidden',
  })
  assert.equal((await change(user.key, user.email)).status, 200)
  assert.equal((await change(admin.key, 'yes@example.org')).status, 200)
})

test('anybody may send a reserved member that is null or as it is already', async () => {
  const body = {
    email: 'echo@example.org',
    password,
    role: 'user',
    permissions: [],
    metadata: {},
    enabled: true,
    emailVerified: false,
  }
  const made = await app.request('POST', '/users', { body })
  assert.equal(made.status, 201)
  const { id, apiKeys, ...shown } = made.details
  const own = { key: apiKeys[0] }
  const { email, role, permissions, metadata, enabled, emailVerified } = shown
  for (const echo of [
    { email, role, permissions, metadata, enabled, emailVerified },
    { role: null, permissions: null, metadata: null, enabled: null, emailVerified: null },
    {},
  ]) {
    const echoed = await app.request('PATCH', `/users/${id}`, { ...own, body: echo })
    assert.deepEqual([echoed.status, echoed.details.version], [200, 1])
  }
  for (const wish of [{ role: 'admin' }, { metadata: { a: 1 } }, { emailVerified: true }]) {
    const refused = await app.request('PATCH', `/users/${id}`, { ...own, body: wish })
    assert.deepEqual(brief(refused), { status: 403, code: 'forbidden' })
    const signUp = { email: 'wish@example.org', password, ...wish }
    assert.equal((await app.request('POST', '/users', { body: signUp })).status, 403)
  }
})

test('metadata is one object that an admin replaces and the user sees', async () => {
  const user = await app.user()
  const set = (metadata: unknown) =>
    app.request('PATCH', `/users/${user.id}`, { key: admin.key, body: { metadata } })
  const largest = { a: 'é'.repeat(2044) }
  for (const metadata of [{ plan: 'free', n: [1, null], toString: { toString: 1 } }, largest, {}]) {
    assert.deepEqual((await set(metadata)).details.metadata, metadata)
    const seen = await app.request('GET', '/users/me', { key: user.key })
    assert.deepEqual(seen.details.metadata, metadata)
  }
  for (const bad of [[], 'x', 1, { a: 'é'.repeat(2045) }, { a: '\0' }, { '\ud800': 1 }]) {
    assert.deepEqual(brief(await set(bad)), { status: 400, code: 'invalid_body' })
  }
  const deepest = JSON.parse(`{"a":${'['.repeat(2040)}${']'.repeat(2040)}}`)
  for (const time of ['first', 'again']) assert.equal((await set(deepest)).status, 200, time)
  // PostgreSQL writes all 309 digits of each, which is more than the table keeps of one user.
  const numbers = await set({ a: Array(500).fill(1e308) })
  assert.deepEqual(brief(numbers), { status: 400, code: 'invalid_body' })
  const huge = await app.request('PATCH', `/users/${user.id}`, {
    key: admin.key,
    body: '{"metadata":{"a":1e400}}',
  })
  assert.deepEqual(brief(huge), { status: 400, code: 'invalid_body' })
})

test('a search finds the beginning of an address, or a whole domain', async () => {
  for (const email of ['Zed@find.example', 'zebra@find.example', 'z%b@other.find.example']) {
    await app.user({ email })
  }
  const search = async (text: string, more = '') => {
    const query = `search=${encodeURIComponent(text)}&view=full${more}`
    const found = await app.request('GET', `/users?${query}`, { key: admin.key })
    return { ...found, emails: found.details.map(({ email }: any) => email) }
  }
  assert.deepEqual((await search('ZE')).emails, ['Zed@find.example', 'zebra@find.example'])
  assert.deepEqual((await search('@FIND.example')).emails, [
    'Zed@find.example',
    'zebra@find.example',
  ])
  assert.deepEqual((await search('z%')).emails, ['z%b@other.find.example'])
  await app.user({ email: 'q\u{10ffff}z@find.example' })
  assert.deepEqual((await search('Q')).emails, ['q\u{10ffff}z@find.example'])
  for (const none of ['@example', 'ed@', 'find', '_ed']) {
    assert.deepEqual((await search(none)).emails, [])
  }
  const first = await search('z', '&limit=2')
  const [, rest] = /<\?(.*)>/.exec(first.headers.get('link')!)!
  const second = await app.request('GET', `/users?${rest}`, { key: admin.key })
  assert.deepEqual(
    [...first.emails, ...second.details.map(({ email }: any) => email)],
    ['Zed@find.example', 'zebra@find.example', 'z%b@other.find.example'],
  )
  const both = await app.request('GET', '/users?search=z&email=z@z', { key: admin.key })
  assert.deepEqual(brief(both), { status: 400, code: 'invalid_query' })
})

test('users see their own events, and from where they acted themselves', async () => {
  const user = await app.user()
  await logIn(user.email, 'wrong', '203.0.113.1')
  await logIn(user.email, password, '203.0.113.2')
  const own = await app.request('GET', `/audit?user=${user.id}`, { key: user.key })
  assert.deepEqual(
    own.details.map(({ action, address }: any) => ({ action, address })),
    [
      { action: 'session.started', address: '203.0.113.2' },
      { action: 'session.failed', address: null },
    ],
  )
  const started = `/audit?user=${user.id}&action=session.started`
  assert.equal((await app.request('GET', started, { key: user.key })).details.length, 1)
  for (const path of ['/audit', `/audit?user=${admin.id}`, '/audit?action=session.started']) {
    const refused = await app.request('GET', path, { key: user.key })
    assert.deepEqual(brief(refused), { status: 403, code: 'forbidden' })
  }
  const all = await app.request('GET', '/audit?action=session.failed&limit=1', { key: admin.key })
  assert.equal(all.details[0].address, '203.0.113.1')
})
