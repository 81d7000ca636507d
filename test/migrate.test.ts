import assert from 'node:assert/strict'
import { hash } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { pathToFileURL } from 'node:url'

import type { DatabaseConfig } from '../src/config.ts'
import { locks } from '../src/database/codes.ts'
import { checkSchema, migrate, readMigrations, readStatus } from '../src/database/migrate.ts'
import { type Database, openDatabase, withDatabase } from '../src/database/pool.ts'
import { explain } from '../src/database/explain.ts'
import { checkRights, grantStatements, rights } from '../src/database/grants.ts'
import { createDatabase, dropDatabase } from '../src/database/setup.ts'
import { connectTo, startTestApp, undo } from './support/helpers.ts'
import { until } from './support/process.ts'

let made = 0

/** Drops a database and no role, in whose way one that another test drops would be. */
const dropAlone = (name: string) =>
  withDatabase(connectTo('postgres', 'postgres'), (server) =>
    server.query(`drop database ${name} with (force)`),
  )

/** A database with its schema and no table, as its owner sees it. */
async function createEmpty(): Promise<Database> {
  const name = `test_migrate_${process.pid}_${++made}`
  await createDatabase(connectTo(name, 'postgres'))
  const db = openDatabase(connectTo(name, 'user_service_admin'), () => {})
  undo.push(async () => {
    await db.stop()
    await dropAlone(name)
  })
  return db
}

/** Everything that migrations can make, as text. */
const describeSchema = async (db: Database) =>
  JSON.stringify(
    await db.query(`
  select 'column' as is, table_name, column_name, data_type, is_nullable, column_default
    from information_schema.columns where table_schema = 'user_service_schema'
  union all select 'index', tablename, indexname, indexdef, '', ''
    from pg_indexes where schemaname = 'user_service_schema'
  union all
    select 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', ''
    from pg_constraint where connamespace = 'user_service_schema'::regnamespace
  union all select 'grant', table_name, grantee, privilege_type, '', ''
    from information_schema.role_table_grants where table_schema = 'user_service_schema'
  union all select 'function', proname, '', prosrc, '', ''
    from pg_proc where pronamespace = 'user_service_schema'::regnamespace
  order by 1, 2, 3, 4`),
  )

const failure = (work: Promise<unknown>) =>
  work.then(
    () => 'none',
    (error: Error) => error.message,
  )
const names = readMigrations().map(({ name }) => name)

test('up applies every file once, however many do so at once', async () => {
  const db = await createEmpty()
  const others = Array.from({ length: 7 }, () =>
    openDatabase(connectTo(`test_migrate_${process.pid}_${made}`, 'user_service_admin'), () => {}),
  )
  const all = await Promise.all([db, ...others].map((each) => migrate(each, 'up')))
  assert.deepEqual(all.flat().sort(), names)
  assert.deepEqual(await migrate(db, 'up'), [])
  await checkSchema(db)
  await Promise.all(others.map((each) => each.stop()))
})

test('a migration that was released is never edited', () => {
  // A database that has it would be refused. What is new is added here when it is released.
  const released = {
    '0001_users': 'c58915f4ceeed57b2c7035b992183befb8fe7217dc74777d29c92da0875a8bb8',
    '0002_audit': '2bad62b98bf241f269ea5b28f20bb1484d148005a235cb59c01f541080df8350',
    '0003_collation': '5642f3707b40a762377a9ea548a343e7d4835531b968e92a7ba5be71cc193ce6',
    '0004_account_life': '296f68cb0854a60874b9b2c7086834c12b6cbfd6cc384dfa8af59fb03b57a147',
    '0005_webhook': '2161ca505c718673fc0d25b5639db3d85c61f1fe4beca35244f06efb0396ccaa',
    '0006_factors': 'bac5661f14be0ea4f6e62d5d2098f3c19566df13c560367bb3af05de2108b102',
    '0007_signing': '3b60a324670e165d188c2fa15ca28b219f53d2df4325c62655facb0db1548a86',
  }
  const hashes = readMigrations().map((migration) => [migration.name, migration.hash])
  assert.deepEqual(Object.fromEntries(hashes), released)
})

