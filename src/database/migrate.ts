// Migrations are pairs of plain SQL files, sql/NNNN_what.up.sql and .down.sql, numbered without a
// gap. Each is applied in a transaction of its own, which takes the same lock first, so that
// instances that migrate at once apply each file once. The SHA-256 of each applied file is kept; a
// file that was edited or removed afterwards is refused, and so is a database with migrations that
// this version does not have.
import { hash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

import { ExitError } from '../errors.ts'
import { causeOf, locks, sqlState } from './codes.ts'
import { grantStatements } from './grants.ts'
import { one, type Database, type Db } from './pool.ts'

/** A pair of files. */
interface Migration {
  name: string
  /** SHA-256 of `up`. */
  hash: string
  up: string
  down: string
}

const folder = new URL('../../sql/', import.meta.url)
const table = 'user_service_schema.schema_migrations'

/** Reads all migrations of this version; throws when a number or a .down.sql is missing. */
export function readMigrations(from = folder) {
  // A checkout on Windows may have other line ends: it is the same file.
  const read = (file: string) => readFileSync(new URL(file, from), 'utf8').replaceAll('\r\n', '\n')
  const files = readdirSync(from).filter((file) => file.endsWith('.up.sql'))
  return files.sort().map((file, index) => {
    if (parseInt(file) !== index + 1)
      throw new ExitError(`sql: ${file} should have the number ${index + 1}`)
    const name = file.replace('.up.sql', '')
    const up = read(file)
    return { name, hash: hash('sha256', up), up, down: read(`${name}.down.sql`) }
  })
}

/** How migrations are applied or rolled back. */
export interface MigrateOptions {
  all?: Migration[]
  /** How many; by default all that are pending, or the last one. */
  count?: number
  /** How long one may wait for locks, before it is given up. */
  timeoutMs?: number
  /** Called once for each that waits for more than five seconds. */
  say?(line: string): void
}

type Way = 'up' | 'down'

/**
 * Applies what is pending, or rolls back the last migrations, the last one first, and returns the
 * names; throws when the history was changed, in a database of another service, and when locks were
 * not to be had in time.
 */
export async function migrate(db: Database, way: Way, options: MigrateOptions = {}) {
  const { count = way === 'up' ? Infinity : 1 } = options
  const done: string[] = []
  while (done.length < count) {
    const name = await takeStep(db, way, options)
    if (name === null) break
    done.push(name)
  }
  return done
}

/** Applies or rolls back one migration, as soon as its locks are free; null: there is none. */
async function takeStep(db: Database, way: Way, options: MigrateOptions) {
  const { all = readMigrations(), timeoutMs = Infinity, say } = options
  const start = performance.now()
  let pauseMs = 200
  let hasWarned = false
  while (true) {
    try {
      return await db.transaction((tx) => tryStep(tx, way, all))
    } catch (error) {
      if (causeOf(error).code !== sqlState.lockTimeout) throw error
    }
    const waitedMs = performance.now() - start
    if (waitedMs >= timeoutMs)
      throw new ExitError(
        `Gave up after ${timeoutMs / 1000} s: waited for ${await findBlocker(db)}`,
      )
    if (waitedMs >= 5000 && !hasWarned) {
      say?.(`Waiting for ${await findBlocker(db)}`)
      hasWarned = true
    }
    await sleep(Math.min(pauseMs, timeoutMs - waitedMs))
    // Requests queue behind each attempt: the longer it takes, the rarer they are.
    pauseMs = Math.min(pauseMs * 2, 5000)
  }
}

/** Tries one migration, and waits for no lock longer than a request can. */
async function tryStep(tx: Db, way: Way, all: Migration[]) {
  // Requests queue behind a pending lock (during a dump, say). Wait less than a request can, but
  // more than `deadlock_timeout` (1 s), after which autovacuum yields.
  await tx.query(`set local lock_timeout = '1100ms'`)
  await tx.query('select pg_advisory_xact_lock($1)', [locks.migrations])
  const migrations = await readFitting(tx, all)
  const next =
    way === 'up'
      ? migrations.find(({ state }) => state === 'pending')
      : migrations.findLast(({ state }) => state === 'applied')
  const migration = all.find(({ name }) => name === next?.name)
  if (migration === undefined) return null
  await runFile(tx, migration.name, migration[way])
  const { name, hash } = migration
  if (way === 'up') {
    await tx.query(`insert into ${table} (name, hash) values ($1, $2)`, [name, hash])
    await tx.query(grantStatements)
  } else await tx.query(`delete from ${table} where name = $1`, [name])
  return name
}

/** Describes the session with the longest transaction among those that hold locks of ours. */
async function findBlocker(db: Db) {
  // Of sessions of other roles, PostgreSQL may hide the name and the age of the transaction.
  const [blocker] = await db.query<{ text: string }>(`
    select format('pid %s (%s)', pid, concat_ws(', ', usename, nullif(application_name, ''),
        'in a transaction for ' || extract(epoch from now() - xact_start)::int || ' s')) as text
      from pg_stat_activity
      where datname = current_database() and pid in (
        select pid from pg_locks left join pg_class on pg_class.oid = relation
          where granted and (relnamespace = to_regnamespace('user_service_schema')
            or locktype = 'advisory' and objid = ${locks.migrations}))
      order by xact_start limit 1`)
  return blocker?.text ?? 'another session'
}

async function runFile(tx: Db, name: string, text: string) {
  try {
    await tx.query(text)
  } catch (error) {
    const { code, message, position = 0 } = causeOf(error)
    if (code === sqlState.lockTimeout || code === sqlState.unknownSchema) throw error
    const line = text.slice(0, Number(position)).split('\n').length
    throw new ExitError(`sql/${name}, line ${line}: ${message}. Nothing of this file was applied.`)
  }
}

/**
 * Every migration, of this version or applied, and what it is: `edited` after it was applied, or
 * applied but `unknown` to this version; in order. Throws in a database of another service.
 */
export async function readStatus(db: Db, all = readMigrations()) {
  const history = (await findHistory(db))
    ? await db.query<{ name: string; hash: string }>(`select name, hash from ${table}`)
    : []
  const applied = new Map(history.map(({ name, hash }) => [name, hash]))
  const known = new Map(all.map((migration) => [migration.name, migration]))

  function stateOf(name: string) {
    const migration = known.get(name)
    const found = applied.get(name)
    if (migration === undefined) return 'unknown'
    if (found === undefined) return 'pending'
    // Version 1.0 hashed a file with the line ends that its checkout had.
    const onWindows = hash('sha256', migration.up.replaceAll('\n', '\r\n'))
    return [migration.hash, onWindows].includes(found) ? 'applied' : 'edited'
  }

  const names = [...new Set([...known.keys(), ...applied.keys()])]
  return names.sort().map((name) => ({ name, state: stateOf(name) }))
}

/** As `readStatus`, but throws where the history does not fit this version. */
async function readFitting(db: Db, all: Migration[]) {
  const migrations = await readStatus(db, all)
  for (const { name, state } of migrations) {
    if (state === 'unknown')
      throw new ExitError(
        `The database is ahead: ${name} is not known to this version. ` +
          'Start one that knows it, or go back, there: node bin/migrate.js down --yes',
      )
    if (state === 'edited')
      throw new ExitError(
        `The file sql/${name}.up.sql is not the one that was applied. Restore it; see: ` +
          'node bin/migrate.js status',
      )
  }
  return migrations
}

/** Throws, with the command to run, unless the database is exactly at this version's schema. */
export async function checkSchema(db: Db, all = readMigrations()) {
  const migrations = await readFitting(db, all)
  const pending = migrations.filter(({ state }) => state === 'pending').length
  if (pending === 0) return
  throw new ExitError(
    `The database is behind: ${pending} migrations are to be applied. Run: node bin/migrate.js up`,
  )
}

/**
 * Whether the schema has our history, by the catalogue alone. Throws in a database whose schema
 * holds tables of another service.
 */
export async function findHistory(db: Db) {
  const { names, isOurs } = await one<{ names: string | null; isOurs: boolean }>(db, {
    text: `
      select string_agg(relname, ', ' order by relname) as names,
        coalesce(bool_or(relname = 'schema_migrations' and attname is not null), false) as "isOurs"
      from pg_class left join pg_attribute on attrelid = pg_class.oid and attname = 'hash'
      where relnamespace = to_regnamespace('user_service_schema')
        and relkind in ('r', 'p')`,
  })
  if (names !== null && !isOurs)
    throw new ExitError(
      `The schema user_service_schema holds tables of another service (${names}), as a database ` +
        'of the Go service does. See "Moving over" in bin/README.md',
    )
  return isOurs
}
