// The service's wall clock leaps a day forward and two back, under load and in the middle of what
// takes its time.
import assert from 'node:assert/strict'
import type { Socket } from 'node:net'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { makeClock } from '../support/faketime.ts'
import { createTestDatabase, password } from '../support/helpers.ts'
import { exchange } from '../support/raw.ts'
import { startService } from '../support/service.ts'

const day = 86_400_000
const within = (value: number, from: number, to: number, what = '') =>
  assert.ok(value >= from && value <= to, `${what} ${value}, not ${from} to ${to}`)

test('a leap of its clock lifts no throttle and ends no key', async () => {
  const [clock, { env, db }] = [makeClock(), await createTestDatabase()]
  const service = await startService({
    ...env,
    ...clock.env,
    RATE_LIMIT: '5',
    TRUSTED_PROXIES: '127.0.0.1',
    SHUTDOWN_SECONDS: '1',
  })
  let n = 0
  async function ask(
    method: string,
    path: string,
    key = '',
    body?: object,
    from = `192.0.2.${++n % 250}`,
  ) {
    const limitMs = method === 'POST' ? 10_000 : 3000 // A hash has to wait for a busy machine.
    const response = await fetch(service.url + path, {
      method,
      ...(body && { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(limitMs),
      headers: {
        'x-forwarded-for': from,
        'content-type': 'application/json',
        ...(key && { 'x-api-key': key }),
      },
    })
    const { details } = JSON.parse((await response.text()) || '{}')
    assert.ok(response.status < 500, `${method} ${path}: ${response.status}`)
    return {
      status: response.status,
      details,
      retryAfter: Number(response.headers.get('retry-after')),
    }
  }
  const email = 'ada@example.org'
  const {
    details: {
      id,
      apiKeys: [key],
    },
  } = await ask('POST', '/users', '', { email, password })
  const login = (as = email) => ask('POST', '/users/sessions', '', { email: as, password })
  const ended = (await login()).details.key
  await db.query(
    `update api_keys set valid_until = now() - interval '1 minute' where kind = 'session'`,
  )
  const session = (await login()).details.key
  const ghost = 'ghost@example.org'
  await login(ghost)
  await db.query(
    `update login_failures set wait_until = now() + interval '30 seconds' where client = ''`,
  )

  const passes = async (each: string) => (await ask('GET', '/users/auth', each)).status
  const read = (from: string) => ask('GET', `/users/${id}`, key, undefined, from)
  let isOver = false
  const keep = async (ms: number, work: () => Promise<unknown>) => {
    while (!isOver) await Promise.all([work(), sleep(ms)])
  }
  const start = performance.now()
  const letIn: number[] = []
  const load = Promise.all([
    keep(10, async () => assert.equal(await passes(key), 200)),
    keep(250, async () => assert.equal((await read('198.51.100.1')).status, 200)),
    keep(20, async () => {
      const { status, retryAfter } = await read('198.51.100.2')
      if (status === 200) letIn.push(performance.now() - start)
      else assert.deepEqual([status, retryAfter], [429, 1])
    }),
  ])
  load.catch(() => {}) // Told at its end.
  /** Sends what does not go on; resolves once it is sent. */
  const stall = (bytes: string) =>
    new Promise<{ slow: ReturnType<typeof exchange> }>((sent) => {
      const send = (socket: Socket) => socket.write(bytes, () => sent({ slow }))
      const slow = exchange(service.url, '', { limitMs: 25_000, send })
      slow.catch(() => {}) // Told where it is waited for.
    })
  const headers =
    'POST /v1/users/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n'
  const body = `${headers}Content-Length: 9\r\n\r\n{`
  type Stalled = [slow: ReturnType<typeof exchange>, from: number, to: number]
  const stalled: Stalled[] = [[(await stall(body)).slow, 14_000, 19_000]]

  for (const days of [1, -1]) {
    stalled.push([(await stall(headers)).slow, 4500, 8000])
    clock.leap(days)
    const ahead = () => (Date.parse(JSON.parse(service.log.at(-1)!).time) - Date.now()) / day
    for (let tries = 0; Math.abs(ahead() - days) > 0.01; tries++) {
      assert.ok(tries < 100, 'its clock does not move: is faketime installed?')
      await sleep(20)
    }
    assert.deepEqual([await passes(session), await passes(ended)], [200, 401])
    const { status, details } = await login()
    assert.deepEqual([status, await passes(details.key)], [201, 200])
    within(
      (Date.parse(details.validUntil) - Date.now()) / 1000,
      10_700,
      10_800,
      'seconds of a session:',
    )
    const waits = await login(ghost)
    assert.equal(waits.status, 429)
    within(waits.retryAfter, 15, 30, 'seconds of a wait:')
    const make = (seconds: number) =>
      ask('POST', `/users/${id}/keys`, key, {
        name: 'x',
        validUntil: new Date(Date.now() + seconds * 1000).toISOString(),
      })
    assert.deepEqual([(await make(3600)).status, (await make(-3600)).status], [201, 400])
  }

  for (const [slow, from, to] of stalled) {
    const { answers, ms } = await slow
    assert.deepEqual(
      answers.map(({ status }) => status),
      [408],
    )
    within(ms, from, to, 'ms of a slow request:')
  }
  isOver = true
  await load
  const seconds = (performance.now() - start) / 1000
  within(letIn.length, 4 * seconds, 5 + 5 * seconds + 1, 'let in:')
  within(Math.max(...letIn.map((at, i) => at - (letIn[i - 1] ?? 0))), 0, 1500, 'ms of refusals:')

  clock.leap(1)
  await stall(body)
  await ask('GET', '/livez')
  const end = performance.now()
  service.child.kill('SIGTERM')
  while (!service.log.at(-1)!.includes('"stopping"')) await sleep(5)
  clock.leap(-1)
  assert.equal(await service.ended, 0)
  within(performance.now() - end, 900, 3000, 'ms to end:')
})
