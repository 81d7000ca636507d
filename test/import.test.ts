// Moving over, as an operator does it: from the Go service's tables and seeds, from files, away.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs'
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'

import { openDatabase } from '../src/database/pool.ts'
import { matching } from '../src/events.ts'
import { accountOfAddress } from '../src/passwords/guessing.ts'
import {
  brief,
  connectTo,
  createTestDatabase,
  hashCheaply,
  password,
  passwordHash,
  startTestApp,
  undo,
  type TestDatabase,
} from './support/helpers.ts'
import { launch, makeFolder, runCommand, startCommand, until } from './support/process.ts'

hashCheaply()
const folder = makeFolder('import')

/** Writes a file of these lines. */
function fileOf(lines: unknown[]) {
  const path = join(folder, randomBytes(6).toString('hex'))
  const text = lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line)))
  writeFileSync(path, text.join('\n'))
  return path
}

/** Runs a command with something on stdin. */
async function runWith(input: string, args: string[], env = {}) {
  const child = spawn(process.execPath, [...launch('import.js'), ...args], { env })
  child.stdin.end(input)
  let said = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      said += text
    })
  }
  const status = await new Promise((resolve) => child.on('close', resolve))
  return { status, said }
}

/** What is counted, as it is printed. */
const counts = ({ users = 0, keys = 0, there = 0, behind = 0, email = 0, password = 0 }) =>
  `Users imported: ${users}
Keys imported: ${keys}
Users left alone, since their id or address is there already: ${there}
Users left behind: ${behind}
Addresses imported against the rules for new ones: ${email}
Passwords imported against the rules for new ones: ${password}
`
const dry = 'A dry run: nothing was written\n'

const read = (db: TestDatabase['db']) =>
  db.query<Record<string, unknown>>(
    `select email, email_lower, password_hash is null as "hasNone", role, permissions, metadata,
       enabled, email_verified_at is not null as verified, created_at, version from users
     order by email_lower`,
  )

/** Each row of each table of ours, as text. */
async function readAll(db: TestDatabase['db']) {
  const tables = ['users', 'api_keys', 'audit_events', 'outbox', 'login_failures', 'tokens']
  const rows = await Promise.all(tables.map((name) => db.query(`select * from ${name}`)))
  return JSON.stringify(rows)
}

/** A database with the Go service's tables. */
async function createGoDatabase() {
  const name = `test_go_${randomBytes(6).toString('hex')}`
  const server = openDatabase(connectTo('postgres', 'postgres'), () => {}, 0)
  await server.query(`create database ${name} owner user_service_admin`)
  const db = openDatabase(connectTo(name, 'user_service_admin'), () => {}, 0)
  undo.push(async () => {
    await db.stop()
    await server.query(`drop database ${name} with (force)`)
    await server.stop()
  })
  await db.query('create schema user_service_schema')
  await db.query(
    `create table schema_migrations (version bigint, dirty boolean);
     create table api_user (
       id uuid primary key, email text not null unique, password text not null,
       created_at timestamptz default current_timestamp,
       updated_at timestamptz default current_timestamp, version integer default 0);
     create table api_key (
       id uuid primary key, key uuid not null, api_user uuid not null unique references api_user,
       valid_until timestamptz not null, created_at timestamptz default current_timestamp)`,
  )
  return { name, db }
}

/** The Go service's own seeds. */
const seeds = [
  ['0463ed3d-bfc9-4c10-b6ee-c223bbca0fab', 'user1', 'pwd1', '3e8d49a3-9220-4ea0-88eb-299520c6ab85'],
  [
    '4f26321f-d0ea-46a3-83dd-6aa1c6053aaf',
    'another-test-user@another-provider.com',
    'super-strong-password',
    '2da3e9ec-7299-473a-be0f-d722d870f51a',
  ],
  [
    '00b265e6-6638-4b1b-aeac-5898c7307eb8',
    'better-test-user@mail-client.org',
    'weakpassword',
    'e9c3ce0d-d6d6-45cb-ad93-c407d429469f',
  ],
  [
    'beb2a2dc-2a9f-48d6-b2ca-fd3b5ca3249f',
    'i-dont-care-about-@security.de',
    'mycatismypassword',
    'c64f4da4-8bc5-4e19-a038-cd8755bd07d5',
  ],
]

