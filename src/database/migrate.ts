// Migrations are pairs of plain SQL files, sql/NNNN_what.up.sql and .down.sql, numbered without a gap. Each is
// applied in a transaction of its own, which takes the same lock first, so that instances that migrate at once
// apply each file once. The SHA-256 of each applied file is kept; a file that was edited or removed afterwards
// is refused, and so is a database that knows files which this code does not.
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

import { ExitError } from '../errors.ts'
import { locks, sqlState } from './codes.ts'
import type { Database, Db } from './pool.ts'

type Migration = ReturnType<typeof readMigrations>[number]
const folder = new URL('../../sql/', import.meta.url)
const table = 'user_service_schema.schema_migrations'

/** Reads all migrations of this version; throws when a number or a .down.sql is missing. */
export function readMigrations() {
  const read = (file: string) => readFileSync(new URL(file, folder), 'utf8')
  return readdirSync(folder)
    .filter((file) => file.endsWith('.up.sql'))
    .sort()
    .map((file, index) => {
      if (parseInt(file) !== index + 1)
        throw new ExitError(`sql: ${file} should have the number ${index + 1}`)
      const name = file.replace('.up.sql', '')
      const up = read(file)
      return {
        name,
        hash: createHash('sha256').update(up).digest('hex'),
        up,
        down: read(`${name}.down.sql`),
      }
    })
}

/** Applies what is pending, returns the names; throws when the history was changed. */
export const migrateUp = (db: Database, all = readMigrations()) => migrate(db, 'up', Infinity, all)

/** Takes the last `count` migrations back, returns their names, the last applied first. */
export const migrateDown = (db: Database, count: number, all = readMigrations()) =>
  migrate(db, 'down', count, all)

async function migrate(db: Database, way: 'up' | 'down', count: number, all: Migration[]) {
  const step = (): Promise<string | null> =>
    db
      .transaction(async (tx) => {
        await tx.query('select pg_advisory_xact_lock($1)', [locks.migrations])
        // Requests queue behind a lock that is waited for, such as for the end of a dump. So not as
        // long as they can wait,
        // but for longer than the second after which an autovacuum gives way.
        await tx.query(`set local lock_timeout = '1100ms'`)
        const applied = await countApplied(tx, all)
        const migration = all[way === 'up' ? applied : applied - 1]
        if (!migration) return null
        const { name, hash, [way]: text } = migration
        await tx.query(text).catch((error) => {
          const { code, message, position }: Error & { code?: string; position?: string } =
            error.cause ?? error
          if (code === sqlState.lockTimeout) throw error
          const line = text.slice(0, Number(position ?? 0)).split('\n').length
          throw new ExitError(
            `sql/${name}, line ${line}: ${message}. Nothing of this file was applied.`,
          )
        })
        await tx.query(
          way === 'up'
            ? `insert into ${table} (name, hash) values ($1, $2)`
            : `delete from ${table} where name = $1 and hash = $2`,
          [name, hash],
        )
        return name
      })
      .catch(async (error) => {
        if (error.cause?.code !== sqlState.lockTimeout) throw error
        await sleep(2000)
        return step()
      })
  const done: string[] = []
  for (let name; done.length < count && (name = await step());) done.push(name)
  return done
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
