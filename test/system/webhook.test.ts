// Two instances as processes, each killed with SIGKILL again and again while users change: every
// committed event arrives at least once, in its user's order, and none that did not happen.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'

import { withDatabase } from '../../src/database/pool.ts'
import { insertKey } from '../../src/keys/queries.ts'
import { insertUser } from '../../src/users/queries.ts'
import { median, quantile } from '../bench/stats.ts'
import { until } from '../support/process.ts'
import { startOwnPostgres, type OwnPostgres } from '../support/postgres.ts'
import { startReceiver, type Told } from '../support/receiver.ts'
import { startService } from '../support/service.ts'
import { undoAll } from '../support/undo.ts'

after(undoAll)
const kills = Number(process.env['KILLS'] ?? 20)

type Person = { id: string; key: string }

/** Instances that tell a receiver, and admins, who may change themselves. */
async function setUp(count: number, size: number) {
  const postgres = await startOwnPostgres()
  const receiver = await startReceiver()
  const env = { ...postgres.env, ...receiver.env, TRUSTED_PROXIES: '127.0.0.0/8' }
  const start = () => startService(env)
  const people = await withDatabase(postgres.as('user_service_manager'), async (db) => {
    const made: Person[] = []
    for (let i = 0; i < size; i++) {
      const email = `user-${i}@example.org`
      const { id } = await insertUser(db, { email, passwordHash: null, role: 'admin' })
      const { key } = await insertKey(db, { userId: id, kind: 'api', name: 'test' })
      made.push({ id, key })
    }
    return made
  })
  const instances = await Promise.all(Array.from({ length: count }, start))
  return { postgres, receiver, start, instances, people }
}

const left = ({ sql }: OwnPostgres) =>
  sql<object>('select 1 from user_service_schema.outbox where sent_at is null')

/** Fails unless each user's events came, at least once, in the order of the audit. */
async function assertOrder({ sql }: OwnPostgres, people: Person[], told: Told[]) {
  const events = await sql<{ id: string; subject: string }>(
    `select id, subject from user_service_schema.audit_events
     where action = 'user.changed' order by id`,
  )
  assert.deepEqual(
    [...new Set(told.map(({ id }) => id))].sort(),
    events.map(({ id }) => id),
  )
  for (const { id } of people) {
    const firsts = new Set(told.filter(({ data }) => data.subject === id).map((each) => each.id))
    assert.deepEqual(
      [...firsts],
      events.filter(({ subject }) => subject === id).map((each) => each.id),
    )
  }
  return events.length
}

test(`every event arrives, though each sender is killed ${kills / 2} times`, async (t) => {
  const { postgres, receiver, start, instances, people } = await setUp(2, 8)
  // One in five attempts fails in one way or another, and each takes a moment.
  let attempts = 0
  receiver.react(() => {
    attempts++
    if (attempts % 10 === 0) return 503
    return attempts % 10 === 5 ? 'reset' : 204
  })
  let isOver = false
  async function work({ id, key }: { id: string; key: string }, index: number) {
    for (let i = 0; !isOver; i++) {
      const { url } = instances[(index + i) % 2]!
      try {
        await fetch(`${url}/users/${id}`, {
          method: 'PATCH',
          headers: { 'x-api-key': key, 'content-type': 'application/json' },
          // One in four is refused, after it has begun.
          body: JSON.stringify({
            metadata: { i },
            ...(i % 4 === 0 && { email: 'user-0@example.org' }),
          }),
          signal: AbortSignal.timeout(5000),
        })
      } catch {
        // Killed; whether it happened, the audit tells.
      }
    }
  }
  const working = people.map(work)
  for (let kill = 0; kill < kills; kill++) {
    await until(
      'three more have come',
      (
        (have) => () =>
          receiver.told.length > have + 3
      )(receiver.told.length),
      60,
    )
    await instances[kill % 2]!.kill('SIGKILL')
    instances[kill % 2] = await start()
  }
  isOver = true
  await Promise.all(working)
  receiver.react(204)
  await postgres.sql(`update user_service_schema.outbox set next_at = now()
    where last_failure is not null`)
  await until('all have arrived', async () => (await left(postgres)).length === 0, 60 + 3 * kills)
  const count = await assertOrder(postgres, people, receiver.told)
  assert.ok(count > kills)
  t.diagnostic(`${count} events, ${receiver.told.length - count} arrived again`)
})

test('what a killed sender was sending is sent by another within 30 s', async () => {
  const postgres = await startOwnPostgres()
  const receiver = await startReceiver()
  const env = { ...postgres.env, ...receiver.env }
  const one = await startService(env)
  const two = await startService(env)
  const url = `${one.url}/users`
  receiver.react('hang')
  const body = JSON.stringify({ email: 'ada@example.org', password: 'correct horse battery' })
  const headers = { 'content-type': 'application/json' }
  const { status } = await fetch(url, { method: 'POST', headers, body })
  assert.equal(status, 201)
  const first = await receiver.next(() => true)
  receiver.react(204)
  await one.kill('SIGKILL')
  const again = await receiver.next(({ at }) => at > first.at, 30)
  assert.equal(again.id, first.id)
  assert.equal((await fetch(`${two.url}/healthcheck`)).status, 200)
})

const events = Number(process.env['EVENTS'] ?? 1000)

