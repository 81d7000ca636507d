// Second factors: set up, proved once, counted, lost, removed; and that the database itself lets no
// session of one factor be for a user who has two.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { chmodSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { mock, test } from 'node:test'

import { codeAt, findStep, normalCode, toBase32, uriOf } from '../src/factors/codes.ts'
import { digestKey } from '../src/keys/format.ts'
import { insertKey } from '../src/keys/queries.ts'
import { createKeyLine, open, seal } from '../src/secrets/keys.ts'
import { insertToken } from '../src/tokens/queries.ts'
import { fromBase32, showCode as showCodeBy } from './support/authenticator.ts'
import {
  brief,
  collide,
  createTestDatabase,
  hashCheaply,
  makeKeyFile,
  password,
  startTestApp,
  type Answer,
  type TestApp,
} from './support/helpers.ts'
import { runCommand, until } from './support/process.ts'

hashCheaply()
const keyLine = createKeyLine()
const keyFile = makeKeyFile([keyLine])
const app = await startTestApp({
  TRUSTED_PROXIES: '127.0.0.0/8',
  SECRETS_KEY_FILE: keyFile,
  SESSIONS_PER_USER: '0',
})
const admin = await app.admin()
const sessions = '/users/sessions'
const needsTwo =
  'Bearer realm="user-service", error="insufficient_user_authentication", acr_values="2"'

const showCode = (secret: string, steps?: number) => showCodeBy(app.db, secret, steps)

/** As if no code had been used. */
const forgetSteps = ({ id }: { id: string }) =>
  app.db.query('update users set factor_step = 0 where id = $1', [id])

interface LogIn {
  email?: string
  password?: string
  token?: string
  code?: string
}
const logIn = (body: LogIn, from = '192.0.2.1', on: TestApp = app) =>
  on.request('POST', sessions, { body, headers: { 'x-forwarded-for': from } })

/** A user with a fresh session of one factor. */
async function makeUser(on = app) {
  const user = await on.user()
  const { details } = await logIn({ email: user.email, password }, undefined, on)
  return { ...user, session: details.key as string }
}

/** A user with a confirmed factor, and a fresh session of two. */
async function makeProtected(on = app) {
  const user = await makeUser(on)
  const path = `/users/${user.id}/factor`
  const { details } = await on.request('POST', path, { key: user.session })
  const code = await showCode(details.secret)
  const confirmed = await on.request('POST', `${path}/confirm`, {
    key: user.session,
    body: { code },
  })
  assert.equal(confirmed.status, 200, confirmed.text)
  const { recoveryCodes } = confirmed.details as { recoveryCodes: string[] }
  return { ...user, path, secret: details.secret as string, recoveryCodes }
}

/** The token of a right password. */
async function passFirstStep({ email }: { email: string }, on = app): Promise<string> {
  const { status, details } = await logIn({ email, password }, undefined, on)
  assert.equal(status, 202)
  return details.token
}

const factorsOf = async (key: string) =>
  (await app.request('GET', '/users/auth', { key })).headers.get('x-auth-factors')

async function sessionsOf({ id }: { id: string }) {
  return app.db.query<{ factors: number }>(
    `select factors from api_keys where user_id = $1 and kind = 'session'`,
    [id],
  )
}

async function actionsOf({ id }: { id: string }, on = app): Promise<string[]> {
  const rows = await on.db.query<{ action: string }>(
    'select action from audit_events where subject = $1 order by id',
    [id],
  )
  return rows.map(({ action }) => action)
}

test('codes are those of RFC 6238', () => {
  const secret = Buffer.from('12345678901234567890')
  const vectors = {
    59: '287082',
    1111111109: '081804',
    1111111111: '050471',
    1234567890: '005924',
    2000000000: '279037',
    20000000000: '353130',
  }
  for (const [seconds, code] of Object.entries(vectors)) {
    assert.equal(codeAt(secret, Math.floor(Number(seconds) / 30)), code)
  }
  // RFC 4648.
  assert.equal(toBase32(Buffer.from('fooba')), 'MZXW6YTB')
  assert.equal(toBase32(secret), 'GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ')
})

test('a code counts one step before and after its own, of two that are equal the later', () => {
  const secret = Buffer.from('12345678901234567890')
  const now = 1000
  const around = [-2, -1, 0, 1, 2].map((steps) =>
    findStep(secret, codeAt(secret, now + steps), now),
  )
  assert.deepEqual(around, [null, now - 1, now, now + 1, null])
  // One step in a million has the code of the next one.
  const twin = 910_737
  assert.equal(codeAt(secret, twin), codeAt(secret, twin + 1))
  assert.equal(findStep(secret, codeAt(secret, twin), twin), twin + 1)
})