test('no role of ours may ever change the audit, whatever default privileges were', async () => {
  const name = `test_migrate_${process.pid}_${++made}`
  const database = connectTo(name, 'postgres')
  await createDatabase(database)
  await withDatabase(database, (db) =>
    db.query(`alter default privileges for role user_service_admin
      grant all on tables to user_service_manager, user_service_user`),
  )
  await createDatabase(database)
  const db = openDatabase(connectTo(name, 'user_service_admin'), () => {})
  undo.push(async () => {
    await db.stop()
    await dropAlone(name)
  })
  for (let count = 2; count <= names.length; count++) {
    await migrate(db, 'up', { all: readMigrations().slice(0, count) })
    const roles = await db.query<{ role: string }>(`select role
      from unnest('{user_service_manager, user_service_user}'::text[]) as role
      where has_table_privilege(role, 'audit_events', 'update, delete, truncate')`)
    assert.deepEqual(roles, [], names[count - 1])
  }
})

test('up, down and up again gives the same schema', async () => {
  const db = await createEmpty()
  await migrate(db, 'up')
  const first = await describeSchema(db)
  assert.deepEqual(await migrate(db, 'down'), [names.at(-1)])
  assert.deepEqual(await migrate(db, 'down', { count: 100 }), names.slice(0, -1).reverse())
  const [left] = await db.query<{ n: number }>(`select count(*)::int as n from pg_class
    where relnamespace = 'user_service_schema'::regnamespace and relname !~ '^schema_migrations'`)
  assert.equal(left!.n, 0)
  await migrate(db, 'up')
  assert.equal(await describeSchema(db), first)
})

test('the database refuses a role, scope, purpose or webhook that there is not', async () => {
  const db = await createEmpty()
  await migrate(db, 'up')
  const [user] = await db.query<{ id: string }>(
    `insert into users (email, email_lower) values ('a@b', 'a@b') returning id`,
  )
  const digest = `'\\x${'00'.repeat(32)}'`
  const from = `from users where id = '${user!.id}'`
  for (const [constraint, statement] of [
    ['users_role_check', `update users set role = 'root'`],
    [
      'api_keys_scope_check',
      `insert into api_keys (user_id, digest, kind, name, scope)
        select id, ${digest}, 'api', 'a', 'more' ${from}`,
    ],
    [
      'tokens_purpose_check',
      `insert into tokens (user_id, digest, purpose, valid_until)
        select id, ${digest}, 'other', now() ${from}`,
    ],
    ['webhook_one_check', 'insert into webhook (one) values (false)'],
  ] as const)
    await assert.rejects(db.query(statement), { code: '23514', constraint })
})

/** Of the roles that are not the owner: role, table, rights. */
async function readRights(db: Database) {
  const rows = await db.query<{ grantee: string; table_name: string; rights: string }>(`
    select grantee, table_name, string_agg(privilege_type, ' ' order by privilege_type) as rights
    from information_schema.role_table_grants where table_schema = 'user_service_schema'
      and grantee <> 'user_service_admin' group by 1, 2 order by 1, 2`)
  return rows.map(({ grantee, table_name, rights }) => [grantee, table_name, rights])
}

const tables = Object.keys(rights).sort()
const expectedRights = [
  ...tables.map((table) => [
    'user_service_manager',
    table,
    rights[table]!.replace(/, insert \(.*\)/, '')
      .split(', ')
      .sort()
      .join(' ')
      .toUpperCase(),
  ]),
  ...tables.map((table) => ['user_service_user', table, 'SELECT']),
]

test('the service’s role can do its work and no more, the backup’s can read all', async () => {
  const db = await createEmpty()
  await migrate(db, 'up')
  assert.deepEqual(await readRights(db), expectedRights)
  assert.equal(rights['schema_migrations'], 'select')
  const inserted = await db.query<{ column: string }>(
    `select column_name as column from information_schema.column_privileges
     where table_name = 'audit_events' and grantee = 'user_service_manager'
       and privilege_type = 'INSERT' order by 1`,
  )
  assert.deepEqual(
    inserted.map(({ column }) => column),
    ['action', 'actor', 'address', 'changes', 'key_id', 'request_id', 'subject'],
  )
})

