// Signed identity: what a token says and for how long, whose it may be, and the ring of keys that
// all instances sign with, through a year of rotations.
import assert from 'node:assert/strict'
import { createPublicKey, randomInt, verify, type JsonWebKey } from 'node:crypto'
import { mock, test } from 'node:test'

import type { Caller } from '../src/http/route.ts'
import { insertKey } from '../src/keys/queries.ts'
import { createLog } from '../src/log.ts'
import { createKeyLine } from '../src/secrets/keys.ts'
import { createRing } from '../src/signing/ring.ts'
import { openSigner } from '../src/signing/sign.ts'
import {
  brief,
  createTestDatabase,
  hashCheaply,
  later,
  makeKeyFile,
  password,
  signing,
  startTestApp,
  type TestApp,
} from './support/helpers.ts'
import { runCommand } from './support/process.ts'

hashCheaply()
const keyLine = createKeyLine()
const keys = [Buffer.from(keyLine, 'base64')]
const env = { ...signing, SECRETS_KEY_FILE: makeKeyFile([keyLine]) }
const app = await startTestApp(env)

const year = await createTestDatabase()
const manager = await startTestApp(env, year)

const told: string[] = []
const deps = { db: manager.db, keys, log: createLog('warn', (text) => told.push(text)) }
const place = { basePath: '/v1', sessionIdleSeconds: 0 }

type Jwk = JsonWebKey & { kid: string }

async function readKeys(on = app): Promise<Jwk[]> {
  const { status, text } = await on.request('GET', '/jwks.json')
  assert.equal(status, 200, text)
  return JSON.parse(text).keys
}

const decode = (part: string) => JSON.parse(Buffer.from(part, 'base64url').toString())
const kidOf = (token: string): string => decode(token.split('.')[0]!).kid

/** The claims of a token; fails unless one of the keys verifies it. */
function readToken(token: string, known: Jwk[]) {
  const [header = '', claims = '', signature = ''] = token.split('.')
  const jwk = known.find(({ kid }) => kid === decode(header).kid)
  assert.ok(jwk, 'the key is not published')
  const key = createPublicKey({ key: jwk, format: 'jwk' })
  const isRight = verify(
    'sha256',
    Buffer.from(`${header}.${claims}`),
    { key, dsaEncoding: 'ieee-p1363' },
    Buffer.from(signature, 'base64url'),
  )
  assert.equal(isRight, true)
  return decode(claims)
}

const askForToken = (key: string, body: object = { audience: 'orders' }, on = app) =>
  on.request('POST', '/users/jwt', { key, body })

/** Asks as a gateway does; the token is that of the header. */
async function askAsGateway(key: string, query = '?token-audience=orders', on = app) {
  const { status, body, headers } = await on.request('GET', `/users/auth${query}`, { key })
  return { ...brief({ status, body }), token: headers.get('x-auth-token') }
}

async function readClock() {
  const [row] = await app.db.query<{ now: number }>(
    'select extract(epoch from clock_timestamp())::float8 as now',
  )
  return row!.now
}

test('a token says who calls, and verifies by what is published', async () => {
  const user = await app.user({ permissions: ['orders:read', 'orders:write'] })
  const { status, details } = await askForToken(user.key)
  assert.equal(status, 201)
  assert.deepEqual(Object.keys(details), ['token', 'validUntil'])
  assert.deepEqual(decode(details.token.split('.')[0]), {
    alg: 'ES256',
    typ: 'JWT',
    kid: kidOf(details.token),
  })
  const { jti, iat, exp, ...claims } = readToken(details.token, await readKeys())
  assert.deepEqual(claims, {
    iss: 'https://users.example.org/v1',
    aud: 'orders',
    sub: user.id,
    email: user.email,
    email_verified: false,
    role: 'user',
    permissions: ['orders:read', 'orders:write'],
    key_id: user.keyId,
    amr: ['key'],
  })
  assert.match(jti, /^[0-9a-f-]{36}$/)
  assert.equal(exp - iat, 300)
  assert.equal(Date.parse(details.validUntil), exp * 1000)
  const short = await askForToken(user.key, { audience: 'billing', seconds: 30 })
  const other = readToken(short.details.token, await readKeys())
  assert.deepEqual([other.aud, other.exp - other.iat], ['billing', 30])
  assert.notEqual(other.jti, jti)
})