test('a URI escapes what separates its parts', () => {
  assert.equal(
    uriOf('a:b?c&d/é@example.org', 'ABC'),
    'otpauth://totp/user-service:a%3Ab%3Fc%26d%2F%C3%A9%40example.org' +
      '?secret=ABC&issuer=user-service&algorithm=SHA1&digits=6&period=30',
  )
  assert.equal(normalCode(' abcdef-Ghijkl 234 '), 'ABCDEFGHIJKL234')
})

test('a sealed secret opens in its place alone, by any key that the file still has', () => {
  const one = randomBytes(32)
  const two = randomBytes(32)
  const secret = Buffer.from('a secret')
  const box = seal([one, two], 'here', secret)
  assert.deepEqual(open([two, one], 'here', box), secret)
  assert.equal(open([two], 'here', box), null)
  assert.equal(open([], 'here', box), null)
  assert.equal(open([one], 'there', box), null)
  for (let at = 0; at < box.length; at++) {
    const flipped = Buffer.from(box)
    flipped[at]! ^= 1
    assert.equal(open([one], 'here', flipped), null, `byte ${at}`)
    assert.equal(open([one], 'here', box.subarray(0, at)), null, `${at} bytes`)
  }
  assert.notDeepEqual(seal([one], 'here', secret), box)
})

test('a factor is set up, confirmed, and from then on asked for', async () => {
  const user = await makeUser()
  const other = await logIn({ email: user.email, password })
  const path = `/users/${user.id}/factor`
  const read = (key: string) => app.request('GET', path, { key })
  assert.deepEqual(brief(await read(user.key)), { status: 404, code: 'factor_not_found' })

  const first = await app.request('POST', path, { key: user.session })
  const begun = await app.request('POST', path, { key: user.session })
  assert.equal(begun.status, 201)
  const { secret, uri } = begun.details
  assert.notEqual(first.details.secret, secret)
  assert.match(secret, /^[A-Z2-7]{32}$/)
  assert.equal(uri, uriOf(user.email, secret))
  assert.equal((await read(user.key)).status, 404)
  assert.equal((await logIn({ email: user.email, password })).status, 201)

  const confirm = (code: string, key = user.session) =>
    app.request('POST', `${path}/confirm`, { key, body: { code } })
  const wrong = await confirm(await showCode(first.details.secret))
  assert.deepEqual(brief(wrong), { status: 401, code: 'invalid_credentials' })
  const confirmed = await confirm(await showCode(secret))
  assert.equal(confirmed.status, 200)
  const { recoveryCodes } = confirmed.details
  assert.equal(new Set(recoveryCodes).size, 10)
  for (const code of recoveryCodes) assert.match(code, /^([A-Z2-7]{6}-){3}[A-Z2-7]{6}$/)
  const again = await confirm(await showCode(secret, 1))
  assert.deepEqual(brief(again), { status: 404, code: 'factor_not_found' })
  const second = await app.request('POST', path, { key: user.session })
  assert.deepEqual(brief(second), { status: 409, code: 'factor_exists' })

  assert.equal((await read(other.details.key)).status, 401)
  assert.equal(await factorsOf(user.session), '2')
  assert.equal(await factorsOf(user.key), '1')
  const shown = (await app.request('GET', `/users/${user.id}`, { key: user.key })).details
  assert.deepEqual([shown.secondFactor, shown.version], [true, 2])
  const asAdmin = (await app.request('GET', `/users/${user.id}`, { key: admin.key })).details
  assert.deepEqual(asAdmin, shown)
  const { confirmedAt, recoveryCodesLeft } = (await read(admin.key)).details
  assert.ok(Math.abs(Date.now() - Date.parse(confirmedAt)) < 60_000)
  assert.equal(recoveryCodesLeft, 10)
  assert.deepEqual((await actionsOf(user)).slice(-2), ['session.failed', 'factor.added'])

  const [row] = await app.db.query<{ text: string }>(
    'select row_to_json(users)::text as text from users where id = $1',
    [user.id],
  )
  const hidden = [secret, fromBase32(secret).toString('hex'), recoveryCodes[0].replaceAll('-', '')]
  for (const each of hidden) assert.equal(row!.text.includes(each), false)
})

