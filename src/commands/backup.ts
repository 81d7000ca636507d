import { statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import type { Env } from '../config.ts'
import { locks } from '../database/codes.ts'
import { one, withDatabase, type Db } from '../database/pool.ts'
import { ExitError } from '../errors.ts'
import {
  command,
  misuse,
  makeDirectory,
  parseDuration,
  postgresEnv,
  run,
  stopAfter,
} from './command.ts'
import { countRows, dumpName, hashFile, readPlaces, type Bucket } from './s3.ts'

const usage = `Usage: node bin/backup.js [list [--max-age 1h]] [--quiet] [--timeout 15m]

Dumps the database, reads the dump back, uploads it and then its manifest; a dump without a manifest does not
count. list: the dumps in the bucket, newest first: name, age, size, whether complete.

  --timeout  give up after that long (90s, 15m, 1h)
  --max-age  exit status 4 when the newest complete dump is older, or there is none
  --quiet    say nothing when all is well

Connects as user_service_user unless DATABASE_USER says otherwise, to DATABASE_URL or DATABASE_HOST (default
localhost), _PORT, _NAME, _PASSWORD (else ~/.pgpass). Uploads with the AWS CLI, to S3_BUCKET (default
s3://user-service-database-dumps; a prefix may follow), under the profile IAM_ROLE if set. Exit status: 0 done,
1 failed, 2 misuse, 3 another backup is running, 4 the newest dump is too old.`

const formatSize = (bytes: number) => `${(bytes / 1e6).toFixed(2)} MB`

await command(
  usage,
  /^( list( --max-age)?)?( --quiet)?( --timeout)?$/,
  async ({ values, positionals, env }) => {
    const limitMs = parseDuration(values.timeout ?? '15m')
    const maxAgeMs = values['max-age'] === undefined ? Infinity : parseDuration(values['max-age'])
    if (limitMs === undefined || maxAgeMs === undefined)
      throw misuse('Durations are such as 90s, 15m, 1h, 2d')
    const say = values.quiet ? () => {} : console.log
    stopAfter(limitMs)
    const { database, bucket } = readPlaces(env, 'user_service_user')
    if (positionals.length > 0) return list(bucket, database.name, maxAgeMs, say)
    const file = join(makeDirectory(), 'dump.bck')
    await withDatabase(database, (db) =>
      db.transaction(async (tx) => {
        const manifest = await dump(tx, file, postgresEnv(database, env))
        const { name, size, rows } = manifest
        writeFileSync(`${file}.json`, `${JSON.stringify(manifest, null, 2)}\n`)
        await bucket.put(file, name)
        await bucket.put(`${file}.json`, `${name}.json`)
        say(`Backed up ${rows['users']} users to ${bucket.url}/${name}: ${formatSize(size)}`)
      }),
    )
  },
)

async function list(
  bucket: Bucket,
  database: string,
  maxAgeMs: number,
  say: (line: string) => void,
) {
  const dumps = (await bucket.list(database)).map((each) => ({
    ...each,
    age: Date.now() - each.at.getTime(),
  }))
  const hours = (ms: number) => `${(ms / 3_600_000).toFixed(1)} h`
  for (const { name, age, size, complete } of dumps) {
    say([name, hours(age), formatSize(size), complete ? 'complete' : 'INCOMPLETE'].join('\t'))
  }
  const newest = dumps.find(({ complete }) => complete)
  if ((newest?.age ?? Infinity) <= maxAgeMs) return
  throw new ExitError(
    newest === undefined
      ? `there is no complete dump of ${database} in ${bucket.url}`
      : `the newest complete dump in ${bucket.url}, ${newest.name}, is ${hours(newest.age)} old`,
    4,
  )
}

/**
 * Dumps the schema into `file`, counts its rows in the very snapshot of the dump, which is the transaction's, and
 * returns the manifest. The lock is the transaction's, too: it ends however this process ends.
 */
async function dump(tx: Db, file: string, env: Env) {
  await tx.query('set transaction isolation level repeatable read, read only')
  await tx.query('set local idle_in_transaction_session_timeout = 0')
  const { locked, id, at, database, server } = await one<{
    locked: boolean
    id: string
    at: string
    database: string
    server: string
  }>(
    tx,
    `select pg_try_advisory_xact_lock(${locks.backup}) as locked, pg_export_snapshot() as id, now() as at,
    current_database() as database, current_setting('server_version') as server`,
  )
  if (!locked) throw new ExitError('another backup is still running', 3)
  const rows = await countRows(tx)
  if (!('users' in rows))
    throw new ExitError(`${database} holds nothing: node bin/migrate.js up was never run`)
  const { schema } = await one<{ schema: string | null }>(
    tx,
    'select max(name) as schema from user_service_schema.schema_migrations',
  )
  await run(
    'pg_dump failed',
    'pg_dump',
    [
      '--format=custom',
      '--schema=user_service_schema',
      `--snapshot=${id}`,
      '--lock-wait-timeout=60s',
      '--no-password',
      `--file=${file}`,
    ],
    env,
  )
  // Reads every byte; --list would look at the table of contents alone.
  await run('the dump cannot be read back', 'pg_restore', ['--file=/dev/null', file], env)
  const { stdout } = await run('pg_dump failed', 'pg_dump', ['--version'], env)
  return {
    name: dumpName(database, new Date(at)),
    size: statSync(file).size,
    sha256: await hashFile(file),
    database,
    at,
    server,
    pgDump: /\d[\d.]*/.exec(stdout)?.[0],
    schema: schema ?? 'none',
    rows,
  }
}
