import { statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import { one, withDatabase, type Db } from '../database/pool.ts'
import { ExitError } from '../errors.ts'
import { command, misuse } from './command.ts'
import { findPostgres, makeDirectory, parseDuration, postgresEnv, run, type Surroundings } from './process.ts'
import { countRows, dumpName, hashFile, readPlaces, type Bucket } from './s3.ts'

const usage = `Usage: node bin/backup.js [--quiet] [--timeout 15m]
       node bin/backup.js list [--max-age 1h] [--quiet]

Dumps the database, reads the dump back, uploads it and then its manifest; a dump without a manifest
does not count. list: the dumps in the bucket, newest first: name, age, size, whether complete.

  --timeout  give up after that long (90s, 15m, 1h)
  --max-age  exit status 4 when the newest complete dump is older, or there is none
  --quiet    say nothing when all is well

Connects as user_service_user unless DATABASE_USER says otherwise, to DATABASE_URL or DATABASE_HOST
(default localhost), _PORT, _NAME, _PASSWORD (else ~/.pgpass). Uploads with the AWS CLI, to S3_BUCKET
(default s3://user-service-database-dumps; a prefix may follow), under the profile IAM_ROLE if set.
Exit status: 0 done, 1 failed, 2 misuse, 3 another backup is running, 4 the newest dump is too old.
`

const formatSize = (bytes: number) => `${(bytes / 1e6).toFixed(2)} MB`
const text = { type: 'string' } as const
const options = { 'quiet': { type: 'boolean' }, 'timeout': { ...text, default: '15m' }, 'max-age': text } as const

await command(usage, options, async ({ flags, words, env, stopAfter }) => {
  const limitMs = parseDuration(flags.timeout)
  const maxAgeMs = flags['max-age'] === undefined ? Infinity : parseDuration(flags['max-age'])
  const lists = words[0] === 'list'
  if (limitMs === null || maxAgeMs === null) throw misuse('Durations are such as 90s, 15m, 1h, 2d')
  if (!/^(list)?$/.test(words.join(' '))) throw misuse('Say nothing, or list')
  if (maxAgeMs !== Infinity && !lists) throw misuse('--max-age goes with list')
  const say = flags.quiet ? () => {} : console.log

  const signal = stopAfter(limitMs)
  const { database, bucket } = readPlaces(env, 'user_service_user', signal)
  if (lists) return list(bucket, database.name, maxAgeMs, say)
  const file = join(makeDirectory(), 'dump.bck')
  await withDatabase(database, (db) => db.transaction(async (tx) => {
    const { name, rows, ...facts } = await dump(tx, file, { env: postgresEnv(database, env), signal })
    const { size } = statSync(file)
    const manifest = { name, size, sha256: await hashFile(file), ...facts, rows }
    writeFileSync(`${file}.json`, `${JSON.stringify(manifest, null, 2)}\n`)
    await bucket.put(file, name)
    await bucket.put(`${file}.json`, `${name}.json`)
    say(`Backed up ${rows['users']} users to ${bucket.url}/${name}: ${formatSize(size)}`)
  }))
})

async function list(bucket: Bucket, database: string, maxAgeMs: number, say: (line: string) => void) {
  const dumps = (await bucket.list(database)).map((each) => ({ ...each, age: Date.now() - each.at.getTime() }))
  const hours = (ms: number) => `${(ms / 3_600_000).toFixed(1)} h`
  for (const { name, age, size, complete } of dumps) {
    say([name, hours(age), formatSize(size), complete ? 'complete' : 'INCOMPLETE'].join('\t'))
  }
  const newest = dumps.find(({ complete }) => complete)
  if ((newest?.age ?? Infinity) <= maxAgeMs) return
  throw new ExitError(newest === undefined ? `there is no complete dump of ${database} in ${bucket.url}`
    : `the newest complete dump in ${bucket.url}, ${newest.name}, is ${hours(newest.age)} old`, 4)
}

/**
 * Dumps the schema into `file`, and counts its rows in the very snapshot of the dump, which is the
 * transaction's. The lock is, too: it ends however this process ends.
 */
async function dump(tx: Db, file: string, surroundings: Surroundings) {
  await tx.query('set transaction isolation level repeatable read, read only')
  await tx.query('set local idle_in_transaction_session_timeout = 0')
  const { locked, id, at, database, server } = await one<{
    locked: boolean; id: string; at: Date; database: string; server: string
  }>(tx, `select pg_try_advisory_xact_lock(7520602) as locked, pg_export_snapshot() as id, now() as at,
    current_database() as database, current_setting('server_version') as server`)
  if (!locked) throw new ExitError('another backup is still running', 3)
  const rows = await countRows(tx)
  if (!('users' in rows)) throw new ExitError(`${database} holds nothing: node bin/migrate.js up was never run`)
  const { schema } = await one<{ schema: string | null }>(
    tx, 'select max(name) as schema from user_service_schema.schema_migrations')

  const pgDump = findPostgres('pg_dump', server)
  await run('pg_dump failed', pgDump, ['--format=custom', '--schema=user_service_schema', `--snapshot=${id}`,
    '--lock-wait-timeout=60s', '--no-password', `--file=${file}`], surroundings)
  // Reads every byte; --list would look at the table of contents alone.
  const pgRestore = findPostgres('pg_restore', server)
  await run('the dump cannot be read back', pgRestore, ['--file=/dev/null', file], surroundings)
  const { stdout } = await run('pg_dump failed', pgDump, ['--version'], surroundings)
  return {
    name: dumpName(database, at), database, at: at.toISOString(), server,
    pgDump: /\d[\d.]*/.exec(stdout)?.[0] ?? '', schema: schema ?? 'none', rows,
  }
}
