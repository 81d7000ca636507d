// Needs haproxy. Several instances on one database: replaced one by one under load, and started
// during a migration.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { join } from 'node:path'
import { test } from 'node:test'

import { readMigrations } from '../../src/database/migrate.ts'
import { withDatabase } from '../../src/database/pool.ts'
import { createKey } from '../../src/keys/format.ts'
import { showCode } from '../support/authenticator.ts'
import { makeKeyFile, undo } from '../support/helpers.ts'
import { startOwnPostgres } from '../support/postgres.ts'
import { type Service, startService } from '../support/service.ts'
import { createClient, type Slot } from '../soak/client.ts'
import { createLoad } from '../soak/load.ts'
import { verify } from '../soak/verify.ts'
import { freePort, root, run, until } from '../support/process.ts'

const postgres = await startOwnPostgres()
const admin = createKey()
const keyFile = join(postgres.directory, 'admin-key')
writeFileSync(keyFile, admin, { mode: 0o600 })
const start = (version: string, port = 0, env: Record<string, string> = postgres.env) =>
  startService(
    {
      ...env,
      SERVER_PORT: String(port),
      DRAIN_SECONDS: '1',
      SHUTDOWN_SECONDS: '30', // hashes wait for a busy machine
      TRUSTED_PROXIES: '127.0.0.1',
      RATE_LIMIT: '20',
      BOOTSTRAP_ADMIN_EMAIL: 'admin@example.org',
      BOOTSTRAP_ADMIN_KEY_FILE: keyFile,
    },
    { version },
  )
const migrate = (version: string, env = postgres.env) =>
  run(process.execPath, [join(version, 'bin/migrate.js'), 'up'], env)

/** Another version of the service, this one with further migrations; returns where it lies. */
function makeVersion(name: string, migrations: Record<string, string>) {
  const version = join(postgres.directory, name)
  for (const each of ['package.json', 'src', 'bin', 'sql']) {
    cpSync(join(root, each), join(version, each), { recursive: true })
  }
  symlinkSync(join(root, 'node_modules'), join(version, 'node_modules'))
  for (const [file, up] of Object.entries(migrations)) {
    writeFileSync(join(version, `sql/${file}.up.sql`), up)
    writeFileSync(join(version, `sql/${file}.down.sql`), '')
  }
  return version
}

const isHealthy = (url: string) =>
  fetch(`${url}/healthcheck`).then(
    ({ ok }) => ok,
    () => false,
  )