test('a token of a session says when and how its user logged in', async () => {
  const { id, email } = await app.user()
  const { details } = await app.request('POST', '/users/sessions', { body: { email, password } })
  const claimsOf = async () =>
    readToken((await askForToken(details.key)).details.token, await readKeys())
  const first = await claimsOf()
  assert.deepEqual(first.amr, ['pwd'])
  assert.ok(first.iat - first.auth_time <= 2)
  // Whenever within a second a token is signed.
  for (const fraction of ['0.05', '0.55', '0.95']) {
    await app.db.query(
      `update api_keys set authenticated_at = date_trunc('second', now()) - interval '${fraction} s'
       where user_id = $1`,
      [id],
    )
    const { auth_time: at, iat } = await claimsOf()
    const [row] = await app.db.query<{ at: number }>(
      `select floor(extract(epoch from authenticated_at))::float8 as at from api_keys
       where user_id = $1 and kind = 'session'`,
      [id],
    )
    assert.deepEqual([at, at <= iat], [row!.at, true])
  }
  await app.db.query(
    `update api_keys set factors = 2, authenticated_at = now() - interval '1 hour'
     where user_id = $1`,
    [id],
  )
  const second = await claimsOf()
  assert.deepEqual(second.amr, ['pwd', 'otp'])
  assert.ok(Math.abs(second.iat - second.auth_time - 3600) <= 2)
  await app.db.query(
    `update api_keys set authenticated_at = now() + interval '1 hour' where user_id = $1`,
    [id],
  )
  assert.equal('auth_time' in (await claimsOf()), false)
})

test('a token of a narrow key holds what the key may, and no token outlives its key', async () => {
  const user = await app.user({ role: 'admin', permissions: ['a', 'b'] })
  const narrow = await insertKey(app.db, {
    userId: user.id,
    kind: 'api',
    name: 'narrow',
    permissions: ['b', 'c'],
    seconds: 40,
  })
  const { details } = await askForToken(narrow.key)
  const claims = readToken(details.token, await readKeys())
  assert.deepEqual([claims.role, claims.permissions], ['user', ['b']])
  const end = Date.parse(narrow.validUntil!) / 1000
  assert.equal(claims.exp, Math.floor(end))
  const { token } = await askAsGateway(narrow.key)
  assert.equal(readToken(token!, await readKeys()).exp, Math.floor(end))
})

test('a token of a session ends before the session does if it is not used', async () => {
  const other = await startTestApp({ ...env, SESSION_IDLE_SECONDS: '120' }, app.database)
  const { email, key } = await app.user()
  const { details } = await app.request('POST', '/users/sessions', { body: { email, password } })
  const known = await readKeys()
  const secondsOf = async (ofKey: string) => {
    const { token } = (await askForToken(ofKey, undefined, other)).details
    const signed = [token, (await askAsGateway(ofKey, undefined, other)).token!]
    return signed.map((each) => readToken(each, known)).map(({ iat, exp }) => exp - iat)
  }
  assert.deepEqual(await secondsOf(details.key), [120, 120])
  assert.deepEqual(await secondsOf(key), [300, 300])
})

test('no token is for another audience, for longer, or for a key of a narrower scope', async () => {
  const { id, key } = await app.user()
  const forbidden = { status: 403, code: 'forbidden' }
  for (const audience of ['order', 'Orders', 'orders,billing', 'toString']) {
    assert.deepEqual(brief(await askForToken(key, { audience })), forbidden, audience)
    assert.deepEqual(await askAsGateway(key, `?token-audience=${audience}`), {
      ...forbidden,
      token: null,
    })
  }
  assert.equal((await askAsGateway(key, '?token-audience=')).status, 403)
  for (const seconds of [29, 301, 60.5, '60', -1]) {
    const refused = await askForToken(key, { audience: 'orders', seconds })
    assert.deepEqual(brief(refused), { status: 400, code: 'invalid_body' })
  }
  for (const scope of ['read', 'auth', 'metrics'] as const) {
    const made = await insertKey(app.db, { userId: id, kind: 'api', name: scope, scope })
    assert.deepEqual(brief(await askForToken(made.key)), forbidden, scope)
  }
})

test('an issuer that leads elsewhere than here is warned of', async () => {
  for (const [issuer, count] of [
    ['https://a/accounts/v1', 0],
    ['https://a', 1],
  ] as const) {
    told.length = 0
    await openSigner({ ...deps, ...place, issuer, audiences: ['orders'] })
    const warnings = told.filter((line) => line.includes('TOKEN_ISSUER does not end in /v1'))
    assert.equal(warnings.length, count)
  }
})

