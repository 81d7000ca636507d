// PostgreSQL's clock leaps a day forward, two back, and a day forward again.
import assert from 'node:assert/strict'
import { readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { findPostgresBin } from '../../src/database/programs.ts'
import { openDatabase } from '../../src/database/pool.ts'
import { makeClock } from '../support/faketime.ts'
import { type Answer, hashCheaply, password, startTestApp, undo } from '../support/helpers.ts'
import { startOwnPostgres } from '../support/postgres.ts'

const day = 86_400_000
const within = (value: number, from: number, to: number, what = '') =>
  assert.ok(value >= from && value <= to, `${what} ${value}, not ${from} to ${to}`)

test('a leap of PostgreSQL’s clock leaves pages whole and nobody waiting', async () => {
  hashCheaply()
  const clock = makeClock()
  const bin = findPostgresBin('postgres')!
  // The programs that are found first are the installed ones, the server under the clock.
  for (const each of readdirSync(bin))
    if (each !== 'postgres') symlinkSync(join(bin, each), join(clock.directory, each))
  const settings = Object.entries(clock.env)
    .map(([name, value]) => `${name}='${value}'`)
    .join(' ')
  const program = `#!/bin/sh\n${settings} exec ${bin}/postgres "$@"\n`
  writeFileSync(join(clock.directory, 'postgres'), program, { mode: 0o755 })
  process.env['PATH'] = `${clock.directory}:${process.env['PATH']}`
  const postgres = await startOwnPostgres({ fsync: 'off' })
  await postgres.sql('alter role postgres set search_path = user_service_schema')
  const db = openDatabase(postgres.as('postgres'), () => {}, 0)
  undo.push(() => db.stop())
  const app = await startTestApp({}, { env: postgres.env, name: '', db })
  const [admin, user, other] = [await app.admin(), await app.user(), await app.user()]
  const login = (given: string, { email } = user) =>
    app.request('POST', '/users/sessions', { body: { email, password: given } })
  const passes = async ({ details: { key } }: Answer) =>
    (await app.request('GET', '/users/auth', { key })).status
  const [ids, keys] = [[admin.id, user.id, other.id], [user.keyId]]
  const sessions = [await login(password)]

  for (const days of [1, -1, 0]) {
    clock.leap(days)
    const [row] = await db.query<{ now: string }>('select clock_timestamp() as now')
    within(
      (Date.parse(row!.now) - Date.now()) / day,
      days - 0.01,
      days + 0.01,
      'days that its clock is ahead:',
    )
    // Who had to wait when it was ahead does not wait for a day.
    sessions.push(await login(password))
    assert.equal(sessions.at(-1)!.status, 201)
    assert.deepEqual(
      [await passes(sessions[0]!), await passes(sessions.at(-1)!)],
      [days === 1 ? 401 : 200, 200],
    )
    for (let i = 0; i < 3; i++) {
      ids.push((await app.user()).id)
      const made = await app.request('POST', `/users/${user.id}/keys`, {
        key: admin.key,
        body: { name: 'x' },
      })
      keys.push(made.details.id)
    }
    // The use of a key is noted by the clock as it is.
    const { key, id, keyId } = user
    const lastUsed = async () => {
      await app.request('GET', '/users/auth', { key })
      const { details } = await app.request('GET', `/users/${id}/keys`, { key: admin.key })
      return Date.parse(details.find((each: { id: string }) => each.id === keyId).lastUsedAt) || 0
    }
    for (let tries = 0; Math.abs(((await lastUsed()) - Date.now()) / day - days) > 0.01; tries++) {
      assert.ok(tries < 50, `${days}: ${new Date(await lastUsed()).toISOString()}`)
      await sleep(20)
    }
    for (let i = 0; i < 5; i++) assert.equal((await login('wrong')).status, 401)
    const refused = await login(password)
    assert.equal(refused.status, 429)
    within(Number(refused.headers.get('retry-after')), 1, 1)
    for (let i = 0; i < 2; i++) assert.equal((await login('wrong', other)).status, 401)
  }

  async function list(path: string, as = admin.key) {
    const listed: { id: string }[] = []
    for (let next: string | undefined = `${path}?limit=2`; next !== undefined;) {
      const page: Answer = await app.request('GET', next, { key: as })
      listed.push(...page.details)
      next = page.next
    }
    return listed.map((each) => each.id ?? each).sort()
  }
  assert.deepEqual(await list('/users'), ids.sort())
  const listed = await list(`/users/${user.id}/keys`)
  assert.deepEqual(
    [listed.length, new Set(listed).size],
    [keys.length + sessions.length, listed.length],
  )
  assert.deepEqual(
    keys.filter((id) => !listed.includes(id)),
    [],
  )
  const events = await list('/audit')
  const [count] = await db.query<{ n: number }>('select count(*)::int as n from audit_events')
  assert.deepEqual([events.length, new Set(events).size], [count!.n, count!.n])
})