/** Adds a user of the Go service, older than those before, and its key. */
async function addGoUser(db: TestDatabase['db'], [id, email, password, key]: string[]) {
  await db.query(
    `insert into api_user (id, email, password, created_at)
     select $1, $2, $3, '2025-01-01'::timestamptz - count(*) * interval '1 day' from api_user`,
    [id, email, password],
  )
  if (key !== undefined)
    await db.query(
      `insert into api_key (id, key, api_user, valid_until)
       values (gen_random_uuid(), $1, $2, now() + interval '6 hours')`,
      [key, id],
    )
}

async function createSeeded() {
  const go = await createGoDatabase()
  for (const seed of seeds) await addGoUser(go.db, seed)
  return go
}

const importInto = ({ env }: TestDatabase, ...args: string[]) => runCommand('import', args, env)

test('users of the Go service keep passwords and keys, which open themselves alone', async () => {
  const go = await createSeeded()
  const app = await startTestApp({ UUID_KEYS: 'on' })
  const [user1, another] = seeds as [string[], string[]]
  const args = ['go', '--from', go.name, '--admin', 'ANOTHER-test-user@another-provider.com']

  const imported = await importInto(app.database, ...args)
  assert.deepEqual(imported, {
    status: 0,
    stdout: counts({ users: 4, keys: 4, email: 1, password: 1 }),
    stderr: '',
  })
  const body = { email: 'user1', password: 'pwd1' }
  const session = await app.request('POST', '/users/sessions', { body })
  assert.deepEqual([session.status, session.details.user], [201, user1[0]])
  const self = await app.request('GET', '/users/me', { key: user1[3]!.toUpperCase() })
  assert.deepEqual(
    [self.details.id, self.details.email, self.details.createdAt, self.details.role],
    [user1[0], 'user1', '2025-01-01T00:00:00.000Z', 'user'],
  )
  const other = await app.request('GET', `/users/${another[0]}`, { key: user1[3]! })
  assert.equal(other.status, 403)
  const managed = await app.request('GET', `/users/${user1[0]}`, { key: another[3]! })
  assert.equal(managed.status, 200)
  const keys = await app.request('GET', '/users/me/keys?kind=api', { key: user1[3]! })
  assert.deepEqual(
    keys.details.map(({ kind, factors }: any) => [kind, factors]),
    [['api', 1]],
  )

  const again = await importInto(app.database, ...args)
  assert.deepEqual(again, { status: 0, stdout: counts({ there: 4 }), stderr: '' })
  const all = await readAll(app.db)
  for (const seed of seeds) {
    for (const secret of seed.slice(2)) assert.ok(!all.includes(secret))
  }

  const without = await startTestApp({}, app.database)
  const refused = await without.request('GET', '/users/me', { key: user1[3]! })
  assert.deepEqual(brief(refused), { status: 401, code: 'key_invalid' })
})

test('no password or key of the Go service is in the log of a talkative PostgreSQL', async () => {
  const go = await createSeeded()
  const into = await createTestDatabase()
  for (const { name } of [go, into])
    await into.db.query(`alter database ${name} set log_statement = 'all'`)
  // Each process of the server writes there.
  const [server] = await into.db.query<{ pid: number }>('select pg_backend_pid() as pid')
  const log = readlinkSync(`/proc/${server!.pid}/fd/2`)
  const before = statSync(log).size
  assert.equal((await importInto(into, 'go', '--from', go.name)).status, 0)
  const logged = readFileSync(log).subarray(before).toString()
  for (const [id, email, ...secrets] of seeds) {
    for (const shown of [id, email]) assert.ok(logged.includes(shown!), shown)
    for (const secret of secrets) assert.ok(!logged.includes(secret), secret)
  }
})

test('a key of the Go service ends there and here, and one that is off stays so', async () => {
  const go = await createSeeded()
  await go.db.query('alter table api_key add enabled boolean')
  const [user1, another, better] = seeds as [string[], string[], string[]]
  await go.db.query(`update api_key set enabled = false where api_user = $1`, [user1[0]])
  await go.db.query(`update api_key set valid_until = now() where api_user = $1`, [another[0]])
  const app = await startTestApp({ UUID_KEYS: 'on' })
  assert.equal((await importInto(app.database, 'go', '--from', go.name)).status, 0)
  const statuses = []
  for (const seed of [user1, another, better])
    statuses.push((await app.request('GET', '/users/me', { key: seed[3]! })).status)
  assert.deepEqual(statuses, [401, 401, 200])
})

