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
  pickLatest,
  type Counts,
  type Manifest,
} from './dumps.ts'
import { findForeign, findPublications } from './foreign.ts'
import { readGrants, type Grants } from './grants.ts'
import { makeDirectory, postgresEnv, startProgram } from './programs.ts'
import { readPlaces, type Bucket } from './s3.ts'

const usage = `Downloads a dump and its manifest, checks the SHA-256, and replaces the contents
of the database with the dump in one transaction: a failure leaves the database as it was.
latest: the newest complete dump in node bin/backup.js list.

  --yes    although the database holds data, or the service is connected to it
  --check  a drill: restore into a temporary PostgreSQL instead

Connects as user_service_admin, otherwise as in node bin/backup.js --help.
Exit status: 0 done, 1 failed, 2 misuse.`

/** Rows that may have ended since the dump; deleted where it has the table. */
const cleared = [
  { table: 'api_keys', condition: `kind = 'session'` },
  { table: 'tokens', condition: 'true' },
]

const clearings = cleared.map(
  ({ table, condition }) => `do $$ begin
    if to_regclass('user_service_schema.${table}') is not null then
      delete from user_service_schema.${table} where ${condition};
    end if; end $$;`,
)

/** Lifts what a role or the server may limit, as node does for its own connections. */
const beginning = `
  select set_config(name, '0', false) from pg_settings
    where name in ('statement_timeout', 'transaction_timeout', 'idle_session_timeout',
      'idle_in_transaction_session_timeout');
  begin;
  set local lock_timeout = '30s';
  set role user_service_admin;
  drop schema if exists user_service_schema cascade;
`
/** The settings that are left out come within so many bytes. */
const headLength = 1000

await command({
  name: 'restore',
  synopsis: 'NAME|latest [--yes | --check]',
  usage,
  pattern: /^ \S+( --check| --yes)?$/,
  async run({ values: { yes = false, check }, positionals: [wanted = ''], env }) {
    if (wanted !== 'latest' && parseDumpName(wanted) === null)
      throw misuse('The argument must be latest or the name of a dump')
    stopAfter(86_400_000)
    const { database, bucket } = readPlaces(env, 'user_service_admin')
    const losses = check ? null : await withDatabase(database, (db) => findLosses(db, yes))
    const file = join(makeDirectory(), 'dump.bck')
    const name = wanted === 'latest' ? await findLatest(bucket, database.name) : wanted
    const manifest = await download({ bucket, name, database: database.name, file })
    const counts = Object.entries(manifest.rows).map(([table, count]) => `${table} ${count}`)
    const grants = await readGrants(file, postgresEnv(database, env))
    const restoreInto = (place: DatabaseConfig) =>
      restore({ file, rows: manifest.rows, grants: grants.ours, env: postgresEnv(place, env) })
    if (losses === null) {
      await withScratch(database.name, restoreInto)
      console.log(`${name} can be restored: ${counts.join(', ')}`)
      return
    }
    await restoreInto(database)
    console.log(`Restored ${name} into ${database.name}: ${counts.join(', ')}`)
    console.log(tell({ manifest, losses, grants }).join('\n'))
  },
})

/** What a restore deletes and no dump contains. */
interface Losses {
  foreign: string[]
  publications: string[]
}

/** Finds what the restore takes away; throws, unless `yes`, when that needs to be confirmed. */
async function findLosses(db: Db, yes: boolean): Promise<Losses> {
  if (!yes) await refuseUnlessUnused(db)
  const objects = await findForeign(db)
  const foreign = objects.map(({ name }) => name)
  if (foreign.length > 0 && !yes)
    throw new ExitError(`this would also drop ${foreign.join(', ')}: pass --yes to drop them`)
  return { foreign, publications: await findPublications(db) }
}

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

/** What an operator must know afterwards. */
function tell({ manifest, losses, grants }: Told): string[] {
  const { foreign, publications } = losses
  const lines = [
    `Changes after ${manifest.at} are gone. Sessions, tokens and waiting requests were deleted: ` +
      'everybody logs in again.',
    'All else is as it was then, also what was revoked, changed or removed since: API keys, ' +
      'passwords, recovery codes, second factors, and signing keys ' +
      '(node bin/secrets.js new-signing-key --yes).',
  ]
  if (foreign.length > 0) lines.push(`Dropped, and in no dump: ${foreign.join(', ')}.`)
  if (publications.length > 0)
    lines.push(`These publications have lost their tables: ${publications.join(', ')}.`)
  if (grants.others.length > 0)
    lines.push('Grants that were not restored, since they name other roles:', ...grants.others)
  lines.push(
    `Next: node bin/migrate.js up (the dump is at ${manifest.schema}), then restart the service.`,
  )
  return lines
}

interface Told {
  manifest: Manifest
  losses: Losses
  grants: Grants
}

async function findLatest(bucket: Bucket, database: string): Promise<string> {
  const latest = pickLatest(await bucket.list(database), Date.now())
  if (latest !== undefined) return latest.name
  throw new ExitError(`there is no complete dump of ${database} in ${bucket.url}`)
}

interface Download {
  bucket: Bucket
  name: string
  database: string
  file: string
}

/** Fetches a dump by its manifest; throws unless it is the one that was uploaded. */
async function download({ bucket, name, database, file }: Download): Promise<Manifest> {
  await bucket.get(`${name}.json`, `${file}.json`)
  const manifest = parseManifest(readFileSync(`${file}.json`, 'utf8'), name)
  if (manifest.database !== database) {
    const found = JSON.stringify(manifest.database)
    throw new ExitError(`${name} is a dump of ${found}, not of ${database}; nothing was touched`)
  }
  await bucket.get(name, file)
  if ((await hashFile(file)) === manifest.sha256) return manifest
  throw new ExitError(
    `${name} is not the dump that was uploaded: another SHA-256; nothing was touched`,
  )
}

interface Restore {
  file: string
  rows: Counts
  /** Statements. */
  grants: string[]
  env: Env
}

async function restore({ file, rows, grants, env }: Restore): Promise<void> {
  const what = 'the restore failed and nothing was changed'
  // With the key psql runs no commands of its own from the dump, which could start programs
  // (CVE-2025-8714). A pg_restore too old for the option fails on it.
  const key = randomBytes(16).toString('hex')
  const dumpArgs = ['--file=-', '--no-owner', '--no-privileges', `--restrict-key=${key}`, file]
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
  sql.write(beginning)
  let failure: unknown
  try {
    await pipeline(dump.child.stdout!, withoutNewSettings, sql, { end: false })
    await dump.ended
    sql.write([...grants, ...checkCounts(rows), ...clearings, 'commit;\n'].join('\n'))
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

function checkCounts(rows: Counts): string[] {
  return Object.entries(rows).map(
    ([table, count]) => `do $$
      declare found bigint := (select count(*) from user_service_schema."${table}");
      begin if found <> ${count} then
        raise exception '${table} has % rows, its manifest says ${count}', found;
      end if; end $$;`,
  )
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