test('a user who has a factor logs in by two steps, or by one request', async () => {
  const user = await makeProtected()
  const { email, secret } = user
  const half = await logIn({ email, password })
  assert.equal(half.status, 202)
  assert.deepEqual(Object.keys(half.details), ['user', 'token', 'validUntil'])
  const left = (Date.parse(half.details.validUntil) - Date.now()) / 1000
  assert.ok(left > 240 && left < 310, `${left} s`)
  const { token } = half.details
  for (const [path, body] of [
    ['/users/passwords', { token, password: 'another and longer' }],
    ['/users/verifications', { token }],
  ] as const) {
    const refused = await app.request('POST', path, { body })
    assert.deepEqual(brief(refused), { status: 401, code: 'token_invalid' })
  }
  assert.equal((await app.request('GET', '/users/auth', { key: token })).status, 401)

  const wrong = await logIn({ token, code: '12345' })
  assert.deepEqual(brief(wrong), { status: 401, code: 'invalid_credentials' })
  await forgetSteps(user)
  const code = await showCode(secret)
  const whole = await logIn({ token, code: ` ${code.slice(0, 3)} ${code.slice(3)}` })
  assert.equal(whole.status, 201)
  assert.deepEqual(Object.keys(whole.details), ['user', 'key', 'keyId', 'validUntil'])
  assert.equal(await factorsOf(whole.details.key), '2')
  const used = await logIn({ token, code: await showCode(secret, 1) })
  assert.deepEqual(brief(used), { status: 401, code: 'token_invalid' })

  const atOnce = await logIn({ email, password, code: await showCode(secret, 1) })
  assert.equal(atOnce.status, 201)
  assert.equal(await factorsOf(atOnce.details.key), '2')
  const badPassword = await logIn({ email, password: 'wrong', code: await showCode(secret, 2) })
  assert.deepEqual(brief(badPassword), { status: 401, code: 'invalid_credentials' })
  const unprotected = await app.user()
  const ignored = await logIn({ email: unprotected.email, password, code: '000000' })
  assert.equal(ignored.status, 201)
})

test('the body of a log-in is a password, a token and a code, or is refused', async () => {
  const faultsOf = ({ body }: Answer) => body.errors.map(({ field }: { field: string }) => field)
  assert.deepEqual(faultsOf(await logIn({})), ['email', 'password'])
  assert.deepEqual(faultsOf(await logIn({ token: 'x' })), ['code'])
  const { email } = await makeUser()
  const both = { email, password, token: 'x', code: '000000' }
  assert.deepEqual(faultsOf(await logIn(both)), ['email', 'password'])
  const withNulls = { email, password, token: null, code: null }
  assert.equal((await app.request('POST', sessions, { body: withNulls })).status, 201)
  for (const token of ['', 'x', `ust_${'0'.repeat(43)}2CZclj`]) {
    const refused = await logIn({ token, code: '000000' })
    assert.deepEqual(brief(refused), { status: 401, code: 'token_invalid' })
  }
})

test('what disables a user, or changes the password, ends a log-in under way', async () => {
  const user = await makeProtected()
  const change = (body: object) =>
    app.request('PATCH', `/users/${user.id}`, { key: admin.key, body })
  const tokens = [await passFirstStep(user), await passFirstStep(user)]
  const finish = async (token: string) => {
    await forgetSteps(user)
    return brief(await logIn({ token, code: await showCode(user.secret) }))
  }
  await change({ enabled: false })
  assert.deepEqual(await finish(tokens[0]!), { status: 401, code: 'token_invalid' })
  await change({ enabled: true })
  await change({ password })
  assert.deepEqual(await finish(tokens[0]!), { status: 401, code: 'token_invalid' })
  const late = await passFirstStep(user)
  await app.db.query(`update tokens set valid_until = now() where user_id = $1`, [user.id])
  assert.deepEqual(await finish(late), { status: 401, code: 'token_invalid' })
})

test('a code, or an older one, is never accepted twice, by the clock of the database', async () => {
  const user = await makeProtected()
  const attempt = async (steps: number) => {
    const token = await passFirstStep(user)
    return (await logIn({ token, code: await showCode(user.secret, steps) })).status
  }
  assert.equal(await attempt(0), 401, 'the one that confirmed')
  await forgetSteps(user)
  assert.equal(await attempt(2), 401)
  assert.equal(await attempt(-2), 401)
  // The service's own clock is of no account.
  mock.timers.enable({ apis: ['Date'], now: Date.now() + 86_400_000 })
  try {
    assert.equal(await attempt(-1), 201)
    assert.equal(await attempt(-1), 401)
    assert.equal(await attempt(0), 201)
    assert.equal(await attempt(1), 201)
    assert.equal(await attempt(0), 401)
  } finally {
    mock.timers.reset()
  }
})

test('a recovery code opens once, however it is typed', async () => {
  const user = await makeProtected()
  const [one, two] = user.recoveryCodes as [string, string]
  const attempt = async (code: string) =>
    (await logIn({ token: await passFirstStep(user), code })).status
  assert.equal(await attempt(one.toLowerCase().replaceAll('-', ' ')), 201)
  assert.equal(await attempt(one), 401)
  assert.equal(await attempt(two.replaceAll('-', '')), 201)
  const { details } = await app.request('GET', user.path, { key: user.session })
  assert.equal(details.recoveryCodesLeft, 8)
  const used = (await actionsOf(user)).filter((action) => action === 'factor.recovery_used')
  assert.equal(used.length, 2)

  const renew = (key: string) => app.request('POST', `${user.path}/recovery-codes`, { key })
  const show = () => app.request('GET', `/users/${user.id}`, { key: admin.key })
  const before = await show()
  const renewed = await renew(user.session)
  const after = await show()
  assert.deepEqual(after.details, before.details)
  assert.equal(after.headers.get('etag'), before.headers.get('etag'))
  assert.equal(renewed.details.recoveryCodes.length, 10)
  assert.equal(await attempt(user.recoveryCodes[2]!), 401)
  assert.equal(await attempt(renewed.details.recoveryCodes[9]), 201)
  assert.equal((await actionsOf(user)).includes('factor.codes_renewed'), true)
  const weak = await renew(user.key)
  assert.deepEqual(brief(weak), { status: 401, code: 'authentication_needed' })
  assert.equal(weak.headers.get('www-authenticate'), needsTwo)
  const none = await renewOf(await makeUser())
  assert.deepEqual(brief(none), { status: 404, code: 'factor_not_found' })
  assert.equal((await renew(admin.key)).body.code, 'forbidden')
})