/** HAProxy before instances on `ports`, of which so many are up; returns where it is found. */
async function startBalancer(ports: number[], up: number) {
  const port = await freePort()
  const path = join(postgres.directory, 'haproxy.cfg')
  writeFileSync(
    path,
    `defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 30s
  timeout check 2s
listen user-service
  bind 127.0.0.1:${port}
  monitor-uri /settled/healthcheck
  monitor fail if { nbsrv gt ${up} }
  option httpchk GET /v1/healthcheck
  option redispatch 1
  default-server check inter 200ms fall 2 rise 1
${ports.map((each) => `  server at-${each} 127.0.0.1:${each}\n`).join('')}`,
  )
  const haproxy = spawn('haproxy', ['-db', '-f', path], { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  haproxy.stderr.on('data', (chunk: Buffer) => {
    said += chunk.toString()
  })
  const ended = once(haproxy, 'exit').catch(() => assert.fail('These tests need haproxy'))
  undo.push(async () => haproxy.kill('SIGKILL') && (await ended))
  const settled = until(
    () => `haproxy knows which instances are up: ${said}`,
    () => isHealthy(`http://127.0.0.1:${port}/settled`),
    20,
  )
  await Promise.race([settled, ended.then(() => assert.fail(`haproxy has ended: ${said}`))])
  return `http://127.0.0.1:${port}/v1`
}

/** The name of a migration, so many after those that there are. */
const nameAfter = (count: number, what: string) =>
  `${String(readMigrations().length + count).padStart(4, '0')}_${what}`
const more = nameAfter(1, 'more')
const quick = nameAfter(2, 'quick')
const slow = nameAfter(3, 'waiting')
const column = { [more]: 'alter table user_service_schema.users add column more text' }

test('under load a migrating version replaces two instances and no request fails', async (t) => {
  const next = makeVersion('next', column)
  const ports = await Promise.all(Array.from({ length: 4 }, freePort))
  const old = [await start(root, ports[0]), await start(root, ports[1])]
  const slot = (name: string, service: Service, url = service.url): Slot => ({
    name,
    instance: { service: { ...service, url }, agent: new http.Agent(), killed: false },
    isUp: true,
    troubles: 0,
    troubled: 0,
  })
  const balanced = slot('the balancer', old[0]!, await startBalancer(ports, 2))
  const client = createClient([balanced])
  const load = createLoad(client, admin)
  let isOver = false
  const living = Array.from({ length: 12 }, (_, i) => load.live(i, () => isOver))
  undo.push(() => {
    isOver = true
  })
  const moreChanges = (from = load.changes.length) =>
    until('30 changes more', () => load.changes.length >= from + 30, 20)

  await moreChanges()
  assert.equal((await migrate(next)).stdout, `${more} applied\n`)
  await moreChanges()
  const restarted = await start(root)
  assert.equal(await restarted.ended, 1)
  assert.match(
    restarted.said(),
    new RegExp(
      `The database is ahead: ${more} is not known to this version\\. Start one that knows`,
    ),
  )
  const instances: Service[] = []
  for (const [i, service] of old.entries()) {
    const instance = await start(next, ports[2 + i])
    instances.push(instance)
    await until('the next instance is healthy', () => isHealthy(instance.url), 20)
    await moreChanges()
    assert.equal(await service.kill(), 0, service.said())
    await moreChanges()
  }
  isOver = true
  await Promise.all(living)

  const slots = [balanced, ...instances.map((each, i) => slot(`new instance ${i}`, each))]
  const { changes, revoked } = await verify({ client, slots, load, admin })
  const { requests } = client.figures
  t.diagnostic(`${requests} requests, ${changes} changes found, ${revoked} revoked keys refused`)
  // What a health check says of an instance that stops is for the balancer, but the load asks it,
  // too.
  assert.deepEqual(
    client.wrong.filter((what) => !what.endsWith('GET /healthcheck at the balancer: 503 stopping')),
    [],
  )
  assert.ok(requests > 500 && changes > 150 && revoked > 10)
  const errors = [...old, ...instances].flatMap(({ log }) =>
    log.filter((line) => line.includes('"level":"error"')),
  )
  assert.deepEqual(errors, [])
  for (const each of instances) assert.equal(await each.kill(), 0)
})

test('an instance that starts during a migration says so and ends', async () => {
  const next = makeVersion('serving', column)
  await migrate(next)
  const goOn = `user_service_schema.login_failures where client = 'go on'`
  const later = makeVersion('later', {
    ...column,
    [quick]: 'select',
    [slow]: `do $$ begin while not exists (select from ${goOn}) loop
      perform pg_sleep(0.02);
    end loop; end $$`,
  })
  const serving = await start(next)
  const migrations = [migrate(later)]
  const waiting = `select from pg_stat_activity where query like 'do $$%' and state = 'active'`
  const isWaiting = async () => (await postgres.sql(waiting)).length > 0
  await until('a migration waits', isWaiting, 20)
  migrations.push(migrate(later))
  const early = await Promise.all([1, 2, 3].map(() => start(later)))
  for (const each of early) {
    assert.equal(await each.ended, 1)
    assert.match(each.said(), /The database is behind: 1 migrations are to be applied/)
  }
  assert.ok(await isHealthy(serving.url))
  await postgres.sql(
    `insert into user_service_schema.login_failures values ('', 'go on', 1, now())`,
  )
  const said = (await Promise.all(migrations)).map(({ stdout }) => stdout)
  assert.deepEqual(said, [`${quick} applied\n${slow} applied\n`, 'Nothing to do\n'])
  const all = await Promise.all([1, 2, 3, 4].map(() => start(later)))
  for (const { url } of [serving, ...all]) assert.ok(await isHealthy(url))
})

/** Version 1.0.0 as it was released; returns where it lies. */
async function checkOutFirstRelease() {
  const version = join(postgres.directory, 'first-release')
  mkdirSync(version)
  const archive = join(postgres.directory, 'first-release.tar')
  await run('git', ['-C', root, 'archive', '--output', archive, '00b51f7'], {})
  await run('tar', ['-xf', archive, '-C', version], {})
  symlinkSync(join(root, 'node_modules'), join(version, 'node_modules'))
  return version
}

test('version 1.0 serves on while the database is migrated, and beside this one', async () => {
  const first = await checkOutFirstRelease()
  const { env, as, sql } = await startOwnPostgres()
  const count = String(readMigrations().length - 2)
  const down = [join(root, 'bin/migrate.js'), 'down', count, '--yes']
  await run(process.execPath, down, env)
  const old = await start(first, 0, env)
  const password = 'correct horse battery staple'
  interface Init {
    method?: string
    body?: object
    key?: string
  }
  const ask = async (service: Service, path: string, init: Init) => {
    const response = await fetch(service.url + path, {
      method: init.method ?? 'POST',
      headers: { 'x-api-key': init.key ?? admin, 'content-type': 'application/json' },
      ...(init.body && { body: JSON.stringify(init.body) }),
    })
    const text = await response.text()
    assert.ok(response.ok, `${path}: ${response.status} ${text}`)
    return text === '' ? undefined : JSON.parse(text).details
  }
  const signUp = (service: Service, email: string) =>
    ask(service, '/users', { body: { email, password } })
  const before = await signUp(old, 'before@example.org')
  await migrate(root, env)
  const next = await start(root, 0, { ...env, SECRETS_KEY_FILE: makeKeyFile() })

  for (const [service, email] of [
    [old, 'old@example.org'],
    [next, 'next@example.org'],
  ] as const) {
    const { id } = await signUp(service, email)
    for (const other of [old, next]) {
      await ask(other, '/users/sessions', { body: { email, password } })
      const key = await ask(other, `/users/${id}/keys`, { body: { name: 'one' } })
      await ask(next, `/users/${id}/keys/${key.id}/rotate`, {})
      await ask(other, `/users/${id}`, { method: 'PATCH', body: { permissions: [other.url] } })
    }
    await ask(service === old ? next : old, `/users/${id}`, { method: 'DELETE' })
  }
  const seen = await ask(next, `/users/${before.id}`, { method: 'GET' })
  assert.deepEqual({ ...seen, ...before, apiKeys: [] }, seen)
  assert.deepEqual([seen.emailVerified, seen.metadata, seen.secondFactor], [false, {}, false])
  for (const service of [old, next]) {
    const errors = service.log.filter((line) => line.includes('"level":"error"'))
    assert.deepEqual(errors, [])
  }

  // Version 1.0 knows no second factor: the database refuses its session.
  const account = { email: 'factor@example.org', password }
  await signUp(next, account.email)
  const { key } = await ask(next, '/users/sessions', { body: account })
  const { secret } = await ask(next, '/users/me/factor', { key })
  const code = await withDatabase(as('postgres'), (db) => showCode(db, secret))
  await ask(next, '/users/me/factor/confirm', { key, body: { code } })
  await assert.rejects(ask(old, '/users/sessions', { body: account }), /sessions: 500/)
  const found = await sql<{ factors: number }>(`select factors
    from user_service_schema.api_keys k join user_service_schema.users u on u.id = user_id
    where kind = 'session' and u.factor_confirmed_at is not null`)
  assert.deepEqual(found, [{ factors: 2 }])
  for (const service of [old, next]) assert.equal(await service.kill(), 0, service.said())
})
