// PostgreSQL's clock leaps a day forward, two back, and a day forward again.
import assert from 'node:assert/strict'
import { readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

import { findPostgresBin } from '../../src/database/programs.ts'
import { openDatabase } from '../../src/database/pool.ts'
import { makeClock } from '../support/faketime.ts'
import { type Answer, hashCheaply, password, startTestApp, undo } from '../support/helpers.ts'
import { until } from '../support/process.ts'
import { startOwnPostgres } from '../support/postgres.ts'

const day = 86_400_000

function assertWithin(value: number, [from, to]: [number, number], what: string) {
  assert.ok(value >= from && value <= to, `${what}: ${value}, not ${from} to ${to}`)
}

hashCheaply()
const clock = makeClock()

/** A PostgreSQL under the clock; the other programs are the installed ones. */
async function startPostgres() {
  const bin = findPostgresBin('postgres')!
  for (const each of readdirSync(bin)) {
    if (each !== 'postgres') symlinkSync(join(bin, each), join(clock.directory, each))
  }
  const settings = Object.entries(clock.env).map(([name, value]) => `${name}='${value}'`)
  const program = `#!/bin/sh\n${settings.join(' ')} exec ${bin}/postgres "$@"\n`
  writeFileSync(join(clock.directory, 'postgres'), program, { mode: 0o755 })
  process.env['PATH'] = `${clock.directory}:${process.env['PATH']}`
  return startOwnPostgres({ fsync: 'off' })
}

const postgres = await startPostgres()
await postgres.sql('alter role postgres set search_path = user_service_schema')
const db = openDatabase(postgres.as('postgres'), () => {}, 0)
undo.push(() => db.stop())
const app = await startTestApp({}, { env: postgres.env, name: '', db })
const admin = await app.admin()
const user = await app.user()
const other = await app.user()

const logIn = (given: string, { email } = user) =>
  app.request('POST', '/users/sessions', { body: { email, password: given } })

async function passes({ details: { key } }: Answer) {
  const { status } = await app.request('GET', '/users/auth', { key })
  return status
}

async function checkClock(days: number) {
  const [row] = await db.query<{ now: string }>('select clock_timestamp() as now')
  const ahead = (Date.parse(row!.now) - Date.now()) / day
  assertWithin(ahead, [days - 0.01, days + 0.01], 'days that its clock is ahead')
}

/** Makes users and keys; returns their ids. */
async function makeSome() {
  const ids: string[] = []
  const keys: string[] = []
  for (let i = 0; i < 3; i++) {
    const { id } = await app.user()
    const body = { name: 'x' }
    const made = await app.request('POST', `/users/${user.id}/keys`, { key: admin.key, body })
    ids.push(id)
    keys.push(made.details.id)
  }
  return { ids, keys }
}

/** The use of a key is noted by the clock as it is. */
async function checkLastUsed(days: number) {
  const { key, id, keyId } = user
  await until(`the use of a key is noted, ${days} days ahead`, async () => {
    await app.request('GET', '/users/auth', { key })
    const { details } = await app.request('GET', `/users/${id}/keys`, { key: admin.key })
    const { lastUsedAt } = details.find((each: { id: string }) => each.id === keyId)
    return Math.abs((Date.parse(lastUsedAt) - Date.now()) / day - days) < 0.01
  })
}

async function checkThrottle() {
  for (let i = 0; i < 5; i++) assert.equal((await logIn('wrong')).status, 401)
  const refused = await logIn(password)
  const retryAfter = refused.headers.get('retry-after')
  assert.deepEqual({ status: refused.status, retryAfter }, { status: 429, retryAfter: '1' })
  for (let i = 0; i < 2; i++) assert.equal((await logIn('wrong', other)).status, 401)
}

/** All pages of a list, sorted. */
async function list(path: string): Promise<string[]> {
  const listed: { id: string }[] = []
  let next: string | undefined = `${path}?limit=2`
  while (next !== undefined) {
    const page: Answer = await app.request('GET', next, { key: admin.key })
    listed.push(...page.details)
    next = page.next
  }
  return listed.map((each) => each.id ?? each).sort()
}

test('a leap of PostgreSQL’s clock leaves pages whole and nobody waiting', async () => {
  const ids = [admin.id, user.id, other.id]
  const keys = [user.keyId]
  const first = await logIn(password)
  let sessions = 1

  for (const days of [1, -1, 0]) {
    clock.leap(days)
    await checkClock(days)
    // A wait that began when it was ahead does not last for a day.
    const session = await logIn(password)
    sessions++
    assert.equal(session.status, 201)
    assert.equal(await passes(first), days === 1 ? 401 : 200)
    assert.equal(await passes(session), 200)
    const made = await makeSome()
    ids.push(...made.ids)
    keys.push(...made.keys)
    await checkLastUsed(days)
    await checkThrottle()
  }

  assert.deepEqual(await list('/users'), ids.sort())
  const listed = await list(`/users/${user.id}/keys`)
  assert.equal(listed.length, keys.length + sessions)
  assert.equal(new Set(listed).size, listed.length)
  const missing = keys.filter((id) => !listed.includes(id))
  assert.deepEqual(missing, [])
  const events = await list('/audit')
  const [row] = await db.query<{ n: number }>('select count(*)::int as n from audit_events')
  assert.deepEqual([events.length, new Set(events).size], [row!.n, row!.n])
})