const renewOf = ({ id, session }: { id: string; session: string }) =>
  app.request('POST', `/users/${id}/factor/recovery-codes`, { key: session })

test('of eight at once with one token, code or recovery code, one gets in', async () => {
  const rounds = Number(process.env['FACTOR_ROUNDS'] ?? 4)
  const user = await makeProtected()
  const guesses = 'delete from login_failures'
  const count = (answers: Answer[]) => answers.filter(({ status }) => status === 201).length
  // As after so many right passwords, without the hashes.
  const makeToken = async () => (await insertToken(app.db, firstStep)).token
  const firstStep = { userId: user.id, purpose: 'log-in', email: null, seconds: 300 } as const
  for (let round = 0; round < rounds; round++) {
    await forgetSteps(user)
    const tokens = await Promise.all(Array.from({ length: 8 }, makeToken))
    const code = await showCode(user.secret)
    const byCode = await Promise.all(
      tokens.map((token, index) => logIn({ token, code }, `192.0.2.${index}`)),
    )
    assert.equal(count(byCode), 1, 'one code')
    await app.db.query(guesses)

    const renewed = await renewOf(user)
    const [recovery, ...others] = renewed.details.recoveryCodes as string[]
    const left = await Promise.all(Array.from({ length: 8 }, makeToken))
    const byRecovery = await Promise.all(
      left.map((token, index) => logIn({ token, code: recovery! }, `192.0.2.${index}`)),
    )
    assert.equal(count(byRecovery), 1, 'one recovery code')
    await app.db.query(guesses)

    const token = await makeToken()
    const byToken = await Promise.all(
      others.slice(0, 8).map((each, index) => logIn({ token, code: each }, `192.0.2.${index}`)),
    )
    assert.equal(count(byToken), 1, 'one token')
    const { details } = await app.request('GET', user.path, { key: user.session })
    assert.equal(details.recoveryCodesLeft, 8, 'what lost a race uses no code up')
  }
})

test('of forty wrong codes at once five are tried', async () => {
  const user = await makeProtected()
  const token = await passFirstStep(user)
  const answers = await Promise.all(
    Array.from({ length: 40 }, () => logIn({ token, code: '000000' })),
  )
  const tried = answers.filter(({ status }) => status === 401)
  assert.equal(tried.length, 5)
  const rest = answers.filter(({ status }) => status !== 401)
  assert.ok(rest.every(({ status }) => status === 429))
})

test('of a factor that was removed nothing counts for the next', async () => {
  const user = await makeProtected()
  assert.equal((await app.request('DELETE', user.path, { key: user.session })).status, 204)
  const { details } = await logIn({ email: user.email, password })
  const key = details.key as string
  const { secret } = (await app.request('POST', user.path, { key })).details
  const confirm = (code: string) =>
    app.request('POST', `${user.path}/confirm`, { key, body: { code } })
  assert.equal((await confirm(user.recoveryCodes[0]!)).status, 401)
  // The steps of the one before are not those of this one.
  assert.equal((await confirm(await showCode(secret))).status, 200)
})

test('a log-in under way while its factor is removed leaves no session', async () => {
  const user = await makeProtected()
  await forgetSteps(user)
  const token = await passFirstStep(user)
  const code = await showCode(user.secret)
  const [removed, late] = await collide(app.db, {
    lock: `select from users where id = '${user.id}' for update`,
    requests: [
      () => app.request('DELETE', user.path, { key: user.session }),
      () => logIn({ token, code }),
    ],
    inTurn: true,
  })
  assert.equal(removed!.status, 204)
  assert.deepEqual(brief(late!), { status: 401, code: 'token_invalid' })
  assert.deepEqual(await sessionsOf(user), [])
})

