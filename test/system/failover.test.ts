// Other PostgreSQL set-ups than one server: a standby that is promoted, and PgBouncer in between.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { chownSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { startPrivatePostgres } from '../../src/database/private.ts'
import { findPostgresBin } from '../../src/database/programs.ts'
import { openDatabase, withDatabase } from '../../src/database/pool.ts'
import { password, startTestApp, undo } from '../support/helpers.ts'
import { startBouncer, versions } from '../support/pgbouncer.ts'
import { startOwnPostgres } from '../support/postgres.ts'

const postgres = await startOwnPostgres()
await postgres.sql('alter role postgres set search_path = user_service_schema')
/** PostgreSQL's account, which alone may touch its files. */
const { uid, gid } = statSync(join(postgres.directory, 'postgres/PG_VERSION'))
const makeDirectory = (name: string) => {
  const path = join(postgres.directory, name)
  mkdirSync(path)
  chownSync(path, uid, gid)
  return path
}

/** The service on that database; `db` is the superuser's. */
function start(env: object) {
  const db = openDatabase(postgres.as('postgres'), () => {}, 0)
  undo.push(() => db.stop())
  return startTestApp({ DATABASE_POOL: '4' }, { env: { ...postgres.env, ...env }, name: '', db })
}

for (const version of versions) {
  test(`PgBouncer ${version} may stand before it, with few connections for many`, async () => {
    const bouncer = await startBouncer(version, {
      directory: postgres.directory,
      host: postgres.env.DATABASE_HOST,
      uid,
      gid,
    })
    undo.push(bouncer.stop)
    const env = { ...bouncer.env, DATABASE_POOL: '20' }
    // What somebody set for the database or the role must not matter behind a pooler, either.
    for (const whom of ['database db_user_service', 'role user_service_manager'])
      await postgres.sql(`
      alter ${whom} set datestyle = 'German';
      alter ${whom} set search_path = 'public';
      alter ${whom} set default_transaction_isolation = 'serializable'`)
    const one = await start(env)
    const two = await start(env)

    const { details: user } = await one.request('POST', '/users', {
      body: { email: `ada-${version}@example.org`, password },
    })
    const [key] = user.apiKeys
    const call = (i: number) => {
      const app = i % 2 === 0 ? one : two
      if (i % 5 === 0) {
        return app.request('POST', `/users/${user.id}/keys`, { key, body: { name: `key ${i}` } })
      }
      return app.request('GET', i % 3 === 0 ? '/users/auth' : `/users/${user.id}`, { key })
    }
    const calls: Awaited<ReturnType<typeof call>>[] = []
    for (let first = 0; first < 200; first += 20) {
      const together = Array.from({ length: 20 }, (_, i) => call(first + i))
      calls.push(...(await Promise.all(together)))
    }
    assert.deepEqual([...new Set(calls.map(({ status }) => status))].sort(), [200, 201])
    const session = await two.request('POST', '/users/sessions', {
      body: { email: user.email, password },
    })
    const made = calls[0]!.details
    assert.equal(
      (
        await two.request('DELETE', `/users/${user.id}/keys/${made.id}`, {
          key: session.details.key,
        })
      ).status,
      204,
    )
    assert.match(made.createdAt, /^\d{4}-\d\d-\d\dT.*Z$/)
    assert.equal((await one.request('GET', '/users/auth', { key: made.key })).status, 401)

    // What PgBouncer counts are named statements alone; the older one does not know them.
    if (version === '1.24') {
      const before = await bouncer.countBinds()
      assert.equal((await one.request('GET', '/users/auth', { key })).status, 200)
      assert.ok((await bouncer.countBinds()) > before)
    }
    await postgres.sql(
      `alter table users alter column email type varchar(${version === '1.18' ? 320 : 321})`,
    )
    const after = await Promise.all(
      Array.from({ length: 40 }, () => one.request('GET', `/users/${user.id}`, { key })),
    )
    assert.deepEqual([...new Set(after.map(({ status }) => status))], [200])
    for (const whom of ['database db_user_service', 'role user_service_manager'])
      await postgres.sql(`alter ${whom} reset all`)
  })
}

test('a standby is passed over, and used without a restart once it is promoted', async () => {
  const directory = makeDirectory('standby')
  const data = join(directory, 'postgres')
  const socket = join(directory, 'socket')
  mkdirSync(socket)
  chownSync(socket, uid, gid)
  execFileSync(
    join(findPostgresBin('pg_basebackup')!, 'pg_basebackup'),
    [
      '-D',
      data,
      '-R',
      '-X',
      'stream',
      '-c',
      'fast',
      '-h',
      postgres.env.DATABASE_HOST,
      '-U',
      'postgres',
    ],
    { uid, gid, cwd: '/' },
  )
  const standby = await startPrivatePostgres({
    directory,
    say: () => {},
    settings: { unix_socket_directories: socket },
  })
  undo.push(() => standby.stop())
  const app = await start({ DATABASE_HOST: `${socket},${postgres.env.DATABASE_HOST}` })
  const user = await app.user()
  const add = async (name: string) =>
    (await app.request('POST', `/users/${user.id}/keys`, { key: user.key, body: { name } })).status
  assert.equal(await add('before'), 201)

  const as = { ...postgres.as('postgres'), hosts: [socket] }
  const caughtUp = () =>
    withDatabase(as, (db) =>
      db.query(`select from user_service_schema.api_keys where name = 'before'`),
    )
  while ((await caughtUp()).length === 0) await sleep(20)
  await postgres.crash()
  assert.equal(await add('between'), 503)
  await withDatabase(as, (db) => db.query('select pg_promote()'))
  assert.equal(await add('after'), 201)
  const names = await app.request('GET', `/users/${user.id}/keys`, { key: user.key })
  assert.deepEqual(
    names.details.map(({ name }: { name: string }) => name),
    ['test', 'before', 'after'],
  )
})
