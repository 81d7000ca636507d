// Dumps: how they are named, what is in them, and the manifest that says so.
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'

import { one, type Db } from '../database/pool.ts'
import { ExitError } from '../errors.ts'

/** The rows of each table. */
export type Counts = Record<string, number>

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
  rows: Counts
}

/** Counts the rows of each table of the schema that its owner has. */
export async function countRows(db: Db): Promise<Counts> {
  const tables = await db.query<{ name: string }>(`
    select tablename as name from pg_tables
      where schemaname = 'user_service_schema' and tableowner = (select tableowner from pg_tables
        where schemaname = 'user_service_schema' and tablename = 'schema_migrations')
      order by 1`)
  const counts = tables.map(
    ({ name }) => `(select count(*) from user_service_schema."${name}")::float8 as "${name}"`,
  )
  return one(db, {
    text: `select ${counts.join(', ')}`,
  })
}

/** How the names of a database's dumps begin, different for each: `my.db` is written `my.2edb`. */
export function dumpPrefix(database: string): string {
  const name = database.replace(/^-|[^\w-]/gu, (character) =>
    Buffer.from(character).toString('hex').replace(/../g, '.$&'),
  )
  return `${name}_dump_`
}

/** The name of a database's dump of that instant, in UTC. */
export function dumpName(database: string, at: Date): string {
  const instant = at.toISOString().slice(0, 19).replace('T', '-').replaceAll(':', '_')
  return `${dumpPrefix(database)}${instant}.bck`
}

/** The instant in a dump's name, or null when it is no such name. */
export function parseDumpName(name: string): Date | null {
  const pattern = /^(?!-)(?:[\w-]|\.[0-9a-f]{2})+_dump_(\d{4}-\d\d-\d\d)-(\d\d_\d\d_\d\d)\.bck$/
  const [, day, time = ''] = pattern.exec(name) ?? []
  const at = new Date(`${day}T${time.replaceAll('_', ':')}Z`)
  return Number.isNaN(at.getTime()) ? null : at
}

/** A dump in the bucket. */
export interface StoredDump {
  name: string
  /** The instant in its name. */
  at: Date
  /** When the bucket received it, by the clock of S3. */
  storedAt: Date
  size: number
  /** Its manifest is there, too. */
  complete: boolean
}

/** How far clocks may differ. */
const skewMs = 5 * 60_000

/** Whether a dump is dated after `now`, so that a clock was or is wrong. */
export const isAhead = ({ at, storedAt }: StoredDump, now: number) =>
  Math.max(at.getTime(), storedAt.getTime()) - now > skewMs

/** How old what a dump holds is at least, in milliseconds. */
export const ageOf = ({ at, storedAt }: StoredDump, now: number) =>
  now - Math.min(at.getTime(), storedAt.getTime())

/**
 * The dump that was stored last, of complete ones in the order of the bucket; undefined when there
 * is none. Throws when their names tell otherwise: after a clock was wrong, or when the bucket is a
 * copy, nobody but the operator knows.
 */
export function pickLatest(dumps: StoredDump[], now: number): StoredDump | undefined {
  const complete = dumps.filter((dump) => dump.complete)
  const [latest, second] = complete
  if (latest === undefined) return undefined
  let furthest = latest
  for (const dump of complete) if (dump.at > furthest.at) furthest = dump
  const other = furthest === latest ? second : latest
  const isInFuture = isAhead(furthest, now)
  if (!isInFuture && furthest.at.getTime() - latest.at.getTime() <= skewMs) return latest
  const dated = `${furthest.name} is dated ${isInFuture ? 'in the future' : 'last'}`
  const stored = `${other?.name ?? 'no other'} was stored ${other === latest ? 'last' : 'before it'}`
  throw new ExitError(`the latest dump is in doubt (${dated}, ${stored}): name the one to restore`)
}

/** Reads a manifest; throws when it is damaged or not that of `name`. */
export function parseManifest(text: string, name: string): Manifest {
  try {
    const manifest = JSON.parse(text) as Manifest
    if (manifest.name === name && isSound(manifest)) return manifest
  } catch {
    // Reported below.
  }
  throw new ExitError(`the manifest ${name}.json is damaged: choose another dump`)
}

function isSound({ sha256, pgDump, schema, at, rows }: Manifest): boolean {
  if (!/^[0-9a-f]{64}$/.test(sha256)) return false
  if (!/^\d+/.test(pgDump) || !/^\w+$/.test(schema)) return false
  if (Number.isNaN(Date.parse(at))) return false
  const tables = Object.entries(rows)
  if (tables.length === 0) return false
  return tables.every(([table, count]) => /^[a-z_]\w*$/.test(table) && Number.isSafeInteger(count))
}

/** The SHA-256 of a file of any size. */
export async function hashFile(file: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer)
  return hash.digest('hex')
}
