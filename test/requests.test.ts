// Tokens that the webhook sends to an address: a stranger who asks for one learns nothing, fills
// nobody's mailbox, and what was asked for ends with what it was for.
import assert from 'node:assert/strict'
import { test } from 'node:test'

import pg, { type Client, type Query } from 'pg'

import { insertEvent } from '../src/audit/queries.ts'
import { insertKey } from '../src/keys/queries.ts'
import { deleteTokens, insertToken } from '../src/tokens/queries.ts'
import { insertUser, lockUser } from '../src/users/queries.ts'
import { lockAsked, settle, takeDue } from '../src/webhooks/queries.ts'
import {
  brief,
  collide,
  createTestDatabase,
  hashCheaply,
  password,
  startTestApp,
  type Ask,
} from './support/helpers.ts'
import { until } from './support/process.ts'
import { startReceiver, type Told } from './support/receiver.ts'

hashCheaply()
const receiver = await startReceiver()
const env = { ...receiver.env, TRUSTED_PROXIES: '127.0.0.0/8', EMAIL_CHANGE: 'confirmed' }
const app = await startTestApp(env)
const admin = await app.admin()
const { db } = app
const next = 'another fine passphrase'

/** Has new requests be looked at now, which would be within two seconds. */
async function hurry<T>(answer: T): Promise<T> {
  await db.query('update outbox set next_at = now() where address is not null and tries = 0')
  await app.request('DELETE', `/users/${admin.id}/tokens`, { key: admin.key })
  return answer
}
const askReset = async (email: string, more: Ask = { key: admin.key }) =>
  hurry(await app.request('POST', '/users/password-resets', { body: { email }, ...more }))
const from = (address: string) => ({ headers: { 'x-forwarded-for': address } })
const askProof = async (user: { id: string; key: string }, body?: object) =>
  hurry(await app.request('POST', `/users/${user.id}/verifications`, { key: user.key, body }))
const useReset = (token: string) =>
  app.request('POST', '/users/passwords', { body: { token, password: next } })
const useProof = (token: string) => app.request('POST', '/users/verifications', { body: { token } })
const read = async (id: string) =>
  (await app.request('GET', `/users/${id}`, { key: admin.key })).details
const toldTo = (email: string) =>
  receiver.told.filter(({ data }) => data.token !== undefined && data.email === email)
const isFor = (email: string) => (told: Told) => toldTo(email).includes(told)
const countWaiting = async () =>
  (await db.query('select from outbox where address is not null and sent_at is null')).length
const settled = () => until('nothing waits', async () => (await countWaiting()) === 0)
/** Has the receiver refuse, for as long as `work` takes. */
async function whileDown(work: () => Promise<unknown>) {
  receiver.react(503)
  await work()
  receiver.react(204)
  await db.query('update webhook set probe_at = now() where probe_at is not null')
  await db.query(`update outbox set next_at = now()
    where last_failure is not null and sent_at is null`)
  await app.request('DELETE', `/users/${admin.id}/tokens`, { key: admin.key })
}
const refused = (email: string) =>
  until(`the token for ${email} is refused`, async () => {
    const rows = await db.query(
      'select from outbox where address = $1 and last_failure is not null',
      [email],
    )
    return rows.length > 0
  })
/** Has what was sent to an address be so many seconds longer ago. */
const letPass = (address: string, seconds: number) =>
  db.query(
    `update outbox set sent_at = sent_at - passed, next_at = next_at - passed,
       give_up_at = give_up_at - passed
     from make_interval(secs => $2) as passed where address = $1`,
    [address, seconds],
  )
const accepted = { status: 202 }
const tokenInvalid = { status: 401, code: 'token_invalid' }

