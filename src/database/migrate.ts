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

export type Migration = ReturnType<typeof readMigrations>[number]

const folder = new URL('../../sql/', import.meta.url)
const table = 'user_service_schema.schema_migrations'

/** Reads all migrations of this version; throws when a number or a .down.sql is missing. */
export function readMigrations() {
  const read = (file: string) => readFileSync(new URL(file, folder), 'utf8')
  return readdirSync(folder).filter((file) => file.endsWith('.up.sql')).sort().map((file, index) => {
    const name = file.replace('.up.sql', '')
    const number = index + 1
    if (parseInt(name) !== number) throw new ExitError(`sql: ${file} should have the number ${number}`)
    const up = read(file)
    return { number, name, hash: createHash('sha256').update(up).digest('hex'), up, down: read(`${name}.down.sql`) }
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
      const applied = await countApplied(tx, migrations)
      const migration = migrations[way === 'up' ? applied : applied - 1]
      if (migration) await run(tx, migration, way)
      return migration?.name
    })
    if (name === undefined) break
    done.push(name)
  }
  return done
}

async function run(tx: Db, { number, name, hash, ...sql }: Migration, way: 'up' | 'down') {
  await tx.query(sql[way]).catch(({ message, position }: Error & { position?: string }) => {
    const line = sql[way].slice(0, Number(position ?? 0)).split('\n').length
    throw new ExitError(`sql/${name}, line ${line}: ${message}. Nothing of this file was applied.`)
  })
  if (way === 'down') await tx.query(`delete from ${table} where number = $1`, [number])
  else await tx.query(`insert into ${table} (number, name, hash) values ($1, $2, $3)`, [number, name, hash])
}

/** Which migrations are applied; throws when the history was changed. */
export async function readStatus(db: Db, migrations = readMigrations()) {
  const applied = await countApplied(db, migrations)
  return migrations.map(({ name }, index) => ({ name, applied: index < applied }))
}

/** Throws, with the command to run, unless the database is exactly at this version's schema. */
export async function checkSchema(db: Db): Promise<void> {
  const pending = (await readStatus(db)).filter(({ applied }) => !applied).length
  const message = `The database is behind: ${pending} migrations are to be applied. Run: node bin/migrate.js up`
  if (pending > 0) throw new ExitError(message)
}

/** How many migrations are applied; throws when they are not what the first of `migrations` are. */
async function countApplied(db: Db, migrations: Migration[]): Promise<number> {
  if ((await db.query(`select where to_regclass('${table}') is not null`)).length === 0) return 0
  const history = await db.query<Migration>(`select name, hash from ${table} order by number`)
  for (const [index, { name, hash }] of history.entries()) {
    const known = migrations[index]
    if (!known) {
      throw new ExitError(`The database is ahead: ${name} is not known to this version. ` +
        'Run the version that knows it, there: node bin/migrate.js down --yes')
    }
    if (name !== known.name || hash !== known.hash) {
      throw new ExitError(`The file sql/${known.name}.up.sql is not the one that was applied as ${name}. ` +
        'Restore it; see: node bin/migrate.js status')
    }
  }
  return history.length
}