/** Makes the Go service's tables those of its first version, with the seeds of that. */
async function makeFirst(db: TestDatabase['db']) {
  await db.query(
    `alter table api_key drop constraint api_key_api_user_key, drop valid_until,
       add enabled boolean default true`,
  )
  await db.query(
    `insert into api_user (id, email, password) values
       ('0463ed3d-bfc9-4c10-b6ee-c223bbca0fab', 'test-user@provider.com', 'strong-password'),
       ('4f26321f-d0ea-46a3-83dd-6aa1c6053aaf', 'another-test-user@another-provider.com',
         'super-strong-password'),
       ('00b265e6-6638-4b1b-aeac-5898c7307eb8', 'better-test-user@mail-client.org',
         'weakpassword');
     insert into api_key (id, key, api_user, enabled) values
       ('a5eff7a9-9bd6-4f51-9b42-a7ca5ffd3f5e', '3e8d49a3-9220-4ea0-88eb-299520c6ab85',
         '0463ed3d-bfc9-4c10-b6ee-c223bbca0fab', true),
       ('fd8136c4-c584-4bbf-a390-53d5c2548fb8', '2da3e9ec-7299-473a-be0f-d722d870f51a',
         '4f26321f-d0ea-46a3-83dd-6aa1c6053aaf', true),
       ('2e791bfe-7e35-465d-8269-1bbd7b4e86c5', '7ba9182e-f4a6-4eec-b216-d2a9f5179fc2',
         '4f26321f-d0ea-46a3-83dd-6aa1c6053aaf', true),
       ('42698272-5b8f-42db-a43c-8108eaad66e1', 'e9c3ce0d-d6d6-45cb-ad93-c407d429469f',
         '00b265e6-6638-4b1b-aeac-5898c7307eb8', true),
       ('f79d5502-4c57-41de-8237-893c6e1983f0', '586e86f0-b981-4d16-90ee-99114ae36d19',
         '00b265e6-6638-4b1b-aeac-5898c7307eb8', false)`,
  )
}

test('the first version of the Go service comes over, each key with an event', async () => {
  const go = await createGoDatabase()
  await makeFirst(go.db)
  await addGoUser(go.db, ['10000000-0000-4000-8000-000000000001', 'none@x.org', 'long enough'])
  const app = await startTestApp({ UUID_KEYS: 'on' })
  assert.deepEqual(await importInto(app.database, 'go', '--from', go.name), {
    status: 0,
    stdout: counts({ users: 4, keys: 5 }),
    stderr: '',
  })
  const keys = await go.db.query<{ key: string }>('select key from api_key order by enabled, key')
  const answers = keys.map(({ key }) => app.request('GET', '/users/me', { key }))
  assert.deepEqual(
    (await Promise.all(answers)).map(({ status, details }) => [status, details?.email]),
    [
      [401, undefined],
      [200, 'another-test-user@another-provider.com'],
      [200, 'test-user@provider.com'],
      [200, 'another-test-user@another-provider.com'],
      [200, 'better-test-user@mail-client.org'],
    ],
  )
  const events = await app.db.query(
    `select subject, key_id from audit_events where action = 'user.imported'
     order by subject, key_id`,
  )
  const expected = await go.db.query(
    `select api_user.id as subject, api_key.id as key_id
     from api_user left join api_key on api_user = api_user.id order by subject, key_id`,
  )
  assert.deepEqual(events, expected)
})

test('what else there is in a database of the Go service is named', async () => {
  const go = await createGoDatabase()
  await go.db.query('create table limits (id uuid); create table acl (id uuid)')
  const tried = await importInto(await createTestDatabase(), 'go', '--from', go.name, '--dry-run')
  assert.deepEqual(tried, {
    status: 0,
    stdout: counts({}) + dry,
    stderr: 'import: the table acl stays behind\nimport: the table limits stays behind\n',
  })
})