test('a reset goes to the address as it is stored, sets a password and verifies it', async () => {
  const user = await app.user({ email: 'Owner@Example.org' })
  const answer = await askReset(' OWNER@example.ORG ', from('192.0.2.9'))
  assert.deepEqual([answer.status, answer.details], [202, 'Accepted'])
  const { type, data } = await receiver.next(isFor(user.email))
  const { token, validUntil, requestId, user: shown, ...rest } = data
  assert.equal(type, 'password.reset_requested')
  assert.deepEqual(rest, {
    actor: null,
    subject: user.id,
    keyId: null,
    changes: [],
    address: '192.0.2.9',
    email: 'Owner@Example.org',
  })
  assert.equal(requestId, answer.body.requestId)
  assert.deepEqual([shown.id, shown.emailVerified], [user.id, false])
  const minutes = (Date.parse(validUntil) - Date.now()) / 60_000
  assert.ok(minutes > 59 && minutes <= 60.1, `${minutes} minutes`)
  const stored = await db.query<{ row: string }>(
    `select outbox::text as row from outbox union all select tokens::text from tokens`,
  )
  assert.ok(stored.length >= 2)
  for (const { row } of stored) assert.ok(!row.includes(token))

  assert.deepEqual(brief(await useReset(token)), { status: 204 })
  assert.equal((await read(user.id)).emailVerified, true)
  const audit = await app.request('GET', `/audit?user=${user.id}`, { key: admin.key })
  const [asked] = audit.details.filter(({ action }: any) => action === type)
  const { actor, subject, address, requestId: noted } = asked
  assert.deepEqual(
    { actor, subject, address, noted },
    { actor: null, subject: user.id, address: '192.0.2.9', noted: requestId },
  )
})

test('of an address that nobody has, or a disabled user, nothing is sent or kept', async () => {
  const disabled = await app.user({ enabled: false })
  const before = receiver.told.length
  await whileDown(async () => {
    const known = await app.user()
    await askReset(known.email)
    await refused(known.email)
    for (const email of ['nobody@example.org', disabled.email]) {
      assert.deepEqual(brief(await askReset(email)), accepted)
    }
    await until('only one waits', async () => (await countWaiting()) === 1)
  })
  await settled()
  const tokens = receiver.told.slice(before).filter(({ data }) => data.token !== undefined)
  assert.equal(new Set(tokens.map(({ id }) => id)).size, 1)
})

/** The statements of the transactions in which somebody asked for a reset, by the address. */
async function recordRequests(emails: string[]) {
  const open = new Map<Client, Query[]>()
  const found = new Map<string, string[]>()
  const { query } = pg.Client.prototype
  pg.Client.prototype.query = function (this: Client, statement: Query) {
    if (statement.text.startsWith('begin')) open.set(this, [])
    open.get(this)?.push(statement)
    if (statement.text === 'commit') {
      const all = open.get(this) ?? []
      const insert = all.find(({ text }) => text.includes('insert into outbox'))
      const address = insert?.values?.[1]
      const texts = all.map(({ text }) => text)
      if (typeof address === 'string') found.set(address, texts)
    }
    return query.call(this, statement) as Promise<never>
  }
  const answers = []
  for (const [index, email] of emails.entries()) {
    answers.push(await askReset(email, from(`198.51.100.${index}`)))
  }
  pg.Client.prototype.query = query
  return { answers, statements: emails.map((email) => found.get(email)) }
}

test('nothing of an answer, nor a statement before it, tells whether anybody has it', async () => {
  const [one, other, disabled] = await Promise.all([
    app.user(),
    app.user(),
    app.user({ enabled: false }),
  ])
  const emails = [one, other, disabled].map(({ email }) => email)
  const { answers, statements } = await recordRequests([
    ...emails,
    'a@example.org',
    'b@example.org',
  ])
  const shown = answers.map(({ status, headers, text }) => ({
    status,
    headers: [...headers].filter(([name]) => !['date', 'x-request-id'].includes(name)),
    text: text.replace(/"requestId":"[^"]*"/, ''),
  }))
  assert.ok(statements[0]!.length > 5)
  for (const each of statements) assert.deepEqual(each, statements[0])
  for (const each of shown) assert.deepEqual(each, shown[0])
  assert.ok(statements[0]!.every((text) => !/\busers\b/.test(text)))
  await settled()
})

test('one a minute goes to an address, and five an hour', async () => {
  const { email } = await app.user()
  for (let sent = 1; sent <= 5; sent++) {
    await askReset(email)
    await until(`${sent} were sent`, () => toldTo(email).length === sent)
    await settled()
    await askReset(email)
    await settled()
    assert.equal(toldTo(email).length, sent)
    await letPass(email, 61)
  }
  await askReset(email)
  await settled()
  assert.equal(toldTo(email).length, 5)
  await letPass(email, 3600)
  await hurry(null)
  const kept = () => db.query('select from outbox where address = $1', [email])
  await until('what was sent is forgotten', async () => (await kept()).length === 0)
  await askReset(email)
  await until('the sixth was sent', () => toldTo(email).length === 6)
})

