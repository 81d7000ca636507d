import assert from 'node:assert/strict'
import { scryptSync } from 'node:crypto'
import { test } from 'node:test'

import { causeOf } from '../src/database/codes.ts'
import type { Hasher } from '../src/passwords/hasher.ts'
import { formatHash } from '../src/passwords/hash.ts'
import { checkPassword } from '../src/passwords/check.ts'
import { accountOfUser } from '../src/passwords/guessing.ts'
import type { StoredUser } from '../src/users/queries.ts'
import {
  atCost,
  brief,
  collide,
  hashCheaply,
  nobody,
  password,
  startTestApp,
  passwordHash,
} from './support/helpers.ts'
import { until } from './support/process.ts'

hashCheaply()
const app = await startTestApp({ TRUSTED_PROXIES: '127.0.0.0/8' })
const admin = await app.admin()
const logInOn = (at: typeof app, body: { email: string; password: string }, from: string) =>
  at.request('POST', '/users/sessions', { body, headers: { 'x-forwarded-for': from } })

/** Logs in as if from the address `from`. */
const login = (email: string, given = password, from = '192.0.2.1') =>
  logInOn(app, { email, password: given }, from)

/**
 * Has failures in a row been counted for a user, from `client` or, if that is empty, from anywhere;
 * the last `minutesAgo`. The wait that they brought has passed.
 */
const setFailures = (
  { id }: { id: string },
  client: string,
  { failures, minutesAgo = 0 }: { failures: number; minutesAgo?: number },
) =>
  app.db.query(
    `insert into login_failures (account, client, failures, wait_until, updated_at)
     values ($1, $2, $3, now(), now() - $4 * interval '1 minute')
     on conflict (account, client) do update set
       failures = excluded.failures,
       wait_until = excluded.wait_until,
       updated_at = excluded.updated_at`,
    [accountOfUser(id), client, failures, minutesAgo],
  )

const countFailures = async ({ id }: { id: string }, client: string) => {
  const [row] = await app.db.query<{ failures: number }>(
    'select failures from login_failures where account = $1 and client = $2',
    [accountOfUser(id), client],
  )
  return row?.failures ?? 0
}

/** A user whose password costs little to be found wrong. */
const guessable = () =>
  app.user({ passwordHash: `$scrypt$ln=4,r=8,p=1$${'A'.repeat(22)}$${'A'.repeat(43)}` })
const read = async (id: string, key: string) =>
  (await app.request('GET', `/users/${id}`, { key })).status

test('a log-in gives a session that works like a key and is listed among them', async () => {
  const user = await app.user()
  const { status, details } = await login(user.email.toUpperCase())
  assert.deepEqual(
    [status, details.user, Object.keys(details)],
    [201, user.id, ['user', 'key', 'keyId', 'validUntil']],
  )
  const left = (Date.parse(details.validUntil) - Date.now()) / 1000
  assert.ok(left > 10_700 && left <= 10_800, `${left} s`)

  const keys = await app.request('GET', `/users/${user.id}/keys`, { key: details.key })
  assert.deepEqual(
    keys.details.map(({ id, kind }: any) => [id, kind]),
    [
      [user.keyId, 'api'],
      [details.keyId, 'session'],
    ],
  )
  const auth = await app.request('GET', '/users/auth', { key: details.key })
  assert.equal(auth.headers.get('x-auth-key-kind'), 'session')
})

test('any number of sessions; log-out ends the calling one alone', async () => {
  const user = await app.user()
  const [one, two] = await Promise.all([login(user.email), login(user.email)])
  assert.equal(
    (await app.request('DELETE', '/users/sessions', { key: one.details.key })).status,
    204,
  )
  assert.deepEqual(
    [await read(user.id, one.details.key), await read(user.id, two.details.key)],
    [401, 200],
  )
})

