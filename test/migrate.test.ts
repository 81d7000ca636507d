import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import {
  checkSchema,
  migrateDown,
  migrateUp,
  readMigrations,
  readStatus,
} from '../src/database/migrate.ts'
import { type Database, openDatabase, withDatabase } from '../src/database/pool.ts'
import { createDatabase, dropDatabase } from '../src/database/setup.ts'
import { connectTo, undo } from './support/helpers.ts'

let made = 0

/** A database with its schema and no table, as its owner sees it. */
async function createEmpty(): Promise<Database> {
  const name = `test_migrate_${process.pid}_${++made}`
  await createDatabase(connectTo(name, 'postgres'))
  const db = openDatabase(connectTo(name, 'user_service_admin'), () => {})
  undo.push(async () => {
    await db.stop()
    await dropDatabase(connectTo(name, 'postgres'))
  })
  return db
}

/** Everything that migrations can make, as text. */
const describeSchema = async (db: Database) =>
  JSON.stringify(
    await db.query(`
  select 'column' as is, table_name, column_name, data_type, is_nullable, column_default
    from information_schema.columns where table_schema = 'user_service_schema'
  union all select 'index', tablename, indexname, indexdef, '', '' from pg_indexes where schemaname = 'user_service_schema'
  union all select 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', ''
    from pg_constraint where connamespace = 'user_service_schema'::regnamespace
  union all select 'grant', table_name, grantee, privilege_type, '', ''
    from information_schema.role_table_grants where table_schema = 'user_service_schema'
  union all select 'function', proname, '', prosrc, '', '' from pg_proc where pronamespace = 'user_service_schema'::regnamespace
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
  const all = await Promise.all([db, ...others].map((each) => migrateUp(each)))
  assert.deepEqual(all.flat().sort(), names)
  assert.deepEqual(await migrateUp(db), [])
  await checkSchema(db)
  await Promise.all(others.map((each) => each.stop()))
})

test('up, down and up again gives the same schema', async () => {
  const db = await createEmpty()
  await migrateUp(db)
  const first = await describeSchema(db)
  assert.deepEqual(await migrateDown(db, 1), [names.at(-1)])
  assert.deepEqual(await migrateDown(db, 100), names.slice(0, -1).reverse())
  const [left] = await db.query<{ n: number }>(`select count(*)::int as n from pg_class
    where relnamespace = 'user_service_schema'::regnamespace and relname !~ '^schema_migrations'`)
  assert.equal(left!.n, 0)
  await migrateUp(db)
  assert.equal(await describeSchema(db), first)
})

test('the service’s role can do its work and no more, the backup’s can read all of it', async () => {
  const db = await createEmpty()
  await migrateUp(db)
  const rows = await db.query<{ grantee: string; table_name: string; rights: string }>(`
    select grantee, table_name, string_agg(privilege_type, ' ' order by privilege_type) as rights
    from information_schema.role_table_grants where table_schema = 'user_service_schema'
      and grantee <> 'user_service_admin' group by 1, 2 order by 1, 2`)
  const all = 'DELETE INSERT SELECT UPDATE'
  const tables = ['api_keys', 'audit_events', 'login_failures', 'schema_migrations', 'users']
  assert.deepEqual(
    rows.map(({ grantee, table_name, rights }) => [grantee, table_name, rights]),
    [
      ...tables.map((table) => [
        'user_service_manager',
        table,
        table === 'audit_events' ? 'INSERT SELECT' : table === 'schema_migrations' ? 'SELECT' : all,
      ]),
      ...tables.map((table) => ['user_service_user', table, 'SELECT']),
    ],
  )
})

test('an empty database is behind, and the message names the command', async () => {
  const db = await createEmpty()
  assert.match(
    await failure(checkSchema(db)),
    /^The database is behind: 2 migrations .* Run: node bin\/migrate\.js up$/,
  )
  assert.deepEqual(
    await readStatus(db),
    names.map((name) => ({ name, applied: false })),
  )
})

test('a database that knows more than the code is ahead, and refused', async () => {
  const db = await createEmpty()
  await migrateUp(db)
  const older = readMigrations().slice(0, -1)
  for (const message of await Promise.all(
    [migrateUp(db, older), migrateDown(db, 1, older), readStatus(db, older)].map(failure),
  )) {
    assert.match(message, /^The database is ahead: 0002_audit is not known/)
  }
})

test('a file that was edited after it was applied is refused', async () => {
  const db = await createEmpty()
  await migrateUp(db)
  const [first, ...rest] = readMigrations()
  const edited = [{ ...first!, hash: 'other' }, ...rest]
  for (const message of await Promise.all(
    [migrateUp(db, edited), migrateDown(db, 1, edited), readStatus(db, edited)].map(failure),
  )) {
    assert.match(message, /^The file sql\/0001_users\.up\.sql is not the one that was applied/)
  }
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
    await failure(migrateUp(db, [first!, broken])),
    /^sql\/0002_broken, line 3: column "nonsense" does not exist/,
  )
  assert.deepEqual(await db.query(`select to_regclass('user_service_schema.left_over') as it`), [
    { it: null },
  ])
  assert.deepEqual(
    (await readStatus(db, [first!, broken])).map(({ applied }) => applied),
    [true, false],
  )
})

test('a migration may take longer than a request', async () => {
  await createEmpty()
  const [first] = readMigrations()
  const slow = { ...first!, up: `${first!.up}; select pg_sleep(2.5);` }
  const config = connectTo(`test_migrate_${process.pid}_${made}`, 'user_service_admin')
  assert.deepEqual(await withDatabase(config, (db) => migrateUp(db, [slow])), ['0001_users'])
})

test('a migration that waits for the end of a dump holds up no request', async () => {
  await migrateUp(await createEmpty())
  const open = (user: string, timeoutMs?: number) => {
    const opened = openDatabase(
      connectTo(`test_migrate_${process.pid}_${made}`, user),
      () => {},
      timeoutMs,
    )
    undo.push(() => opened.stop())
    return opened
  }
  const [owner, backup] = [open('user_service_admin', 0), open('user_service_user', 0)]
  const service = open('user_service_manager')
  const more = {
    name: '0003_more',
    hash: 'more',
    up: 'alter table users add column more text',
    down: '',
  }
  let migrating
  await backup.transaction(async (dump) => {
    await dump.query('select from users')
    migrating = migrateUp(owner, [...readMigrations(), more])
    const waiting = `select from pg_locks where relation = 'users'::regclass and not granted`
    for (let tries = 0; (await backup.query(waiting)).length === 0; tries++) {
      assert.ok(tries < 300, 'nobody waits')
      await sleep(10)
    }
    await service.query('select from users')
  })
  assert.deepEqual(await migrating, ['0003_more'])
})
