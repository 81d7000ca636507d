// Migrations are pairs of plain SQL files, sql/NNNN_what.up.sql and .down.sql, numbered without a
// gap. Each is applied in a transaction of its own, which takes the same advisory lock first, so
// that instances that migrate at once apply each file once. (A lock of the transaction, not of the
// session: a pooler in transaction mode would hand the session to somebody else.) The SHA-256 of
// each applied file is kept; a file that was edited or removed afterwards is refused, and so is a
// database that knows files which this code does not. Statements that cannot run in a transaction
// (create index concurrently) are not possible here.
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'

import { ExitError } from '../errors.ts'
import type { Database, Db } from './pool.ts'

export interface Migration {
  number: number
  name: string
  up: string
  down: string
  hash: string
}

interface Applied {
  number: number
  name: string
  hash: string
}

const lock = 'select pg_advisory_xact_lock(7520601)'
const folder = new URL('../../sql/', import.meta.url)

/** Reads all migrations of this version; throws when a number or a half of a pair is missing. */
export function readMigrations(directory: URL = folder): Migration[] {
  const files = readdirSync(directory).filter((name) => name.endsWith('.sql')).sort()
  const ups = files.filter((name) => name.endsWith('.up.sql'))
  if (files.length !== 2 * ups.length) throw new ExitError('sql: each .up.sql needs its .down.sql')
  return ups.map((file, index) => {
    const name = file.replace('.up.sql', '')
    const number = Number(/^\d{4}(?=_)/.exec(name)?.[0])
    if (number !== index + 1) throw new ExitError(`sql: ${file} should have the number ${index + 1}`)
    const up = readFileSync(new URL(file, directory), 'utf8')
    const down = readFileSync(new URL(`${name}.down.sql`, directory), 'utf8')
    return { number, name, up, down, hash: createHash('sha256').update(up).digest('hex') }
  })
}

/** Applies what is pending, returns the names; throws when the history was changed. */
export async function migrateUp(database: Database, migrations = readMigrations()): Promise<string[]> {
  const done: string[] = []
  for (;;) {
    const applied = await database.transaction(async (tx) => {
      await tx.query(lock)
      const history = await readHistory(tx)
      compare(history ?? [], migrations)
      const next = migrations[history?.length ?? 0]
      if (next === undefined) return null
      if (history === null) {
        await tx.query(`create table user_service_schema.schema_migrations (
          number integer primary key, name text not null, hash text not null,
          applied_at timestamptz not null default now())`)
        await tx.query('grant select on user_service_schema.schema_migrations to user_service_manager')
      }
      await run(tx, next.name, next.up)
      await tx.query(
        'insert into user_service_schema.schema_migrations (number, name, hash) values ($1, $2, $3)',
        [next.number, next.name, next.hash],
      )
      return next.name
    })
    if (applied === null) return done
    done.push(applied)
  }
}

/** Takes the last `count` migrations back, returns their names, the last applied first. */
export async function migrateDown(
  database: Database, count: number, migrations = readMigrations(),
): Promise<string[]> {
  const done: string[] = []
  while (done.length < count) {
    const reverted = await database.transaction(async (tx) => {
      await tx.query(lock)
      const history = (await readHistory(tx)) ?? []
      compare(history, migrations)
      const last = migrations[history.length - 1]
      if (last === undefined) return null
      await run(tx, last.name, last.down)
      await tx.query('delete from user_service_schema.schema_migrations where number = $1', [last.number])
      return last.name
    })
    if (reverted === null) return done
    done.push(reverted)
  }
  return done
}

/** Which migrations are applied; throws when the history was changed. */
export async function readStatus(
  db: Db, migrations = readMigrations(),
): Promise<{ name: string; applied: boolean }[]> {
  const history = (await readHistory(db)) ?? []
  compare(history, migrations)
  return migrations.map(({ name }, index) => ({ name, applied: index < history.length }))
}

/** Throws, with the command to run, unless the database is exactly at this version's schema. */
export async function checkSchema(db: Db): Promise<void> {
  const pending = (await readStatus(db)).filter(({ applied }) => !applied)
  if (pending.length > 0) {
    throw new ExitError(`The database is behind: ${pending.length} migrations are to be applied. ` +
      'Run: node bin/migrate.js up')
  }
}

/** What is applied, in order; null when nothing ever was. */
async function readHistory(db: Db): Promise<Applied[] | null> {
  const [found] = await db.query<{ found: boolean }>(
    `select to_regclass('user_service_schema.schema_migrations') is not null as found`,
  )
  if (!found?.found) return null
  return db.query<Applied>(
    'select number, name, hash from user_service_schema.schema_migrations order by number',
  )
}

function compare(history: Applied[], migrations: Migration[]) {
  for (const [index, applied] of history.entries()) {
    const known = migrations[index]
    if (known === undefined) {
      throw new ExitError(`The database is ahead: ${applied.name} is not known to this version. ` +
        'Run the version that knows it, there: node bin/migrate.js down --yes')
    }
    if (applied.number !== known.number || applied.name !== known.name || applied.hash !== known.hash) {
      throw new ExitError(`The file sql/${known.name}.up.sql is not the one that was applied as ` +
        `${applied.name}. Restore it; see: node bin/migrate.js status`)
    }
  }
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