test('when something is sent for a request does not follow from when it was made', async () => {
  const delays = await db.transaction(async (tx) => {
    for (let i = 0; i < 20; i++) {
      const recipient = `${i}@late.example`
      const action = 'password.reset_requested'
      await insertEvent(tx, { action, actor: null, subject: null, recipient, origin: null })
    }
    const rows = await tx.query<{ ms: number }>(
      `select extract(epoch from next_at - created_at)::float * 1000 as ms from outbox
       where address like '%@late.example'`,
    )
    return rows.map(({ ms }) => ms)
  })
  assert.ok(Math.min(...delays) < 700 && Math.max(...delays) > 1300, delays.join(', '))
  assert.ok(Math.max(...delays) <= 2000)
  await hurry(null)
  await settled()
})

test('of many requests at once for one address one is sent', async () => {
  const { email } = await app.user()
  await Promise.all(Array.from({ length: 10 }, () => askReset(email)))
  await until('one was sent', () => toldTo(email).length > 0)
  await settled()
  assert.equal(toldTo(email).length, 1)
})

test('of senders that look at once one takes the first of a lane, and only that', async () => {
  const { db: own } = await createTestDatabase()
  await own.query(
    `insert into outbox (id, action, lane, data, give_up_at)
     select uuid_v7(), 'user.changed', 'x', '{}', now() + interval '1 day'
     from generate_series(1, 2)`,
  )
  const look = () => takeDue(own, 8, { lane: 'g' })
  const taken = await collide(own, { table: 'webhook', requests: [look, look] })
  const [first] = await own.query<{ id: string }>('select id from outbox order by id')
  assert.deepEqual(
    taken.flat().map(({ id }) => id),
    [first!.id],
  )
})

test('a 503 to the first attempt makes neither it nor the second one disappear', async () => {
  const { email } = await app.user()
  await whileDown(async () => {
    await askReset(email)
    await refused(email)
    await askReset(email)
  })
  await settled()
  const tokens = toldTo(email)
  assert.ok(tokens.length >= 2)
  const taken = await db.query('select from outbox where address = $1 and sent_at is not null', [
    email,
  ])
  assert.equal(taken.length, 1)
  // Whether the first attempt was lost on the way there or back, the mail that arrived is good.
  assert.deepEqual(brief(await useReset(tokens[0]!.data.token)), { status: 204 })
  assert.deepEqual(brief(await useReset(tokens.at(-1)!.data.token)), tokenInvalid)
})

test('a request that is put off holds up no later one, which stands for both', async () => {
  const { email } = await app.user()
  receiver.react(503)
  await askReset(email)
  await refused(email)
  await db.query(`update outbox set next_at = now() + interval '30 minutes' where address = $1`, [
    email,
  ])
  receiver.react(204)
  await db.query('update webhook set probe_at = now()')
  const before = toldTo(email)
  await askReset(email)
  await until('another one is sent', () => toldTo(email).length > before.length)
  assert.notEqual(toldTo(email).at(-1)!.id, before[0]!.id)
  await settled()
})

/** A database with a user for each row of a lane: tries, failure, when due (as an interval). */
async function makeLane(rows: [number, string | null, string][]) {
  const { db: own } = await createTestDatabase()
  const ids: string[] = []
  for (const [index, [tries, failure, due]] of rows.entries()) {
    const email = `${index}@lane.example`
    const { id } = await insertUser(own, { email, passwordHash: null })
    await own.query(
      `insert into outbox (id, action, lane, subject, address, data, tries, last_failure,
         next_at, give_up_at)
       values ($1, 'email.verification_requested', 'token: x', $1, 'x', '{}', $2, $3,
         now() + $4::interval, now() + interval '1 hour')`,
      [id, tries, failure, due],
    )
    ids.push(id)
  }
  return { own, ids }
}

test('while a request is sent, no other one goes to that address', async () => {
  const { own } = await makeLane([
    [3, 'status 503', '-1 s'],
    [1, null, '10 s'],
    [0, null, '-1 s'],
  ])
  assert.deepEqual(await takeDue(own, 8, { lane: 'g' }), [])
})

