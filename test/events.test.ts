// The webhook: what happens is told, signed, at least once and in order, whatever the receiver
// does; and requests never wait for it.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import https from 'node:https'
import net, { type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'

import { post } from '../src/webhooks/post.ts'
import { deleteRow, settle, take, takeDue } from '../src/webhooks/queries.ts'
import { createCertificate } from './support/certificate.ts'
import {
  brief,
  createTestDatabase,
  hashCheaply,
  nobody,
  password,
  startTestApp,
} from './support/helpers.ts'
import { freePort, makeFolder, runCommand, until } from './support/process.ts'
import { makeSecret, signatureOf, startReceiver } from './support/receiver.ts'

hashCheaply()
const secrets = [makeSecret(), makeSecret()]
const receiver = await startReceiver(secrets)
const app = await startTestApp({ ...receiver.env, TRUSTED_PROXIES: '127.0.0.0/8' })
const admin = await app.admin()
const { db } = app

// Ten seconds that pass beside the other tests.
const silent = await startReceiver(secrets)
silent.react('hang')
const keys = secrets.map((secret) => Buffer.from(secret.slice(6), 'base64'))
const tell = (url: string, ahead = 0) => {
  const sent = { id: 'x', timeOrigin: performance.timeOrigin + ahead }
  return post({ url, secrets: keys, events: [] }, sent, { data: {} })
}
const startedAt = performance.now()
const hanging = tell(silent.url).then((failure) => ({ failure, ms: performance.now() - startedAt }))

const patch = (id: string, body: object) =>
  app.request('PATCH', `/users/${id}`, { key: admin.key, body })
const countWaiting = async () => {
  const waiting = await db.query(
    `select from outbox where sent_at is null and next_at < 'infinity'`,
  )
  return waiting.length
}
const empty = (seconds?: number) =>
  until('the outbox is empty', async () => (await countWaiting()) === 0, seconds)
interface PutOff {
  id: string
  tries: number
  reason: string
  /** Until it is due. */
  seconds: number
}
/** The event of a user that was put off after so many tries. */
async function readPutOff(subject: string, tries = 1): Promise<PutOff> {
  let row: PutOff | undefined
  await until(`try ${tries} was refused`, async () => {
    const rows = await db.query<PutOff>(
      `select id, tries, last_failure as reason,
         extract(epoch from next_at - now())::float as seconds
       from outbox where subject = $1 and tries = $2 and last_failure is not null`,
      [subject, tries],
    )
    row = rows[0]
    return row
  })
  return row!
}
/** Has what was put off be due, and somebody look. */
async function hurry() {
  await db.query(`update outbox set next_at = now() where last_failure is not null
    and sent_at is null and next_at < 'infinity'`)
  await db.query('update webhook set probe_at = now() where probe_at is not null')
  await app.request('DELETE', `/users/${admin.id}/tokens`, { key: admin.key })
}

test('signatures are made and checked as the reference library does', () => {
  // Of standardwebhooks 1.1.1, `sign`.
  const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
  const signed = 'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}'
  assert.equal(signatureOf(secret, signed), 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=')
})

test('an event is posted with the user as it is then, signed by each secret', async () => {
  const email = 'told@example.org'
  const answer = await app.request('POST', '/users', {
    body: { email, password },
    headers: { 'x-request-id': 'sign-up', 'x-forwarded-for': '192.0.2.7' },
  })
  const { id } = answer.details
  const { body, headers, path } = await receiver.next(({ data }) => data.subject === id)
  const [event] = (await app.request('GET', `/audit?user=${id}`, { key: admin.key })).details
  assert.deepEqual(body, {
    type: 'user.created',
    timestamp: event.at,
    data: {
      actor: id,
      subject: id,
      keyId: event.keyId,
      changes: [],
      address: '192.0.2.7',
      requestId: 'sign-up',
      user: {
        id,
        email,
        emailVerified: false,
        role: 'user',
        permissions: [],
        enabled: true,
        version: 1,
      },
    },
  })
  assert.equal(headers['webhook-id'], event.id)
  assert.equal(headers['content-type'], 'application/json')
  assert.equal(String(headers['webhook-signature']).split(' ').length, 2)
  assert.equal(path, '/hook')
  await empty()
})

test('a change of address carries the previous one, and a deleted user is null', async () => {
  const { id, email } = await app.user()
  await patch(id, { email: `new-${email}` })
  await app.request('DELETE', `/users/${id}`, { key: admin.key })
  await empty()
  const told = receiver.told.filter(({ data }) => data.subject === id)
  assert.deepEqual(
    told.map(({ type, data }) => [type, data.changes, data.previousEmail]),
    [
      ['user.changed', ['email'], email],
      ['user.deleted', [], undefined],
    ],
  )
  assert.equal(told.at(-1)!.data.user, null)
})

test('what did not happen is not told, nor what WEBHOOK_EVENTS does not name', async () => {
  const { id, email } = await app.user()
  const before = receiver.told.length
  const refused = await app.request('POST', '/users', { body: { email, password } })
  assert.deepEqual(brief(refused), { status: 409, code: 'email_in_use' })
  await app.request('POST', '/users/sessions', { body: { email, password: 'wrong' } })
  await app.request('POST', `/users/${id}/keys`, { key: admin.key, body: { name: 'a' } })
  assert.deepEqual(await db.query('select action from outbox where sent_at is null'), [])
  assert.equal(receiver.told.length, before)
})

test('events of a user arrive in their order, one after another', async () => {
  const users = await Promise.all([app.user(), app.user(), app.user()])
  const enabled = Array.from({ length: 20 }, (_, index) => index % 2 === 1)
  await Promise.all(
    users.map(async ({ id }) => {
      for (const each of enabled) await patch(id, { enabled: each })
    }),
  )
  await empty()
  for (const { id } of users) {
    const told = receiver.told.filter(({ data }) => data.subject === id)
    assert.equal(told.length, enabled.length)
    const ids = told.map((each) => each.id)
    assert.deepEqual(ids, [...ids].sort())
  }
})

const refusals = [
  { name: 'status 500', reaction: 500 },
  { name: 'status 404', reaction: 404 },
  { name: 'status 301', reaction: { status: 301, headers: { Location: '/elsewhere' } } },
  { name: 'ECONNRESET', reaction: 'reset' },
] as const
for (const { name, reaction } of refusals) {
  test(`an event that is refused (${name}) is sent again, with its id and a new time`, async () => {
    const [{ id }, other] = await Promise.all([app.user(), app.user()])
    receiver.react((told) => (told.data.subject === id ? reaction : 204))
    await patch(id, { enabled: false })
    const first = await receiver.next(({ data }) => data.subject === id)
    const row = await readPutOff(id)
    assert.deepEqual({ ...row, seconds: 0 }, { id: first.id, tries: 1, reason: name, seconds: 0 })
    assert.ok(row.seconds > 3 && row.seconds < 6, `${row.seconds} s`)
    // It holds up its own user's events alone.
    await patch(id, { enabled: true })
    await patch(other.id, { enabled: false })
    await receiver.next(({ data }) => data.subject === other.id)
    assert.equal(receiver.told.filter(({ data }) => data.subject === id).length, 1)
    receiver.react(204)
    await until('a second has passed', () => Date.now() / 1000 >= first.timestamp + 1)
    await hurry()
    await empty()
    const told = receiver.told.filter(({ data }) => data.subject === id)
    assert.deepEqual(
      told.map((each) => [each.id === first.id, each.data.user.enabled]),
      [
        [true, false],
        [true, true],
        [false, true],
      ],
    )
    assert.ok(told[1]!.timestamp > first.timestamp)
    assert.deepEqual(
      receiver.told.filter(({ path }) => path !== '/hook'),
      [],
    )
  })
}

test('a receiver that does not want an event is not taken for one that fails', async () => {
  for (const [reaction, isFailing] of [
    [422, false],
    [404, true],
  ] as const) {
    const { id } = await app.user()
    receiver.react(reaction)
    await patch(id, { enabled: false })
    await readPutOff(id)
    const [state] = await db.query('select probe_at is not null as "isFailing" from webhook')
    assert.deepEqual({ ...state! }, { isFailing })
  }
  receiver.react(204)
  await until('a second has passed', async () => {
    await hurry()
    return (await countWaiting()) === 0
  })
})

test('why an attempt failed is said in plain words, without the URL', async () => {
  const reasons: Record<string, string> = {
    [`http://127.0.0.1:${await freePort()}/`]: 'ECONNREFUSED',
    'https://no-such-name.invalid/': '(ENOTFOUND|EAI_AGAIN)',
    [receiver.url.replace('http:', 'https:')]: '(EPROTO|ERR_SSL)',
  }
  for (const [url, reason] of Object.entries(reasons)) {
    const failure = await tell(url)
    assert.match(failure!.reason, new RegExp(`^${reason}`))
  }
})

for (const { name, given, seconds } of [
  { name: 'seconds', given: '120', seconds: 120 },
  { name: 'a date', given: new Date(Date.now() + 200_000).toUTCString(), seconds: 200 },
  { name: 'more than an hour', given: '7200', seconds: 3600 },
  { name: 'nothing that is understood', given: 'soon', seconds: 5 },
  { name: 'no time at all', given: '0', seconds: 5 },
  { name: 'a date that has passed', given: new Date(0).toUTCString(), seconds: 5 },
]) {
  test(`Retry-After is honoured: ${name}`, async () => {
    const { id } = await app.user()
    receiver.react({ status: 429, headers: { 'Retry-After': given } })
    await patch(id, { enabled: false })
    const row = await readPutOff(id)
    assert.equal(row.reason, 'status 429')
    assert.ok(row.seconds < seconds * 1.21 && row.seconds > seconds * 0.79 - 3, `${row.seconds} s`)
    receiver.react(204)
    await hurry()
    await empty()
  })
}

test('the time of an attempt, and Retry-After, are by the clock that is given', async () => {
  const other = await startReceiver(secrets)
  const day = 86_400_000
  const date = new Date(Date.now() + day + 200_000).toUTCString()
  other.react({ status: 503, headers: { 'Retry-After': date } })
  const failure = await tell(other.url, day)
  const ahead = other.told[0]!.timestamp - Date.now() / 1000
  assert.ok(Math.abs(ahead - 86_400) < 10, `${ahead} s ahead`)
  assert.ok(failure!.seconds! > 180 && failure!.seconds! <= 200, `${failure!.seconds} s`)
})

test('what is refused waits longer each time, and is given up after three days', async () => {
  const { id } = await app.user()
  const waits: number[] = []
  receiver.react((told) => (told.data.subject === id ? 503 : 204))
  await patch(id, { enabled: false })
  for (const tries of [1, 2, 3]) {
    waits.push((await readPutOff(id, tries)).seconds)
    await hurry()
  }
  await readPutOff(id, 4)
  for (const [index, wait] of waits.entries()) {
    const middle = 5 * 2 ** index
    assert.ok(wait > middle * 0.7 && wait <= middle * 1.2, `${wait} s after try ${index + 1}`)
  }
  await db.query('update outbox set tries = 40 where subject = $1', [id])
  await hurry()
  const last = await readPutOff(id, 41)
  assert.ok(last.seconds > 2800 && last.seconds <= 4320, `${last.seconds} s`)
  await patch(id, { enabled: true })
  await db.query('update outbox set give_up_at = now() where subject = $1 and tries > 0', [id])
  await hurry()
  await until(
    'it is given up',
    async () =>
      (await db.query(`select from outbox where id = $1 and next_at = 'infinity'`, [last.id]))
        .length,
  )
  receiver.react(204)
  await receiver.next(
    ({ data }) => data.subject === id && data.user.enabled && data.user.version === 3,
  )
  await hurry()
  await empty()
  await db.query('delete from outbox where id = $1', [last.id])
})

test('while the receiver fails two instances try once a second, and nothing is lost', async () => {
  const other = await startTestApp(receiver.env, app.database)
  const before = receiver.told.length
  receiver.react(503)
  const users = await Promise.all(Array.from({ length: 12 }, () => app.user()))
  await Promise.all(
    users.map(async ({ id }, index) => {
      const at = index % 2 === 0 ? app : other
      for (const enabled of [false, true]) {
        await at.request('PATCH', `/users/${id}`, { key: admin.key, body: { enabled } })
      }
    }),
  )
  await until(
    'it is known to fail',
    async () =>
      (await db.query('select from webhook where probe_at is not null')).length > 0 &&
      (await db.query('select from outbox where tries > 0 and last_failure is null')).length === 0,
    30,
  )
  const failingSince = receiver.told.length
  await until('three more have come', () => receiver.told.length >= failingSince + 3)
  const times = receiver.told.slice(failingSince, failingSince + 3).map(({ at }) => at)
  for (const [index, at] of times.slice(1).entries()) {
    assert.ok(at - times[index]! > 900, `${at - times[index]!} ms between two`)
  }
  receiver.react(204)
  await until('it works', () => receiver.told.length >= before + 10)
  await hurry()
  await empty()
  for (const { id } of users) {
    const told = receiver.told.slice(before).filter(({ data }) => data.subject === id)
    assert.deepEqual([...new Set(told.map((each) => each.id))].length, 2)
    assert.equal(told.at(-1)!.data.user.enabled, true)
  }
  // Neither had what the other took.
  const taken = receiver.told.slice(before).filter(({ at }) => at > times.at(-1)! + 2000)
  assert.equal(new Set(taken.map(({ id }) => id)).size, taken.length)
  await other.stop()
})

test('a look costs the same, however many wait behind what is refused', async () => {
  const { db: own } = await createTestDatabase()
  const explain = async () => {
    const [row] = await own.query<any>(`explain (analyze, buffers, format json) ${take}`, [8, 'g'])
    await own.query(`update outbox set next_at = now() + interval '1 hour' where tries > 0`)
    const [{ Plan }] = row['QUERY PLAN']
    return Plan['Shared Hit Blocks'] + Plan['Shared Read Blocks']
  }
  const add = (count: number) =>
    own.query(
      `insert into outbox (id, action, lane, data, give_up_at)
       select uuid_v7(), 'user.changed', i % 2, '{}', 'infinity' from generate_series(1, $1) as i`,
      [count],
    )
  // Enough for indexes, and for the look at 30 that are due since a moment ago.
  await add(2000)
  await explain()
  await own.query('vacuum analyze outbox')
  const few = await explain()
  await add(20_000)
  await own.query('vacuum analyze outbox')
  const many = await explain()
  assert.ok(many < few + 50, `${few} and ${many} pages`)
})

/** A database of so many users, each with an event that is due, and the oldest user's id. */
async function makeWaiting(count: number, isRequest = false) {
  const { db: own } = await createTestDatabase()
  const users = await own.query<{ id: string }>(
    `insert into users (id, email, email_lower)
     select uuid_v7(), i || '@waits.example', i || '@waits.example'
     from generate_series(1, $1) as i returning id`,
    [count],
  )
  await own.query(
    `insert into outbox (id, action, lane, subject, address, data, give_up_at)
     select uuid_v7(), 'user.changed', case when $1 then 'token: ' else '' end || id, id,
       case when $1 then email end, '{}', now() + interval '1 day' from users order by id desc`,
    [isRequest],
  )
  const ids = users.map(({ id }) => id).sort()
  return { own, oldest: ids[0]! }
}

for (const isRequest of [false, true]) {
  const what = isRequest ? 'requests' : 'events'
  test(`users whose ${what} are refused keep no older one waiting`, async () => {
    const { own, oldest } = await makeWaiting(300, isRequest)
    const place = { lane: 'g' }
    const tried = new Set<string>()
    let tries = 0
    // Each try comes when all that was refused before is due again.
    while (!tried.has(oldest) && tries < 700) {
      for (const taken of await takeDue(own, 8, place)) {
        tries++
        tried.add(taken.user!.id)
        await settle(own, taken, { reason: 'status 500', seconds: 0 })
      }
      await own.query('update webhook set probe_at = now()')
    }
    assert.ok(tried.has(oldest), `not after ${tries} tries, of ${tried.size} users`)
  })
}

test('a sender whose lease has ended settles nothing of what another is sending', async () => {
  for (const isRequest of [false, true]) {
    const { own } = await makeWaiting(1, isRequest)
    const takeIt = async () => {
      await own.query('update outbox set next_at = now()')
      await own.query('update webhook set probe_at = null')
      const [taken] = await takeDue(own, 3, { lane: 'g' })
      return taken!
    }
    const late = await takeIt()
    const other = await takeIt()
    const read = () => own.query('select tries, next_at, last_failure, sent_at from outbox')
    const before = await read()
    await settle(own, late, { reason: 'status 500', seconds: null })
    await settle(own, late, null)
    await deleteRow(own, late)
    assert.deepEqual(await read(), before)
    await settle(own, other, null)
    assert.notDeepEqual(await read(), before)
  }
})

test('requests come before events that are due longer, by chance while it fails', async () => {
  const { own } = await makeWaiting(2)
  const [user] = await own.query<{ id: string }>('select id from users limit 1')
  await own.query(
    `insert into outbox (id, action, lane, subject, address, data, give_up_at)
     values (uuid_v7(), 'email.verification_requested', 'token: x', $1, 'x', '{}', 'infinity')`,
    [user!.id],
  )
  const look = async (places: number) => {
    const taken = await takeDue(own, places, { lane: 'g' })
    await own.query(`update outbox set next_at = now() - case when address is null
      then interval '1 minute' else interval '0' end`)
    return taken.map(({ address }) => address)
  }
  await look(0)
  assert.deepEqual(await look(1), ['x'])
  assert.deepEqual((await look(8)).sort(), [null, null, 'x'])
  const counts = { event: 0, request: 0 }
  for (let probe = 0; probe < 60; probe++) {
    await own.query('update webhook set probe_at = now()')
    const [address, ...others] = await look(8)
    assert.deepEqual(others, [])
    counts[address === null ? 'event' : 'request']++
  }
  assert.ok(counts.event > 8 && counts.request > 8, JSON.stringify(counts))
})

test('a look costs the same, however many users wait, and the next looks at others', async () => {
  const { own, oldest } = await makeWaiting(10_000)
  // All are put off but one, and something waits behind each of them.
  await own.query(
    `with behind as (
       insert into outbox (id, action, lane, subject, data, give_up_at)
       select uuid_v7(), action, lane, subject, data, give_up_at from outbox where lane <> $1)
     update outbox set next_at = now() + interval '1 hour' where lane <> $1`,
    [oldest],
  )
  await own.query('vacuum analyze outbox')
  const [row] = await own.query<any>(`explain (analyze, buffers, format json) ${take}`, [8, 'g'])
  const [{ Plan }] = row['QUERY PLAN']
  const pages = Plan['Shared Hit Blocks'] + Plan['Shared Read Blocks']
  assert.ok(pages < 3000, `${pages} pages`)
  const place = { lane: 'g' }
  const found: string[] = []
  let looks = 0
  for (; found.length === 0 && looks < 60; looks++) {
    found.push(...(await takeDue(own, 8, place)).map(({ user }) => user!.id))
  }
  assert.deepEqual([found, looks], [[oldest], 50])
})

test('a new event waits for no look at others, but for what its user has put off', async () => {
  const { own, oldest } = await makeWaiting(1000)
  await own.query(
    `with behind as (
       insert into outbox (id, action, lane, subject, data, give_up_at, next_at)
       select uuid_v7(), action, lane, subject, data, give_up_at, now() - interval '1 minute'
       from outbox where lane <> $1)
     update outbox set next_at = now() + interval '1 hour' where lane <> $1`,
    [oldest],
  )
  await own.query(
    `update outbox set next_at = now() where lane = $1 or id = (
       select id from outbox where next_at < now() and lane <> $1 order by lane limit 1)`,
    [oldest],
  )
  const taken = await takeDue(own, 8, { lane: 'g' })
  assert.deepEqual(
    taken.map(({ user }) => user!.id),
    [oldest],
  )
})

test('a clock that was set back does not keep the webhook waiting', async () => {
  const { id } = await app.user()
  await db.query(`update webhook set probe_at = now() + interval '1 hour'`)
  await patch(id, { enabled: false })
  await receiver.next(({ data }) => data.subject === id)
  await empty()
})

test('that looks fail is logged once, until one succeeds', async () => {
  const count = (level: string) =>
    app.log.filter((line) => line.includes(`"${level}","message":"webhook stands still"`)).length
  for (const times of [1, 2]) {
    const before = count('debug')
    await db.query('alter table outbox rename to missing')
    await until('three looks have failed', () => count('debug') >= before + 2)
    await db.query('alter table missing rename to outbox')
    assert.equal(count('warn'), times)
    const { id } = await app.user()
    await patch(id, { enabled: false })
    await receiver.next(({ data }) => data.subject === id)
    await empty()
  }
  assert.match(
    app.log.find((line) => line.includes('stands still'))!,
    /"reason":"[^"]+"/,
  )
})

test('what an operator does by a command is told, too', async () => {
  const email = 'boss@example.org'
  const { status } = await runCommand('admin', ['create', email], app.database.env)
  assert.equal(status, 0)
  const { data } = await receiver.next((told) => told.data.user?.email === email)
  assert.deepEqual([data.actor, data.requestId], [null, null])
  await empty()
})

test('what a sender that died had leased is sent by another', async () => {
  const { id } = await app.user()
  await receiver.close()
  await patch(id, { enabled: false })
  await until(
    'it is refused',
    async () =>
      (await db.query('select from outbox where subject = $1 and last_failure is not null', [id]))
        .length,
  )
  const [row] = await db.query<any>('select last_failure from outbox where subject = $1', [id])
  assert.equal(row.last_failure, 'ECONNREFUSED')
  await db.query(
    `update outbox set last_failure = null, next_at = now() + interval '2 seconds'
     where subject = $1`,
    [id],
  )
  await receiver.open()
  await receiver.next(({ data }) => data.subject === id, 5)
  await empty()
})

test('a stop lets what is under way end, and the next start sends the rest', async () => {
  const other = await startTestApp(receiver.env, app.database)
  const user = await app.user()
  const held = await startReceiver(receiver.secrets)
  await app.stop()
  assert.equal(await countWaiting(), 0)
  await other.request('PATCH', `/users/${user.id}`, { key: admin.key, body: { enabled: false } })
  await empty()
  await other.stop()
  const again = await startTestApp(held.env, app.database)
  held.react('hang')
  await again.request('PATCH', `/users/${user.id}`, { key: admin.key, body: { enabled: true } })
  await held.next(({ data }) => data.subject === user.id)
  await again.stop()
  assert.equal(await countWaiting(), 1)
})

test('bin/webhook.js shows what waits, sends it again, drops it, tries the receiver', async () => {
  const env = { ...app.database.env, ...receiver.env }
  const run = async (...args: string[]) => {
    const { status, stdout, stderr } = await runCommand('webhook', args, env)
    return { status, said: (stdout + stderr).trim() }
  }
  await db.query('delete from outbox')
  await db.query(`insert into outbox
      (id, action, lane, data, next_at, tries, last_failure, give_up_at)
    select id, 'user.changed', id::text, '{}', 'infinity', 9, 'status 500', now()
    from (values (uuid_v7()), (uuid_v7())) as given (id)`)
  const rows = await db.query<{ id: string }>('select id from outbox order by id')
  const [first, second] = rows.map(({ id }) => id)
  const lines = [first, second].map((id) => `${id} user.changed 9 infinity status 500`)
  assert.deepEqual(await run('status'), { status: 0, said: lines.join('\n') })

  assert.deepEqual(await run('drop', nobody, '--yes'), {
    status: 1,
    said: `webhook: there is no event ${nobody}`,
  })
  assert.equal((await run('drop', first!)).status, 2)
  assert.deepEqual(await run('drop', first!, '--yes'), { status: 0, said: first })
  assert.equal((await run('retry', 'x')).status, 1)
  assert.deepEqual(await run('retry'), { status: 0, said: second })
  assert.deepEqual(await run('status'), {
    status: 0,
    said: (await db.query<{ next: string }>('select next_at::text as next from outbox'))
      .map(({ next }) => `${second} user.changed 0 ${next} status 500`)
      .join('\n'),
  })
  const [left] = await db.query<{ hours: number }>(
    'select extract(epoch from give_up_at - now())::float / 3600 as hours from outbox',
  )
  assert.ok(left!.hours > 71 && left!.hours <= 72, `given up in ${left!.hours} hours`)
  assert.deepEqual(await run('retry', second!), { status: 0, said: second })
  await db.query('delete from outbox')

  assert.deepEqual(await run('test'), { status: 0, said: '' })
  const { data, headers } = await receiver.next(({ type }) => type === 'webhook.test')
  assert.deepEqual(data, { user: null })
  assert.match(String(headers['webhook-id']), /^[\da-f-]{36}$/)
  receiver.react(500)
  assert.deepEqual(await run('test'), {
    status: 1,
    said: 'webhook: the receiver did not take it: status 500',
  })
  receiver.react(204)
  assert.equal((await runCommand('webhook', ['test'], {})).status, 2)
})

for (const { name, head, reason } of [
  { name: 'a body without end', head: 'HTTP/1.1 200 OK\r\n\r\n', reason: undefined },
  { name: 'headers without end', head: 'HTTP/1.1 200 OK\r\nx: ', reason: /HEADERS/ },
  { name: 'no HTTP', head: 'ha'.repeat(10_000), reason: /^HPE_|^HTTPParserError$/ },
]) {
  test(`a receiver that answers with ${name} fills no memory`, async () => {
    const text = 'x'.repeat(65_536)
    let sent = 0
    const server = net.createServer((socket) => {
      const flood = () => {
        // What the other side does not read stays here.
        while (socket.writable && socket.write(text)) sent += text.length
      }
      socket.on('error', () => {}).on('drain', flood)
      socket.once('data', () => {
        socket.write(head)
        flood()
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const failure = await tell(`http://127.0.0.1:${port}/`)
    server.close()
    if (reason === undefined) assert.equal(failure, null)
    else assert.match(failure!.reason, reason)
    assert.ok(sent < 50e6, `${sent} bytes were read`)
  })
}

test('a private authority of the receiver is trusted if NODE_EXTRA_CA_CERTS names it', async () => {
  const { cert, key } = createCertificate()
  const bodies: string[] = []
  const server = https.createServer({ cert, key }, async (req, res) => {
    bodies.push(Buffer.concat(await req.toArray()).toString())
    res.writeHead(204).end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const file = join(makeFolder('authority'), 'ca.pem')
  writeFileSync(file, cert)
  const env = { ...receiver.env, WEBHOOK_URL: `https://localhost:${port}/` }
  const refused = await runCommand('webhook', ['test'], env)
  assert.equal(refused.status, 1)
  assert.match(refused.stderr, /did not take it: [A-Z_]*(SELF_SIGNED|UNABLE_TO_VERIFY)[A-Z_]*\n/)
  assert.deepEqual(bodies, [])
  const trusted = await runCommand('webhook', ['test'], { ...env, NODE_EXTRA_CA_CERTS: file })
  assert.deepEqual([trusted.status, trusted.stderr], [0, ''])
  assert.equal(JSON.parse(bodies[0]!).type, 'webhook.test')
  server.close()
})

test('without WEBHOOK_URL nothing is written, also by commands', async () => {
  const quiet = await startTestApp({}, app.database)
  const before = await db.query('select id from outbox')
  const { id } = await quiet.user()
  await quiet.request('PATCH', `/users/${id}`, { key: admin.key, body: { enabled: false } })
  for (const path of ['/users/password-resets', `/users/${id}/verifications`]) {
    const answer = await fetch(quiet.base + path, {
      method: 'POST',
      headers: { 'x-api-key': admin.key, 'content-type': 'application/json' },
      body: '{"email":"a@example.org"}',
    })
    assert.deepEqual(
      [answer.status, ((await answer.json()) as { code: string }).code],
      [404, 'not_found'],
    )
  }
  assert.deepEqual(await db.query('select id from outbox'), before)
  const warnings = quiet.log.filter((line) => /"warn".*"Events are told no more/.test(line))
  assert.equal(warnings.length, 1)
  const neither = await startTestApp()
  assert.doesNotMatch([...app.log, ...neither.log].join('\n'), /told no more/)
  const document = await (await fetch(`${quiet.base}/openapi.json`)).text()
  assert.doesNotMatch(document, /password-resets|verifications".*requestVerification/)
  const metrics = await quiet.request('GET', '/metrics', { key: admin.key })
  assert.doesNotMatch(metrics.text, /webhook/)
})

test('a receiver that does not answer is given ten seconds', async () => {
  const { failure, ms } = await hanging
  assert.equal(failure?.reason, 'no answer within 10 s')
  assert.ok(ms > 9900 && ms < 12_000, `${ms} ms`)
})

test('metrics show what waits, what was given up, and what came of the attempts', async () => {
  const again = await startTestApp(receiver.env, app.database)
  await db.query('delete from outbox')
  await db.query(`insert into outbox (id, action, lane, data, next_at, created_at, give_up_at)
    select uuid_v7(), 'user.changed', i::text, '{}', at, now() - interval '9 minutes', now()
    from (values (1, 'infinity'), (2, now() + interval '1 hour')) as given (i, at)`)
  const { id } = await again.user()
  const body = { enabled: false }
  await again.request('PATCH', `/users/${id}`, { key: admin.key, body })
  await until('it is taken', async () => (await countWaiting()) === 1)
  const { text } = await again.request('GET', '/metrics', { key: admin.key })
  const shown = [...text.matchAll(/^webhook_(\w+) (\d+)/gm)].map(([, name, value]) => [name, value])
  assert.deepEqual(Object.fromEntries(shown), {
    outbox: '1',
    outbox_oldest_seconds: '540',
    given_up: '1',
    delivered_total: '1',
    failed_total: '0',
  })
})

test('neither the URL nor a secret nor a token is ever logged', () => {
  const all = app.log.join('\n')
  assert.match(all, /webhook refused/)
  const { port } = new URL(receiver.url)
  for (const hidden of [...secrets, receiver.url, `:${port}`, 'ust_', 'whsec_']) {
    assert.ok(!all.includes(hidden), hidden)
  }
})
