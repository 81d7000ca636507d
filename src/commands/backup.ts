import { statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import { createReader, readDatabase } from '../config.ts'
import { ExitError } from '../errors.ts'
import { command, misuse } from './command.ts'
import { findProgram, withConnection, withLocalhost } from './postgres.ts'
import type { Connection } from './postgres.ts'
import { check, parseDuration, run, stoppable, withDirectory } from './process.ts'
import { dumpName, formatSize, hashFile, readBucket } from './s3.ts'
import type { Bucket, Manifest } from './s3.ts'

const usage = `Usage: node bin/backup.js [--quiet] [--timeout 15m]
       node bin/backup.js list [--max-age 1h] [--quiet]

Without a word: dumps the database, reads the dump back, uploads it and then its manifest; a dump
without a manifest does not count. With list: what is in the bucket, newest first.

  --timeout  give up after that long (90s, 15m, 1h; default 15m)
  --max-age  exit status 4 when the newest complete dump is older, or there is none
  --quiet    say nothing when all is well

Connects as user_service_user unless DATABASE_USER says otherwise, to DATABASE_URL or DATABASE_HOST
(default localhost), _PORT, _NAME, _PASSWORD (else ~/.pgpass). Uploads with the AWS CLI to S3_BUCKET
(default s3://user-service-database-dumps; a prefix may follow), under the AWS profile IAM_ROLE if
set; AWS_* variables pass through.
Exit status: 0 done, 1 failed, 2 misuse, 3 another backup is running, 4 the newest dump is too old.
`

const lock = 7520602

await command(usage, {
  'quiet': { type: 'boolean' }, 'timeout': { type: 'string' }, 'max-age': { type: 'string' },
}, async ({ flags, words, env }) => {
  const duration = (name: string, fallback: string) => {
    const value = parseDuration(String(flags[name] ?? fallback))
    if (value === null || value === 0) throw misuse(`--${name} must be a duration such as 90s, 15m, 1h or 2d`)
    return value
  }
  const limitMs = duration('timeout', '15m')
  const maxAgeMs = flags['max-age'] === undefined ? null : duration('max-age', '')
  const lists = words[0] === 'list'
  if (words.length > (lists ? 1 : 0)) throw misuse('Say nothing, or list')
  if (maxAgeMs !== null && !lists) throw misuse('--max-age goes with list')

  return stoppable(limitMs, async (signal) => {
    const reader = createReader(withLocalhost(env))
    const database = readDatabase(reader, 'user_service_user')!
    const bucket = readBucket(reader, env, signal)
    reader.finish()
    if (lists) return list(bucket, database.name, maxAgeMs, flags['quiet'] === true)

    const startedAt = Date.now()
    const manifest = await withConnection(database, { env, signal, writes: false }, (connection) =>
      withDirectory((directory) => backUp(connection, bucket, directory, signal)))
    if (flags['quiet'] === true) return 0
    const { name, size, rows } = manifest
    console.log(`Backed up to ${bucket.url}/${name}: ${formatSize(size)}, ` +
      `${rows['users'] ?? 0} users, ${((Date.now() - startedAt) / 1000).toFixed(1)} s`)
    return 0
  })
})

async function list(bucket: Bucket, database: string, maxAgeMs: number | null, quiet: boolean) {
  const dumps = await bucket.list(database)
  for (const { name, at, size, complete } of quiet ? [] : dumps) {
    console.log([name, formatAge(at), formatSize(size), complete ? 'complete' : 'INCOMPLETE'].join('\t'))
  }
  const newest = dumps.find(({ complete }) => complete)
  if (maxAgeMs === null || (newest && Date.now() - newest.at.getTime() <= maxAgeMs)) return 0
  const found = newest ? `The newest complete dump, ${newest.name}, is ${formatAge(newest.at)} old`
    : `There is no complete dump of ${database}`
  throw new ExitError(`${found} (${bucket.url})`, 4)
}

function formatAge(at: Date): string {
  const minutes = Math.max(0, Math.floor((Date.now() - at.getTime()) / 60_000))
  const [days, hours] = [Math.floor(minutes / 1440), Math.floor(minutes / 60) % 24]
  return days > 0 ? `${days}d ${hours}h` : hours > 0 ? `${hours}h ${minutes % 60}m` : `${minutes}m`
}

async function backUp(
  connection: Connection, bucket: Bucket, directory: string, signal: AbortSignal,
): Promise<Manifest> {
  // The lock ends with the connection, however this process ends.
  const [got] = await connection.query<{ locked: boolean }>('select pg_try_advisory_lock($1) as locked', [lock])
  if (got?.locked !== true) throw new ExitError('another backup of this database is still running', 3)

  const { file, facts } = await dump(connection, directory, signal)
  const manifest = { ...facts, sha256: await hashFile(file), size: statSync(file).size }
  const manifestFile = join(directory, 'manifest.json')
  const text = `${JSON.stringify(manifest, null, 2)}\n`
  writeFileSync(manifestFile, text)
  await bucket.put(file, manifest.name, manifest.size)
  await bucket.put(manifestFile, `${manifest.name}.json`, Buffer.byteLength(text))
  return manifest
}

/** Dumps the schema, and counts its rows in the very snapshot of the dump. */
async function dump({ query, env, major, version }: Connection, directory: string, signal: AbortSignal) {
  await query('set idle_in_transaction_session_timeout = 0')
  await query('begin isolation level repeatable read read only')
  const [snapshot] = await query<{ id: string; at: Date; database: string }>(
    'select pg_export_snapshot() as id, now() as at, current_database() as database')
  const { id, at, database } = snapshot!
  const tables = await query<{ name: string }>(
    `select tablename as name from pg_tables where schemaname = 'user_service_schema' order by tablename`)
  const [migrated] = await query<{ done: boolean }>(
    `select to_regclass('user_service_schema.schema_migrations') is not null as done`)
  if (migrated?.done !== true) {
    throw new ExitError(`${database} holds nothing to back up: user_service_schema has no tables`)
  }
  const rows: Record<string, number> = {}
  for (const { name } of tables) {
    const [row] = await query<{ count: string }>(`select count(*) as count from user_service_schema."${name}"`)
    rows[name] = Number(row!.count)
  }
  const [last] = await query<{ name: string }>(
    'select name from user_service_schema.schema_migrations order by number desc limit 1')

  const file = join(directory, 'dump.bck')
  const pgDump = findProgram('pg_dump', major)
  check(await run(pgDump, ['--format=custom', '--schema=user_service_schema', `--snapshot=${id}`,
    '--lock-wait-timeout=60s', '--no-password', `--file=${file}`], { env, signal }), 'pg_dump failed')
  await query('commit')
  // Reads every byte, unlike --list, which looks at the table of contents alone.
  const pgRestore = pgDump.replace(/pg_dump$/, 'pg_restore')
  check(await run(pgRestore, ['--file=/dev/null', file], { env, signal }), 'the dump cannot be read back')
  const { stdout } = await run(pgDump, ['--version'], { env, signal })
  const name = dumpName(database, at)
  const facts = {
    name, at: at.toISOString(), database, server: version, schema: last?.name ?? '', rows,
    pgDump: /\d+(\.\d+)*/.exec(stdout)?.[0] ?? '',
  }
  return { file, facts }
}
