// Migrations are pairs of plain SQL files, sql/NNNN_what.up.sql and .down.sql, numbered without a gap. Each
// is applied in a transaction of its own, which takes the same advisory lock first, so that instances that
// migrate at once apply each file once. (A lock of the transaction, not of the session: a pooler in
// transaction mode would hand the session to somebody else.) The SHA-256 of each applied file is kept; a file
// that was edited or removed afterwards is refused, and so is a database that knows files which this code
// does not. Statements that cannot run in a transaction (create index concurrently) are not possible here.
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'

import { ExitError } from '../errors.ts'
import type { Database, Db } from './pool.ts'

export type Migration = { number: number; name: string; hash: string; up: string; down: string }

const folder = new URL('../../sql/', import.meta.url)

/** Reads all migrations of this version; throws when a number or a half of a pair is missing. */
export function readMigrations(): Migration[] {
  const files = readdirSync(folder).filter((name) => name.endsWith('.sql')).sort()
  const ups = files.filter((name) => name.endsWith('.up.sql'))
  if (files.length !== 2 * ups.length) throw new ExitError('sql: each .up.sql needs its .down.sql')
  return ups.map((file, index) => {
    const name = file.replace('.up.sql', '')
    const number = Number(/^\d{4}(?=_)/.exec(name)?.[0])
    if (number !== index + 1) throw new ExitError(`sql: ${file} should have the number ${index + 1}`)
    const up = readFileSync(new URL(file, folder), 'utf8')
    const down = readFileSync(new URL(`${name}.down.sql`, folder), 'utf8')
    return { number, name, hash: createHash('sha256').update(up).digest('hex'), up, down }
  })
}

/** Applies what is pending, returns the names; throws when the history was changed. */
export const migrateUp = (database: Database, migrations = readMigrations()) =>
  migrate(database, 'up', Infinity, migrations)

/** Takes the last `count` migrations back, returns their names, the last applied first. */
export const migrateDown = (database: Database, count: number, migrations = readMigrations()) =>
  migrate(database, 'down', count, migrations)

async function migrate(database: Database, way: 'up' | 'down', count: number, migrations: Migration[]) {
  const done: string[] = []
  while (done.length < count) {
    const name = await database.transaction(async (tx) => {
      await tx.query('select pg_advisory_xact_lock(7520601)')
      const history = await readHistory(tx, migrations)
      const migration = migrations[way === 'up' ? history.length : history.length - 1]
      if (migration === undefined) return null
      const { number, name, hash } = migration
      if (way === 'up' && number === 1) await tx.query(makeHistory)
      await run(tx, name, migration[way])
      if (way === 'down') await tx.query(`delete from ${table} where number = $1`, [number])
      else await tx.query(`insert into ${table} (number, name, hash) values ($1, $2, $3)`, [number, name, hash])
      return name
    })
    if (name === null) break
    done.push(name)
  }
  return done
}

/** Which migrations are applied; throws when the history was changed. */
export async function readStatus(db: Db, migrations = readMigrations()) {
  const { length } = await readHistory(db, migrations)
  return migrations.map(({ name }, index) => ({ name, applied: index < length }))
}

/** Throws, with the command to run, unless the database is exactly at this version's schema. */
export async function checkSchema(db: Db): Promise<void> {
  const pending = (await readStatus(db)).filter(({ applied }) => !applied)
  if (pending.length === 0) return
  throw new ExitError(`The database is behind: ${pending.length} migrations are to be applied. ` +
    'Run: node bin/migrate.js up')
}

const table = 'user_service_schema.schema_migrations'
const makeHistory = `
  create table if not exists ${table} (
    number integer primary key, name text not null, hash text not null,
    applied_at timestamptz not null default now());
  grant select on ${table} to user_service_manager`

/** What is applied, in order; throws when it is not what the first of `migrations` are. */
async function readHistory(db: Db, migrations: Migration[]) {
  if ((await db.query(`select where to_regclass('${table}') is not null`)).length === 0) return []
  const history = await db.query<{ number: number; name: string; hash: string }>(
    `select number, name, hash from ${table} order by number`)
  for (const [index, { number, name, hash }] of history.entries()) {
    const known = migrations[index]
    if (known === undefined) {
      throw new ExitError(`The database is ahead: ${name} is not known to this version. ` +
        'Run the version that knows it, there: node bin/migrate.js down --yes')
    }
    if (number !== known.number || name !== known.name || hash !== known.hash) {
      throw new ExitError(`The file sql/${known.name}.up.sql is not the one that was applied as ${name}. ` +
        'Restore it; see: node bin/migrate.js status')
    }
  }
  return history
}

async function run(tx: Db, name: string, sql: string) {
  try {
    await tx.query(sql)
  } catch (error) {
    const { message, position } = error as Error & { position?: string }
    const line = sql.slice(0, Number(position ?? 0)).split('\n').length
    throw new ExitError(`sql/${name}, line ${line}: ${message}. Nothing of this file was applied.`)
  }
}
