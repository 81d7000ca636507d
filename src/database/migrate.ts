// Migrations are pairs of plain SQL files, sql/NNNN_what.up.sql and .down.sql, numbered without a
// gap. Each is applied in a transaction of its own, which takes the same lock first, so that
// instances that migrate at once apply each file once. The SHA-256 of each applied file is kept; a
// file that was edited or removed afterwards is refused, and so is a database with migrations that
// this version does not have.
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

import { ExitError } from '../errors.ts'
import { locks, sqlState } from './codes.ts'
import type { Database, Db } from './pool.ts'

/** A pair of files. */
export interface Migration {
  name: string
  /** SHA-256 of `up`. */
  hash: string
  up: string
  down: string
}

interface ServerError extends Error {
  code?: string
  /** Where in the statement, from 1. */
  position?: string
}

const folder = new URL('../../sql/', import.meta.url)
const table = 'user_service_schema.schema_migrations'

/** Reads all migrations of this version; throws when a number or a .down.sql is missing. */
export function readMigrations(): Migration[] {
  const files = readdirSync(folder).filter((file) => file.endsWith('.up.sql'))
  return files.sort().map((file, index) => {
    const number = index + 1
    if (parseInt(file) !== number)
      throw new ExitError(`sql: ${file} should have the number ${number}`)
    return readMigration(file.replace('.up.sql', ''))
  })
}

function readMigration(name: string): Migration {
  const read = (file: string) => readFileSync(new URL(file, folder), 'utf8')
  const up = read(`${name}.up.sql`)
  const hash = createHash('sha256').update(up).digest('hex')
  return { name, hash, up, down: read(`${name}.down.sql`) }
}

/** Applies what is pending and returns the names; throws when the history was changed. */
export async function migrateUp(db: Database, all = readMigrations()): Promise<string[]> {
  return repeat(Infinity, () => takeStep(db, all, 'up'))
}

/**
 * Rolls the last `count` migrations back and returns their names, the last applied first; throws
 * when the history was changed.
 */
export async function migrateDown(
  db: Database,
  count: number,
  all = readMigrations(),
): Promise<string[]> {
  return repeat(count, () => takeStep(db, all, 'down'))
}

/** Takes `count` steps, or as many as there are. */
async function repeat(count: number, step: () => Promise<string | null>): Promise<string[]> {
  const done: string[] = []
  while (done.length < count) {
    const name = await step()
    if (name === null) break
    done.push(name)
  }
  return done
}

/** Applies or rolls back one migration, as soon as its locks are free; null: there is none. */
async function takeStep(
  db: Database,
  all: Migration[],
  way: 'up' | 'down',
): Promise<string | null> {
  while (true) {
    try {
      return await db.transaction((tx) => tryStep(tx, all, way))
    } catch (error) {
      if (causeOf(error).code !== sqlState.lockTimeout) throw error
      await sleep(2000)
    }
  }
}

async function tryStep(tx: Db, all: Migration[], way: 'up' | 'down'): Promise<string | null> {
  await tx.query('select pg_advisory_xact_lock($1)', [locks.migrations])
  // Requests queue behind a pending lock (during a dump, say). Wait less than a request can, but
  // more than `deadlock_timeout` (1 s), after which autovacuum yields.
  await tx.query(`set local lock_timeout = '1100ms'`)
  const applied = await countApplied(tx, all)
  const migration = all[way === 'up' ? applied : applied - 1]
  if (migration === undefined) return null
  await runFile(tx, migration.name, migration[way])
  const note =
    way === 'up'
      ? `insert into ${table} (name, hash) values ($1, $2)`
      : `delete from ${table} where name = $1 and hash = $2`
  await tx.query(note, [migration.name, migration.hash])
  return migration.name
}

async function runFile(tx: Db, name: string, text: string) {
  try {
    await tx.query(text)
  } catch (error) {
    const { code, message, position = 0 } = causeOf(error)
    if (code === sqlState.lockTimeout) throw error
    const line = text.slice(0, Number(position)).split('\n').length
    throw new ExitError(`sql/${name}, line ${line}: ${message}. Nothing of this file was applied.`)
  }
}

/** What the server reported, where `database_unavailable` was made of it. */
function causeOf(error: unknown): ServerError {
  const { cause } = error as Error
  return (cause ?? error) as ServerError
}

/** Which migrations are applied; throws when the history was changed. */
export async function readStatus(db: Db, all = readMigrations()) {
  const applied = await countApplied(db, all)
  return all.map(({ name }, index) => ({ name, applied: index < applied }))
}

/** Throws, with the command to run, unless the database is exactly at this version's schema. */
export async function checkSchema(db: Db): Promise<void> {
  const pending = (await readStatus(db)).filter(({ applied }) => !applied).length
  if (pending === 0) return
  throw new ExitError(
    `The database is behind: ${pending} migrations are to be applied. Run: node bin/migrate.js up`,
  )
}

/** How many migrations are applied; throws when they are not the first of `all`. */
async function countApplied(db: Db, all: Migration[]): Promise<number> {
  if ((await db.query(`select where to_regclass('${table}') is not null`)).length === 0) return 0
  const history = await db.query<Migration>(`select name, hash from ${table} order by name`)
  for (const [index, { name, hash }] of history.entries()) {
    const known = all[index]
    if (!known)
      throw new ExitError(
        `The database is ahead: ${name} is not known to this version. ` +
          'Start one that knows it, or go back, there: node bin/migrate.js down --yes',
      )
    if (name !== known.name || hash !== known.hash)
      throw new ExitError(
        `The file sql/${known.name}.up.sql ` +
          `is not the one that was applied as ${name}. Restore it; see: node bin/migrate.js status`,
      )
  }
  return history.length
}
