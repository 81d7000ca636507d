// A restore is one transaction of psql: it drops the schema, runs the SQL that pg_restore makes of
// the dump, compares the row counts with the manifest, and commits. We write the last lines, with
// the commit, only once pg_restore has ended well. A failure before, or the end of this process,
// leaves them unsent, and PostgreSQL rolls back.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'

import { privateDatabase, type DatabaseConfig, type Env } from '../config.ts'
import { withDatabase, type Db } from '../database/pool.ts'
import { startPrivatePostgres } from '../database/private.ts'
import { createDatabase } from '../database/setup.ts'
import { ExitError } from '../errors.ts'
import { command, misuse, stopAfter } from './command.ts'
import {
  countRows,
  hashFile,
  parseDumpName,
  parseManifest,
  type Counts,
  type Manifest,
} from './dumps.ts'
import { makeDirectory, postgresEnv, startProgram } from './programs.ts'
import { readPlaces, type Bucket } from './s3.ts'

const usage = `Downloads a dump and its manifest, checks the SHA-256, and replaces the contents
of the database with the dump in one transaction: a failure leaves the database as it was.
latest: the newest complete dump in node bin/backup.js list.

  --yes    although the database holds data, or the service is connected to it
  --check  a drill: restore into a temporary PostgreSQL instead

Connects as user_service_admin, otherwise as in node bin/backup.js --help.
Exit status: 0 done, 1 failed, 2 misuse.`

await command({
  name: 'restore',
  synopsis: 'NAME|latest [--yes | --check]',
  usage,
  pattern: /^ \S+( --check| --yes)?$/,
  async run({ values: { yes, check }, positionals: [wanted = ''], env }) {
    if (wanted !== 'latest' && parseDumpName(wanted) === null)
      throw misuse('The argument must be latest or the name of a dump')
    stopAfter(86_400_000)
    const { database, bucket } = readPlaces(env, 'user_service_admin')
    if (!check && !yes) await withDatabase(database, refuseUnlessUnused)
    const file = join(makeDirectory(), 'dump.bck')
    const name = wanted === 'latest' ? await findLatest(bucket, database.name) : wanted
    const manifest = await download(bucket, name, file)
    const counts = Object.entries(manifest.rows).map(([table, count]) => `${table} ${count}`)
    const restoreInto = (place: DatabaseConfig) =>
      restore(file, manifest.rows, postgresEnv(place, env))
    if (check) {
      await withScratch(database.name, restoreInto)
      console.log(`${name} can be restored: ${counts.join(', ')}`)
      return
    }
    await restoreInto(database)
    console.log(`Restored ${name} into ${database.name}: ${counts.join(', ')}
Changes after ${manifest.at} are gone; keys and passwords that were revoked since are valid again.
Next: node bin/migrate.js up (the dump is at ${manifest.schema}), then restart the service.`)
  },
})

/** Those settings come within so many bytes. */
const headLength = 1000

async function refuseUnlessUnused(db: Db): Promise<void> {
  const rows = await countRows(db)
  const tables = Object.keys(rows).filter((table) => table !== 'schema_migrations')
  const held = tables.find((table) => rows[table]! > 0)
  if (held !== undefined)
    throw new ExitError(`the database holds data (${held}): pass --yes to replace it`)
  const sessions = await db.query(`select from pg_stat_activity
    where datname = current_database() and usename = 'user_service_manager'`)
  if (sessions.length > 0)
    throw new ExitError('the service is connected: stop it first, or pass --yes')
}

async function findLatest(bucket: Bucket, database: string): Promise<string> {
  const dumps = await bucket.list(database)
  const latest = dumps.find(({ complete }) => complete)
  if (latest !== undefined) return latest.name
  throw new ExitError(`there is no complete dump of ${database} in ${bucket.url}`)
}

/** Fetches a dump by its manifest; throws unless it is the one that was uploaded. */
async function download(bucket: Bucket, name: string, file: string): Promise<Manifest> {
  await bucket.get(`${name}.json`, `${file}.json`)
  const manifest = parseManifest(readFileSync(`${file}.json`, 'utf8'), name)
  await bucket.get(name, file)
  if ((await hashFile(file)) === manifest.sha256) return manifest
  throw new ExitError(
    `${name} is not the dump that was uploaded: another SHA-256; nothing was touched`,
  )
}

async function restore(file: string, rows: Counts, env: Env): Promise<void> {
  const what = 'the restore failed and nothing was changed'
  // With the key psql runs no commands of its own from the dump, which could start programs
  // (CVE-2025-8714). A pg_restore too old for the option fails on it.
  const key = randomBytes(16).toString('hex')
  const dumpArgs = ['--file=-', '--no-owner', `--restrict-key=${key}`, file]
  const psqlArgs = [
    '--no-psqlrc',
    '--no-password',
    '--quiet',
    '--output=/dev/null',
    '--set=ON_ERROR_STOP=1',
  ]
  const psql = startProgram({ what, program: 'psql', args: psqlArgs, env }, 'pipe')
  const dump = startProgram({ what, program: 'pg_restore', args: dumpArgs, env }, 'ignore')
  psql.child.stdout!.resume()
  const sql = psql.child.stdin!
  // psql may end before it has read everything: its exit status counts.
  sql.on('error', () => {})
  sql.write(`begin; set local lock_timeout = '30s'; set role user_service_admin;
    drop schema if exists user_service_schema cascade;\n`)
  let failure: unknown
  try {
    await pipeline(dump.child.stdout!, withoutNewSettings, sql, { end: false })
    await dump.ended
    sql.write(`${checkCounts(rows)}commit;\n`)
  } catch (error) {
    failure = error
  }
  sql.end()
  // Without the end of a dump psql fails, too; without psql pg_restore ends by a signal.
  const isDumpAtFault = (dump.child.exitCode ?? 0) > 0
  if (isDumpAtFault) await once(psql.child, 'close')
  else await psql.ended
  if (failure !== undefined) throw failure
}

/** In its first lines pg_restore 17 sets what earlier servers do not know. */
async function* withoutNewSettings(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let head = Buffer.alloc(0)
  let isPassed = false
  const strip = () =>
    Buffer.from(head.toString('latin1').replace(/^SET transaction_timeout = 0;/m, ''), 'latin1')
  for await (const chunk of chunks) {
    if (isPassed) {
      yield chunk
      continue
    }
    head = Buffer.concat([head, chunk])
    if (head.length < headLength) continue
    yield strip()
    isPassed = true
  }
  if (!isPassed) yield strip()
}

function checkCounts(rows: Counts): string {
  const checks = Object.entries(rows).map(
    ([table, count]) => `do $$
      declare found bigint := (select count(*) from user_service_schema."${table}");
      begin if found <> ${count} then
        raise exception '${table} has % rows, its manifest says ${count}', found;
      end if; end $$;\n`,
  )
  return checks.join('')
}

/** A PostgreSQL for the time of `work`, as empty as one where only database.js create has run. */
async function withScratch(
  name: string,
  work: (database: DatabaseConfig) => Promise<void>,
): Promise<void> {
  const server = await startPrivatePostgres({ directory: makeDirectory(), say: () => {} })
  try {
    await createDatabase(privateDatabase(server, 'postgres', name))
    await work(privateDatabase(server, 'user_service_admin', name))
  } finally {
    await server.stop()
  }
}