test('what is sent for one user ends nothing that another has asked for', async () => {
  const { own, ids } = await makeLane([
    [3, 'status 503', '1 minute'],
    [3, 'status 503', '1 minute'],
    [0, null, '-1 s'],
  ])
  await own.query('update outbox set subject = $1 where id = $2', [ids[2], ids[1]])
  const [taken] = await takeDue(own, 8, { lane: 'g' })
  assert.equal(taken!.id, ids[2])
  await settle(own, taken!, null)
  const waiting = await own.query('select id from outbox where sent_at is null')
  assert.deepEqual(waiting, [{ id: ids[0] }])
})

test('events that the receiver holds leave places for requests', async () => {
  const users = await Promise.all(Array.from({ length: 9 }, () => app.user()))
  const before = receiver.told.length
  receiver.react(({ type }) => (type === 'user.changed' ? 'hang' : 204))
  await Promise.all(
    users.map(({ id }) =>
      app.request('PATCH', `/users/${id}`, { key: admin.key, body: { enabled: false } }),
    ),
  )
  const held = () => receiver.told.slice(before).filter(({ type }) => type === 'user.changed')
  await until('events hang', () => held().length >= 6)
  const asking = await app.user()
  await askReset(asking.email)
  await receiver.next(isFor(asking.email))
  assert.equal(held().length, 6)
  receiver.react(204)
  for (const each of held()) each.answer(204)
  await until('all are told', () => held().length === 9)
})

type User = Awaited<ReturnType<typeof app.user>>
const ends: { what: string; end: (user: User) => Promise<unknown> }[] = [
  {
    what: 'the owner has set a password',
    async end({ id }) {
      const made = await app.request('POST', `/users/${id}/tokens`, {
        key: admin.key,
        body: { purpose: 'password-reset' },
      })
      assert.equal((await useReset(made.details.token)).status, 204)
    },
  },
  {
    what: 'the tokens are ended',
    end: ({ id, key }) => app.request('DELETE', `/users/${id}/tokens`, { key }),
  },
  {
    what: 'the address has changed',
    end: ({ id, email }) =>
      app.request('PATCH', `/users/${id}`, { key: admin.key, body: { email: `new-${email}` } }),
  },
  {
    what: 'the user is disabled',
    end: ({ id }) =>
      app.request('PATCH', `/users/${id}`, { key: admin.key, body: { enabled: false } }),
  },
  {
    what: 'the user is gone',
    end: ({ id }) => app.request('DELETE', `/users/${id}`, { key: admin.key }),
  },
  {
    what: 'an hour has passed',
    end: ({ email }) =>
      db.query('update outbox set give_up_at = now() where address = $1', [email]),
  },
]
for (const { what, end } of ends) {
  test(`when the receiver is back, no token arrives if ${what}`, async () => {
    const user = await app.user()
    let before = 0
    await whileDown(async () => {
      await askReset(user.email)
      await refused(user.email)
      await askProof(user)
      await until('both were tried', async () => (await countWaiting()) === 2)
      await end(user)
      await until('nothing is under way', async () => {
        const sending = await db.query(
          'select from outbox where tries > 0 and last_failure is null and sent_at is null',
        )
        return sending.length === 0
      })
      before = receiver.told.length
    })
    await settled()
    const tokens = receiver.told.slice(before).filter(({ data }) => data.token !== undefined)
    assert.deepEqual(tokens, [])
    // Those that were made for attempts that failed have ended, too.
    for (const { data } of toldTo(user.email)) {
      if (what === 'an hour has passed') continue
      const use = data.user.id === user.id ? useReset : useProof
      assert.deepEqual(brief(await use(data.token)), tokenInvalid)
    }
  })
}

/** Has a reset for an address be put off for half an hour. */
const putOff = (address: string) =>
  db.query(
    `insert into outbox (id, action, lane, address, data, next_at, tries, last_failure, give_up_at)
     values (uuid_v7(), 'password.reset_requested', 'token: password.reset_requested ' || $1, $1,
       '{}', now() + interval '30 minutes', 5, 'status 503', now() + interval '50 minutes')`,
    [address],
  )