test('wrong codes are counted, and no right or new password clears them', async () => {
  const user = await makeProtected()
  const token = await passFirstStep(user)
  for (let count = 0; count < 5; count++) {
    const wrong = await logIn({ token, code: 'no' })
    assert.deepEqual(brief(wrong), { status: 401, code: 'invalid_credentials' })
  }
  const failed = await app.db.query(
    `select actor from audit_events where subject = $1 and action = 'session.failed'`,
    [user.id],
  )
  // Nobody's: who guesses a code is not known to be its owner.
  assert.deepEqual(failed, Array(5).fill({ actor: null }))
  // A wait of a second may be over by the time the next code comes.
  await app.db.query(`update login_failures set wait_until = now() + interval '1 minute'
    where wait_until > now() - interval '1 minute'`)
  const reset = await app.request('POST', `/users/${user.id}/tokens`, {
    key: admin.key,
    body: { purpose: 'password-reset' },
  })
  const chosen = { token: reset.details.token, password: `${password}!` }
  assert.equal((await app.request('POST', '/users/passwords', { body: chosen })).status, 204)
  await forgetSteps(user)
  const next = await logIn({ email: user.email, password: chosen.password })
  const code = await showCode(user.secret)
  const throttled = await logIn({ token: next.details.token, code })
  assert.deepEqual(brief(throttled), { status: 429, code: 'login_throttled' })
  assert.ok(Number(throttled.headers.get('retry-after')) > 0)
  const elsewhere = await logIn({ token: next.details.token, code }, '198.51.100.1')
  assert.equal(elsewhere.status, 201)
  // That was another client's: the first one's are counted still.
  const again = await logIn({ email: user.email, password: chosen.password, code })
  assert.deepEqual(brief(again), { status: 429, code: 'login_throttled' })
  await app.db.query(`update login_failures set wait_until = now()`)
  const byRecovery = await logIn({
    token: await tokenOf(user.email, chosen.password),
    code: user.recoveryCodes[0]!,
  })
  assert.equal(byRecovery.status, 201)
  const wrong = await logIn({ token: await tokenOf(user.email, chosen.password), code: 'no' })
  assert.equal(wrong.status, 401)
  const after = await logIn({ token: await tokenOf(user.email, chosen.password), code: 'no' })
  assert.equal(after.status, 401, 'the right code has cleared them')
})

const tokenOf = async (email: string, given: string): Promise<string> =>
  (await logIn({ email, password: given })).details.token

test('an API key sets up no factor; a stale session must log in again', async () => {
  const user = await makeUser()
  const path = `/users/${user.id}/factor`
  const { key: strong } = await insertKey(app.db, {
    userId: user.id,
    kind: 'api',
    name: 'strong',
    factors: 2,
  })
  for (const key of [user.key, strong, admin.key]) {
    const begun = await app.request('POST', path, { key })
    assert.deepEqual(brief(begun), { status: 403, code: 'forbidden' })
    const confirmed = await app.request('POST', `${path}/confirm`, { key, body: { code: '1' } })
    assert.deepEqual(brief(confirmed), { status: 403, code: 'forbidden' })
    if (key === admin.key) continue
    const removed = await app.request('DELETE', path, { key })
    assert.deepEqual(brief(removed), { status: 403, code: 'forbidden' })
  }
  await app.db.query(
    `update api_keys set authenticated_at = now() - interval '1 hour' where user_id = $1`,
    [user.id],
  )
  const stale = await app.request('POST', path, { key: user.session })
  assert.deepEqual(brief(stale), { status: 401, code: 'authentication_needed' })
})

test('a factor is removed by its user with two factors, or by such an admin', async () => {
  const weak = await makeProtected()
  const remove = (path: string, key: string) => app.request('DELETE', path, { key })
  const refused = await remove(weak.path, admin.key)
  assert.deepEqual(brief(refused), { status: 401, code: 'authentication_needed' })
  assert.equal(refused.headers.get('www-authenticate'), needsTwo)
  const narrow = await insertKey(app.db, {
    userId: admin.id,
    kind: 'api',
    name: 'narrow',
    factors: 2,
    permissions: [],
  })
  assert.equal((await remove(weak.path, narrow.key)).body.code, 'forbidden')
  assert.equal((await remove(weak.path, (await app.user()).key)).body.code, 'forbidden')
  assert.equal((await remove(weak.path, weak.key)).body.code, 'authentication_needed')
  assert.equal((await logIn({ email: weak.email, password })).status, 202)

  const strong = await insertKey(app.db, {
    userId: admin.id,
    kind: 'api',
    name: 'strong',
    factors: 2,
  })
  assert.equal((await remove(weak.path, strong.key)).status, 204)
  assert.equal(await factorsOf(weak.session), null)
  assert.equal((await logIn({ email: weak.email, password })).status, 201)
  const gone = await remove(weak.path, strong.key)
  assert.deepEqual(brief(gone), { status: 404, code: 'factor_not_found' })

  const own = await makeProtected()
  assert.equal((await remove(own.path, own.session)).status, 204)
  assert.deepEqual(await sessionsOf(own), [])
  assert.equal((await actionsOf(own)).at(-1), 'factor.removed')
  const shown = await app.request('GET', `/users/${own.id}`, { key: own.key })
  assert.deepEqual([shown.details.secondFactor, shown.details.version], [false, 3])

  const unconfirmed = await makeUser()
  const path = `/users/${unconfirmed.id}/factor`
  await app.request('POST', path, { key: unconfirmed.session })
  assert.equal((await remove(path, unconfirmed.session)).status, 204)
  assert.deepEqual(await sessionsOf(unconfirmed), [])
})