test('log-out with an API key ends nothing, and says so', async () => {
  const user = await app.user()
  const answer = await app.request('DELETE', '/users/sessions', { key: user.key })
  assert.deepEqual(brief(answer), { status: 409, code: 'not_a_session' })
  assert.equal(await read(user.id, user.key), 200)
})

test('log-out everywhere ends the sessions of that user and no key', async () => {
  const user = await app.user()
  const other = await app.user()
  const [one, two, others] = await Promise.all([
    login(user.email),
    login(user.email),
    login(other.email),
  ])
  assert.equal(
    (await app.request('DELETE', `/users/sessions/${user.id}`, { key: one.details.key })).status,
    204,
  )
  assert.deepEqual(
    [
      await read(user.id, one.details.key),
      await read(user.id, two.details.key),
      await read(user.id, user.key),
    ],
    [401, 401, 200],
  )
  assert.equal(
    (await app.request('DELETE', `/users/sessions/${other.id}`, { key: user.key })).body.code,
    'forbidden',
  )
  assert.equal(
    (await app.request('DELETE', `/users/sessions/${other.id}`, { key: admin.key })).status,
    204,
  )
  assert.equal(await read(other.id, others.details.key), 401)
  const ofNobody = await app.request('DELETE', `/users/sessions/${nobody}`, { key: admin.key })
  assert.equal(ofNobody.body.code, 'user_not_found')
})

test('a session can be shortened, by nobody prolonged', async () => {
  const user = await app.user()
  const { details: session } = await login(user.email)
  const { details: keys } = await app.request('GET', `/users/${user.id}/keys`, { key: user.key })
  const { id, validUntil } = keys.find(({ kind }: any) => kind === 'session')
  const change = async (key: string, until: string | null) =>
    (
      await app.request('PATCH', `/users/${user.id}/keys/${id}`, {
        key,
        body: { validUntil: until },
      })
    ).details.validUntil
  for (const key of [session.key, user.key, admin.key]) {
    assert.deepEqual(
      [await change(key, null), await change(key, '2999-01-01T00:00:00Z')],
      [validUntil, validUntil],
    )
  }
  assert.equal(await change(user.key, '2020-01-01T00:00:00Z'), '2020-01-01T00:00:00.000Z')
  assert.equal(await change(user.key, null), '2020-01-01T00:00:00.000Z')
  assert.equal(await read(user.id, session.key), 401)
})

test('a session ends with its time', async () => {
  const short = await startTestApp({ SESSION_SECONDS: '1' }, app.database)
  const user = await app.user()
  const { details } = await short.request('POST', '/users/sessions', {
    body: { email: user.email, password },
  })
  assert.equal(await read(user.id, details.key), 200)
  await app.db.query('select pg_sleep_until($1::timestamptz)', [details.validUntil])
  assert.equal(await read(user.id, details.key), 401)
})

test('an unknown address, a wrong password and a disabled user get the same answer', async () => {
  const user = await app.user()
  const disabled = await app.user({ enabled: false })
  const answers = [
    await login('nobody@example.org'),
    await login(user.email, 'wrong'),
    await login(user.email, ''),
    await login(disabled.email),
    await login('not an address', ''),
    await login('nul\u0000@example.org', '\ud800'),
  ]
  for (const { status, body } of answers) {
    assert.deepEqual(
      [status, body.code, body.details],
      [401, 'invalid_credentials', 'Invalid credentials'],
    )
  }
})

test('a log-in of another shape is refused', async () => {
  for (const body of [
    {},
    { email: 'a@b' },
    { email: 'a@b', password: 1 },
    { email: 'a@b', password: 'x', otp: '1' },
  ]) {
    const answer = await app.request('POST', '/users/sessions', { body })
    assert.deepEqual(
      [answer.status, answer.body.code, answer.body.details],
      [400, 'invalid_body', 'Invalid user syntax'],
    )
  }
})