test('a role that was granted nothing neither connects nor creates', async () => {
  const db = await createEmpty()
  const [rights] = await db.query(`
    select
      has_database_privilege('public', current_database(), 'connect') as connects,
      has_database_privilege('public', current_database(), 'temporary') as makes,
      has_schema_privilege('public', 'public', 'create') as creates,
      has_schema_privilege('public', 'public', 'usage') as uses,
      has_schema_privilege('public', 'user_service_schema', 'usage') as reads`)
  assert.deepEqual(
    { ...rights! },
    { connects: false, makes: false, creates: false, uses: false, reads: false },
  )
})

test('an empty database is behind, and the message names the command', async () => {
  const db = await createEmpty()
  assert.match(
    await failure(checkSchema(db)),
    /^The database is behind: \d+ migrations .* Run: node bin\/migrate\.js up$/,
  )
  assert.deepEqual(
    await readStatus(db),
    names.map((name) => ({ name, state: 'pending' })),
  )
})

test('where create was left out, up says so', async () => {
  const db = await createEmpty()
  await db.query('alter schema user_service_schema rename to gone')
  await assert.rejects(migrate(db, 'up'), (error) => {
    const reason = 'schema "user_service_schema" does not exist'
    assert.equal(explain(error), `${reason}: node bin/database.js create makes it`)
    return true
  })
  await db.query('alter schema gone rename to user_service_schema')
})

test('a database that knows more than the code is ahead, and refused', async () => {
  const db = await createEmpty()
  await migrate(db, 'up')
  const older = readMigrations().slice(0, -1)
  for (const message of await Promise.all(
    [
      migrate(db, 'up', { all: older }),
      migrate(db, 'down', { all: older }),
      checkSchema(db, older),
    ].map(failure),
  )) {
    assert.match(message, RegExp(`^The database is ahead: ${names.at(-1)} is not known`))
  }
})

test('a file that was edited after it was applied is refused', async () => {
  const db = await createEmpty()
  await migrate(db, 'up')
  const [first, ...rest] = readMigrations()
  const edited = [{ ...first!, hash: 'other' }, ...rest]
  for (const message of await Promise.all(
    [
      migrate(db, 'up', { all: edited }),
      migrate(db, 'down', { all: edited }),
      checkSchema(db, edited),
    ].map(failure),
  )) {
    assert.match(message, /^The file sql\/0001_users\.up\.sql is not the one that was applied/)
  }
})

test('status lists the applied, pending, edited and unknown, even where up refuses', async () => {
  const db = await createEmpty()
  await migrate(db, 'up')
  const [first, second, ...rest] = readMigrations()
  const more = { ...first!, name: '9999_more' }
  const all = [{ ...first!, hash: 'other' }, ...rest, more]
  assert.deepEqual(await readStatus(db, all), [
    { name: first!.name, state: 'edited' },
    { name: second!.name, state: 'unknown' },
    ...rest.map(({ name }) => ({ name, state: 'applied' })),
    { name: more.name, state: 'pending' },
  ])
})

test('a checkout with other line ends has the same files', () => {
  const directory = mkdtempSync(join(tmpdir(), 'user-service-sql-'))
  undo.push(() => rmSync(directory, { recursive: true }))
  const sql = new URL('../sql/', import.meta.url)
  for (const file of readdirSync(sql)) {
    const text = readFileSync(new URL(file, sql), 'utf8').replaceAll('\n', '\r\n')
    writeFileSync(join(directory, file), text)
  }
  assert.deepEqual(readMigrations(pathToFileURL(`${directory}/`)), readMigrations())
})

