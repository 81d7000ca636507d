// What can go wrong with the database and with the process, brought about for real.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { openSync, readFileSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { TLSSocket } from 'node:tls'

import { createKey } from '../src/keys/format.ts'
import { type Db, openDatabase, withDatabase } from '../src/database/pool.ts'
import { serviceSettings } from '../src/database/session.ts'
import { createDatabase } from '../src/database/setup.ts'
import { createCertificate } from './support/certificate.ts'
import { hashCheaply, password, startTestApp, undo } from './support/helpers.ts'
import { startOwnPostgres } from './support/postgres.ts'
import { startProxy } from './support/proxy.ts'
import { until } from './support/process.ts'
import { open } from './support/raw.ts'
import { type Service, startService } from './support/service.ts'

hashCheaply()
const postgres = await startOwnPostgres({
  max_connections: '40',
  fsync: 'off',
  deadlock_timeout: '100ms',
})
const proxy = await startProxy(postgres.socket)
await postgres.sql('alter role postgres set search_path = user_service_schema')
// The superuser, whose statements may wait.
const db = openDatabase(postgres.as('postgres'), () => {}, 0)
undo.push(() => db.stop())
const proxied = { DATABASE_HOST: '127.0.0.1', DATABASE_PORT: String(proxy.port) }
const using = (env = {}) =>
  startTestApp({ DATABASE_POOL: '4', ...env }, { env: postgres.env, name: '', db })
const app = await using()
const far = await using(proxied)
const user = await app.user()

type App = typeof app
const read = (at: App = app) => at.request('GET', `/users/${user.id}`, { key: user.key })
let n = 0
const change = (at: App = app) =>
  at.request('POST', `/users/${user.id}/keys`, { key: user.key, body: { name: `key ${++n}` } })
const countKeys = async (name: string) =>
  (await db.query('select from api_keys where name = $1', [name])).length

/**
 * Every answer is a 503 that says when to come again, within two seconds and what a busy machine
 * adds.
 */
async function assertUnavailable(...calls: (() => ReturnType<App['request']>)[]) {
  await Promise.all(
    calls.map(async (call) => {
      const start = performance.now()
      const { status, body, headers } = await call()
      const ms = performance.now() - start
      assert.deepEqual(
        [status, body?.code, headers.get('retry-after')],
        [503, 'database_unavailable', '1'],
      )
      assert.ok(ms < 2500, `${ms} ms`)
    }),
  )
}
const check = (at: App = app) => at.request('GET', '/healthcheck')

/** Without any help it works again, and soon. */
async function untilBack(at: App = app) {
  await until('it is healthy', async () => (await check(at)).status === 200, 3)
  assert.equal((await read(at)).status, 200)
  assert.equal((await change(at)).status, 201)
}

/** Holds a lock while `work` runs. */
async function holding(lock: string, work: () => Promise<unknown>) {
  await db.transaction(async (tx) => {
    await tx.query(lock)
    await work()
  })
}

/** Waits until as many sessions of the service wait for a lock. */
async function untilWaiting(count: number, by: Db = db) {
  const statement = `select from pg_stat_activity
    where wait_event_type = 'Lock' and usename = 'user_service_manager'`
  const isWaiting = async () => (await by.query(statement)).length >= count
  await until(`${count} sessions wait`, isWaiting, 3)
}

/** Ends the service's sessions, and lets the service notice. */
async function endConnections() {
  await db.query(
    `select pg_terminate_backend(pid) from pg_stat_activity where usename = 'user_service_manager'`,
  )
  await sleep(50)
}

test('a transaction that loses a deadlock is tried again', async () => {
  const service = openDatabase({ ...postgres.as('user_service_manager'), poolSize: 1 }, () => {})
  undo.push(() => service.stop())
  const other = await app.user()
  const lock = (tx: Db, { id }: { id: string }) =>
    tx.query('select from users where id = $1 for update', [id])
  let tries = 0
  let isWon = false
  const { loser } = await db.transaction(async (tx) => {
    await tx.query(`set local deadlock_timeout = '1min'`)
    await lock(tx, other)
    const loser = service.transaction(async (ours) => {
      tries++
      // A row that is free belongs to whoever asks first, also before one that has waited.
      if (tries > 1) await until('the other has won', () => isWon)
      await lock(ours, user)
      await lock(ours, other)
    })
    // It holds one user and waits for the other; now this waits for the one.
    await untilWaiting(1)
    await lock(tx, user)
    isWon = true
    return { loser }
  })
  await loser
  assert.equal(tries, 2)
})