test('columns of the Go service have other types, and a switch is on by true alone', async () => {
  const go = await createSeeded()
  await go.db.query(
    `alter table api_user alter password type int using 12345678, add enabled text default 'f';
     alter table api_key add enabled int default 0`,
  )
  const into = await createTestDatabase()
  const { status } = await importInto(into, 'go', '--from', go.name)
  assert.equal(status, 0)
  const all = `select distinct users.enabled or api_keys.enabled as is_on from users, api_keys`
  assert.deepEqual(await into.db.query(all), [{ is_on: false }])
  await into.db.query('update users set enabled = true')
  const app = await startTestApp({}, into)
  const body = { email: 'user1', password: '12345678' }
  assert.equal((await app.request('POST', '/users/sessions', { body })).status, 201)
})

test('who is deleted from the Go service during the import is left out', async () => {
  const go = await createSeeded()
  await go.db.query(
    `alter table api_user rename to earlier;
     create view api_user as
       select case password when 'pwd1' then gen_random_uuid() else id end as id, email, password
       from earlier`,
  )
  const into = await createTestDatabase()
  const { status, stdout } = await importInto(into, 'go', '--from', go.name)
  assert.deepEqual([status, stdout], [0, counts({ users: 3, keys: 3 })])
})

test('rows of the Go service that lack what they should have stop nothing', async () => {
  const go = await createSeeded()
  await go.db.query(`alter table api_user alter password drop not null, alter email drop not null;
    alter table api_key alter key drop not null`)
  const [user1, another, better] = seeds as [string[], string[], string[]]
  await go.db.query('update api_user set password = null where id = $1', [user1[0]])
  await go.db.query('update api_user set email = null where id = $1', [another[0]])
  await go.db.query('update api_key set key = null where api_user = $1', [better[0]])
  await go.db.query(`update api_user set created_at = 'infinity' where id = $1`, [better[0]])
  const into = await createTestDatabase()
  const args = ['go', '--from', go.name, '--admin', better[1]!]
  const tried = await importInto(into, ...args, '--dry-run')
  const { status, stdout, stderr } = await importInto(into, ...args)
  assert.deepEqual({ status, stdout: stdout + dry, stderr }, tried)
  assert.equal(status, 1)
  assert.match(stderr, /user 0463ed3d.* comes without its password/)
  assert.match(stderr, /user 4f26321f.* stays behind: email /)
  assert.match(stderr, /key .* stays behind: it is no UUID, or one that can be guessed/)
  assert.match(stdout, /Users imported: 3\nKeys imported: 2\n/)
  const kept = await into.db.query(`select from users where created_at = 'infinity'`)
  assert.deepEqual(kept, [])
})

test('columns of the Go service without a time zone, and keys without ids, come over', async () => {
  const go = await createSeeded()
  await go.db.query(
    `alter table api_user alter created_at type timestamp using '2020-05-01 12:00';
     alter table api_key alter created_at type date using '2020-05-02', drop id`,
  )
  const into = await createTestDatabase()
  const { status, stdout } = await importInto(into, 'go', '--from', go.name)
  assert.equal(status, 0)
  assert.match(stdout, /Keys imported: 4\n/)
  const created = await into.db.query(
    `select distinct users.created_at::date::text as "user", k.created_at::date::text as key
     from users join api_keys k on user_id = users.id`,
  )
  assert.deepEqual(created, [{ user: '2020-05-01', key: '2020-05-02' }])
})

test('who has an address already is told of, and is made no admin', async () => {
  const go = await createSeeded()
  const app = await startTestApp()
  const [user1, another] = seeds as [string[], string[]]
  await app.user({ email: another[1]! })
  const args = ['go', '--from', go.name]
  const refused = await importInto(app.database, ...args, '--admin', another[1]!)
  assert.equal(refused.status, 1)
  assert.match(refused.stderr, /is there and no admin: nothing was done/)
  const { stdout, stderr } = await importInto(app.database, ...args, '--admin', user1[1]!)
  assert.match(stdout, /Users imported: 3\n/)
  assert.match(stderr, /user 4f26321f.* is left alone: its address is that of another user/)
})

