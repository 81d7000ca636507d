// The service's wall clock leaps a day forward and two back, under load and in the middle of what
// takes its time.
import assert from 'node:assert/strict'
import type { Socket } from 'node:net'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { makeClock } from '../support/faketime.ts'
import { createTestDatabase, password } from '../support/helpers.ts'
import { until } from '../support/process.ts'
import { exchange } from '../support/raw.ts'
import { startReceiver } from '../support/receiver.ts'
import { startService } from '../support/service.ts'

const day = 86_400_000

function assertWithin(value: number, [from, to]: [number, number], what: string) {
  assert.ok(value >= from && value <= to, `${what}: ${value}, not ${from} to ${to}`)
}

const clock = makeClock()
const { env, db } = await createTestDatabase()
const receiver = await startReceiver()
const service = await startService({
  ...env,
  ...receiver.env,
  ...clock.env,
  RATE_LIMIT: '5',
  TRUSTED_PROXIES: '127.0.0.1',
  SHUTDOWN_SECONDS: '1',
})

interface Ask {
  key?: string
  body?: object
  /** The client's address; another one for each request without. */
  from?: string
}

let count = 0
async function ask(method: string, path: string, { key, body, from }: Ask = {}) {
  count++
  const limitMs = method === 'POST' ? 10_000 : 3000 // A hash has to wait for a busy machine.
  const response = await fetch(service.url + path, {
    method,
    ...(body && { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(limitMs),
    headers: {
      'x-forwarded-for': from ?? `192.0.2.${count % 250}`,
      'content-type': 'application/json',
      ...(key && { 'x-api-key': key }),
    },
  })
  const { details } = JSON.parse((await response.text()) || '{}')
  assert.ok(response.status < 500, `${method} ${path}: ${response.status}`)
  const retryAfter = Number(response.headers.get('retry-after'))
  return { status: response.status, details, retryAfter }
}

const email = 'ada@example.org'
const ghost = 'ghost@example.org'
const { details: user } = await ask('POST', '/users', { body: { email, password } })
const [key] = user.apiKeys as string[]
const logIn = (as: string) => ask('POST', '/users/sessions', { body: { email: as, password } })
const passes = async (each: string) => (await ask('GET', '/users/auth', { key: each })).status
const read = (from: string) => ask('GET', `/users/${user.id}`, { key: key!, from })

/** A session that has ended, one that has not, and an address that has to wait. */
async function prepare() {
  const ended: string = (await logIn(email)).details.key
  await db.query(
    `update api_keys set valid_until = now() - interval '1 minute' where kind = 'session'`,
  )
  const session: string = (await logIn(email)).details.key
  await logIn(ghost)
  await db.query(
    `update login_failures set wait_until = now() + interval '30 seconds' where client = ''`,
  )
  return { ended, session }
}

/** Requests of three clients, the last of which is throttled, until it is told to stop. */
function startLoad() {
  const start = performance.now()
  const letIn: number[] = []
  let isOver = false
  async function keep(ms: number, work: () => Promise<unknown>) {
    while (!isOver) await Promise.all([work(), sleep(ms)])
  }
  async function hurry() {
    const { status, retryAfter } = await read('198.51.100.2')
    if (status === 200) letIn.push(performance.now() - start)
    else assert.deepEqual({ status, retryAfter }, { status: 429, retryAfter: 1 })
  }
  const load = Promise.all([
    keep(10, async () => assert.equal(await passes(key!), 200)),
    keep(250, async () => assert.equal((await read('198.51.100.1')).status, 200)),
    keep(20, hurry),
  ])
  load.catch(() => {}) // reported when it is stopped
  return async () => {
    isOver = true
    await load
    return { letIn, seconds: (performance.now() - start) / 1000 }
  }
}

/** Sends the beginning of a request; resolves once it is sent. */
function stall(bytes: string) {
  return new Promise<{ slow: ReturnType<typeof exchange> }>((sent) => {
    const send = (socket: Socket) => socket.write(bytes, () => sent({ slow }))
    const slow = exchange(service.url, '', { limitMs: 25_000, send })
    slow.catch(() => {}) // reported where it is awaited
  })
}

async function leap(days: number) {
  clock.leap(days)
  const ahead = () => (Date.parse(JSON.parse(service.log.at(-1)!).time) - Date.now()) / day
  await until('its clock moves (with faketime)', () => Math.abs(ahead() - days) < 0.01)
}

/** Nothing that depends on an instant has changed. */
async function checkInstants({ ended, session }: { ended: string; session: string }) {
  assert.deepEqual([await passes(session), await passes(ended)], [200, 401])
  const { status, details } = await logIn(email)
  assert.deepEqual([status, await passes(details.key)], [201, 200])
  const seconds = (Date.parse(details.validUntil) - Date.now()) / 1000
  assertWithin(seconds, [10_700, 10_800], 'seconds of a session')
  const waits = await logIn(ghost)
  assert.equal(waits.status, 429)
  assertWithin(waits.retryAfter, [15, 30], 'seconds of a wait')
  const told = `told-${receiver.told.length}@example.org`
  await ask('POST', '/users', { body: { email: told, password } })
  const { timestamp } = await receiver.next(({ data }) => data.user?.email === told)
  assertWithin(timestamp - Date.now() / 1000, [-20, 1], 'seconds of an attempt')
  async function make(keySeconds: number) {
    const validUntil = new Date(Date.now() + keySeconds * 1000).toISOString()
    const body = { name: 'x', validUntil }
    return (await ask('POST', `/users/${user.id}/keys`, { key: key!, body })).status
  }
  assert.deepEqual([await make(3600), await make(-3600)], [201, 400])
}

const headers = 'POST /v1/users/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n'
const partOfBody = `${headers}Content-Length: 9\r\n\r\n{`

test('a leap of its clock lifts no throttle and ends no key', async () => {
  const sessions = await prepare()
  const stopLoad = startLoad()
  type Stalled = { slow: ReturnType<typeof exchange>; range: [number, number] }
  const stalled: Stalled[] = [{ ...(await stall(partOfBody)), range: [14_000, 19_000] }]

  for (const days of [1, -1]) {
    stalled.push({ ...(await stall(headers)), range: [4500, 8000] })
    await leap(days)
    await checkInstants(sessions)
  }

  for (const { slow, range } of stalled) {
    const { answers, ms } = await slow
    const statuses = answers.map(({ status }) => status)
    assert.deepEqual(statuses, [408])
    assertWithin(ms, range, 'ms of a slow request')
  }
  const { letIn, seconds } = await stopLoad()
  assertWithin(letIn.length, [4 * seconds, 5 + 5 * seconds + 1], 'let in')
  const refusals = letIn.map((at, i) => at - (letIn[i - 1] ?? 0))
  assertWithin(Math.max(...refusals), [0, 1500], 'ms of refusals')
})

test('a leap of its clock does not hold up its end', async () => {
  clock.leap(1)
  await stall(partOfBody)
  await ask('GET', '/livez')
  const end = performance.now()
  service.child.kill('SIGTERM')
  await until('it stops', () => service.log.at(-1)!.includes('"stopping"'))
  clock.leap(-1)
  assert.equal(await service.ended, 0)
  assertWithin(performance.now() - end, [900, 3000], 'ms to end')
})