test('five failures in a row make a client wait, also on an account that nobody has', async () => {
  for (const email of [(await guessable()).email, 'ghost@example.org']) {
    for (let i = 0; i < 5; i++) assert.equal((await login(email, 'wrong', '192.0.2.7')).status, 401)
    const refused = await login(email, password, '192.0.2.7')
    assert.deepEqual(brief(refused), { status: 429, code: 'login_throttled' })
    assert.equal(refused.headers.get('retry-after'), '1')
  }
})

test('guesses at an address that is the id of a user are not counted for the user', async () => {
  const user = await app.user()
  const client = '192.0.2.20'
  for (let i = 0; i < 5; i++) await login(user.id, 'wrong', client)
  assert.equal((await login(user.id, 'wrong', client)).status, 429)
  assert.equal((await login(user.email, password, client)).status, 201)
})

test('an attempt during the wait does not count', async () => {
  const user = await guessable()
  const client = '192.0.2.17'
  await setFailures(user, client, { failures: 4 })
  await login(user.email, 'wrong', client)
  assert.equal((await login(user.email, 'wrong', client)).status, 429)
  assert.equal(await countFailures(user, client), 5)
})

test('failed log-ins and sessions are the same for all instances', async () => {
  const other = await startTestApp({ TRUSTED_PROXIES: '127.0.0.0/8' }, app.database)
  const { email } = await guessable()
  const guess = async (at: typeof app) => {
    const given = { email, password: 'wrong' }
    return (await logInOn(at, given, '192.0.2.10')).body.code
  }
  for (const each of [app, other, app, other, app])
    assert.equal(await guess(each), 'invalid_credentials')
  for (const each of [app, other]) assert.equal(await guess(each), 'login_throttled')

  const owner = await app.user()
  const {
    details: { key },
  } = await logInOn(other, { email: owner.email, password }, '192.0.2.11')
  assert.equal(await read(owner.id, key), 200)
  assert.equal((await app.request('DELETE', '/users/sessions', { key })).status, 204)
  assert.equal((await other.request('GET', '/users/auth', { key })).status, 401)
})

test('the wait doubles, to 15 minutes', async () => {
  const user = await app.user()
  const client = '192.0.2.8'
  const waits: string[] = []
  for (const failures of [4, 5, 13, 14]) {
    await setFailures(user, client, { failures })
    await login(user.email, 'wrong', client)
    waits.push((await login(user.email, password, client)).headers.get('retry-after')!)
  }
  assert.deepEqual(waits, ['1', '2', '512', '900'])
})

test('a success clears the count of its client and of no other', async () => {
  const user = await app.user()
  for (const client of ['192.0.2.18', '192.0.2.19', '']) {
    await setFailures(user, client, { failures: 14 })
  }
  assert.equal((await login(user.email, password, '192.0.2.18')).status, 201)
  assert.equal(await countFailures(user, '192.0.2.18'), 0)
  assert.equal(await countFailures(user, '192.0.2.19'), 14)
  assert.equal(await countFailures(user, ''), 14)
})

test('an owner gets in from elsewhere while a stranger is guessing', async () => {
  const user = await app.user()
  await setFailures(user, '192.0.2.9', { failures: 4 })
  await login(user.email, 'wrong', '192.0.2.9')
  assert.equal((await login(user.email, password, '192.0.2.9')).status, 429)
  assert.equal((await login(user.email, password, '198.51.100.1')).status, 201)
  assert.equal(await read(user.id, user.key), 200)
})

test('guessing from many addresses is bounded', async () => {
  const user = await guessable()
  await setFailures(user, '', { failures: 99 })
  assert.equal((await login(user.email, 'wrong', '198.51.100.3')).status, 401)
  assert.equal((await login(user.email, password, '198.51.100.4')).status, 429)
})

test('of guesses at one per 15 minutes as many are forgotten as are counted', async () => {
  const user = await guessable()
  await setFailures(user, '', { failures: 16, minutesAgo: 15 })
  await login(user.email, 'wrong', '198.51.100.5')
  assert.equal(await countFailures(user, ''), 16)
})