test('what cannot come from the Go service is told, by a dry run, too', async () => {
  const go = await createSeeded()
  const into = await createTestDatabase()
  await go.db.query('alter table api_key add enabled boolean')
  const added = [
    ['10000000-0000-4000-8000-000000000001', 'Twin@x', 'p', '10000000-0000-1000-8000-000000000001'],
    ['10000000-0000-4000-8000-000000000002', 'twin@X', 'q', '10000000-0000-4000-8000-000000000002'],
    ['10000000-0000-4000-8000-000000000003', 'none@x', '', '10000000-0000-6000-8000-000000000003'],
    ['10000000-0000-4000-8000-000000000004', `${'ö'.repeat(300)}@x`, 'r'],
    ['10000000-0000-4000-8000-000000000005', 'off@x', 's', '10000000-0000-4000-8000-000000000005'],
  ]
  for (const user of added) await addGoUser(go.db, user)
  await go.db.query(
    `update api_key set id = key;
     update api_key set enabled = false, valid_until = 'infinity' where key::text like '1%5'`,
  )
  const told = `import: user ${added[3]![0]} stays behind: email must have at most 254 characters
import: user ${added[0]![0]} stays behind: email is that of user ${added[1]![0]}
import: key ${added[2]![3]} stays behind: it is no UUID, or one that can be guessed
import: user ${added[2]![0]} comes without its password, which is empty or too long
`
  const args = ['go', '--from', go.name, '--dry-run']
  for (const isDryRun of [true, false]) {
    const { status, stdout, stderr } = await importInto(into, ...args.slice(0, isDryRun ? 4 : 3))
    assert.equal(status, 1)
    const sort = (text: string) => text.split('\n').sort()
    assert.deepEqual(sort(stderr), sort(told))
    const counted = counts({ users: 7, keys: 6, behind: 2, email: 1, password: 4 })
    assert.equal(stdout, isDryRun ? counted + dry : counted)
    assert.equal((await read(into.db)).length, isDryRun ? 0 : 7)
  }
  const keys = await into.db.query('select enabled, valid_until from api_keys where not enabled')
  assert.deepEqual(keys, [{ enabled: false, valid_until: null }])
})

test('an admin whom nobody, or more than one, can be is refused at first', async () => {
  const go = await createSeeded()
  const into = await createTestDatabase()
  await addGoUser(go.db, ['10000000-0000-4000-8000-000000000001', 'USER1', 'p'])
  // Who stays behind is nobody.
  await addGoUser(go.db, ['10000000-0000-4000-8000-000000000002', '', 'p'])
  for (const [address, owners] of [
    ['nobody', 0],
    ['', 0],
    ['User1', 2],
  ] as const) {
    const refused = await importInto(into, 'go', '--from', go.name, '--admin', address)
    assert.deepEqual(refused, {
      status: 1,
      stdout: '',
      stderr: `import: ${owners} users have the address ${address}: nothing was done\n`,
    })
  }
  const elsewhere = await importInto(into, 'go', '--from', into.name)
  assert.equal(elsewhere.status, 1)
  assert.match(elsewhere.stderr, /^import: test_\w+ is no database of the Go service\n$/)
  assert.deepEqual(await read(into.db), [])
})

/**
 * Kills an import when its first transaction is committed and its second waits for that of the
 * test, which inserts a user of that address.
 */
async function killAfterFirst({ db, env }: TestDatabase, args: string[], address: string) {
  await assert.rejects(
    db.transaction(async (tx) => {
      await tx.query('insert into users (email, email_lower) values ($1, $1)', [address])
      const { child, ended } = startCommand('import', args, env)
      await until('the second waits', async () => {
        const waiting = await db.query(
          `select from pg_stat_activity
           where datname = current_database() and wait_event_type = 'Lock'`,
        )
        return waiting.length > 0
      })
      child.kill('SIGKILL')
      await ended
      throw new Error('rolled back')
    }),
    /rolled back/,
  )
}