test('a database that 1.0 migrated from a checkout with CRLF goes up and down', async () => {
  const db = await createEmpty()
  const all = readMigrations().map((migration) => {
    const up = migration.up.replaceAll('\n', '\r\n')
    return { ...migration, hash: hash('sha256', up) }
  })
  await migrate(db, 'up', { all: all.slice(0, -1) })
  const names = all.map(({ name }) => name)
  assert.deepEqual(await migrate(db, 'up'), names.slice(-1))
  await checkSchema(db)
  const down = await migrate(db, 'down', { count: names.length })
  assert.deepEqual(down, names.toReversed())
})

test('addresses are compared by their bytes, and getting there rewrites no table', async () => {
  const db = await createEmpty()
  const fileOf = () => db.query(`select pg_relation_filenode('users') as file`)
  const collation = () =>
    db.query(`select attrelid::regclass::text as table, collname as collation from pg_attribute
      join pg_collation on pg_collation.oid = attcollation
      where (attrelid, attname) in (('users'::regclass, 'email_lower'),
        ('login_failures'::regclass, 'client')) order by 1`)
  await migrate(db, 'up', { all: readMigrations().slice(0, 2) })
  const before = await fileOf()
  await migrate(db, 'up')
  assert.deepEqual(await fileOf(), before)
  assert.deepEqual(await collation(), [
    { table: 'login_failures', collation: 'C' },
    { table: 'users', collation: 'C' },
  ])
})