test('a token is no key', async () => {
  const { key } = await app.user()
  const { token } = (await askForToken(key)).details
  const invalid = { status: 401, code: 'key_invalid' }
  assert.deepEqual(brief(await app.request('GET', '/users/auth', { key: token })), invalid)
  const headers = { authorization: `Bearer ${token}` }
  assert.deepEqual(brief(await app.request('GET', '/users/me', { headers })), invalid)
})

test('a gateway gets a token for the first audience that is named, else an empty one', async () => {
  const { id, key } = await app.user()
  assert.deepEqual(await askAsGateway(key, ''), { status: 200, token: '' })
  assert.deepEqual(await askAsGateway(key, '?require-role=user'), { status: 200, token: '' })
  const { token } = await askAsGateway(key, '?token-audience=orders&token-audience=billing')
  assert.deepEqual(
    [readToken(token!, await readKeys()).sub, readToken(token!, await readKeys()).aud],
    [id, 'orders'],
  )
  const refused = await askAsGateway(key, '?require-role=admin&token-audience=orders')
  assert.deepEqual(refused, { status: 403, code: 'forbidden', token: null })
})

test('a gateway gets the same token for a minute, while nothing in it changes', async () => {
  const user = await app.user()
  const { token } = await askAsGateway(user.key)
  assert.equal((await askAsGateway(user.key)).token, token)
  assert.notEqual((await askAsGateway(user.key, '?token-audience=billing')).token, token)
  const second = await insertKey(app.db, { userId: user.id, kind: 'api', name: 'second' })
  assert.notEqual((await askAsGateway(second.key)).token, token)
  // By hand, which counts no version up.
  let last = token
  for (const change of [
    `users set permissions = '{new}'`,
    `users set role = 'admin'`,
    `users set email = 'moved-' || email`,
    'users set email_verified_at = now()',
    'api_keys set factors = 2',
  ]) {
    const id = change.startsWith('users') ? user.id : user.keyId
    await app.db.query(`update ${change} where id = $1`, [id])
    const { token: next } = await askAsGateway(user.key)
    assert.notEqual(next, last, change)
    last = next
  }
  assert.deepEqual(readToken(last!, await readKeys()).permissions, ['new'])
  await app.db.query(
    `update api_keys set valid_until = now() + interval '1 minute' where id = $1`,
    [user.keyId],
  )
  const ending = readToken((await askAsGateway(user.key)).token!, await readKeys())
  assert.ok(ending.exp <= (await readClock()) + 60)
  const other = await startTestApp(env, app.database)
  const first = await askAsGateway(user.key, undefined, other)
  const again = await later(61_000, () => askAsGateway(user.key, undefined, other))
  assert.notEqual(again.token, first.token)
})

test('ten thousand signatures are kept at most', async () => {
  const config = { issuer: 'https://a/v1', audiences: ['orders'], ...place }
  const signer = await openSigner({ ...deps, ...config })
  const caller = (keyId: string) => ({ keyId, permissions: [], endsAt: null }) as unknown as Caller
  const first = await signer.reuseFor(caller('first'), 'orders')
  for (let i = 1; i < 10_000; i++) await signer.reuseFor(caller(String(i)), 'orders')
  assert.equal(await signer.reuseFor(caller('first'), 'orders'), first)
  await signer.reuseFor(caller('last'), 'orders')
  assert.notEqual(await signer.reuseFor(caller('first'), 'orders'), first)
})

test('what is reused is refused with its key', async () => {
  const user = await app.user()
  const { token } = await askAsGateway(user.key)
  assert.ok(token)
  await app.db.query('update api_keys set enabled = false where id = $1', [user.keyId])
  const refused = { status: 401, code: 'key_invalid', token: null }
  assert.deepEqual(await askAsGateway(user.key), refused)
  const disabled = await app.user()
  await askAsGateway(disabled.key)
  await app.db.query('update users set enabled = false where id = $1', [disabled.id])
  assert.deepEqual(await askAsGateway(disabled.key), refused)
})

