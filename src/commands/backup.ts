import { statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import type { DatabaseConfig, Env } from '../config.ts'
import { locks } from '../database/codes.ts'
import { one, withDatabase, type Db } from '../database/pool.ts'
import { ExitError } from '../errors.ts'
import { command, misuse, parseDuration, stopAfter } from './command.ts'
import {
  ageOf,
  countRows,
  dumpName,
  hashFile,
  isAhead,
  type Counts,
  type Manifest,
  type StoredDump,
} from './dumps.ts'
import { findForeign, findForeignTables } from './foreign.ts'
import { makeDirectory, postgresEnv, runProgram } from './programs.ts'
import { readPlaces, type Bucket } from './s3.ts'

const usage = `Dumps the database, reads the dump back, uploads it and then its manifest. A dump
without a manifest does not count. list: the dumps in the bucket, newest first, with their ages and
sizes.

  --timeout  give up after that long (90s, 15m, 1h)
  --max-age  exit status 4 when the newest complete dump is older, or there is none
  --quiet    print nothing when all is well

Connects as user_service_user unless DATABASE_USER names another role, to DATABASE_URL or
DATABASE_HOST (default localhost), _PORT, _NAME, _PASSWORD (else ~/.pgpass). Uploads with the AWS
CLI to S3_BUCKET (default s3://user-service-database-dumps; a prefix may follow), under the profile
IAM_ROLE if set.
Exit status: 0 done, 1 failed, 2 misuse, 3 another backup is running, 4 the newest dump is too old.`

const formatSize = (bytes: number) => `${(bytes / 1e6).toFixed(2)} MB`
const formatAge = (ms: number) => `${(ms / 3_600_000).toFixed(1)} h`

type Print = (line: string) => void

await command({
  name: 'backup',
  synopsis: '[list [--max-age 1h]] [--quiet] [--timeout 15m]',
  usage,
  pattern: /^( list( --max-age)?)?( --quiet)?( --timeout)?$/,
  async run({ values, positionals, env }) {
    const limitMs = parseDuration(values.timeout ?? '15m')
    const maxAgeMs = values['max-age'] === undefined ? Infinity : parseDuration(values['max-age'])
    if (limitMs === undefined || maxAgeMs === undefined)
      throw misuse('A duration is a number and a unit: 90s, 15m, 1h, 2d')
    const print: Print = values.quiet ? () => {} : console.log
    stopAfter(limitMs)
    const { database, bucket } = readPlaces(env, 'user_service_user')
    if (positionals.length > 0) {
      await list({ bucket, database: database.name, maxAgeMs, print })
      return
    }
    await backUp({ database, bucket, env, print })
  },
})

interface Backup {
  database: DatabaseConfig
  bucket: Bucket
  env: Env
  print: Print
}

async function backUp({ database, bucket, env, print }: Backup): Promise<void> {
  const file = join(makeDirectory(), 'dump.bck')
  const programs = postgresEnv(database, env)
  const { manifest, foreign } = await whileLocked(database, async () => {
    const snapshot = await withDatabase(database, (db) =>
      db.transaction((tx) => dump(tx, file, programs)),
    )
    const { foreign } = snapshot
    const manifest = await describe(snapshot, file, programs)
    writeFileSync(`${file}.json`, `${JSON.stringify(manifest, null, 2)}\n`)
    await bucket.put(file, manifest.name)
    await bucket.put(`${file}.json`, `${manifest.name}.json`)
    return { manifest, foreign }
  })
  const { name, size, rows } = manifest
  if (foreign.length > 0) print(`Not backed up, since it is not ours: ${foreign.join(', ')}`)
  print(`Backed up ${rows['users']} users to ${bucket.url}/${name}: ${formatSize(size)}`)
}

/**
 * Runs `work` while no other backup runs, else throws with exit status 3. The lock is that of a
 * transaction without a snapshot, which holds up nothing. If it is lost, that is no failure of
 * `work`.
 */
async function whileLocked<T>(database: DatabaseConfig, work: () => Promise<T>): Promise<T> {
  let done: { result: T } | null = null
  try {
    await withDatabase(database, (db) =>
      db.transaction(async (tx) => {
        if (done !== null) return
        const { locked } = await one<{ locked: boolean }>(tx, {
          text: `select pg_try_advisory_xact_lock(${locks.backup}) as locked`,
        })
        if (!locked) throw new ExitError('another backup is still running', 3)
        done = { result: await work() }
      }),
    )
  } catch (error) {
    if (done === null) throw error
  }
  return done!.result
}

interface Listing {
  bucket: Bucket
  database: string
  maxAgeMs: number
  print: Print
}

async function list({ bucket, database, maxAgeMs, print }: Listing): Promise<void> {
  const dumps = await bucket.list(database)
  const now = Date.now()
  for (const dump of dumps) {
    const age = formatAge(now - dump.at.getTime())
    print([dump.name, age, formatSize(dump.size), stateOf(dump, now)].join('\t'))
  }
  if (maxAgeMs === Infinity) {
    if (dumps.length === 0) print(`There is no dump of ${database} in ${bucket.url}`)
    return
  }
  const complete = dumps.filter((dump) => dump.complete)
  const past = complete.filter((dump) => !isAhead(dump, now))
  if (past.some((dump) => ageOf(dump, now) <= maxAgeMs)) return
  const newest = past[0]
  if (newest !== undefined) {
    const which = `the newest complete dump in ${bucket.url}, ${newest.name}`
    throw new ExitError(`${which}, is ${formatAge(ageOf(newest, now))} old`, 4)
  }
  const none = `there is no complete dump of ${database} in ${bucket.url}`
  const ahead = complete[0]
  if (ahead === undefined) throw new ExitError(none, 4)
  throw new ExitError(`${none} but ${ahead.name}, which is dated in the future`, 4)
}

function stateOf(dump: StoredDump, now: number): string {
  if (!dump.complete) return 'INCOMPLETE'
  return isAhead(dump, now) ? 'IN THE FUTURE' : 'complete'
}

/** What was read in the transaction of a dump. */
interface Snapshot {
  at: string
  database: string
  server: string
  schema: string
  rows: Counts
  /** The objects that the dump leaves out. */
  foreign: string[]
}

/**
 * Dumps the schema into `file` and counts its rows in the very snapshot of the dump, which is the
 * transaction's. Throws when the database is empty, or with what pg_dump says.
 */
async function dump(tx: Db, file: string, env: Env): Promise<Snapshot> {
  await tx.query('set transaction isolation level repeatable read, read only')
  const { id, ...rest } = await one<{ id: string; at: string; database: string; server: string }>(
    tx,
    {
      text: `select pg_export_snapshot() as id, now() as at, current_database() as database,
      current_setting('server_version') as server`,
    },
  )
  const rows = await countRows(tx)
  if (!('users' in rows))
    throw new ExitError(`${rest.database} holds nothing: node bin/migrate.js up was never run`)
  const { schema } = await one<{ schema: string | null }>(tx, {
    text: 'select max(name) as schema from user_service_schema.schema_migrations',
  })
  const foreign = await findForeign(tx)
  const foreignTables = await findForeignTables(tx)
  const args = [
    '--format=custom',
    '--schema=user_service_schema',
    ...foreignTables.map((name) => `--exclude-table=user_service_schema.${quote(name)}`),
    `--snapshot=${id}`,
    '--lock-wait-timeout=60s',
    '--no-password',
    `--file=${file}`,
  ]
  await runProgram({ what: 'pg_dump failed', program: 'pg_dump', args, env })
  const leftOut = foreign.filter(({ inside }) => inside)
  return { ...rest, schema: schema ?? 'none', rows, foreign: leftOut.map(({ name }) => name) }
}

/** As pg_dump's patterns want a name that is to be taken as it is. */
function quote(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

/** Reads the dump back and describes it; throws when it cannot be read. */
async function describe(snapshot: Snapshot, file: string, env: Env): Promise<Manifest> {
  const what = 'the dump cannot be read back'
  // Reads every byte; --list would look at the table of contents alone.
  await runProgram({ what, program: 'pg_restore', args: ['--file=/dev/null', file], env })
  const program = 'pg_dump'
  const version = await runProgram({ what: 'pg_dump failed', program, args: ['--version'], env })
  const { at, database, server, schema, rows } = snapshot
  return {
    name: dumpName(database, new Date(at)),
    size: statSync(file).size,
    sha256: await hashFile(file),
    database,
    at,
    server,
    pgDump: /\d[\d.]*/.exec(version.stdout)?.[0] ?? 'unknown',
    schema,
    rows,
  }
}