test('a database of another service is left alone, and the message says what to do', async () => {
  const name = `test_migrate_${process.pid}_${++made}`
  const server = openDatabase(connectTo('postgres', 'postgres'), () => {}, 0)
  await server.query(`create database ${name} owner user_service_admin`)
  const db = openDatabase(connectTo(name, 'user_service_admin'), () => {})
  undo.push(async () => {
    await db.stop()
    await server.query(`drop database ${name} with (force)`)
    await server.stop()
  })
  await db.query(`create schema user_service_schema;
    create table user_service_schema.schema_migrations (version bigint, dirty boolean);
    create table user_service_schema.api_user (id uuid)`)
  // The service has no rights there, which is not what is wrong.
  const told = [await startFails(connectTo(name, ''))]
  const passwords = { user_service_admin: 'x', user_service_manager: 'x', user_service_user: 'x' }
  for (const message of await Promise.all(
    [
      createDatabase(connectTo(name, 'postgres'), passwords),
      migrate(db, 'up'),
      migrate(db, 'down'),
      readStatus(db),
      checkSchema(db),
    ].map(failure),
  )) {
    told.push(message)
  }
  for (const message of told) {
    assert.match(message, /^The schema user_service_schema holds tables of another service \(/)
    assert.match(message, /service \(api_user, schema_migrations\).*Moving over/)
  }
  const changed = await server.query(
    `select from pg_db_role_setting join pg_database on pg_database.oid = setdatabase
     where datname = $1`,
    [name],
  )
  assert.deepEqual(changed, [])
})

test('create leaves another application’s database as it is, and drop refuses it', async () => {
  const name = `test_migrate_${process.pid}_${++made}`
  const config = connectTo(name, 'postgres')
  const server = openDatabase(connectTo('postgres', 'postgres'), () => {}, 0)
  const stranger = `test_stranger_${process.pid}`
  await server.query(`create role ${stranger} login`)
  await server.query(`create database ${name} owner ${stranger}`)
  await server.query(`alter database ${name} set search_path = accounts`)
  undo.push(async () => {
    await server.query(`drop database ${name} with (force)`)
    await server.query(`drop role ${stranger}`)
    await server.stop()
  })
  const read = () =>
    withDatabase({ ...config, user: 'user_service_user' }, (db) =>
      db.query(`
        select has_database_privilege('pg_monitor', current_database(), 'connect') as connects,
          has_schema_privilege('pg_monitor', 'public', 'usage') as uses,
          (select setconfig from pg_db_role_setting join pg_database on setdatabase = oid
            where datname = current_database() and setrole = 0) as settings`),
    )
  const before = await read()
  await createDatabase(config)
  const applied = await withDatabase({ ...config, user: 'user_service_admin' }, (db) =>
    migrate(db, 'up'),
  )
  const after = await read()

  assert.deepEqual(before, [{ connects: true, uses: true, settings: ['search_path=accounts'] }])
  assert.deepEqual(after, before)
  assert.deepEqual(applied, names)
  assert.equal(
    await failure(dropDatabase(config)),
    `that database belongs to ${stranger}, and may hold more than this service: drop the schema ` +
      'user_service_schema in it instead; nothing was dropped',
  )
  assert.deepEqual(await read(), before)
})

test('a role that may create roles and databases is enough to create and to drop', async () => {
  const server = openDatabase(connectTo('postgres', 'postgres'), () => {}, 0)
  const creator = `test_creator_${process.pid}`
  await server.query(`create role ${creator} login createrole createdb`)
  const config = connectTo(`test_migrate_${process.pid}_${++made}`, creator)
  const owner = { ...config, user: 'user_service_admin' }
  try {
    for (const count of [names.length, 0]) {
      await createDatabase(config)
      const applied = await withDatabase(owner, (db) => migrate(db, 'up'))
      assert.equal(applied.length, count)
    }
  } finally {
    await dropDatabase(config)
    await server.query(`drop role ${creator}`)
    await server.stop()
  }
})

test('default privileges that somebody left give the service no more than it needs', async () => {
  const db = await createEmpty()
  await db.query(`
    alter default privileges grant all on tables to user_service_manager, public;
    alter default privileges in schema user_service_schema
      grant all on tables to user_service_manager`)
  await migrate(db, 'up', { all: readMigrations().slice(0, 2) })
  await migrate(db, 'up')
  assert.deepEqual(await readRights(db), expectedRights)
})

/** Why the service does not start. */
async function startFails({ name, hosts: [host], port }: DatabaseConfig): Promise<string> {
  const env = { DATABASE_HOST: host, DATABASE_PORT: String(port), DATABASE_NAME: name }
  try {
    await startTestApp({}, { env, name, db: null as never })
    return 'none'
  } catch (error) {
    return explain(error)
  }
}

test('the start names what was dropped, or not restored, and what mends it', async () => {
  const db = await createEmpty()
  const config = connectTo(`test_migrate_${process.pid}_${made}`, 'user_service_manager')
  await migrate(db, 'up')
  for (const [harm, name] of [
    ['alter table api_keys rename to gone', 'api_keys'],
    ['alter table tokens drop constraint tokens_pkey', 'tokens'],
    [
      `alter table users drop constraint users_email_key;
       create unique index decoy on users (email_lower, id)`,
      'users',
    ],
    ['alter table api_keys drop constraint api_keys_digest_key', 'api_keys'],
  ] as const) {
    await db.query(harm)
    assert.equal(
      await startFails(config),
      `The table ${name} or a key of it is missing, though its migrations were applied. ` +
        'Add it as its file in sql has it, or restore a dump: node bin/restore.js',
    )
    await db.query('drop schema user_service_schema cascade')
    await createDatabase({ ...config, user: 'postgres' })
    await migrate(db, 'up')
  }
  assert.equal(await startFails(config), 'none')
})

const readWarnings = (user: string, hosts = ['one']) =>
  withDatabase(connectTo(`test_migrate_${process.pid}_${made}`, user), (db) =>
    checkRights(db, hosts),
  )

test('a right to make ids that was taken from all is told, and granted again', async () => {
  const db = await createEmpty()
  const config = connectTo(`test_migrate_${process.pid}_${made}`, 'user_service_manager')
  await migrate(db, 'up')
  await db.query(`
    revoke execute on all functions in schema user_service_schema
    from public, user_service_manager`)
  const told = 'The role may not execute uuid_v7. Run: node bin/database.js create'
  assert.equal(await startFails(config), told)
  await createDatabase({ ...config, user: 'postgres' })
  assert.equal(await startFails(config), 'none')
})

const create = 'Run: node bin/database.js create'
const remedy =
  'have the service connect as user_service_manager, which owns nothing, is no superuser and in ' +
  `no other role. ${create}`

test('the start names what the role may not or should not do, and what command helps', async () => {
  const db = await createEmpty()
  const config = connectTo(`test_migrate_${process.pid}_${made}`, 'postgres')
  await migrate(db, 'up')
  assert.deepEqual(await readWarnings('user_service_manager'), [])
  for (const user of ['user_service_admin', 'postgres'])
    assert.deepEqual(await readWarnings(user), [`${user} may change the audit: ${remedy}`])
  const reason = await failure(readWarnings('user_service_user'))
  assert.match(reason, /^user_service_user may not delete, insert, update in the table api_keys\. /)
  assert.match(reason, /\. Connect as user_service_manager/)
  for (const [harm, message] of [
    ['revoke insert on audit_events from user_service_manager', /may not insert in .*audit_events/],
    ['revoke insert on users from user_service_manager', /may not insert in .*users/],
    [
      `revoke insert on audit_events from user_service_manager;
       grant insert (action) on audit_events to user_service_manager`,
      /may not insert in .*audit_events/,
    ],
    [
      `revoke update on users from user_service_manager;
       grant update (email) on users to user_service_manager`,
      /may not update in .*users/,
    ],
    [
      'revoke insert (request_id) on audit_events from user_service_manager',
      /may not insert in .*audit_events/,
    ],
    [
      'revoke all on schema_migrations from user_service_manager',
      /^permission denied for table schema_migrations: see DATABASE_USER; node bin/,
    ],
    [
      'revoke usage on schema user_service_schema from user_service_manager',
      /^permission denied for schema user_service_schema: see DATABASE_USER; node bin/,
    ],
  ] as const) {
    await db.query(harm)
    const told = await startFails(config)
    assert.match(told, message)
    assert.match(told, /node bin\/database\.js create/)
    await createDatabase(config)
    assert.deepEqual(await readWarnings('user_service_manager'), [])
  }
  await withDatabase(config, async (superuser) => {
    const set = `alter database ${config.name} set session_replication_role`
    await superuser.query(`${set} = replica`)
    const unkept = 'session_replication_role is replica: keys would outlive their users. '
    assert.ok((await startFails(config)).startsWith(unkept))
    await superuser.query(`${set} to default`)
  })
  await db.query('alter table users enable row level security')
  const filtered = await failure(readWarnings('user_service_manager'))
  assert.match(filtered, /^Row-level security hides rows of the table users from /)
  const fix = ' Run: alter table user_service_schema.users disable row level security'
  assert.ok(filtered.endsWith(fix), filtered)
  await db.query('alter table users disable row level security')
  await db.query(`alter database ${config.name} set default_transaction_read_only = on`)
  assert.deepEqual(await readWarnings('user_service_manager'), [
    'the database is read-only: every change will fail',
  ])
})

test('a right that the service should not have is told at the start, and taken away', async () => {
  const db = await createEmpty()
  await migrate(db, 'up')
  for (const [grant, may] of [
    ['update on audit_events', 'change the audit'],
    ['update (changes) on audit_events', 'change the audit'],
    ['insert on audit_events', 'change the audit'],
    ['insert (at) on audit_events', 'change the audit'],
    ['truncate on audit_events', 'change the audit'],
    ['insert on schema_migrations', 'insert in the table schema_migrations'],
    ['update (hash) on schema_migrations', 'update in the table schema_migrations'],
    ['delete, truncate on schema_migrations', 'delete in the table schema_migrations'],
    ['update on tokens', 'update in the table tokens'],
  ] as const) {
    await db.query(`grant ${grant} to user_service_manager`)
    assert.deepEqual(await readWarnings('user_service_manager'), [
      `user_service_manager may ${may}: ${remedy}`,
    ])
    await db.query(grantStatements)
    assert.deepEqual(await readWarnings('user_service_manager'), [], grant)
  }
  await db.query('grant create on schema user_service_schema to user_service_manager')
  assert.deepEqual(await readWarnings('user_service_manager'), [
    `the role may create tables in user_service_schema. ${create}`,
  ])
  await db.query(grantStatements)
  assert.deepEqual(await readWarnings('user_service_manager'), [])
  await db.query('alter table users add "(odd" int')
  assert.deepEqual(await readWarnings('user_service_manager'), [])
})

test('the start refuses a database in another encoding', async () => {
  const name = `test_migrate_${process.pid}_${++made}`
  const server = openDatabase(connectTo('postgres', 'postgres'), () => {}, 0)
  await server.query(
    `create database ${name} encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0`,
  )
  assert.match(
    await failure(readWarnings('postgres')),
    /^The database is encoded in LATIN1; it has to be UTF8\..*Run: node bin\/database\.js create$/,
  )
  await server.query(`drop database ${name} with (force)`)
  await server.stop()
})

test('a migration that waits says for whom, and gives up in time', async () => {
  const db = await createEmpty()
  await migrate(db, 'up')
  const all = [
    ...readMigrations(),
    { name: '9999_more', hash: 'more', up: 'lock table users', down: '' },
  ]
  const told: string[] = []
  const options = { all, timeoutMs: 6500, say: (line: string) => void told.push(line) }
  const gaveUp = await db.transaction(async (tx) => {
    await tx.query('select from users')
    return failure(migrate(db, 'up', options))
  })
  const who = /pid \d+ \(user_service_admin, user-service, in a transaction for [5-9] s\)$/
  assert.equal(told.length, 1)
  assert.match(told[0]!, RegExp(`^Waiting for ${who.source}`))
  assert.match(gaveUp, RegExp(`^Gave up after 6.5 s: waited for ${who.source}`))
  const behindAnother = await db.transaction(async (tx) => {
    await tx.query('select pg_advisory_xact_lock($1)', [locks.migrations])
    return failure(migrate(db, 'up', { all, timeoutMs: 100 }))
  })
  assert.match(behindAnother, /^Gave up after 0.1 s: waited for pid \d+ \(user_service_admin/)
})

test('a file that fails is named with its line, and leaves nothing behind', async () => {
  const db = await createEmpty()
  const [first] = readMigrations()
  const broken = {
    ...first!,
    number: 2,
    name: '0002_broken',
    up: 'create table left_over ();\n\nselect nonsense;',
  }
  assert.match(
    await failure(migrate(db, 'up', { all: [first!, broken] })),
    /^sql\/0002_broken, line 3: column "nonsense" does not exist/,
  )
  assert.deepEqual(await db.query(`select to_regclass('user_service_schema.left_over') as it`), [
    { it: null },
  ])
  assert.deepEqual(
    (await readStatus(db, [first!, broken])).map(({ state }) => state),
    ['applied', 'pending'],
  )
})

test('a migration may take longer than a request', async () => {
  await createEmpty()
  const [first] = readMigrations()
  const slow = { ...first!, up: `${first!.up}; select pg_sleep(2.5);` }
  const config = connectTo(`test_migrate_${process.pid}_${made}`, 'user_service_admin')
  assert.deepEqual(await withDatabase(config, (db) => migrate(db, 'up', { all: [slow] })), [
    '0001_users',
  ])
})

test('a migration that waits for the end of a dump holds up no request', async () => {
  await migrate(await createEmpty(), 'up')
  const open = (user: string, timeoutMs?: number) => {
    const opened = openDatabase(
      connectTo(`test_migrate_${process.pid}_${made}`, user),
      () => {},
      timeoutMs,
    )
    undo.push(() => opened.stop())
    return opened
  }
  const owner = open('user_service_admin', 0)
  const backup = open('user_service_user', 0)
  const service = open('user_service_manager')
  const more = {
    name: '9999_more',
    hash: 'more',
    up: 'alter table users add column more text',
    down: '',
  }
  let migrating
  await backup.transaction(async (dump) => {
    await dump.query('select from users')
    migrating = migrate(owner, 'up', { all: [...readMigrations(), more] })
    const waiting = `select from pg_locks where relation = 'users'::regclass and not granted`
    await until('the migration waits', async () => (await backup.query(waiting)).length > 0)
    await service.query('select from users')
  })
  assert.deepEqual(await migrating, ['9999_more'])
})