test('of a user who has a factor, a key of one factor changes nothing sensitive', async () => {
  const user = await makeProtected()
  const self = `/users/${user.id}`
  const attempts = [
    ['POST', `${self}/keys`, { name: 'more' }],
    ['POST', `${self}/keys/${user.keyId}/rotate`, undefined],
    ['PATCH', self, { email: `other-${user.email}` }],
    ['PATCH', self, { password: `${password}!`, currentPassword: password }],
    ['DELETE', self, undefined],
    ['POST', user.path, undefined],
    ['DELETE', user.path, undefined],
  ] as const
  for (const [method, path, body] of attempts) {
    const refused = await app.request(method, path, { key: user.key, ...(body && { body }) })
    assert.deepEqual(brief(refused), { status: 401, code: 'authentication_needed' }, path)
    assert.equal(refused.headers.get('www-authenticate'), needsTwo)
  }
  const made = await app.request('POST', `${self}/keys`, {
    key: user.session,
    body: { name: 'more' },
  })
  assert.equal(made.details.factors, 2)
  const rotated = await app.request('POST', `${self}/keys/${made.details.id}/rotate`, {
    key: made.details.key,
  })
  assert.deepEqual([rotated.status, rotated.details.factors], [201, 2])
})

test('REQUIRE_FACTOR leaves keys of one factor the way to a second one', async () => {
  const strict = await startTestApp({ REQUIRE_FACTOR: 'admins' }, app.database)
  const all = await startTestApp({ REQUIRE_FACTOR: 'all' }, app.database)
  const user = await makeUser()
  const boss = await app.admin()
  const { details } = await logIn({ email: boss.email, password })
  const session = details.key as string
  const narrow = await insertKey(app.db, {
    userId: boss.id,
    kind: 'api',
    name: 'narrow',
    permissions: [],
  })
  const ask = async (on: TestApp, key: string, path: string) =>
    (await on.request('GET', path, { key })).status
  assert.deepEqual(
    [
      await ask(strict, user.key, '/users/auth'),
      await ask(all, user.key, '/users/auth'),
      await ask(strict, boss.key, '/users/auth'),
      await ask(strict, narrow.key, '/users/auth'),
      await ask(strict, boss.key, '/users'),
      await ask(strict, boss.key, '/metrics'),
      await ask(strict, session, `/users/${boss.id}/keys`),
      await ask(strict, session, `/users/${user.id}`),
      await ask(strict, session, `/users/${user.id}/factor`),
    ],
    [200, 401, 401, 401, 401, 401, 401, 401, 401],
  )
  const refused = await strict.request('GET', '/users/auth', { key: boss.key })
  assert.deepEqual(brief(refused), { status: 401, code: 'authentication_needed' })
  assert.equal(refused.headers.get('www-authenticate'), needsTwo)
  assert.equal(await ask(strict, session, `/users/${boss.id}`), 200)
  assert.equal(await ask(strict, session, '/users/me'), 200)

  const path = `/users/${boss.id}/factor`
  const begun = await strict.request('POST', path, { key: session })
  const code = await showCode(begun.details.secret)
  const confirmed = await strict.request('POST', `${path}/confirm`, {
    key: session,
    body: { code },
  })
  assert.equal(confirmed.status, 200)
  assert.equal(await ask(strict, session, '/users'), 200)
  assert.equal((await all.request('DELETE', sessions, { key: user.session })).status, 204)
})

/** Runs a statement as an instance of version 1.0 would. */
const insertOldSession = (userId: string) =>
  app.db.query(
    `insert into api_keys (user_id, kind, name, digest, valid_until)
     values ($1, 'session', 'session', $2, now() + interval '1 hour')`,
    [userId, randomBytes(32)],
  )

test('the database refuses a session of one factor, whoever writes it', async () => {
  const user = await makeProtected()
  const refusal = { constraint: 'api_keys_second_factor' }
  await assert.rejects(insertOldSession(user.id), refusal)
  await assert.rejects(
    app.db.query(`update api_keys set factors = 1 where user_id = $1 and kind = 'session'`, [
      user.id,
    ]),
    refusal,
  )
  await assert.rejects(
    app.db.query(`update api_keys set kind = 'session' where user_id = $1 and kind = 'api'`, [
      user.id,
    ]),
    refusal,
  )
  const { session } = await makeUser()
  await assert.rejects(
    app.db.query('update api_keys set user_id = $1 where digest = $2', [
      user.id,
      digestKey(session),
    ]),
    refusal,
  )
  assert.deepEqual(await sessionsOf(user), [{ factors: 2 }])
})

