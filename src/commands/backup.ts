import { statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import type { DatabaseConfig } from '../config.ts'
import { locks } from '../database/codes.ts'
import { one, withDatabase, type Db } from '../database/pool.ts'
import { ExitError } from '../errors.ts'
import { command, readDuration, stopAfter } from './command.ts'
import { countRows, dumpName, hashFile, type Manifest } from './dumps.ts'
import { findForeign } from './foreign.ts'
import { makeDirectory, postgresEnv, runProgram } from './programs.ts'
import { readPlaces, type Places } from './s3.ts'

const usage = `Dumps the database into S3_BUCKET. list: the dumps there, newest first.

  --timeout  give up after that long (90s, 15m, 1h)
  --max-age  exit status 4 when the newest complete dump is older, or there is none
  --quiet    print nothing when all is well

Connects as user_service_user to DATABASE_URL, or to DATABASE_HOST (localhost); the password may be
in ~/.pgpass.`

const formatSize = (bytes: number) => `${(bytes / 1e6).toFixed(2)} MB`
const formatAge = (ms: number) => `${(ms / 3_600_000).toFixed(1)} h`

type Print = typeof console.log

await command({
  name: 'backup',
  synopsis: '[list [--max-age 1h]] [--quiet] [--timeout 15m]',
  usage,
  statuses: '0 done, 1 failed, 2 misuse, 3 another backup is running, 4 the newest dump is too old',
  pattern: /^( list( --max-age)?)?( --quiet)?( --timeout)?$/,
  async run({ values, positionals }) {
    const maxAgeMs = readDuration(values['max-age'])
    stopAfter(readDuration(values.timeout) ?? 900_000)
    const print: Print = values.quiet ? () => {} : console.log
    const places = readPlaces('user_service_user')
    if (positionals.length > 0) await list(places, print, maxAgeMs)
    else await whileLocked(places.database, () => backUp(places, print))
  },
})

async function list(places: Places, print: Print, maxAgeMs?: number) {
  const { bucket, database } = places
  const dumps = await bucket.list(database.name)
  for (const { name, ageMs, size, state } of dumps)
    print([name, formatAge(ageMs), formatSize(size), state].join('\t'))
  if (maxAgeMs === undefined) {
    if (dumps.length === 0) print(`There is no dump of ${database.name} in ${bucket.url}`)
    return
  }
  const newest = dumps.find(({ state }) => state === 'complete')
  if (newest === undefined)
    throw new ExitError(`there is no complete dump of ${database.name} in ${bucket.url}`, 4)
  if (newest.ageMs <= maxAgeMs) return
  const which = `the newest complete dump in ${bucket.url}, ${newest.name}`
  throw new ExitError(`${which}, is ${formatAge(newest.ageMs)} old`, 4)
}

/**
 * Runs `work` unless another backup runs: then it throws with exit status 3. A transaction without
 * a snapshot holds the lock, which delays nobody. Losing the lock does not fail `work`.
 */
async function whileLocked(database: DatabaseConfig, work: () => Promise<void>) {
  let isDone = false
  try {
    await withDatabase(database, (db) =>
      db.transaction(async (tx) => {
        const { locked } = await one<{ locked: boolean }>(tx, {
          text: `select pg_try_advisory_xact_lock(${locks.backup}) as locked`,
        })
        if (!locked) throw new ExitError('another backup is still running', 3)
        await work()
        isDone = true
      }),
    )
  } catch (error) {
    if (!isDone) throw error
  }
}

/** Makes a dump, reads it back and uploads it, then its manifest. */
async function backUp({ database, bucket }: Places, print: Print) {
  const file = join(makeDirectory(), 'dump.bck')
  const env = postgresEnv(database)
  const dump = (...args: string[]) =>
    runProgram({ what: 'pg_dump failed', program: 'pg_dump', args, env })
  const { foreign, snapshot } = await withDatabase(database, (db) =>
    db.transaction(async (tx) => {
      const { id, excluded, ...snapshot } = await readSnapshot(tx)
      await dump(
        '--format=custom',
        '--schema=user_service_schema',
        ...excluded.map((table) => `--exclude-table=${table}`),
        `--snapshot=${id}`,
        '--lock-wait-timeout=60s',
        '--no-password',
        `--file=${file}`,
      )
      return { foreign: await findForeign(tx), snapshot }
    }),
  )
  // Reads every byte; --list would look at the table of contents alone.
  const what = 'the dump cannot be read back'
  await runProgram({ what, program: 'pg_restore', args: ['--file=/dev/null', file], env })
  const { stdout: version } = await dump('--version')
  const name = dumpName(database.name, new Date(snapshot.at))
  const { size } = statSync(file)
  const pgDump = /\d[\d.]*/.exec(version)?.[0] ?? 'unknown'
  const manifest: Manifest = { ...snapshot, name, size, sha256: await hashFile(file), pgDump }
  writeFileSync(`${file}.json`, JSON.stringify(manifest, null, 2))
  await bucket.put(file, name)
  await bucket.put(`${file}.json`, `${name}.json`)
  if (foreign.length > 0) print(`Not backed up, since it is not ours: ${foreign.join(', ')}`)
  const { users } = snapshot.rows
  print(`Backed up ${users} users to ${bucket.url}/${name}: ${formatSize(size)}`)
}

/** Why there are no tables of ours. */
async function explainNone(tx: Db) {
  const [users] = await tx.query<{ owner: string }>(`select tableowner as owner from pg_tables
    where schemaname = 'user_service_schema' and tablename = 'users'`)
  return users === undefined
    ? 'the database holds nothing: node bin/migrate.js up was never run'
    : `the tables belong to ${users.owner}: a backup takes those of user_service_admin, so make ` +
        'it their owner (alter table ... owner to user_service_admin)'
}

/** Exports a transaction's snapshot and counts the rows in it; throws if there are no tables. */
async function readSnapshot(tx: Db) {
  await tx.query('set transaction isolation level repeatable read, read only')
  const rows = await countRows(tx)
  if (!('users' in rows)) throw new ExitError(await explainNone(tx))
  // Of `excluded`, the relations that are not ours, we may not even read.
  const read = await one<{
    id: string
    at: string
    database: string
    server: string
    schema: string
    excluded: string[]
  }>(tx, {
    text: `select pg_export_snapshot() as id, now() as at, current_database() as database,
      current_setting('server_version') as server,
      (select max(name) from user_service_schema.schema_migrations) as schema,
      array(select format('user_service_schema.%I', relname) from pg_class
        where relnamespace = 'user_service_schema'::regnamespace
          and relowner <> 'user_service_admin'::regrole) as excluded`,
  })
  return { ...read, rows }
}