test('an import from the Go service that was killed can be run again', async () => {
  const go = await createGoDatabase()
  await go.db.query(
    `insert into api_user (id, email, password, created_at)
       select gen_random_uuid(), 'user' || n, case n when 110 then 'pwd110' else '' end,
         now() + n * interval '1 s' from generate_series(1, 120) as n;
     insert into api_key (id, key, api_user, valid_until)
       select gen_random_uuid(), gen_random_uuid(), id, now() from api_user`,
  )
  const killed = await createTestDatabase()
  const whole = await createTestDatabase()
  const args = ['go', '--from', go.name]
  await killAfterFirst(killed, args, 'user120')
  assert.equal((await read(killed.db)).length, 100)

  const again = await importInto(killed, ...args)
  assert.deepEqual(
    [again.status, again.stdout],
    [0, counts({ users: 20, keys: 20, there: 100, email: 20, password: 20 })],
  )
  const { stdout } = await importInto(whole, ...args)
  assert.equal(stdout, counts({ users: 120, keys: 120, email: 120, password: 120 }))
  const keys =
    'select id, user_id, digest, enabled, valid_until, created_at from api_keys order by id'
  assert.deepEqual(await read(killed.db), await read(whole.db))
  assert.deepEqual(await killed.db.query(keys), await whole.db.query(keys))
})

const lines = [
  { email: 'Ada@Example.org', passwordHash, role: 'admin', createdAt: '2020-01-02T03:04:05.678Z' },
  {
    email: 'bob',
    id: '01900000-0000-4000-8000-000000000001',
    permissions: ['a', 'b:c'],
    metadata: { plan: 'free', more: [1e300, null, 'ö'] },
    enabled: false,
    emailVerified: true,
  },
  { email: 'cyd@example.org', id: null, passwordHash: null, role: null, createdAt: null },
]

test('users of a file log in, are in the audit, and the webhook is not told', async () => {
  const app = await startTestApp()
  await app.db.query(`update webhook set events = '{user.created,user.imported}'`)
  const { status, stdout, stderr } = await importInto(app.database, fileOf(lines))
  assert.deepEqual([status, stdout, stderr], [0, counts({ users: 3, email: 1 }), ''])
  assert.deepEqual(
    (await read(app.db)).map(
      ({ email, role, permissions, metadata, enabled, verified, hasNone }) => [
        email,
        role,
        permissions,
        metadata,
        enabled,
        verified,
        hasNone,
      ],
    ),
    [
      ['Ada@Example.org', 'admin', [], {}, true, false, false],
      ['bob', 'user', ['a', 'b:c'], lines[1]!.metadata, false, true, true],
      ['cyd@example.org', 'user', [], {}, true, false, true],
    ],
  )
  const body = { email: 'ada@example.org', password }
  const { status: loggedIn, details } = await app.request('POST', '/users/sessions', { body })
  assert.equal(loggedIn, 201)
  const events = await app.request('GET', '/audit?action=user.imported', { key: details.key })
  assert.deepEqual(
    events.details.map(({ actor, address }: any) => [actor, address]),
    [1, 2, 3].map(() => [null, null]),
  )
  assert.deepEqual(await app.db.query('select from outbox'), [])
  assert.deepEqual(matching('user.imported'), [])
  assert.equal(matching('user.*').length, 3)
})