test('the time in a token is the database’s, whatever the service believes', async () => {
  const { key } = await app.user()
  const { now } = Date
  mock.method(Date, 'now', () => now() + 86_400_000)
  const { details } = await askForToken(key)
  mock.restoreAll()
  const { iat } = readToken(details.token, await readKeys())
  assert.ok(Math.abs(iat - (await readClock())) < 3)
})

test('the keys and where they are can be kept, and hold no secret', async () => {
  for (const path of ['/jwks.json', '/.well-known/openid-configuration']) {
    const { headers, text } = await app.request('GET', path)
    assert.equal(headers.get('cache-control'), 'public, max-age=300')
    const known = { 'if-none-match': headers.get('etag')! }
    assert.equal((await app.request('GET', path, { headers: known })).status, 304)
    assert.equal((await app.request('HEAD', path)).status, 200)
    assert.doesNotMatch(text, /"d":/)
  }
  for (const jwk of await readKeys()) {
    const { x = '', y = '', kid, ...rest } = jwk
    assert.deepEqual(rest, { kty: 'EC', crv: 'P-256', alg: 'ES256', use: 'sig' })
    assert.deepEqual([x.length, y.length, kid.length], [43, 43, 43])
  }
  const { text } = await app.request('GET', '/.well-known/openid-configuration')
  assert.deepEqual(JSON.parse(text), {
    issuer: 'https://users.example.org/v1',
    jwks_uri: 'https://users.example.org/v1/jwks.json',
    id_token_signing_alg_values_supported: ['ES256'],
    response_types_supported: ['none'],
    subject_types_supported: ['public'],
  })
})

test('without its settings nothing is signed, and a gateway gets no header', async () => {
  const off = await startTestApp({ SECRETS_KEY_FILE: env.SECRETS_KEY_FILE }, app.database)
  const { key } = await off.user()
  for (const path of ['/jwks.json', '/.well-known/openid-configuration']) {
    assert.equal((await fetch(off.base + path)).status, 404)
  }
  const post = { method: 'POST', headers: { 'x-api-key': key } }
  assert.equal((await fetch(`${off.base}/users/jwt`, post)).status, 404)
  assert.deepEqual(await askAsGateway(key, '?token-audience=x', off), { status: 200, token: null })
})

test('settings of signed identity that are incomplete or wrong are all told', async () => {
  const refuse = (given: object, message: RegExp) =>
    assert.rejects(startTestApp({ ...env, ...given }, app.database), message)
  await refuse({ TOKEN_AUDIENCES: '' }, /TOKEN_ISSUER and TOKEN_AUDIENCES must be set together$/)
  await refuse({ TOKEN_ISSUER: '' }, /TOKEN_ISSUER and TOKEN_AUDIENCES must be set together$/)
  await refuse({ SECRETS_KEY_FILE: '' }, /: TOKEN_ISSUER needs SECRETS_KEY_FILE$/)
  for (const issuer of [
    'users',
    'ftp://a',
    'https://u:p@a',
    'https://a?b',
    'https://a#b',
    'https://a/',
    'https:a',
    'https:///a',
  ]) {
    await refuse({ TOKEN_ISSUER: issuer }, /: TOKEN_ISSUER must be [^;]*$/)
  }
  for (const audiences of ['a,,b', 'a b', ',', 'é']) {
    await refuse({ TOKEN_AUDIENCES: audiences }, /: TOKEN_AUDIENCES must be [^;]*$/)
  }
})

/** Has time pass for the keys. */
const age = (on: TestApp | typeof year, hours: number) =>
  on.db.query(`update signing_keys set created_at = created_at - $1 * interval '1 hour'`, [hours])

/** What eight instances have that read the ring at once: one and the same. */
async function readEight() {
  const rings = await Promise.all(Array.from({ length: 8 }, read))
  const seen = rings.map(({ kid, published }) => ({
    kid,
    published: published.map((jwk) => (jwk as Jwk).kid),
  }))
  for (const each of seen) assert.deepEqual(each, seen[0])
  return seen[0]!
}
const read = () => createRing(deps)()