test('an error of ours in a transaction rolls it back and stays what it is', async () => {
  const db = openDatabase({ ...postgres.as('user_service_manager'), poolSize: 1 }, () => {})
  undo.push(() => db.stop())
  for (const error of [
    Object.assign(new Error('no such file'), { code: 'ENOENT' }),
    new Error('timeout'),
  ]) {
    await assert.rejects(
      db.transaction(async (tx) => {
        await tx.query(`update users set email = 'undone' where id = $1`, [user.id])
        throw error
      }),
      error,
    )
    assert.equal((await db.query(`select from users where email = 'undone'`)).length, 0)
  }
})

test('statements that a pooler forgot are not prepared again', async () => {
  const db = openDatabase(postgres.as('user_service_manager'), () => {})
  undo.push(() => db.stop())
  // One on each of its connections.
  const all = (text: string, prepared?: boolean) =>
    Promise.all(Array.from({ length: 4 }, () => db.query(text, [], prepared)))
  await all('select 7 as answer', true)
  await all('deallocate all')
  assert.deepEqual(await all('select 7 as answer', true), Array(4).fill([{ answer: 7 }]))
})

test('while PostgreSQL is down every answer is a 503', async () => {
  for (const how of ['SIGQUIT', 'SIGKILL'] as const) {
    await postgres.crash(how)
    await assertUnavailable(check, read, change)
    assert.equal((await app.request('GET', '/livez')).status, 200)
    await postgres.start()
    await untilBack()
  }
})

test('while PostgreSQL is frozen answers come within two seconds', async () => {
  postgres.freeze()
  await assertUnavailable(check, read, change).finally(() => postgres.thaw())
  await untilBack()
})

test('while PostgreSQL is frozen a flood of log-ins is answered within two seconds', async () => {
  postgres.freeze()
  const start = performance.now()
  const login = () =>
    app.request('POST', '/users/sessions', { body: { email: 'ada@example.org', password } })
  const answers = await Promise.all(Array.from({ length: 40 }, login)).finally(() =>
    postgres.thaw(),
  )
  const ms = performance.now() - start
  assert.ok(ms < 3000, `${ms} ms`)
  const count = (code: string) => answers.filter(({ body }) => body.code === code).length
  // Of one client as many are hashed as there are threads, and 16 wait.
  assert.ok(
    count('overloaded') >= 40 - 16 - app.config.hashThreads,
    `${count('overloaded')} refused`,
  )
  assert.equal(count('overloaded') + count('database_unavailable'), 40)
  await untilBack()
})

test('a network that swallows everything for PostgreSQL: answers within two seconds', async () => {
  proxy.freeze()
  await assertUnavailable(
    () => check(far),
    () => read(far),
    () => change(far),
  )
  const asked: Promise<void>[] = []
  for (let i = 0; i < 30; i++) {
    asked.push(assertUnavailable(() => read(far)))
    await sleep(100)
  }
  await Promise.all(asked)
  proxy.cut()
  proxy.thaw()
  proxy.up()
  await untilBack(far)
})

/**
 * Changes of a user or its key, by SQL and on another instance; what the key must then not pass.
 */