test('of six guesses at once only five are answered', async () => {
  const user = await guessable()
  const requests = Array.from(
    { length: 6 },
    (_, i) => () => login(user.email, `wrong ${i}`, '198.51.100.6'),
  )
  const answers = await collide(app.db, { table: 'login_failures', requests })
  const statuses = answers.map(({ status }) => status).sort()
  assert.deepEqual(statuses, [...Array(5).fill(401), 429])
})

test('of guesses at once, the right one has to wait as long as the others', async () => {
  const salt = Buffer.alloc(16, 1)
  const user = await app.user({
    passwordHash: formatHash({
      ln: 4,
      r: 8,
      p: 1,
      salt,
      hash: scryptSync(password, salt, 32, { N: 16, r: 8, p: 1 }),
    }),
  })
  const client = '198.51.100.8'
  for (const { here, anywhere } of [
    { here: 110, anywhere: 1 },
    { here: 1, anywhere: 110 },
  ]) {
    await setFailures(user, client, { failures: here })
    await setFailures(user, '', { failures: anywhere })
    const guesses = ['a', 'b', 'c', 'd', 'e', password, 'f', 'g'].map((guess) =>
      login(user.email, guess, client),
    )
    const refused = (await Promise.all(guesses)).filter(({ status }) => status === 429)
    assert.ok(refused.length >= 4, `${refused.length} refused`)
    for (const { headers } of refused)
      assert.ok(Number(headers.get('retry-after')) > 800, headers.get('retry-after')!)
  }
})

test('a wrong current password makes as many hashes as the right one', async () => {
  const [user] = await app.db.query<StoredUser>(
    'select *, password_hash as "passwordHash" from users where id = $1',
    [(await app.user()).id],
  )
  let hashes = 0
  const hasher: Pick<Hasher, 'verify' | 'hash'> = {
    verify: async (given, find) => ({
      found: await find(),
      isRight: given === password,
      renew: false,
    }),
    hash: async () => {
      hashes++
      return user!.passwordHash!
    },
  }
  const change = (given: string) =>
    checkPassword(
      { db: app.db, hasher: hasher as Hasher },
      {
        find: async () => user!,
        address: user!.id,
        password: given,
        next: 'another one',
        origin: { requestId: 'x', address: '198.51.100.10', client: '198.51.100.10' },
      },
      async () => ({}),
    )
  await assert.rejects(change('wrong'), { code: 'invalid_credentials' })
  assert.equal(hashes, 1)
  await change(password)
  assert.equal(hashes, 2)
})

/** Checks the password of a user by a hasher that finds it right, after it does `meanwhile`. */
function checkSlowly(user: { id: string }, meanwhile: () => Promise<unknown>) {
  const find = async () => {
    const [found] = await app.db.query<StoredUser>(
      'select *, password_hash as "passwordHash" from users where id = $1',
      [user.id],
    )
    return found!
  }
  const hasher: Pick<Hasher, 'verify' | 'hash'> = {
    async verify(_given, find) {
      const found = await find()
      await meanwhile()
      return { found, isRight: found.passwordHash === known, renew: false }
    },
    hash: async () => assert.fail('there is nothing to hash'),
  }
  let known: string | null
  const check = async () => {
    known = (await find()).passwordHash
    const origin = { requestId: 'x', address: '198.51.100.20', client: '198.51.100.20' }
    const attempt = { find, address: user.id, password, origin }
    await checkPassword({ db: app.db, hasher: hasher as Hasher }, attempt, async () => ({}))
  }
  return check()
}

for (const { what, change } of [
  { what: 'is disabled', change: 'enabled = false' },
  { what: 'gets another password', change: `password_hash = '${passwordHash}'` },
]) {
  test(`a user who ${what} while the password is hashed does not get in`, async () => {
    const user = await app.user()
    const late = checkSlowly(user, () =>
      app.db.query(`update users set ${change} where id = $1`, [user.id]),
    )
    await assert.rejects(late, { code: 'invalid_credentials' })
  })
}

