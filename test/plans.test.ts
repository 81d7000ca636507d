// With enough rows that a scan would hurt, no statement may read a table from end to end. Twice
// over: by PostgreSQL's own count of what the service did, cascades included, and by the plan of
// each statement that it sent, which the failure shows.
import assert from 'node:assert/strict'
import { test } from 'node:test'

import pg, { type Client, type Query } from 'pg'

import { maxKeysPerStatement } from '../src/keys/identify.ts'
import { findCallers, deleteEndedSessions, markUsed } from '../src/keys/queries.ts'
import { openDatabase } from '../src/database/pool.ts'
import { allRoutes, type Deps } from '../src/routes.ts'
import { deleteForgottenFailures } from '../src/passwords/queries.ts'
import { deleteEndedTokens } from '../src/tokens/queries.ts'
import { showCode } from './support/authenticator.ts'
import {
  connectTo,
  createTestDatabase,
  hashCheaply,
  password,
  passwordHash,
  signing,
  startTestApp,
} from './support/helpers.ts'
import { until } from './support/process.ts'
import { startReceiver } from './support/receiver.ts'

const rows = 20_000

interface Node {
  'Node Type': string
  'Relation Name'?: string
  Plans?: Node[]
}

/**
 * A connection may keep its counts for a second, or ten when it is idle: with this, until its
 * transaction ends.
 */
const countNow = 'select pg_stat_force_next_flush()'

hashCheaply()
const database = await createTestDatabase()
const { db } = database
await db.transaction(async (tx) => {
  await tx.query(
    `insert into users (email, email_lower, password_hash, role)
    select e, e, $2, case when i > $1 - 3 then 'admin' else 'user' end
    from
      generate_series(1, $1::int) as i,
      lateral (select 'user' || i || '@example.org' as e) as named`,
    [rows, passwordHash],
  )
  await tx.query(`insert into api_keys (user_id, kind, name, digest, valid_until)
    select
      id, case when random() < 0.5 then 'api' else 'session' end, 'test',
      sha256(convert_to(email, 'UTF8')), now() + interval '1 day'
    from users`)
  await tx.query(
    `insert into audit_events (action, actor, subject) select 'user.created', id, id from users`,
  )
  await tx.query(`insert into login_failures (account, client, failures, wait_until, updated_at)
    select sha256(convert_to(email, 'UTF8')), '', 1, '-infinity', now() from users`)
  await tx.query(`insert into tokens (digest, purpose, user_id, email, valid_until)
    select sha256(convert_to(email, 'UTF8')), 'email', id, email, now() + interval '1 day'
    from users`)
  // Half of them wait, of those that are due most behind another of their lane.
  await tx.query(
    `insert into outbox (id, action, lane, subject, address, data, next_at, give_up_at)
     select uuid_v7(), 'user.changed', case when i % 3 = 0 then '' else id::text end, id,
       case when i % 100 = 0 then email_lower end, '{}', now() + i % 2 * interval '1 hour',
       now() + interval '1 day'
     from (select *, row_number() over () as i from users) as numbered`,
  )
  await tx.query(countNow)
})
await db.query('vacuum analyze')
// What the above read is otherwise reported later, and taken for the service's.
await db.query(countNow)
await db.query('select pg_stat_reset()')

const receiver = await startReceiver()
const app = await startTestApp({ ...receiver.env, ...signing }, database)
const sent = new Map<string, Query>()
const { query } = pg.Client.prototype
pg.Client.prototype.query = function (this: Client & { user?: string }, statement: Query) {
  if (this.user === 'user_service_manager') sent.set(statement.text, statement)
  return query.call(this, statement) as Promise<never>
}

/** The tables of ours that a planner that may scan them does, though the service's may not. */
async function findScans({ text, values = [] }: Query): Promise<string[]> {
  const [row] = await db.transaction(async (tx) => {
    await tx.query('set local enable_seqscan = on')
    return tx.query<{ 'QUERY PLAN': { Plan: Node }[] }>(`explain (format json) ${text}`, values)
  })
  const scans = ({ 'Node Type': type, 'Relation Name': table, Plans = [] }: Node): string[] => [
    ...(type === 'Seq Scan' && table && !table.startsWith('pg_') ? [table] : []),
    ...Plans.flatMap(scans),
  ]
  // One row is quickest read as it lies.
  return scans(row!['QUERY PLAN'][0]!.Plan).filter((table) => table !== 'webhook')
}

interface Subject {
  id: string
  /** An API key of the user. */
  key: string
  /** An API key of an admin. */
  adminKey: string
}

/** Calls a route, which must succeed. */
async function ask(key: string, method: string, { path, body }: { path: string; body?: object }) {
  const answer = await app.request(method, path, { key, ...(body && { body }) })
  assert.ok(answer.status < 400, `${method} ${path}: ${answer.text}`)
  return answer.details
}