const moves: { what: string; end: (user: User, email: string) => Promise<unknown> }[] = [
  {
    what: 'an admin changes the address',
    end: ({ id }, email) =>
      app.request('PATCH', `/users/${id}`, { key: admin.key, body: { email } }),
  },
  {
    what: 'a token changes the address',
    async end({ id }, email) {
      const made = await app.request('POST', `/users/${id}/tokens`, {
        key: admin.key,
        body: { purpose: 'email', email },
      })
      assert.deepEqual(brief(await useProof(made.details.token)), { status: 204 })
    },
  },
  {
    what: 'the user is deleted',
    end: ({ id }) => app.request('DELETE', `/users/${id}`, { key: admin.key }),
  },
]
for (const { what, end } of moves) {
  test(`a reset that is put off goes to nobody who gets the address after ${what}`, async () => {
    const user = await app.user()
    const after = `after-${user.email}`
    await putOff(user.email)
    if (what !== 'the user is deleted') await putOff(after)
    await end(user, after)
    const live = await db.query(
      'select address from outbox where address = any($1) and give_up_at > now()',
      [[user.email, after]],
    )
    assert.deepEqual(live, [])
    await settled()
  })
}

test('a request whose tokens are ended while it is sent is counted all the same', async () => {
  const user = await app.user()
  receiver.react(({ data }) => (data.subject === user.id ? 'hang' : 204))
  await askReset(user.email)
  const { data, answer } = await receiver.next(isFor(user.email))
  await app.request('DELETE', `/users/${user.id}/tokens`, { key: user.key })
  assert.deepEqual(brief(await useReset(data.token)), tokenInvalid)
  await askReset(user.email)
  answer(204)
  receiver.react(204)
  await settled()
  assert.equal(toldTo(user.email).length, 1)
})

test('a request for a token does not wait for an event of its user', async () => {
  const user = await app.user()
  receiver.react(({ type }) => (type === 'user.changed' ? 500 : 204))
  await app.request('PATCH', `/users/${user.id}`, { key: admin.key, body: { role: 'admin' } })
  await until('it is refused', async () => {
    const rows = await db.query(
      'select from outbox where subject = $1 and last_failure is not null',
      [user.id],
    )
    return rows.length > 0
  })
  await askReset(user.email)
  await receiver.next(isFor(user.email))
  receiver.react(204)
  await db.query('update outbox set next_at = now() where subject = $1 and sent_at is null', [
    user.id,
  ])
})

test('with 10,000 waiting a further one is refused, whoever is asked for', async () => {
  const user = await app.user()
  await whileDown(async () => {
    await db.query(
      `insert into outbox (id, action, lane, subject, address, data, next_at, give_up_at)
      select uuid_v7(), 'password.reset_requested', 'full ' || i, $1, 'full', '{"actor": null}',
        now() + interval '50 minutes', now() + interval '1 hour'
      from generate_series(1, 10000) as i`,
      [user.id],
    )
    const answers = [
      await askReset(user.email),
      await askReset('nobody@example.org'),
      await askProof(user),
    ]
    for (const answer of answers) {
      assert.deepEqual(brief(answer), { status: 503, code: 'overloaded' })
      assert.equal(answer.headers.get('retry-after'), '60')
    }
    await db.query(`delete from outbox where lane like 'full _'`)
    assert.deepEqual(brief(await askReset('nobody@example.org')), accepted)
    await db.query(`update outbox set give_up_at = now(), next_at = now() where address = 'full'`)
  })
  await settled()
})

test('the 21st request of a client in a row waits, an admin’s does not', async () => {
  const client = from('203.0.113.5')
  const ask = (key?: string) => askReset('nobody@example.org', { ...client, ...(key && { key }) })
  const metricsOf = async (scope: string) => {
    const { key } = await insertKey(db, { userId: admin.id, kind: 'api', name: 'x' })
    await db.query('update api_keys set scope = $1 where user_id = $2 and name = $3', [
      scope,
      admin.id,
      'x',
    ])
    return key
  }
  const user = await app.user()
  const counted = [undefined, 'usk_malformed', user.key, await metricsOf('metrics')]
  for (let i = 0; i < 20; i++) {
    assert.deepEqual(brief(await ask(counted[i % counted.length])), accepted)
    assert.deepEqual(brief(await ask(admin.key)), accepted)
  }
  // It waits a second, which may have passed by now: another hour beside.
  const rows = await db.query<{ seconds: number }>(
    `update login_failures set wait_until = wait_until + interval '1 hour'
     where client = '203.0.113.5' and wait_until > updated_at
     returning extract(epoch from wait_until - updated_at)::float - 3600 as seconds`,
  )
  assert.deepEqual(rows, [{ seconds: 1 }])
  const answer = await ask()
  assert.deepEqual(brief(answer), { status: 429, code: 'throttled' })
  assert.ok(Number(answer.headers.get('retry-after')) > 3000)
  assert.deepEqual(brief(await ask(admin.key)), accepted)
  assert.deepEqual(brief(await askReset('nobody@example.org', from('203.0.113.6'))), accepted)
  // Where admins must have two factors, a key of one is like none.
  const strict = await startTestApp({ ...env, REQUIRE_FACTOR: 'admins' }, app.database)
  const { key: strong } = await insertKey(db, {
    userId: admin.id,
    kind: 'api',
    name: 'two',
    factors: 2,
  })
  const askStrict = (key: string) =>
    strict.request('POST', '/users/password-resets', {
      key,
      body: { email: 'nobody@example.org' },
      ...client,
    })
  assert.deepEqual(brief(await askStrict(admin.key)), { status: 429, code: 'throttled' })
  assert.deepEqual(brief(await askStrict(strong)), accepted)
  await strict.stop()
  // It guesses at no password: its log-ins are not affected.
  const logIn = await app.request('POST', '/users/sessions', {
    body: { email: user.email, password },
    ...client,
  })
  assert.equal(logIn.status, 201)
})