test('an attempt that has to wait is refused before anything is hashed', async () => {
  const user = await app.user()
  const client = '198.51.100.20'
  await setFailures(user, client, { failures: 10 })
  await login(user.email, 'wrong', client)
  const late = checkSlowly(user, async () => assert.fail('it is hashed'))
  await assert.rejects(late, { code: 'login_throttled' })
})

test('after a change of the address guesses are still counted', async () => {
  const user = await app.user()
  const statuses: number[] = []
  for (let i = 0; i < 8; i++) {
    const email = `moved-${i}-${user.id}@example.org`
    assert.equal(
      (await app.request('PATCH', `/users/${user.id}`, { key: user.key, body: { email } })).status,
      200,
    )
    statuses.push((await login(email, 'wrong', '198.51.100.9')).status)
  }
  assert.deepEqual(statuses, [401, 401, 401, 401, 401, 429, 429, 429])
})

test('guessing the current password through a change is counted, too', async () => {
  const user = await guessable()
  const change = () =>
    app.request('PATCH', `/users/${user.id}`, {
      key: user.key,
      body: { password: 'a new fine one', currentPassword: 'wrong' },
      headers: { 'x-forwarded-for': '198.51.100.7' },
    })
  const answers = []
  for (let i = 0; i < 6; i++) answers.push((await change()).body.code)
  assert.deepEqual(answers, [...Array(5).fill('invalid_credentials'), 'login_throttled'])
})

test('guesses through a change are still counted after a change of the address', async () => {
  const user = await guessable()
  const headers = { 'x-forwarded-for': '198.51.100.8' }
  const change = (body: object) =>
    app.request('PATCH', `/users/${user.id}`, { key: user.key, body, headers })
  const guess = async () =>
    (await change({ password: 'a new fine one', currentPassword: 'wrong' })).body.code
  for (let i = 0; i < 5; i++) assert.equal(await guess(), 'invalid_credentials')
  assert.equal((await change({ email: `moved-${user.email}` })).status, 200)
  assert.equal(await guess(), 'login_throttled')
})

test('a flood of log-ins is refused at once past the queue, and shuts nobody else out', () =>
  atCost(12, async () => {
    const user = await app.user()
    const flood = Array.from({ length: 40 }, (_, i) =>
      login(`flood${i}@example.org`, 'x', '203.0.113.1'),
    )
    const mine = login(user.email, password, '203.0.113.2')
    const cheap = await app.request('GET', '/users/auth', { key: user.key })
    assert.equal(cheap.status, 200)
    assert.equal((await mine).status, 201)
    const answers = await Promise.all(flood)
    const overloaded = answers.filter(({ status }) => status === 503)
    assert.ok(overloaded.length >= 40 - 20, `${overloaded.length} refused`)
    for (const { body, headers } of overloaded) {
      assert.deepEqual([body.code, headers.get('retry-after')], ['overloaded', '3'])
    }
  }))

test('HASH_THREADS is how many passwords are hashed at the same time', () =>
  atCost(14, async () => {
    const app = await startTestApp({ HASH_THREADS: '3' })
    const { key } = await app.admin()
    const attempts = Array.from({ length: 5 }, () =>
      app.request('POST', '/users/sessions', { body: { email: 'ada@example.org', password } }),
    )
    const all = async () => {
      const { text } = await app.request('GET', '/metrics', { key })
      return /_in_flight 3\n[^]*_queued 2\n/.test(text)
    }
    await until('three are hashed and two wait', all)
    await Promise.all(attempts)
  }))