/** Reads all that can be read, as the user and as an admin. */
async function readEverything({ id, key, adminKey }: Subject, email: string) {
  const ofUser = [
    '/users/auth',
    '/users/auth/below',
    `/users/${id}`,
    `/users/${id}/keys`,
    `/users/${id}/keys?after=${id}`,
    '/users/healthcheck',
  ]
  const ofAdmin = [
    '/healthcheck',
    '/livez',
    '/docs',
    '/admin',
    '/openapi.json',
    '/jwks.json',
    '/.well-known/openid-configuration',
    '/users/auth?token-audience=orders',
    '/metrics',
    '/audit',
    `/audit?user=${id}`,
    `/audit?after=${id}`,
    '/audit?action=user.changed',
    `/audit?action=user.changed&user=${id}`,
    '/users',
    `/users?after=${id}`,
    `/users?email=${email}`,
    '/users?view=full',
    '/users?search=user19',
    `/users?search=user&after=${id}`,
    '/users?search=@example.com',
    `/users/${id}`,
  ]
  for (const path of ofUser) await ask(key, 'GET', { path })
  for (const path of ofAdmin) await ask(adminKey, 'GET', { path })
  // More than are sorted.
  const broad = await ask(adminKey, 'GET', { path: '/users?search=user1&limit=5' })
  const first = await db.query<{ id: string }>(
    `select id from users where email like 'user1%' order by id limit 5`,
  )
  assert.deepEqual(
    broad,
    first.map(({ id: each }) => each),
  )
}

/** Changes all that can be changed, and deletes the user. */
async function changeEverything({ id, key, adminKey }: Subject) {
  const self = `/users/${id}`
  const keys = `${self}/keys`
  const made = await ask(key, 'POST', { path: keys, body: { name: 'second' } })
  await ask(key, 'PATCH', { path: `${keys}/${made.id}`, body: { enabled: false } })
  const rotated = await ask(key, 'POST', { path: `${keys}/${made.id}/rotate` })
  await ask(key, 'DELETE', { path: `${keys}/${rotated.id}` })
  await ask(key, 'POST', { path: '/users/jwt', body: { audience: 'orders' } })
  const passwords = { password: `${password}!`, currentPassword: password }
  await ask(key, 'PATCH', { path: self, body: passwords })
  const tokens = `${self}/tokens`
  const reset = { purpose: 'password-reset' }
  const { token } = await ask(adminKey, 'POST', { path: tokens, body: reset })
  const chosen = { token, password: `${password}?`, endKeys: false }
  await ask(key, 'POST', { path: '/users/passwords', body: chosen })
  const move = { purpose: 'email', email: 'moved@example.org' }
  const proof = await ask(adminKey, 'POST', { path: tokens, body: move })
  await ask(key, 'POST', { path: '/users/verifications', body: { token: proof.token } })
  await ask(key, 'DELETE', { path: tokens })
  const proofs = `${self}/verifications`
  await ask(key, 'POST', { path: proofs })
  await ask(key, 'POST', { path: proofs, body: { email: 'again@example.org' } })
  const request = { email: 'plans-other@example.org' }
  await ask(adminKey, 'POST', { path: '/users/password-resets', body: request })
  await ask(adminKey, 'PATCH', { path: self, body: { role: 'admin' } })
  await ask(adminKey, 'PATCH', { path: self, body: { role: 'user' } })
  await ask(key, 'DELETE', { path: self })
}

/** Sets a second factor up, logs in by it and by a recovery code, and removes it. */
async function proveFactors({ id, email }: { id: string; email: string }) {
  const sessions = '/users/sessions'
  const path = `/users/${id}/factor`
  const { key } = await ask('', 'POST', { path: sessions, body: { email, password } })
  const { secret } = await ask(key, 'POST', { path })
  const confirming = { code: await showCode(db, secret) }
  await ask(key, 'POST', { path: `${path}/confirm`, body: confirming })
  const { recoveryCodes } = await ask(key, 'POST', { path: `${path}/recovery-codes` })
  await ask(key, 'GET', { path })
  for (const code of [recoveryCodes[0], await showCode(db, secret, 1)]) {
    const { token } = await ask('', 'POST', { path: sessions, body: { email, password } })
    await ask('', 'POST', { path: sessions, body: { token, code } })
  }
  await ask(key, 'DELETE', { path })
}

/** Fails unless each route has been called. */
function assertAllTaken() {
  const lines = app.log.map((line) => JSON.parse(line))
  const taken = new Set(lines.map(({ method, route }) => `${method} ${route}`))
  const documented = allRoutes({
    signup: 'open',
    hasWebhook: true,
    hasAdminPage: true,
    signer: {},
  } as Deps).filter(({ undocumented }) => !undocumented)
  const known = documented.map(({ method, path }) => `${method === 'ANY' ? 'GET' : method} ${path}`)
  const missing = known.filter((route) => !taken.has(route))
  assert.deepEqual(missing, [], 'every route must have been taken')
}

