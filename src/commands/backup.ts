import { statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import { ExitError } from '../errors.ts'
import { command, misuse } from './command.ts'
import { findProgram, withConnection } from './postgres.ts'
import type { Connection } from './postgres.ts'
import { parseDuration, run, stoppable, withDirectory } from './process.ts'
import { dumpName, formatSize, hashFile, readPlaces } from './s3.ts'
import type { Bucket } from './s3.ts'

const usage = `Usage: node bin/backup.js [--quiet] [--timeout 15m]
       node bin/backup.js list [--max-age 1h] [--quiet]

Dumps the database, reads the dump back, uploads it and then its manifest; a dump without a manifest
does not count. list: the dumps in the bucket, newest first: name, age, size, whether complete.

  --timeout  give up after that long (90s, 15m, 1h; default 15m)
  --max-age  exit status 4 when the newest complete dump is older, or there is none
  --quiet    say nothing when all is well

Connects as user_service_user unless DATABASE_USER says otherwise, to DATABASE_URL or DATABASE_HOST
(default localhost), _PORT, _NAME, _PASSWORD (else ~/.pgpass). Uploads with the AWS CLI and its own
variables to S3_BUCKET (default s3://user-service-database-dumps; a prefix may follow), under the
AWS profile IAM_ROLE if set.
Exit status: 0 done, 1 failed, 2 misuse, 3 another backup is running, 4 the newest dump is too old.
`

const lock = 7520602

await command(usage, {
  'quiet': { type: 'boolean' }, 'timeout': { type: 'string' }, 'max-age': { type: 'string' },
}, async ({ flags, words, env }) => {
  const limitMs = parseDuration(String(flags['timeout'] ?? '15m'))
  const maxAgeMs = flags['max-age'] === undefined ? Infinity : parseDuration(String(flags['max-age']))
  const lists = words[0] === 'list'
  if (limitMs === null || maxAgeMs === null) throw misuse('Durations are such as 90s, 15m, 1h, 2d')
  if (words.length > (lists ? 1 : 0)) throw misuse('Say nothing, or list')
  if (maxAgeMs !== Infinity && !lists) throw misuse('--max-age goes with list')
  const say = (line: string) => flags['quiet'] === true ? undefined : console.log(line)

  await stoppable(limitMs, async (signal) => {
    const { database, bucket } = readPlaces(env, 'user_service_user', signal)
    if (lists) return list(bucket, database.name, maxAgeMs, say)
    const startedAt = Date.now()
    await withConnection(database, { env, signal }, (db) => withDirectory(async (directory) => {
      // The lock ends with the connection, however this process ends.
      const [row] = await db.query<{ locked: boolean }>('select pg_try_advisory_lock($1) as locked', [lock])
      if (row?.locked !== true) throw new ExitError('another backup is still running', 3)
      const file = join(directory, 'dump.bck')
      const facts = await dump(db, file, signal)
      const { name, size, rows } = { ...facts, size: statSync(file).size }
      const manifest = `${JSON.stringify({ ...facts, size, sha256: await hashFile(file) }, null, 2)}\n`
      writeFileSync(`${file}.json`, manifest)
      await bucket.put(file, name, size)
      await bucket.put(`${file}.json`, `${name}.json`, Buffer.byteLength(manifest))
      const seconds = ((Date.now() - startedAt) / 1000).toFixed(1)
      say(`Backed up ${rows['users']} users to ${bucket.url}/${name}: ${formatSize(size)}, ${seconds} s`)
    }))
  })
})

async function list(bucket: Bucket, database: string, maxAgeMs: number, say: (line: string) => void) {
  const dumps = await bucket.list(database)
  const minutes = (at: Date) => Math.floor((Date.now() - at.getTime()) / 60_000)
  for (const { name, at, size, complete } of dumps) {
    const age = minutes(at) < 120 ? `${minutes(at)} min` : `${(minutes(at) / 60).toFixed(1)} h`
    say([name, age, formatSize(size), complete ? 'complete' : 'INCOMPLETE'].join('\t'))
  }
  const newest = dumps.find(({ complete }) => complete)
  if (maxAgeMs === Infinity || (newest && Date.now() - newest.at.getTime() <= maxAgeMs)) return
  throw new ExitError(newest === undefined ? `there is no complete dump of ${database} in ${bucket.url}`
    : `the newest complete dump in ${bucket.url}, ${newest.name}, is ${minutes(newest.at)} min old`, 4)
}

/** Dumps the schema into `file`, and counts its rows in the very snapshot of the dump. */
async function dump({ query, env, version }: Connection, file: string, signal: AbortSignal) {
  await query('set idle_in_transaction_session_timeout = 0')
  await query('begin isolation level repeatable read read only')
  const [snapshot] = await query<{ id: string; at: Date; database: string; migrated: boolean }>(`
    select pg_export_snapshot() as id, now() as at, current_database() as database,
      to_regclass('user_service_schema.schema_migrations') is not null as migrated`)
  const { id, at, database, migrated } = snapshot!
  if (!migrated) throw new ExitError(`${database} holds nothing: node bin/migrate.js up was never run`)
  const rows: Record<string, number> = {}
  for (const { name } of await query<{ name: string }>(
    `select tablename as name from pg_tables where schemaname = 'user_service_schema' order by 1`)) {
    const [row] = await query<{ count: string }>(`select count(*) from user_service_schema."${name}"`)
    rows[name] = Number(row!.count)
  }
  const [last] = await query<{ name: string }>(
    'select name from user_service_schema.schema_migrations order by number desc limit 1')

  const pgDump = findProgram('pg_dump', version)
  await run('pg_dump failed', pgDump, ['--format=custom', '--schema=user_service_schema',
    `--snapshot=${id}`, '--lock-wait-timeout=60s', '--no-password', `--file=${file}`], { env, signal })
  await query('commit')
  // Reads every byte; --list would look at the table of contents alone.
  await run('the dump cannot be read back', findProgram('pg_restore', version),
    ['--file=/dev/null', file], { env, signal })
  const { stdout } = await run('pg_dump failed', pgDump, ['--version'], { env, signal })
  return {
    name: dumpName(database, at), database, at: at.toISOString(), server: version,
    pgDump: /\d[\d.]*/.exec(stdout)?.[0] ?? '', schema: last?.name ?? 'none', rows,
  }
}