test('a log-in under way while a factor is confirmed leaves no session of one factor', async () => {
  const rounds = Number(process.env['FACTOR_ROUNDS'] ?? 4)
  for (let round = 0; round < rounds; round++) {
    const user = await makeUser()
    const path = `/users/${user.id}/factor`
    const { details } = await app.request('POST', path, { key: user.session })
    const body = { code: await showCode(details.secret) }
    const [confirmed, ...others] = await Promise.all([
      app.request('POST', `${path}/confirm`, { key: user.session, body }),
      ...Array.from({ length: 4 }, () => logIn({ email: user.email, password })),
      insertOldSession(user.id).catch(() => null),
      insertOldSession(user.id).catch(() => null),
    ])
    assert.equal(confirmed.status, 200)
    assert.equal(
      others.some((answer) => (answer as Answer)?.status === 500),
      false,
    )
    assert.deepEqual(await sessionsOf(user), [{ factors: 2 }])
  }
})

test('without the key file there are no factors, and no session passes one by', async () => {
  const user = await makeProtected()
  await app.db.query('update users set factor_confirmed_at = null where id <> $1', [user.id])
  const refused = startTestApp({ SECRETS_KEY_FILE: '' }, app.database)
  await assert.rejects(refused, /^Error: Users have second factors: set SECRETS_KEY_FILE/)

  // One that was started before there was any.
  await app.db.query('update users set factor_confirmed_at = null')
  const without = await startTestApp({ SECRETS_KEY_FILE: '' }, app.database)
  await app.db.query('update users set factor_confirmed_at = now() where id = $1', [user.id])
  const path = `/users/${user.id}/factor`
  for (const [method, url] of [
    ['GET', path],
    ['POST', path],
    ['DELETE', path],
    ['POST', `${path}/confirm`],
    ['POST', `${path}/recovery-codes`],
  ] as const) {
    const answer = await fetch(without.base + url, { method, headers: { 'x-api-key': user.key } })
    assert.equal(answer.status, 404)
  }
  const token = await passFirstStep(user)
  const document = await (await fetch(`${without.base}/openapi.json`)).text()
  assert.doesNotMatch(document, /factor\/confirm|FirstStep/)
  const single = await logIn({ email: user.email, password }, undefined, without)
  assert.deepEqual(brief(single), { status: 401, code: 'authentication_needed' })
  const other = await app.user()
  const ignored = await logIn({ email: other.email, password, code: '1' }, undefined, without)
  assert.equal(ignored.status, 201)
  const byCode = await fetch(without.base + sessions, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ token, code: user.recoveryCodes[0] }),
  })
  assert.equal(byCode.status, 400)
  assert.deepEqual(await sessionsOf(user), [{ factors: 2 }])
})

test('with the key file of another installation, recovery codes alone log in', async () => {
  const user = await makeProtected()
  const foreign = await startTestApp({ SECRETS_KEY_FILE: makeKeyFile() }, app.database)
  const line = await until('a line of the log', () =>
    foreign.log.find((each) => each.includes('does not open')),
  )
  assert.equal(JSON.parse(line!).level, 'error')
  await forgetSteps(user)
  for (let count = 0; count < 6; count++) {
    const body = { email: user.email, password, code: await showCode(user.secret) }
    const refused = await logIn(body, undefined, foreign)
    assert.deepEqual(brief(refused), { status: 401, code: 'invalid_credentials' })
  }
  const [code] = user.recoveryCodes as [string]
  const recovered = await logIn({ email: user.email, password, code }, undefined, foreign)
  assert.equal(recovered.status, 201)

  // A secret that was copied to another row is another's.
  const thief = await makeProtected()
  await app.db.query(
    `update users set factor_step = 0,
       factor_secret = (select factor_secret from users where id = $1)
     where id = $2`,
    [thief.id, user.id],
  )
  const moved = await logIn({
    email: user.email,
    password,
    code: await showCode(thief.secret),
  })
  assert.deepEqual(brief(moved), { status: 401, code: 'invalid_credentials' })
})