const changes: [
  what: string,
  sql: string,
  [method: string, path: string, body?: object],
  asks?: string,
][] = [
  ['a key that is deleted', 'delete from api_keys where id = $2', ['DELETE', '/keys/KEY']],
  [
    'a key that is switched off',
    'update api_keys set enabled = false where id = $2',
    ['PATCH', '/keys/KEY', { enabled: false }],
  ],
  [
    'a key that has ended',
    'update api_keys set valid_until = now() where id = $2',
    ['POST', '/keys/KEY/rotate'],
  ],
  [
    'a user that is disabled',
    'update users set enabled = false where id = $1',
    ['PATCH', '', { enabled: false }],
  ],
  ['a user that is deleted', 'delete from users where id = $1', ['DELETE', '']],
  [
    'a role that is taken',
    `update users set role = 'user' where id = $1`,
    ['PATCH', '', { role: 'user' }],
    '?require-role=admin',
  ],
  [
    'a permission that is taken',
    `update users set permissions = '{}' where id = $1`,
    ['PATCH', '', { permissions: [] }],
    '?require-permission=reports',
  ],
]
for (const [what, sql, [method, path, body], asks = ''] of changes) {
  test(`${what}, by SQL or on another instance, holds for the next request`, async () => {
    const admin = await app.admin()
    const passes = async (key: string, at: App) =>
      (await at.request('GET', `/users/auth${asks}`, { key })).status
    const refused = asks === '' ? 401 : 403
    const make = async () => {
      const made = await app.user({ role: 'admin', permissions: ['reports'] })
      assert.deepEqual([await passes(made.key, app), await passes(made.key, far)], [200, 200])
      return made
    }
    const bySql = ({ id, keyId }: { id: string; keyId: string }) =>
      db.query(`${sql} and ($1::uuid, $2::uuid) is not null`, [id, keyId])

    const one = await make()
    await bySql(one)
    assert.deepEqual([await passes(one.key, app), await passes(one.key, far)], [refused, refused])

    const other = await make()
    const done = await app.request(
      method,
      `/users/${other.id}${path.replace('KEY', other.keyId)}`,
      { key: admin.key, body },
    )
    assert.ok(done.status < 300)
    assert.deepEqual(
      [await passes(other.key, far), await passes(other.key, app)],
      [refused, refused],
    )

    const cut = await make()
    await endConnections()
    proxy.cut()
    await bySql(cut)
    proxy.up()
    for (const at of [app, far]) {
      let status = await passes(cut.key, at)
      while (status === 503) status = await passes(cut.key, at)
      assert.equal(status, refused)
    }
  })
}

test('while the way to the database swallows everything no key passes', async () => {
  const { key, keyId } = await app.user()
  const passes = async () => (await far.request('GET', '/users/auth', { key })).status
  assert.equal(await passes(), 200)
  proxy.freeze()
  const meanwhile = passes()
  await db.query('delete from api_keys where id = $1', [keyId])
  assert.equal(await meanwhile, 503)
  proxy.cut()
  proxy.thaw()
  proxy.up()
  await untilBack(far)
  assert.equal(await passes(), 401)
})

test('when PostgreSQL has no connection left answers are 503, until it has', async () => {
  await db.query('alter role user_service_manager connection limit 0')
  await endConnections()
  await assertUnavailable(check, read, change)
  await db.query('alter role user_service_manager connection limit -1')
  await untilBack()
})

test('a database that is read-only is read, and changes get 503', async () => {
  await db.query('alter database db_user_service set default_transaction_read_only = on')
  await endConnections()
  const late = await using()
  for (const at of [app, late]) {
    assert.equal((await read(at)).status, 200)
    await assertUnavailable(() => change(at))
  }
  await postgres.sql(
    'begin read write; alter database db_user_service reset default_transaction_read_only; commit',
  )
  await endConnections()
  await untilBack()
})

test('a change whose connection is cut in the middle has not happened', async () => {
  for (const cut of [endConnections, async () => proxy.cut()]) {
    await holding('lock table audit_events in exclusive mode', async () => {
      const answers = assertUnavailable(() => change(far))
      await untilWaiting(1)
      await cut()
      await answers
    })
    proxy.up()
    await untilBack(far)
    assert.equal(await countKeys(`key ${n - 1}`), 0)
  }
})

test('a change that waits too long for a lock does not happen later', async () => {
  const sessions = async () =>
    (
      await db.query(`select from pg_stat_activity where usename = 'user_service_manager'
    and wait_event_type = 'Lock'`)
    ).length
  await holding('lock table audit_events in exclusive mode', async () => {
    await assertUnavailable(change)
    assert.equal((await read()).status, 200)
    await sleep(200)
    assert.equal(await sessions(), 0)
  })
  await untilBack()
  assert.equal(await countKeys(`key ${n - 1}`), 0)
})

test('each new connection uses the first of several hosts that accepts writes', async () => {
  const either = await using({ DATABASE_HOST: `/nowhere,${postgres.env.DATABASE_HOST}` })
  await untilBack(either)
})

