// Dumps: how they are named, what is in them, and the manifest that says so.
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'

import { one, type Db } from '../database/pool.ts'
import { ExitError } from '../errors.ts'

/** Lies beside a dump once all of it is in the bucket. */
export interface Manifest {
  /** Of the dump. */
  name: string
  database: string
  size: number
  sha256: string
  /** The instant of the snapshot. */
  at: string
  /** The last migration in it. */
  schema: string
  /** Versions of the server and of pg_dump. */
  server: string
  pgDump: string
  /** Row counts by table. */
  rows: Record<string, number>
}

/** Counts the rows of each table of ours. */
export async function countRows(db: Db): Promise<Manifest['rows']> {
  const tables = await db.query<{ name: string }>(`select tablename as name from pg_tables
    where schemaname = 'user_service_schema' and tableowner = 'user_service_admin' order by 1`)
  const counts = tables.map(
    ({ name }) => `(select count(*) from user_service_schema."${name}")::float8 as "${name}"`,
  )
  return one(db, { text: `select ${counts.join()}` })
}

/** How the names of a database's dumps begin, unlike any other's: `my.db` gives `my.2edb_dump_`. */
export function dumpPrefix(database: string) {
  const name = database.replace(/^-|[^\w-]/gu, (character) =>
    Buffer.from(character).toString('hex').replace(/../g, '.$&'),
  )
  return `${name}_dump_`
}

/** The name of a database's dump of that instant, in UTC. */
export function dumpName(database: string, at: Date) {
  const instant = at.toISOString().slice(0, 19).replace('T', '-').replaceAll(':', '_')
  return `${dumpPrefix(database)}${instant}.bck`
}

/** The instant in a dump's name, or null when it is no such name. */
export function parseDumpName(name: string) {
  const pattern = /^(?!-)(?:[\w-]|\.[0-9a-f]{2})+_dump_(\d{4}-\d\d-\d\d)-(\d\d_\d\d_\d\d)\.bck$/
  const match = pattern.exec(name)
  if (match === null) return null
  const [, day, time = ''] = match
  const at = new Date(`${day}T${time.replaceAll('_', ':')}Z`)
  return Number.isNaN(at.getTime()) ? null : at
}

/** Reads a manifest; throws when it is damaged or not that of `name`. */
export function parseManifest(text: string, name: string) {
  try {
    const manifest = JSON.parse(text) as Manifest
    if (manifest.name === name && isSound(manifest)) return manifest
  } catch {
    // Reported below.
  }
  throw new ExitError(`the manifest ${name}.json is damaged: choose another dump`)
}

function isSound({ sha256, pgDump, schema, at, rows }: Manifest) {
  const tables = Object.entries(rows)
  return (
    /^[0-9a-f]{64}$/.test(sha256) &&
    /^\d+/.test(pgDump) &&
    /^\w+$/.test(schema) &&
    /^\d{4}-\d\d-\d\dT[\d:.]+Z$/.test(at) &&
    tables.length > 0 &&
    tables.every(([table, count]) => /^[a-z_]\w*$/.test(table) && Number.isSafeInteger(count))
  )
}

/** The SHA-256 of a file of any size. */
export async function hashFile(file: string) {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer)
  return hash.digest('hex')
}