test('a key file that cannot be used is refused in one line', async () => {
  const database = await createTestDatabase()
  const file = makeKeyFile()
  const start = (text: string, mode = 0o600) => {
    writeFileSync(file, text)
    chmodSync(file, mode)
    return startTestApp({ SECRETS_KEY_FILE: file }, database)
  }
  const line = `${createKeyLine()}\n`
  const refusal = (why: string) =>
    new RegExp(`^Error: Configuration: SECRETS_KEY_FILE is a file ${why}[^;\\n]*$`)
  for (const [text, why] of [
    ['', 'whose line 1 is none of'],
    [line.slice(0, 20), 'whose line 1 is none of'],
    ['A'.repeat(44), 'whose line 1 is none of'],
    [`${line}x\n`, 'whose line 2 is none of'],
    [line.repeat(6), 'of more than five lines'],
  ] as const)
    await assert.rejects(start(text), refusal(why), JSON.stringify(text))
  const shared = refusal('that others may read: chmod 600')
  for (const mode of [0o640, 0o604, 0o620]) await assert.rejects(start(line, mode), shared)
  for (const [path, code] of [
    [`${file}-none`, 'ENOENT'],
    [dirname(file), 'EISDIR'],
  ] as const) {
    // What needs the file is not told of besides.
    await assert.rejects(
      startTestApp({ SECRETS_KEY_FILE: path, REQUIRE_FACTOR: 'all' }, database),
      refusal(`that this account cannot read \\(${code}\\)`),
    )
  }
  await assert.rejects(
    startTestApp({ SECRETS_KEY_FILE: '', REQUIRE_FACTOR: 'all' }, database),
    /^Error: Configuration: REQUIRE_FACTOR needs SECRETS_KEY_FILE$/,
  )
  // As containers mount secrets: what counts is the file that a link leads to.
  const link = `${file}-link`
  symlinkSync(file, link)
  await assert.rejects(startTestApp({ SECRETS_KEY_FILE: link }, database), shared)
  const app = await start(line.repeat(2))
  await app.stop()
  const linked = await startTestApp({ SECRETS_KEY_FILE: link }, database)
  await linked.stop()
})

test('secrets are resealed under a new key, after which the old one may go', async () => {
  const own = await startTestApp({ SECRETS_KEY_FILE: keyFile })
  const user = await makeProtected(own)
  const newLine = createKeyLine()
  const run = (args: string[], lines: string[]) =>
    runCommand('secrets', args, { ...own.database.env, SECRETS_KEY_FILE: makeKeyFile(lines) })
  const both = [newLine, keyLine]
  const before = await run(['status'], both)
  assert.deepEqual(before, { status: 0, stdout: 'line 1 opens 0\nline 2 opens 1\n', stderr: '' })
  const after = await run(['reseal'], both)
  assert.equal(after.stdout, 'line 1 opens 1\nline 2 opens 0\n')
  const alone = await run(['status'], [newLine])
  assert.deepEqual(alone, { status: 0, stdout: 'line 1 opens 1\n', stderr: '' })
  const lost = await run(['status'], [keyLine])
  assert.deepEqual(
    [lost.status, lost.stderr],
    [1, 'secrets: 1 secrets open with no line: see bin/README.md, The key file\n'],
  )
  const generated = await runCommand('secrets', ['generate'], {})
  assert.match(generated.stdout, /^[A-Za-z0-9+/]{43}=\n$/)
  const unset = await runCommand('secrets', ['status'], own.database.env)
  assert.deepEqual(unset, {
    status: 2,
    stdout: '',
    stderr: 'secrets: SECRETS_KEY_FILE must be set\nSee --help.\n',
  })

  const rotated = await startTestApp({ SECRETS_KEY_FILE: makeKeyFile([newLine]) }, own.database)
  await own.db.query('update users set factor_step = 0')
  const code = await showCode(user.secret)
  const whole = await logIn({ email: user.email, password, code }, undefined, rotated)
  assert.equal(whole.status, 201)

  const remove = (email: string) => runCommand('admin', ['remove-factor', email], own.database.env)
  assert.equal((await remove(user.email)).status, 0)
  assert.equal((await actionsOf(user, own)).at(-1), 'factor.removed')
  assert.equal((await logIn({ email: user.email, password }, undefined, own)).status, 201)
  const again = await remove(user.email)
  assert.deepEqual([again.status, again.stderr], [1, 'admin: No such factor\n'])
  const unknown = await remove('nobody@example.org')
  assert.equal(unknown.stderr, 'admin: There is no user of that address\n')
})

test('a secret that does not open keeps no other from being resealed; none is lost', async () => {
  const own = await startTestApp({ SECRETS_KEY_FILE: keyFile })
  const user = await makeProtected(own)
  const stranger = await makeUser(own)
  await own.db.query(`update users set factor_secret = 'of nobody' where id = $1`, [stranger.id])
  const file = makeKeyFile([])
  const run = (lines: string[]) => {
    writeFileSync(file, lines.join('\n'))
    return runCommand('secrets', ['reseal'], { ...own.database.env, SECRETS_KEY_FILE: file })
  }
  const newLine = createKeyLine()
  assert.deepEqual(await run([newLine, keyLine]), {
    status: 1,
    stdout: 'line 1 opens 1\nline 2 opens 0\n',
    stderr: 'secrets: 1 secrets open with no line: see bin/README.md, The key file\n',
  })
  // What a user sets up while the command runs is not replaced by what was there before.
  await collide(own.database.db, {
    lock: `update users set factor_secret = 'new' where id = '${user.id}'`,
    requests: [() => run([createKeyLine(), newLine])],
  })
  const secrets = await own.db.query<{ secret: string }>(
    `select convert_from(factor_secret, 'UTF8') as secret from users
     where factor_secret is not null order by secret`,
  )
  assert.deepEqual(secrets, [{ secret: 'new' }, { secret: 'of nobody' }])
})