test(`${events} events behind a receiver that is down arrive in order, each once`, async (t) => {
  const { postgres, receiver, instances, people } = await setUp(1, 200)
  receiver.react(503)
  const { url } = instances[0]!
  const startedAt = performance.now()
  let count = 0
  async function change() {
    while (count < events) {
      const { id, key } = people[count % people.length]!
      count++
      const body = JSON.stringify({ metadata: { count } })
      const headers = { 'x-api-key': key, 'content-type': 'application/json' }
      const { status } = await fetch(`${url}/users/${id}`, { method: 'PATCH', headers, body })
      assert.equal(status, 200)
    }
  }
  await Promise.all(Array.from({ length: 8 }, change))
  const before = receiver.told.length
  await until('it has failed ten times more', () => receiver.told.length >= before + 10, 60)
  const tries = receiver.told.length
  const seconds = (performance.now() - startedAt) / 1000
  assert.ok(tries <= seconds + 9, `${tries} tries in ${seconds} s`)
  // An hour has passed, in which each was tried once at most.
  await postgres.sql(`update user_service_schema.outbox set created_at = created_at - hour,
    next_at = next_at - hour from (values (interval '1 hour')) as given (hour)`)
  const backAt = performance.now()
  receiver.react(204)
  await until('all have arrived', async () => (await left(postgres)).length === 0, 300)
  t.diagnostic(`${tries} tries in ${Math.round(seconds)} s while it was down`)
  t.diagnostic(`${events} arrived within ${Math.round(performance.now() - backAt)} ms`)
  const taken = receiver.told.slice(tries)
  assert.equal(new Set(taken.map(({ id }) => id)).size, taken.length)
  await assertOrder(postgres, people, taken)
  for (const { timestamp, at } of taken) {
    const age = (performance.timeOrigin + at) / 1000 - timestamp
    assert.ok(age >= 0 && age < 12, `a timestamp ${age} s old`)
  }
})

const asking = Number(process.env['CLIENTS_ASKING'] ?? 2000)

test(`${asking} requests of made-up clients fill nothing while the receiver is down`, async (t) => {
  const { postgres, receiver, instances, people } = await setUp(1, 40)
  receiver.react(503)
  const statuses: Record<string, number> = {}
  let count = 0
  let most = 0
  async function ask() {
    while (count < asking) {
      count++
      const n = count
      const email = n % 4 === 0 ? `user-${n % people.length}@example.org` : `${n}@example.com`
      const { status } = await fetch(`${instances[0]!.url}/users/password-resets`, {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          'x-forwarded-for': `10.${n >> 16}.${(n >> 8) & 255}.${n & 255}`,
        },
        body: JSON.stringify({ email }),
      })
      statuses[status] = (statuses[status] ?? 0) + 1
      if (n % 500 === 0) most = Math.max(most, (await left(postgres)).length)
    }
  }
  await Promise.all(Array.from({ length: 8 }, ask))
  const known = Math.floor(asking / 4)
  await until('no address that nobody has is left', async () => {
    const rows = await left(postgres)
    return rows.length <= known
  })
  t.diagnostic(`statuses ${JSON.stringify(statuses)}; at most ${most} rows`)
  assert.deepEqual(Object.keys(statuses), ['202'])
  assert.ok(most <= 10_000)
  await postgres.sql(`update user_service_schema.outbox set give_up_at = now(), next_at = now()
    where sent_at is null`)
  await until('what is worthless is gone', async () => (await left(postgres)).length === 0, 30)
})

const pairs = Number(process.env['PAIRS'] ?? 100)

test(`in ${pairs} pairs known and unknown addresses are answered in the same time`, async (t) => {
  const { instances, people } = await setUp(1, 40)
  const times: Record<'known' | 'other', number[]> = { known: [], other: [] }
  let n = 0
  async function ask(email: string) {
    n++
    const startedAt = performance.now()
    const answer = await fetch(`${instances[0]!.url}/users/password-resets`, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        'x-forwarded-for': `10.0.${n >> 8}.${n & 255}`,
      },
      body: JSON.stringify({ email }),
    })
    assert.equal(await answer.text().then(() => answer.status), 202)
    return performance.now() - startedAt
  }
  for (let i = 0; i < 20; i++) await ask(`warm-${i}@example.com`)
  for (let i = 0; i < pairs; i++) {
    const kinds = i % 2 === 0 ? (['known', 'other'] as const) : (['other', 'known'] as const)
    for (const kind of kinds) {
      const name = kind === 'known' ? `user-${i % people.length}` : `else-${i % people.length}`
      times[kind].push(await ask(`${name}@example.org`))
    }
  }
  const apart = Math.abs(median(times.known) - median(times.other))
  const halves = [0, 1].map((half) =>
    median(times.known.filter((_, i) => i % 4 < 2 === (half === 0))),
  )
  const noise = Math.abs(halves[0]! - halves[1]!)
  t.diagnostic(`medians ${median(times.known).toFixed(2)} and ${median(times.other).toFixed(2)} ms`)
  t.diagnostic(`medians ${apart.toFixed(3)} ms apart, those of halves ${noise.toFixed(3)} ms`)
  // What medians of so few, of times that differ so much, may be apart by chance.
  const range = quantile(times.other, 0.75) - quantile(times.other, 0.25)
  const chance = (4 * range) / Math.sqrt(pairs)
  assert.ok(apart <= Math.max(noise, chance), `${apart} ms, ${noise} ms, ${chance} ms`)
})