test('a key is known a day before it signs and a day after, through a year and gaps', async () => {
  const signers = new Set<string>()
  let before = await readEight()
  for (let day = 0; day < 400;) {
    // Mostly hours; now and then nobody runs for days.
    const hours = randomInt(5) === 0 ? randomInt(24, 60 * 24) : randomInt(1, 24)
    day += hours / 24
    await age(year, hours)
    const now = await readEight()
    assert.ok(before.published.includes(now.kid), 'verifiers know the key that signs now')
    // An instance that has not read the ring for a while signs with the key of before.
    if (hours < 24) assert.ok(now.published.includes(before.kid), 'what was signed verifies')
    assert.ok(now.published.length <= 3)
    signers.add(now.kid)
    before = now
  }
  assert.ok(signers.size >= 6, `${signers.size} keys`)
  const [{ count }] = (await year.db.query<{ count: number }>(
    'select count(*)::int from signing_keys',
  )) as [{ count: number }]
  assert.ok(count <= 3, 'keys that nobody needs are deleted')
})

test('a key that is too old signs on while no other can be made, and that is told', async () => {
  await age(year, 25)
  const { kid } = await readEight()
  await age(year, 24 * 40)
  await year.db.query(`create function refuse() returns trigger language plpgsql
    as $$ begin raise 'full'; end $$`)
  await year.db.query(`create trigger refuse before insert on signing_keys
    for each row execute function refuse()`)
  told.splice(0)
  const old = await readEight()
  assert.equal(old.kid, kid)
  assert.match(told[0]!, /"no new signing key".*full/)
  await year.db.query('drop trigger refuse on signing_keys')
  assert.equal((await readEight()).published.length, old.published.length + 1)
  await year.db.query('delete from signing_keys')
  await year.db.query(`create trigger refuse before insert on signing_keys
    for each row execute function refuse()`)
  await assert.rejects(read, /full/)
})

test('a new signing key at once replaces all others, on running instances, too', async () => {
  const own = await startTestApp(env)
  const { key } = await own.user()
  const before = await askAsGateway(key, undefined, own)
  const ask = (args: string[]) =>
    runCommand('secrets', args, { ...own.database.env, SECRETS_KEY_FILE: env.SECRETS_KEY_FILE })
  assert.equal((await ask(['new-signing-key'])).status, 2)
  const old = kidOf(before.token!)
  const done = { status: 0, stdout: 'A new key signs\n', stderr: '' }
  assert.deepEqual(await ask(['new-signing-key', '--yes']), done)
  const [after, known] = await later(31_000, async () => [
    await askAsGateway(key, undefined, own),
    await readKeys(own),
  ])
  assert.notEqual(kidOf(after.token!), old)
  assert.deepEqual(
    known.map(({ kid }) => kid),
    [kidOf(after.token!)],
  )
  const events = await own.db.query(
    `select actor, subject from audit_events where action = 'signing_key.replaced'`,
  )
  assert.deepEqual(events, [{ actor: null, subject: null }])
})

test('signing keys are resealed, and told of, like all secrets', async () => {
  const own = await startTestApp(env)
  const newLine = createKeyLine()
  const ask = (action: string, lines: string[]) =>
    runCommand('secrets', [action], { ...own.database.env, SECRETS_KEY_FILE: makeKeyFile(lines) })
  const { stdout } = await ask('reseal', [newLine, keyLine])
  assert.equal(stdout, 'line 1 opens 1\nline 2 opens 0\n')
  const rotated = await startTestApp(
    { ...signing, SECRETS_KEY_FILE: makeKeyFile([newLine]) },
    own.database,
  )
  assert.deepEqual(await readKeys(rotated), await readKeys(own))
})

test('a ring that the key file does not open signs nothing, and it says what to do', async () => {
  const own = await startTestApp(env)
  const { key } = await own.user()
  const foreign = { ...env, SECRETS_KEY_FILE: makeKeyFile() }
  const sentence =
    /^Error: The signing keys do not open: set the SECRETS_KEY_FILE [^\n]*--yes \(of [^\n]*\)$/
  await assert.rejects(startTestApp(foreign, own.database), sentence)
  // A box that was moved to another name opens nowhere.
  const [{ kid }] = (await readKeys(own)) as [Jwk]
  await own.db.query(`update signing_keys set kid = reverse(kid)`)
  await assert.rejects(startTestApp(env, own.database), sentence)
  const answer = await later(31_000, () => askAsGateway(key, undefined, own))
  assert.deepEqual(answer, { status: 503, code: 'database_unavailable', token: null })
  assert.deepEqual(await askAsGateway(key, '', own), { status: 200, token: '' })
  // It is read again as soon as it is asked for.
  await own.db.query('update signing_keys set kid = $1', [kid])
  assert.equal((await askAsGateway(key, undefined, own)).status, 200)
})