test('hosts that do not answer are passed over within two seconds, for all that wait', async () => {
  const silent = ['127.0.0.2', '127.0.0.3', '127.0.0.4']
  for (const host of silent) {
    const server = createServer((socket) => socket.on('error', () => {}))
    server.listen(proxy.port, host)
    await once(server, 'listening')
    undo.push(() => server.close())
  }
  const ask = async (hosts: string[]) => {
    const config = { ...postgres.as('user_service_manager'), port: proxy.port, poolSize: 2 }
    const there = openDatabase({ ...config, hosts }, () => {})
    const start = performance.now()
    const asked = Array.from({ length: 8 }, () => findFailure(there.query('select')))
    const failures = await Promise.all(asked)
    const ms = performance.now() - start
    assert.ok(ms < 2500, `${ms} ms`)
    await there.stop()
    return new Set(failures.map((failure) => failure.split(':')[0]))
  }
  assert.deepEqual(await ask(silent), new Set(['database_unavailable']))
  assert.deepEqual(await ask([...silent.slice(1), '127.0.0.1']), new Set(['none']))
})

/** What `work` fails with: its code, and the database's own words. */
async function findFailure(work: Promise<unknown>): Promise<string> {
  try {
    await work
    return 'none'
  } catch (error) {
    const { code, message, cause } = error as Error & { code?: string; cause?: Error }
    return `${code ?? message}: ${(cause as { code?: string })?.code ?? cause?.message}`
  }
}

/** Listens on loopback until the end of the file, and returns the port. */
async function listenOn(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  undo.push(() => server.close())
  return (server.address() as AddressInfo).port
}

test('what driver, resolver, TLS or socket says is a 503, a mistake of ours is not', async () => {
  const { cert, key } = createCertificate()
  const answering = (answer: (socket: Socket) => void) =>
    listenOn(
      createServer((socket) => {
        socket.on('error', () => {})
        socket.once('data', () => answer(socket))
      }),
    )
  const withTls = await answering((socket) => {
    socket.write('S')
    new TLSSocket(socket, { isServer: true, cert, key }).on('error', () => {})
  })
  const withoutTls = await answering((socket) => socket.write('N'))
  const web = await listenOn(http.createServer())
  const mysql = await answering((socket) =>
    socket.end(Buffer.from('4a0000000a382e302e3336', 'hex')),
  )
  const verified = { hosts: ['127.0.0.1'], ssl: { rejectUnauthorized: true } }
  const plain = { hosts: ['127.0.0.1'], ssl: false as const }
  const expected: [what: object, cause: RegExp][] = [
    [{ ...verified, port: withTls }, /self-signed|SELF_SIGNED/i],
    [{ ...verified, port: withoutTls }, /does not support SSL/],
    [{ ...verified, port: web }, /SSL|terminated|ECONNRESET/],
    [{ ...plain, port: web }, /terminated|ECONNRESET/],
    [{ ...plain, port: mysql }, /./],
    [{ ...plain, hosts: ['database.invalid'] }, /ENOTFOUND|EAI_AGAIN/],
    [{ name: 'nowhere' }, /3D000/],
    [{ user: 'nobody_at_all' }, /28000/],
  ]
  for (const [other, cause] of expected) {
    const there = openDatabase({ ...postgres.as('user_service_manager'), ...other }, () => {})
    const failure = await findFailure(there.query('select 1'))
    assert.match(failure, /^database_unavailable: /)
    assert.match(failure, cause)
    await there.stop()
  }
  const circular: unknown[] = []
  circular.push({ circular })
  for (const [text, value] of [
    ['select $1::jsonb', circular[0]],
    ['select from users where id = $1', 'no id'],
    ['select 1 / 0', undefined],
  ] as const) {
    const failure = await findFailure(app.db.query(text, value === undefined ? [] : [value]))
    assert.doesNotMatch(failure, /^database_unavailable/)
  }
  await withDatabase(postgres.as('user_service_manager'), async (other) => {
    for (const [text, code] of [
      ['select from nonsense', '42P01'],
      ['select nonsense', '42703'],
      ['select nonsense()', '42883'],
    ] as const)
      assert.equal(await findFailure(other.query(text)), `database_unavailable: ${code}`)
  })
})