test('a password stored with less work is stored with today’s at log-in', () =>
  atCost(14, async () => {
    const salt = Buffer.alloc(16, 1)
    const hash = scryptSync(password, salt, 32, { N: 2 ** 12, r: 8, p: 1 })
    const user = await app.user({ passwordHash: formatHash({ ln: 12, r: 8, p: 1, salt, hash }) })
    const stored = async () =>
      (
        await app.db.query<{ it: string }>('select password_hash as it from users where id = $1', [
          user.id,
        ])
      )[0]!.it
    // All but the first find another stored form than the one they compared with.
    const all = await Promise.all(Array.from({ length: 4 }, () => login(user.email)))
    assert.deepEqual(
      all.map(({ status }) => status),
      [201, 201, 201, 201],
    )
    assert.match(await stored(), /^\$scrypt\$ln=14,r=8,p=5\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$/)
    assert.equal((await login(user.email)).status, 201)
  }))

test('a stored password that asks for a gigabyte, or is none, lets nobody in', async () => {
  for (const passwordHash of [
    '$scrypt$ln=30,r=8,p=1$AAECAwQFBgcICQoLDA0ODw$AAECAwQFBgcICQoLDA0ODw',
    'plain',
    null,
  ]) {
    const user = await app.user({ passwordHash })
    assert.equal((await login(user.email)).status, 401)
  }
})

test('the audit says who did what to whom, newest first and without secrets', async () => {
  const user = await app.user()
  const { details: session } = await login(user.email, password, '203.0.113.9')
  await login(user.email, 'a wrong secret', '203.0.113.9')
  await app.request('PATCH', `/users/${user.id}`, {
    key: admin.key,
    body: { permissions: ['p'] },
    headers: { 'x-request-id': 'my-id' },
  })
  await app.request('POST', `/users/${user.id}/keys`, { key: session.key, body: { name: 'k' } })
  await app.request('DELETE', '/users/sessions', { key: session.key })
  await app.request('DELETE', `/users/${user.id}`, { key: admin.key })

  const { status, details, text } = await app.request('GET', `/audit?user=${user.id}`, {
    key: admin.key,
  })
  assert.equal(status, 200)
  assert.deepEqual(
    details.map(({ action, actor, subject, changes }: any) => [action, actor, subject, changes]),
    [
      ['user.deleted', admin.id, user.id, []],
      ['session.ended', user.id, user.id, []],
      ['key.created', user.id, user.id, []],
      ['user.changed', admin.id, user.id, ['permissions']],
      ['session.failed', null, user.id, []],
      ['session.started', user.id, user.id, []],
    ],
  )
  assert.deepEqual([details[3].requestId, details[5].address], ['my-id', '203.0.113.9'])
  assert.ok(!/usk_|secret|scrypt/.test(text))

  const first = await app.request('GET', `/audit?user=${user.id}&limit=4`, { key: admin.key })
  const second = await app.request('GET', first.next!, { key: admin.key })
  assert.deepEqual([...first.details, ...second.details], details)
  assert.equal((await app.request('GET', '/audit', { key: user.key })).status, 401)
})

test('the service may read the audit and add to it, now alone, not change or delete', async () => {
  const as = async (sql: string) => {
    try {
      await app.db.transaction(async (tx) => {
        await tx.query('set local role user_service_manager')
        await tx.query(sql)
      })
      return 'done'
    } catch (error) {
      return causeOf(error).code
    }
  }
  assert.deepEqual(
    [
      await as('select from audit_events'),
      await as(`insert into audit_events (action) values ('x')`),
      await as(`insert into audit_events (action, at) values ('x', now())`),
      await as(`insert into audit_events (action, id) values ('x', gen_random_uuid())`),
      await as(`update audit_events set action = 'x'`),
      await as('delete from audit_events'),
      await as('truncate audit_events'),
      await as('alter table users add x int'),
      await as('drop table users'),
      await as('create table x ()'),
    ],
    ['done', 'done', ...Array(8).fill('42501')],
  )
})

test('no log line holds a key, a password or an address of a user', async () => {
  const user = await app.user()
  await login(user.email)
  await app.request('GET', `/users?email=${user.email}`, { key: admin.key })
  const text = app.log.join('\n')
  assert.ok(!text.includes(user.email) && !/usk_|correct horse/.test(text))
})
