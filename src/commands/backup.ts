import { statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import type { Env } from '../config.ts'
import { locks } from '../database/codes.ts'
import { one, withDatabase, type Db } from '../database/pool.ts'
import { ExitError } from '../errors.ts'
import { command, misuse, parseDuration, stopAfter } from './command.ts'
import { countRows, dumpName, hashFile, type Manifest } from './dumps.ts'
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
    const file = join(makeDirectory(), 'dump.bck')
    await withDatabase(database, (db) =>
      db.transaction(async (tx) => {
        const manifest = await dump(tx, file, postgresEnv(database, env))
        const { name, size, rows } = manifest
        writeFileSync(`${file}.json`, `${JSON.stringify(manifest, null, 2)}\n`)
        await bucket.put(file, name)
        await bucket.put(`${file}.json`, `${name}.json`)
        print(`Backed up ${rows['users']} users to ${bucket.url}/${name}: ${formatSize(size)}`)
      }),
    )
  },
})

interface Listing {
  bucket: Bucket
  database: string
  maxAgeMs: number
  print: Print
}

async function list({ bucket, database, maxAgeMs, print }: Listing): Promise<void> {
  const dumps = await bucket.list(database)
  const ageOf = ({ at }: { at: Date }) => Date.now() - at.getTime()
  for (const dump of dumps) {
    const state = dump.complete ? 'complete' : 'INCOMPLETE'
    print([dump.name, formatAge(ageOf(dump)), formatSize(dump.size), state].join('\t'))
  }
  if (maxAgeMs === Infinity) return
  const newest = dumps.find(({ complete }) => complete)
  if (newest === undefined)
    throw new ExitError(`there is no complete dump of ${database} in ${bucket.url}`, 4)
  const age = ageOf(newest)
  if (age <= maxAgeMs) return
  const which = `the newest complete dump in ${bucket.url}, ${newest.name}`
  throw new ExitError(`${which}, is ${formatAge(age)} old`, 4)
}

interface Snapshot {
  locked: boolean
  id: string
  at: string
  database: string
  server: string
}

/**
 * Dumps the schema into `file`, counts its rows in the very snapshot of the dump, which is the
 * transaction's, and returns the manifest. The lock is the transaction's, too: it ends however this
 * process ends. Throws with exit status 3 when another backup holds it.
 */
async function dump(tx: Db, file: string, env: Env): Promise<Manifest> {
  await tx.query('set transaction isolation level repeatable read, read only')
  await tx.query('set local idle_in_transaction_session_timeout = 0')
  const { locked, id, at, database, server } = await one<Snapshot>(tx, {
    text: `select pg_try_advisory_xact_lock(${locks.backup}) as locked, pg_export_snapshot() as id,
      now() as at, current_database() as database, current_setting('server_version') as server`,
  })
  if (!locked) throw new ExitError('another backup is still running', 3)
  const rows = await countRows(tx)
  if (!('users' in rows))
    throw new ExitError(`${database} holds nothing: node bin/migrate.js up was never run`)
  const { schema } = await one<{ schema: string | null }>(tx, {
    text: 'select max(name) as schema from user_service_schema.schema_migrations',
  })
  const what = 'pg_dump failed'
  const args = [
    '--format=custom',
    '--schema=user_service_schema',
    `--snapshot=${id}`,
    '--lock-wait-timeout=60s',
    '--no-password',
    `--file=${file}`,
  ]
  await runProgram({ what, program: 'pg_dump', args, env })
  await readBack(file, env)
  const version = await runProgram({ what, program: 'pg_dump', args: ['--version'], env })
  return {
    name: dumpName(database, new Date(at)),
    size: statSync(file).size,
    sha256: await hashFile(file),
    database,
    at,
    server,
    pgDump: /\d[\d.]*/.exec(version.stdout)?.[0] ?? 'unknown',
    schema: schema ?? 'none',
    rows,
  }
}

/** Reads every byte; --list would look at the table of contents alone. */
async function readBack(file: string, env: Env): Promise<void> {
  const what = 'the dump cannot be read back'
  await runProgram({ what, program: 'pg_restore', args: ['--file=/dev/null', file], env })
}