test('a race that is lost each time and what PostgreSQL finds corrupt are 503', async () => {
  for (const code of ['40001', '40P01', 'XX000', 'XX001', 'XX002']) {
    await db.query(`create function harm() returns trigger language plpgsql as
      $$ begin raise sqlstate '${code}'; end $$`)
    await db.query('create trigger harm before insert on api_keys execute function harm()')
    await assertUnavailable(change).finally(() => db.query('drop function harm cascade'))
  }
  assert.equal((await change()).status, 201)
})

test('while the role may not connect answers are 503', async () => {
  for (const [off, on] of [['allow_connections false', 'allow_connections true']]) {
    await withDatabase({ ...postgres.as('postgres'), name: 'postgres' }, async (other) => {
      await other.query(`alter database db_user_service ${off}`)
      await endConnections()
      await assertUnavailable(check, read, change)
      await other.query(`alter database db_user_service ${on}`)
    })
    await untilBack()
  }
  await db.query('revoke connect on database db_user_service from user_service_manager')
  await endConnections()
  await assertUnavailable(check, read, change)
  await db.query('grant connect on database db_user_service to user_service_manager')
  await untilBack()
})

test('a column that gets another type while the service runs costs no request', async () => {
  for (const type of ['varchar(320)', 'text']) {
    await Promise.all(Array.from({ length: 8 }, () => read()))
    await db.query(`alter table users alter column email type ${type}`)
    const statuses = await Promise.all(Array.from({ length: 8 }, async () => (await read()).status))
    assert.deepEqual(statuses, Array(8).fill(200))
  }
})

test('a connection that is reset in the moment it is used costs no request', async () => {
  await Promise.all(Array.from({ length: 8 }, () => read(far)))
  proxy.ambush()
  const [one, two] = await Promise.all([read(far), read(far)])
  assert.deepEqual([one.status, two.status], [200, 200])
  await Promise.all(Array.from({ length: 8 }, () => read(far)))
  proxy.ambush()
  assert.equal((await change(far)).status, 201)
})

const signUpAgain = () => app.request('POST', '/users', { body: { email: user.email, password } })

/** What somebody may have set, of each setting that the service sets. */
const strange: Record<string, string> = {
  search_path: 'public',
  client_encoding: 'LATIN1',
  datestyle: 'German',
  timezone: 'Asia/Kolkata',
  intervalstyle: 'sql_standard',
  bytea_output: 'escape',
  extra_float_digits: '-3',
  standard_conforming_strings: 'off',
  array_nulls: 'off',
  transform_null_equals: 'on',
  default_transaction_isolation: 'repeatable read',
  row_security: 'on',
  transaction_timeout: '10min',
  idle_session_timeout: '10min',
  exit_on_error: 'on',
  lock_timeout: '1ms',
  statement_timeout: '10min',
  idle_in_transaction_session_timeout: '0',
  plan_cache_mode: 'force_custom_plan',
  enable_seqscan: 'on',
  jit: 'on',
  synchronous_commit: 'off',
}

/** What a connection of the service has set, of what the server knows. */
async function readSettings(): Promise<Record<string, string>> {
  const service = openDatabase(postgres.as('user_service_manager'), () => {})
  const settings = await service.query<{ name: string; value: string }>(
    // Of DateStyle, ISO: with it the order of day and month, which follows, is nothing.
    `select name, split_part(current_setting(name, true), ',', 1) as value
     from unnest($1::text[]) as name where current_setting(name, true) is not null`,
    [Object.keys(strange)],
  )
  await service.stop()
  return Object.fromEntries(settings.map(({ name, value }) => [name, value]))
}