test('an address is proved, and changed, by the token that is sent to it', async () => {
  const user = await app.user()
  const { email } = user
  assert.deepEqual(brief(await askProof(user)), accepted)
  const present = await receiver.next(isFor(email))
  assert.equal(present.type, 'email.verification_requested')
  assert.equal(present.data.previousEmail, undefined)
  assert.equal(present.data.actor, user.id)
  assert.deepEqual(brief(await useProof(present.data.token)), { status: 204 })
  assert.equal((await read(user.id)).emailVerified, true)

  const body = { email: `New-${email}` }
  const direct = await app.request('PATCH', `/users/${user.id}`, { key: user.key, body })
  assert.deepEqual(brief(direct), { status: 403, code: 'forbidden' })
  assert.deepEqual(brief(await askProof(user, body)), accepted)
  const change = await receiver.next(isFor(body.email))
  assert.equal(change.data.previousEmail, email)
  assert.equal((await read(user.id)).email, email)
  assert.deepEqual(brief(await useProof(change.data.token)), { status: 204 })
  const changed = await read(user.id)
  assert.deepEqual([changed.email, changed.emailVerified], [body.email, true])
  const told = await receiver.next(
    ({ type, data }) => type === 'user.changed' && data.subject === user.id,
  )
  assert.deepEqual([told.data.previousEmail, told.data.user.email], [email, body.email])
})

test('asking for another address ends what was asked for before', async () => {
  const user = await app.user()
  await askProof(user, { email: `first-${user.email}` })
  const first = await receiver.next(isFor(`first-${user.email}`))
  await askReset(user.email)
  const reset = await receiver.next(isFor(user.email))
  await askProof(user, { email: `second-${user.email}` })
  const second = await receiver.next(isFor(`second-${user.email}`))
  assert.deepEqual(brief(await useProof(first.data.token)), tokenInvalid)
  assert.deepEqual(brief(await useProof(second.data.token)), { status: 204 })
  assert.deepEqual(brief(await useReset(reset.data.token)), tokenInvalid)
})

test('no user has more than five tokens an hour sent to strangers', async () => {
  const user = await app.user()
  const strangers = Array.from({ length: 7 }, (_, index) => `stranger-${index}@example.org`)
  for (const email of strangers) {
    await askProof(user, { email })
    await settled()
  }
  const sent = strangers.filter((email) => toldTo(email).length > 0)
  assert.deepEqual(sent, strangers.slice(0, 5))
})

test('that an address is taken shows when a token is used, which the asker never has', async () => {
  const [user, other] = await Promise.all([app.user(), app.user()])
  assert.deepEqual(brief(await askProof(user, { email: other.email })), accepted)
  const { data } = await receiver.next(isFor(other.email))
  assert.deepEqual(brief(await useProof(data.token)), { status: 409, code: 'email_in_use' })
})

test('asking for the same address again leaves the token good that was sent to it', async () => {
  const user = await app.user()
  const body = { email: `twice-${user.email}` }
  await askProof(user, body)
  const { data } = await receiver.next(isFor(body.email))
  await askProof(user, body)
  await settled()
  assert.equal(toldTo(body.email).length, 1)
  assert.deepEqual(brief(await useProof(data.token)), { status: 204 })
})

