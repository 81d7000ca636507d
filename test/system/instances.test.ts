// Eight instances on one PostgreSQL: how they start together, and what they share.
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'

import { createKey } from '../../src/keys/format.ts'
import { readMigrations } from '../../src/database/migrate.ts'
import { privateDatabase } from '../../src/config.ts'
import { createDatabase } from '../../src/database/setup.ts'
import { withDatabase } from '../../src/database/pool.ts'
import { launch, startProgram, until } from '../support/process.ts'
import { startOwnPostgres } from '../support/postgres.ts'
import { startReceiver } from '../support/receiver.ts'
import { startService, type Service } from '../support/service.ts'
import { undoAll } from '../support/undo.ts'

after(undoAll)

const count = 8
const name = 'db_eight'
const postgres = await startOwnPostgres({ max_connections: '200' })
const receiver = await startReceiver()
const as = (user: string) =>
  privateDatabase({ socketDirectory: postgres.env.DATABASE_HOST, port: 5432 }, user, name)
await createDatabase(as('postgres'))
const sql = <Row>(text: string) => withDatabase(as('postgres'), (db) => db.query<Row>(text))
const key = createKey()
const keyFile = join(postgres.directory, 'key')
writeFileSync(keyFile, key, { mode: 0o600 })
const env = {
  ...postgres.env,
  ...receiver.env,
  DATABASE_NAME: name,
  TRUSTED_PROXIES: '127.0.0.0/8',
  RATE_LIMIT: '1',
  RATE_LIMIT_BURST: '20',
  BOOTSTRAP_ADMIN_EMAIL: 'admin@example.org',
  BOOTSTRAP_ADMIN_KEY_FILE: keyFile,
}

/** Each client has buckets of its own. */
let clients = 0
const newClient = () => `192.0.2.${++clients}`

async function ask({ url }: Service, line: string, options: { body?: object; from?: string } = {}) {
  const { body, from = newClient() } = options
  const [method, path] = line.split(' ') as [string, string]
  const response = await fetch(url + path, {
    method,
    headers: {
      'x-api-key': key,
      'x-forwarded-for': from,
      ...(body && { 'content-type': 'application/json' }),
    },
    ...(body && { body: JSON.stringify(body) }),
  })
  const text = await response.text()
  return { status: response.status, body: text === '' ? undefined : JSON.parse(text) }
}

async function makeUser(instance: Service): Promise<{ id: string; apiKeys: string[] }> {
  const body = { email: `${newClient()}@example.org` }
  return (await ask(instance, 'POST /users', { body })).body.details
}

/** As a supervisor does: starts it again while the migrations are not through. */
async function supervise(): Promise<Service> {
  for (;;) {
    const service = await startService(env)
    if (service.url !== '') return service
    assert.equal(await service.ended, 1)
    assert.match(service.said() + service.log.join('\n'), /migrat/i)
  }
}

const migrators = Array.from({ length: count }, () =>
  startProgram(process.execPath, [...launch('migrate.js'), 'up'], {
    PATH: process.env['PATH'],
    ...postgres.env,
    DATABASE_NAME: name,
  }),
)
const instances = await Promise.all(Array.from({ length: count }, supervise))

test('of eight that start while eight migrate, all serve, and make one first admin', async () => {
  for (const { ended } of migrators) assert.equal((await ended).status, 0)
  const applied = await sql('select from user_service_schema.schema_migrations')
  assert.equal(applied.length, readMigrations().length)
  const admins = await sql("select from user_service_schema.users where role = 'admin'")
  assert.equal(admins.length, 1)
  for (const instance of instances) assert.equal((await ask(instance, 'GET /users')).status, 200)
})

test('each has buckets of its own', async () => {
  const from = newClient()
  for (const instance of instances.slice(0, 2)) {
    const answers = await Promise.all(
      Array.from({ length: 40 }, () => ask(instance, 'GET /users', { from })),
    )
    const refused = answers.filter(({ status }) => status === 429)
    assert.ok(refused.length >= 10, `${refused.length} of 40`)
  }
})

test('failed log-ins are counted for all of them', async () => {
  const from = newClient()
  const body = { email: 'guessed@example.org', password: 'wrong' }
  const statuses: number[] = []
  for (const instance of instances)
    statuses.push((await ask(instance, 'POST /users/sessions', { body, from })).status)
  assert.deepEqual(statuses, [401, 401, 401, 401, 401, 429, 429, 429])
})

test('a key that one revokes is refused by all others at once', async () => {
  for (const instance of instances) {
    const { id, apiKeys } = await makeUser(instance)
    const statusAt = async ({ url }: Service) =>
      (await fetch(`${url}/users/auth`, { headers: { 'x-api-key': apiKeys[0]! } })).status
    for (const each of instances) assert.equal(await statusAt(each), 200)
    assert.equal((await ask(instance, `DELETE /users/${id}`)).status, 204)
    for (const each of instances) assert.equal(await statusAt(each), 401)
  }
})

test('each event is told once, by whichever of them, in the order of its user', async () => {
  const users = await Promise.all(instances.map(makeUser))
  await Promise.all(
    users.map(async ({ id }) => {
      for (let i = 0; i < 3 * count; i++) {
        const instance = instances[i % count]!
        const { status } = await ask(instance, `PATCH /users/${id}`, { body: { metadata: { i } } })
        assert.equal(status, 200)
      }
    }),
  )
  const outbox = () => sql('select from user_service_schema.outbox')
  await until('all is told', async () => (await outbox()).length === 0, 30)
  const told = receiver.told.map(({ id }) => id)
  assert.equal(new Set(told).size, told.length)
  for (const { id } of users) {
    const events = await sql<{ id: string }>(
      `select id from user_service_schema.audit_events
       where subject = '${id}' and action ~ '^user' order by id`,
    )
    assert.deepEqual(
      receiver.told.filter(({ data }) => data.subject === id).map((each) => each.id),
      events.map((each) => each.id),
    )
  }
})

test('eight take the connections that they may, and no more', async (t) => {
  const isOurs = "datname = 'db_eight' and usename = 'user_service_manager'"
  const used = await sql(`select from pg_stat_activity where ${isOurs}`)
  t.diagnostic(`${used.length} connections of ${count} instances`)
  assert.ok(used.length > count)
  assert.ok(used.length <= count * 10)
})