test('each faulty line is told with all its faults, and the others come in', async () => {
  const into = await createTestDatabase()
  const many = Object.fromEntries(Array.from({ length: 200 }, (_, n) => [n, 1e300]))
  const path = fileOf([
    '\ufeff{"email":"first@x"}\r',
    '',
    '{"email":"broken',
    { email: 'Ada@x', password: 'clear', role: 'root', id: 'x', '\x1b[2J': 1 },
    { email: 'ada@X' },
    { id: '01900000-0000-4000-8000-000000000001', passwordHash: 'md5' },
    { id: '01900000-0000-4000-8000-000000000001', email: 'bob@x' },
    [],
    { email: 'long@x', metadata: many },
    { email: '', id: '00000000-0000-0000-0000-000000000000' },
    { email: 'nul\0@x' },
    { email: 'x'.repeat(65_536) },
    { email: 'last@x', metadata: { '\u2028': '\ufffd' } },
  ])
  const told = [
    'line 3 stays behind: must be JSON in UTF-8, of at most 64 KiB',
    'line 4 stays behind: password is not known; ?[2J is not known; id must be a UUID; ' +
      'role must be user or admin',
    'line 5 stays behind: email is that of an earlier user',
    'line 6 stays behind: email is missing; passwordHash ',
    'line 7 stays behind: id is that of an earlier user',
    'line 8 stays behind: must be a JSON object',
    'line 10 stays behind: email must be well-formed text, not empty; id must not be the nil UUID',
    'line 11 stays behind: email must be well-formed text',
    'line 12 stays behind: must be JSON in UTF-8, of at most 64 KiB',
    'line 9 stays behind: metadata is too long',
  ]
  for (const args of [[path, '--dry-run'], [path], [path]]) {
    const before = await read(into.db)
    const { status, stdout, stderr } = await importInto(into, ...args)
    assert.equal(status, 1)
    const said = stderr.replaceAll('import: ', '').trim().split('\n')
    assert.deepEqual(
      said.map((line, index) => line.slice(0, told[index]!.length)),
      told,
    )
    const isThere = before.length > 0
    const come = isThere ? { there: 2 } : { users: 2 }
    const isDry = args.length > 1
    const counted = counts({ ...come, behind: 10 })
    assert.equal(stdout, isDry ? counted + dry : counted)
    const after = await read(into.db)
    assert.deepEqual(
      after.map(({ email }) => email),
      isDry ? [] : ['first@x', 'last@x'],
    )
  }
})

test('what holds no user at all is told what it must be', async () => {
  const into = await createTestDatabase()
  const path = join(folder, 'no-lines')
  for (const [text, status] of [
    ['', 0],
    ['email,name\nada@example.org,Ada\n', 1],
    ['[{"email":"ada@example.org"}]', 1],
  ] as const) {
    writeFileSync(path, text)
    const told = await importInto(into, path)
    assert.equal(told.status, status)
    assert.match(told.stderr, /^import: nobody came: it reads NDJSON in UTF-8, one user a line\n$/m)
  }
})

test('a line with the id of one user and the address of another is counted once', async () => {
  const app = await startTestApp()
  const one = await app.user()
  const other = await app.user()
  const path = join(folder, 'of-two')
  writeFileSync(path, JSON.stringify({ id: one.id, email: other.email }))
  const { stdout, stderr } = await importInto(app.database, path)
  assert.equal(stdout, counts({ there: 1 }))
  assert.equal(stderr, 'import: line 1 is left alone: its address is that of another user\n')
})

test('an import of a file that was killed can be run again', async () => {
  const many = Array.from({ length: 1200 }, (_, n) => ({
    email: `user${n}@x`,
    metadata: { n },
    createdAt: '2020-01-02T03:04:05.678Z',
  }))
  const path = fileOf(many)
  const killed = await createTestDatabase()
  const whole = await createTestDatabase()
  await killAfterFirst(killed, [path], 'user1199@x')
  assert.equal((await read(killed.db)).length, 1000)
  const again = await importInto(killed, path)
  assert.deepEqual([again.status, again.stdout], [0, counts({ users: 200, there: 1000 })])
  const { stdout } = await importInto(whole, path)
  assert.equal(stdout, counts({ users: 1200 }))
  assert.deepEqual(await read(killed.db), await read(whole.db))
  const events = await killed.db.query('select distinct subject from audit_events')
  assert.equal(events.length, 1200)
})

test('what is exported and imported into an empty database is exported the same', async () => {
  const one = await createTestDatabase()
  const other = await createTestDatabase()
  await importInto(one, fileOf(lines))
  await one.db.query(
    `insert into api_keys (user_id, kind, name, digest)
     select id, kind, 'x', sha256((id || kind)::bytea)
     from users, (values ('api'), ('session')) as k (kind)
     where email = 'bob' or kind = 'session'`,
  )
  await one.db.query(`update users set factor_confirmed_at = now() where email like 'Ada%'`)
  const exported = await runCommand('export', [], one.env)
  const said = '3 users; second factors of 1 and API keys of 1 stay behind'
  assert.deepEqual([exported.status, exported.stderr], [0, `export: ${said}\n`])
  const path = fileOf([exported.stdout])
  const { stdout } = await importInto(other, path)
  assert.equal(stdout, counts({ users: 3, email: 1 }))
  const again = await runCommand('export', [], other.env)
  assert.equal(again.stdout, exported.stdout)
  const parsed = exported.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  assert.deepEqual(
    parsed.map(({ email }) => email),
    ['bob', 'Ada@Example.org', 'cyd@example.org'],
  )
  assert.deepEqual(Object.keys(parsed[0]), [
    'email',
    'id',
    'passwordHash',
    'role',
    'permissions',
    'metadata',
    'enabled',
    'emailVerified',
    'createdAt',
  ])
  const single = await runCommand('export', [parsed[1].id.toUpperCase()], one.env)
  assert.deepEqual(JSON.parse(single.stdout), parsed[1])
  const nobody = await runCommand('export', ['01900000-0000-4000-8000-00000000000f'], one.env)
  assert.deepEqual(nobody, { status: 1, stdout: '', stderr: 'export: No such user\n' })
})