test('what nobody is to get is removed at once, also while nothing may be sent', async () => {
  const { db: own } = await createTestDatabase()
  for (const [name, enabled] of [
    ['known', true],
    ['disabled', false],
  ] as const) {
    await insertUser(own, { email: `${name}@example.org`, passwordHash: null, enabled })
  }
  await own.query(
    `insert into outbox (id, action, lane, address, data, give_up_at)
     select uuid_v7(), 'password.reset_requested', name, name || '@example.org', '{}',
       now() + interval '1 hour'
     from unnest(array['known', 'disabled', 'nobody']) as name`,
  )
  assert.deepEqual(await takeDue(own, 0, { lane: 'g' }), [])
  assert.deepEqual(await own.query('select lane from outbox'), [{ lane: 'known' }])
})

test('no token is made for a request that has ended', async () => {
  const { id, email } = await app.user()
  const isToBeMade = async (left: string) => {
    const [row] = await db.query<{ id: string }>(
      `insert into outbox (id, action, lane, subject, address, data, next_at, give_up_at)
       values (uuid_v7(), 'email.verification_requested', 'x', $1, $2, '{}', 'infinity',
         now() + $3::interval) returning id`,
      [id, email, left],
    )
    const holder = await lockAsked(db, row!.id)
    await db.query('delete from outbox where id = $1', [row!.id])
    return holder !== null
  }
  assert.equal(await isToBeMade('1 hour'), true)
  assert.equal(await isToBeMade('0'), false)
})

/** A request for a reset that nobody sends, and its user. */
async function makeAsked() {
  const { id, email, key } = await app.user()
  const [row] = await db.query<{ id: string }>(
    `insert into outbox (id, action, lane, subject, address, data, next_at, give_up_at)
     values (uuid_v7(), 'password.reset_requested', $2, $1, $2, '{}', 'infinity',
       now() + interval '1 hour') returning id`,
    [id, email],
  )
  return { id, key, askedId: row!.id }
}
const somebodyWaits = () =>
  until('somebody waits for a lock', async () => {
    const waiting = await db.query(
      `select from pg_stat_activity
       where datname = current_database() and wait_event_type = 'Lock'`,
    )
    return waiting.length > 0
  })

test('no token is made for a request that ends meanwhile, and neither waits for both', async () => {
  const { id, askedId } = await makeAsked()
  let tries = 0
  const { looking } = await db.transaction(async (tx) => {
    tries++
    await lockUser(tx, id)
    const looking = db.transaction((other) => {
      tries++
      return lockAsked(other, askedId)
    })
    await somebodyWaits()
    await deleteTokens(tx, id)
    return { looking }
  })
  // Of two that wait for one another PostgreSQL ends one, which is tried again.
  assert.deepEqual([await looking, tries], [null, 2])
  await db.query('delete from outbox where id = $1', [askedId])
})

test('tokens that are ended while one is made end that one, too', async () => {
  const { id, key, askedId } = await makeAsked()
  const { ending } = await db.transaction(async (tx) => {
    const holder = await lockAsked(tx, askedId)
    assert.equal(holder!.subject, id)
    const ending = app.request('DELETE', `/users/${id}/tokens`, { key })
    await somebodyWaits()
    await insertToken(tx, { userId: id, purpose: 'password-reset', email: null, seconds: 60 })
    return { ending }
  })
  assert.equal((await ending).status, 204)
  assert.deepEqual(await db.query('select from tokens where user_id = $1', [id]), [])
  await db.query('delete from outbox where id = $1', [askedId])
})

test('each request that was told came with a token', () => {
  const requests = receiver.told.filter(({ type }) => type.endsWith('_requested'))
  assert.ok(requests.length > 20)
  for (const { data } of requests) assert.match(data.token, /^ust_/)
})

test('another address wants a fresh session, the present one does not', async () => {
  const user = await app.user()
  const { key } = await insertKey(db, {
    userId: user.id,
    kind: 'session',
    name: 'session',
    seconds: 600,
  })
  await db.query(
    `update api_keys set authenticated_at = now() - interval '1 hour'
    where user_id = $1 and kind = 'session'`,
    [user.id],
  )
  const stale = { id: user.id, key }
  const answer = await askProof(stale, { email: 'fresh@example.org' })
  assert.deepEqual(brief(answer), { status: 401, code: 'authentication_needed' })
  assert.deepEqual(brief(await askProof(stale)), accepted)
  await settled()
})