test('no request reads a table from end to end', async () => {
  const admin = await app.admin()
  const account = { email: 'plans@example.org', password }
  const created = await app.request('POST', '/users', { body: account })
  const { id, apiKeys } = created.details
  const subject: Subject = { id, key: apiKeys[0], adminKey: admin.key }
  const sessions = '/users/sessions'
  const refused = await app.request('POST', sessions, { body: { ...account, password: 'wrong' } })
  assert.equal(refused.status, 401)
  const session = await app.request('POST', sessions, { body: account })
  await ask(session.details.key, 'DELETE', { path: sessions })
  await ask(subject.key, 'DELETE', { path: `${sessions}/${id}` })
  await readEverything(subject, account.email)
  await changeEverything(subject)
  await proveFactors(admin)
  await db.transaction(async (tx) => {
    await deleteEndedSessions(tx)
    await deleteEndedTokens(tx)
    await deleteForgottenFailures(tx)
    await tx.query(countNow)
  })
  assertAllTaken()
  await app.stop()
  // A connection that has ended has counted.
  const left = `
    select from pg_stat_activity
    where datname = current_database() and usename = 'user_service_manager'`
  await until('all connections have ended', async () => (await db.query(left)).length === 0)
  const scanned = await db.query(`select relname, seq_scan from pg_stat_user_tables
    where relname in ('users', 'api_keys', 'audit_events', 'login_failures', 'tokens', 'outbox')
      -- Metrics, read once, count all that waits.
      and seq_scan > case relname when 'outbox' then 1 else 0 end`)
  assert.deepEqual(scanned, [])
})

test('no statement is planned to, nor is a look-up of many keys at once', async () => {
  const record = {
    async query(text: string, values: unknown[]) {
      sent.set(`${text} ${(values[0] as unknown[]).length}`, { text, values })
      return []
    },
  }
  for (const count of [1, 16, maxKeysPerStatement]) {
    await findCallers(
      record as never,
      Array.from({ length: count }, () => Buffer.alloc(32, count)),
      0,
    )
    await markUsed(
      record as never,
      Array.from({ length: count }, () => '019535d9-3df7-79fb-b466-fa907fa17f9e'),
    )
  }
  const planned = [...sent.values()].filter(({ text }) =>
    /^\s*(with|select|insert|update|delete)\b/.test(text),
  )
  assert.ok(planned.length > 25, `${planned.length} statements`)
  const faults: Record<string, string[]> = {}
  for (const statement of planned) {
    const scans = await findScans(statement)
    // Metrics count all that waits.
    if (scans.length > 0 && !statement.text.includes('given_up')) faults[statement.text] = scans
  }
  assert.deepEqual(faults, {})
  assert.deepEqual(
    await findScans({ text: 'select from users where email like $1', values: ['%a%'] }),
    ['users'],
  )
})

test('among the remains of deleted keys the look-up of one is not planned to scan', async () => {
  const service = openDatabase(connectTo(database.name, 'user_service_manager'), () => {})
  const lookUp = [...sent.keys()].find((text) => text.includes('as "keyKind"'))!
  const tables = `'{api_keys,users}'::regclass[]`
  await db.query(`update pg_class set reltuples = 3 where oid = any(${tables})
    or oid in (select indexrelid from pg_index where indrelid = any(${tables}))`)
  const values = [Array.from({ length: 16 }, (_, index) => Buffer.alloc(32, index)), 0]
  const plan = await service.query<{ 'QUERY PLAN': string }>(`explain ${lookUp}`, values)
  await db.query('analyze')
  await service.stop()
  const lines = plan.map((row) => row['QUERY PLAN']).join('\n')
  assert.doesNotMatch(lines, /Seq Scan/)
  assert.match(lines, /Cond: \(digest = a\.digest\)[^]*Cond: \(id = k\.user_id\)/)
})

test('noting that keys were used touches no index', async () => {
  const keys = await db.query<{ id: string }>(
    'select id from api_keys where last_used_at is null order by random() limit 500',
  )
  const updates = async () =>
    (
      await db.query<{
        all: number
        hot: number
      }>(`select n_tup_upd::int as all, n_tup_hot_upd::int as hot
    from pg_stat_user_tables where relname = 'api_keys'`)
    )[0]!
  const before = await updates()
  await db.transaction(async (tx) => {
    await markUsed(
      tx,
      keys.map(({ id }) => id),
    )
    await tx.query(countNow)
  })
  const after = await updates()
  assert.deepEqual([after.all - before.all, after.hot - before.hot], [500, 500])
})