test('an export whose reader goes away ends without a word, and fails', async () => {
  const { db, env } = await createTestDatabase()
  await db.query(
    `insert into users (email, email_lower) select n, n from generate_series(1, 5000) n`,
  )
  const child = spawn(process.execPath, launch('export.js'), { env })
  child.stdout.destroy()
  let said = ''
  child.stderr.on('data', (chunk: Buffer) => {
    said += String(chunk)
  })
  const status = await new Promise((resolve) => child.on('close', resolve))
  assert.deepEqual([status, said], [1, ''])
})

test('a password is tried against a file, before anything is written', async () => {
  const path = fileOf([...lines, { email: 'eve@x', passwordHash, role: 'x' }])
  const check = (email: string, typed: string) => runWith(typed, [path, '--check', email])
  assert.deepEqual(await check('ADA@example.org', `${password}\n`), {
    status: 0,
    said: 'The password is right\n',
  })
  for (const args of [
    ['--check=ada@example.org', path],
    ['--check', 'ada@example.org', path],
  ]) {
    assert.equal((await runWith(password, args)).status, 0, args.join(' '))
  }
  for (const [email, typed, said] of [
    [' ', password, 'no line has the address  '],
    ['ada@example.org', `${password} `, 'wrong password'],
    ['cyd@example.org', password, 'cyd@example.org has no passwordHash'],
    ['eve@x', password, 'role must be user or admin'],
    ['nobody@x', password, 'no line has the address nobody@x'],
  ] as const) {
    assert.deepEqual(await check(email, typed), { status: 1, said: `import: ${said}\n` })
  }
})

test('an import reads stdin, and is misuse with other arguments', async () => {
  const { db, env } = await createTestDatabase()
  const { status } = await runWith('{"email":"in@x"}\n', ['-'], env)
  assert.deepEqual([status, (await read(db)).length], [0, 1])
  const blank = join(folder, 'of two words')
  writeFileSync(blank, '{"email":"other@x"}')
  const { stdout } = await runCommand('import', [blank, '--dry-run'], env)
  assert.equal(stdout, counts({ users: 1 }) + dry)
  for (const args of [
    [],
    ['go'],
    ['go', '--from', 'x', '--check', 'y'],
    ['-', '--check', 'a@x'],
    ['a', 'b'],
    ['a', '--admin', 'b'],
    ['a', '--from', 'b'],
  ]) {
    const misused = await runCommand('import', args, env)
    assert.deepEqual([misused.status, misused.stdout], [2, ''], args.join(' '))
  }
  const missing = await runCommand('import', ['no-such-file'], env)
  assert.deepEqual([missing.status, missing.stdout], [1, ''])
  assert.match(missing.stderr, /^import: ENOENT: no such file or directory, open '/)
})

test('a wait for an address becomes one for the user who is imported with it', async () => {
  const app = await startTestApp()
  const body = { email: 'in@x', password: 'wrong' }
  const attempt = async () => brief(await app.request('POST', '/users/sessions', { body }))
  await until('one has to wait', async () => (await attempt()).status === 429)
  await app.db.query(
    `update login_failures set wait_until = now() + interval '1 hour' where account = $1`,
    [accountOfAddress('in@x')],
  )
  await importInto(app.database, fileOf([{ email: 'in@x', passwordHash }]))
  assert.deepEqual(await attempt(), { status: 429, code: 'login_throttled' })
})