test('settings of the database and of the role change nothing', async () => {
  const ours = Object.keys(serviceSettings)
  assert.deepEqual(
    ours.filter((name) => !(name in strange)),
    [],
  )
  const before = await readSettings()
  assert.deepEqual(before, {
    ...before,
    default_transaction_isolation: 'read committed',
    statement_timeout: '1800ms',
    idle_in_transaction_session_timeout: '10s',
    lock_timeout: '0',
    synchronous_commit: 'on',
    enable_seqscan: 'off',
    plan_cache_mode: 'force_generic_plan',
  })
  const set = async (whom: string) => {
    await postgres.sql(`alter ${whom} set enable_indexscan = off`)
    for (const name of Object.keys(before))
      await postgres.sql(`alter ${whom} set ${name} = '${strange[name]}'`)
  }
  const one = await app.admin()
  const two = await app.admin()
  for (const each of await app.db.query<{ id: string }>(
    `select id from users where role = 'admin' and id not in ($1, $2)`,
    [one.id, two.id],
  ))
    await app.db.query(`update users set role = 'user' where id = $1`, [each.id])
  const whom = [
    'database db_user_service',
    'role user_service_manager',
    'role user_service_manager in database db_user_service',
  ]
  for (const each of whom) await set(each)
  await endConnections()
  try {
    const { status, details } = await read()
    assert.deepEqual([status, details.id], [200, user.id])
    assert.match(details.createdAt, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
    assert.equal((await change()).status, 201)
    assert.deepEqual(await readSettings(), before)
    assert.equal((await signUpAgain()).status, 409)
    const demote = ({ id, key }: { id: string; key: string }) =>
      app.request('PATCH', `/users/${id}`, { key, body: { role: 'user' } })
    const demoted = await Promise.all([demote(one), demote(two)])
    assert.deepEqual(demoted.map(({ status }) => status).sort(), [200, 409])
  } finally {
    for (const each of whom) await db.query(`alter ${each} reset all`)
    await createDatabase(postgres.as('postgres'))
  }
  await endConnections()
  await untilBack()
})

test('a commit that waits for more than the disk goes on doing so', async () => {
  for (const mode of ['local', 'remote_write', 'remote_apply']) {
    await db.query(`alter role user_service_manager set synchronous_commit = ${mode}`)
    const asked = withDatabase(postgres.as('user_service_manager'), (service) =>
      service.query(`select current_setting('synchronous_commit') as mode`),
    )
    assert.deepEqual(await asked, [{ mode }])
  }
  await db.query('alter role user_service_manager reset synchronous_commit')
})

test('a command may take longer than the database or its role lets statements take', async () => {
  await db.query(`alter role user_service_admin set statement_timeout = '100ms'`)
  const slept = withDatabase(postgres.as('user_service_admin'), (owner) =>
    owner.query('select pg_sleep(0.2)::text as slept'),
  )
  assert.deepEqual(await slept, [{ slept: '' }])
  await db.query('alter role user_service_admin reset statement_timeout')
})

test('a server that logs every statement does not log the password of a role', async () => {
  await db.query(`alter system set log_statement = 'all'`)
  await db.query('select pg_reload_conf()')
  const logged = () => readFileSync(join(postgres.directory, 'postgres.log'), 'utf8')
  await until('statements are logged', async () => {
    await db.query('select 1 as probe')
    return logged().includes('select 1 as probe')
  })
  await createDatabase(postgres.as('postgres'), { user_service_user: 'kept-out-of-the-log' })
  await db.query('alter system reset log_statement')
  await db.query('select pg_reload_conf()')
  await db.query('alter role user_service_user password null')
  assert.match(logged(), /alter role user_service_user password 'SCRAM-SHA-256/)
  assert.doesNotMatch(logged(), /kept-out-of-the-log/)
})

test('a role’s password may have characters that nobody sees', async () => {
  const given = 'pass\u00adword\u200b \u00a0\ufb01e\u0301\u{1f511}'
  await createDatabase(postgres.as('postgres'), { user_service_user: given })
  const hba = join(postgres.directory, 'postgres/pg_hba.conf')
  const before = readFileSync(hba, 'utf8')
  const logIn = (password: string) =>
    findFailure(
      withDatabase({ ...postgres.as('user_service_user'), password }, (own) =>
        own.query('select 1'),
      ),
    )
  writeFileSync(hba, `local all user_service_user scram-sha-256\n${before}`)
  await db.query('select pg_reload_conf()')
  await until('a password is asked for', async () => (await logIn('wrong')) !== 'none')
  assert.equal(await logIn(given), 'none')
  assert.match(await logIn('wrong'), /28P01/)
  writeFileSync(hba, before)
  await db.query('select pg_reload_conf()')
  await db.query('alter role user_service_user password null')
})

test('row-level security that somebody switched on is no 401', async () => {
  await db.query('alter table api_keys enable row level security')
  const { status } = await read()
  await assertUnavailable(check)
  await db.query('alter table api_keys disable row level security')
  assert.equal(status, 503)
  await untilBack()
})

for (const [what, there, gone] of [
  ['a table', 'alter table tokens_ rename to tokens', 'alter table tokens rename to tokens_'],
  [
    'a right',
    'grant insert on tokens to user_service_manager',
    'revoke insert on tokens from user_service_manager',
  ],
] as const) {
  test(`while ${what} is missing, health and what needs it are 503`, async () => {
    const admin = await app.admin()
    await db.query(gone)
    const invite = () =>
      app.request('POST', `/users/${user.id}/tokens`, {
        key: admin.key,
        body: { purpose: 'password-reset' },
      })
    try {
      await assertUnavailable(invite)
      await until('health tells it', async () => (await check()).status === 503, 3)
      await assertUnavailable(check)
    } finally {
      await db.query(there)
    }
    await untilBack()
  })
}

test('while a column is missing, what needs it is 503', async () => {
  const admin = await app.admin()
  await db.query('alter table users rename email_lower to x')
  await assertUnavailable(() => app.request('GET', '/users?email=a@b', { key: admin.key })).finally(
    () => db.query('alter table users rename x to email_lower'),
  )
  await untilBack()
})

test('four instances that start at once on a database without an admin make one', async () => {
  await db.query(`delete from users where role = 'admin'`)
  const key = createKey()
  const keyFile = `${postgres.directory}/admin-key`
  writeFileSync(keyFile, key)
  const env = { BOOTSTRAP_ADMIN_EMAIL: 'root@example.org', BOOTSTRAP_ADMIN_KEY_FILE: keyFile }
  for (const each of await Promise.all([using(env), using(env), using(env), using(env)])) {
    assert.equal((await each.request('GET', '/users', { key })).status, 200)
  }
  assert.equal((await db.query(`select from users where role = 'admin'`)).length, 1)
})

const assertServed = async ({ url }: Pick<Service, 'url'>) => {
  const { status } = await fetch(`${url}/users/${user.id}`, { headers: { 'X-Api-Key': user.key } })
  assert.equal(status, 200)
}

/**
 * Makes keys over `connections` kept open, until the service says that it closes one; resolves with
 * the names.
 */
async function makeKeys({ url }: Service, connections: number, onFirst: () => unknown) {
  const made: string[] = []
  let lost = 0
  const one = async (agent: http.Agent) => {
    for (let isOpen = true; isOpen;) {
      const name = `made ${++n}`
      const req = http.request(`${url}/users/${user.id}/keys`, {
        method: 'POST',
        agent,
        headers: { 'X-Api-Key': user.key, 'Content-Type': 'application/json' },
      })
      req.end(JSON.stringify({ name }))
      const [res] = (await once(req, 'response').catch(() => [])) as [http.IncomingMessage?]
      if (
        !res ||
        (await once(res.resume(), 'end').then(
          () => false,
          () => true,
        ))
      )
        return lost++
      assert.equal(res.statusCode, 201)
      isOpen = res.headers.connection !== 'close'
      if (made.push(name) === 2 * connections) onFirst()
    }
    return agent.destroy()
  }
  await Promise.all(
    Array.from({ length: connections }, () =>
      one(new http.Agent({ keepAlive: true, maxSockets: 1 })),
    ),
  )
  for (const name of made) assert.equal(await countKeys(name), 1, name)
  return { made: made.length, lost }
}

test('SIGTERM under load loses no request', async () => {
  const service = await startService(postgres.env)
  const { made, lost } = await makeKeys(service, 8, () => service.child.kill('SIGTERM'))
  assert.ok(made > 16)
  assert.equal(lost, 0)
  assert.deepEqual([await service.ended, service.said()], [0, ''])
})

test('kill -9 loses nothing that was acknowledged', async () => {
  const service = await startService(postgres.env)
  const { lost } = await makeKeys(service, 8, () => service.child.kill('SIGKILL'))
  assert.equal(lost, 8)
})

test('a log that nobody reads any more, or on a full disk, stops nothing', async () => {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address() as AddressInfo
  probe.close()
  const [closed, full] = await Promise.all([
    startService(postgres.env),
    startService(
      { ...postgres.env, SERVER_PORT: String(port) },
      { stdout: openSync('/dev/full', 'w') },
    ),
  ])
  closed.child.stdout!.destroy()
  const fullUrl = `http://127.0.0.1:${port}/v1`
  while (
    !(await fetch(`${fullUrl}/livez`).then(
      ({ ok }) => ok,
      () => false,
    ))
  )
    await sleep(20)
  for (let i = 0; i < 20; i++)
    await Promise.all([assertServed(closed), assertServed({ url: fullUrl })])
  assert.deepEqual([await closed.kill(), await full.kill()], [0, 0])
})

test('out of file descriptors it serves the connections it has', async () => {
  const service = await startService(postgres.env, { before: ['prlimit', '--nofile=64'] })
  const sockets = Array.from({ length: 100 }, () => open(service.url))
  await sleep(200)
  for (const socket of sockets) socket.destroy()
  await sleep(100)
  for (let i = 0; i < 20; i++) await assertServed(service)
  assert.equal(await service.kill(), 0)
})

test('within a small memory it lives through a flood', async () => {
  const service = await startService(postgres.env, { nodeFlags: ['--max-old-space-size=48'] })
  const head = [
    'POST /v1/users/sessions HTTP/1.1',
    'Host: x',
    'Content-Type: application/json',
    'Content-Length: 16000',
    '\r\n',
  ].join('\r\n')
  const flood = Array.from({ length: 400 }, () => {
    const socket = open(service.url)
    socket.write((head + ' '.repeat(16_000)).repeat(10))
    return socket
  })
  for (let i = 0; i < 10; i++) await assertServed(service)
  for (const socket of flood) socket.destroy()
  await assertServed(service)
  assert.equal(await service.kill(), 0)
})

for (const [name, how] of [
  ['an error that nobody catches', `throw new Error('outside')`],
  ['a promise that nobody catches', `Promise.reject(new Error('outside'))`],
] as const) {
  test(`${name} ends the service, and the log says why`, async () => {
    const program = `process.on('SIGUSR2', () => { ${how} })`
    const service = await startService(postgres.env, {
      nodeFlags: ['--import', `data:text/javascript,${encodeURIComponent(program)}`],
    })
    await assertServed(service)
    assert.equal(await service.kill('SIGUSR2'), 1)
    const last = JSON.parse(service.log.at(-1)!)
    assert.deepEqual(
      [last.level, last.message, /^Error: outside\n/.test(last.error)],
      ['error', 'fatal', true],
    )
  })
}

test('without a thread to hash on, a log-in fails alone', async () => {
  const program = `
    import threads from 'node:worker_threads'
    import { syncBuiltinESMExports } from 'node:module'
    let isNone = true
    const given = []
    threads.Worker = class extends threads.Worker {
      constructor(...args) {
        if (isNone) throw (isNone = false, new Error('no thread to be had'))
        super(...args)
        given.push(this)
      }
    }
    syncBuiltinESMExports()
    // What no thread can hash.
    process.on('SIGUSR2', () => given.forEach((thread) => thread.postMessage({})))`
  const service = await startService(postgres.env, {
    nodeFlags: ['--import', `data:text/javascript,${encodeURIComponent(program)}`],
  })
  const headers = { 'content-type': 'application/json' }
  const body = JSON.stringify({ email: user.email, password })
  const logIn = async () =>
    (await fetch(`${service.url}/users/sessions`, { method: 'POST', headers, body })).status
  assert.equal(await logIn(), 500)
  assert.deepEqual(await Promise.all([logIn(), logIn(), logIn()]), [201, 201, 201])

  service.child.kill('SIGUSR2')
  const during = await Promise.all([logIn(), logIn(), logIn()])
  assert.ok(
    during.every((status) => status === 201 || status === 500),
    during.join(),
  )
  assert.deepEqual(await Promise.all([logIn(), logIn(), logIn()]), [201, 201, 201])
  assert.equal(await service.kill(), 0)
  const errors = service.log.filter((line) => line.includes('"level":"error"'))
  assert.match(errors[0]!, /no thread to be had/)
  assert.equal(errors.length, 1 + during.filter((status) => status === 500).length)
})
