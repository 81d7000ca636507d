// A restore is one transaction of psql: it drops the schema, runs the SQL that pg_restore makes of
// the dump, compares the row counts with the manifest, and commits. The commit comes last through a
// pipe: after a failure, or the end of this process, it is not sent, and PostgreSQL rolls back.
import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import { privateDatabase, type DatabaseConfig } from '../config.ts'
import { grantStatements } from '../database/grants.ts'
import { readMigrations } from '../database/migrate.ts'
import { withDatabase, type Db } from '../database/pool.ts'
import { startPrivatePostgres } from '../database/private.ts'
import { createDatabase } from '../database/setup.ts'
import { ExitError } from '../errors.ts'
import { command, misuse, stopAfter } from './command.ts'
import { countRows, hashFile, parseDumpName, parseManifest, type Manifest } from './dumps.ts'
import { findForeign } from './foreign.ts'
import { makeDirectory, postgresEnv, runProgram, startProgram } from './programs.ts'
import { readPlaces, type Places } from './s3.ts'

const usage = `Replaces the contents of the database with a dump, in one transaction: a failure
leaves the database as it was. latest: the newest complete dump in node bin/backup.js list.

  --yes    restore even if the database holds data or the service is connected to it
  --check  a drill: restore into a temporary PostgreSQL instead

Connects as user_service_admin, otherwise as node bin/backup.js does.`

/** Disables time-outs that a role or the server sets, as our pool does. */
const beginning = `
  select set_config(name, '0', false) from pg_settings
    where name in ('statement_timeout', 'transaction_timeout', 'idle_session_timeout',
      'idle_in_transaction_session_timeout');
  begin;
  set local lock_timeout = '30s';
  set role user_service_admin;
  drop schema if exists user_service_schema cascade;
`
/** Deletes rows that may be stale, from tables that exist after the restore. */
const ending = `
  delete from user_service_schema.api_keys where kind = 'session';
  do $$ begin
    if to_regclass('user_service_schema.tokens') is not null then
      delete from user_service_schema.tokens;
    end if;
    if to_regclass('user_service_schema.outbox') is not null then
      delete from user_service_schema.outbox where address is not null;
    end if;
  end $$;
  commit;
`

/** Names a tablespace, or grants to a role that is not ours: on a new server it may not exist. */
const foreignLine = new RegExp(
  "^SET default_tablespace = [^']|^(GRANT|ALTER DEFAULT PRIVILEGES) .* TO " +
    '(?!(user_service_(admin|manager|user)|PUBLIC)( WITH GRANT OPTION)?;$)',
)
/** What may need roles, functions or extensions that are missing, and its name. */
const foreignEntry = new RegExp(
  '^\\d+; \\d+ \\d+ ((?:INDEX|POLICY|ROW SECURITY|RULE|TRIGGER|' +
    'COMMENT \\w+ (?:INDEX|POLICY|RULE|TRIGGER)) .*?(\\w*)) user_service_admin$',
  'gm',
)

const undone =
  'Sessions, tokens and requests for one were deleted: everybody logs in again.\n' +
  'All else is as it was then: API keys that were revoked since, passwords that were changed and ' +
  'recovery codes that were used work again, second factors that were removed are asked for, ' +
  'and signing keys that were replaced sign. Revoke, reset or remove them, or run: ' +
  'node bin/secrets.js new-signing-key --yes'

await command({
  name: 'restore',
  synopsis: 'NAME|latest [--yes | --check]',
  usage,
  pattern: /^ \S+( --check| --yes)?$/,
  async run({ values: { yes = false, check }, positionals: [wanted = ''] }) {
    if (wanted !== 'latest' && parseDumpName(wanted) === null)
      throw misuse('The argument must be latest or the name of a dump')
    stopAfter(86_400_000)
    const places = readPlaces('user_service_admin')
    const { database } = places
    const foreign = check ? [] : await withDatabase(database, (db) => findLosses(db, yes))
    const name = wanted === 'latest' ? await findLatest(places) : wanted
    const file = join(makeDirectory(), 'dump.bck')
    const manifest = await download(places, name, file)
    const rows = Object.entries(manifest.rows).map(([table, count]) => `${table} ${count}`)
    if (check) {
      await drill(file, manifest)
      console.log(`${name} can be restored: ${rows.join(', ')}`)
      return
    }
    const lost = await restore(file, manifest, database)
    console.log(`Restored ${name} into ${database.name}: ${rows.join(', ')}`)
    console.log(`Changes after ${manifest.at} are gone.`, undone)
    if (foreign.length > 0) console.log(`Dropped, and in no dump: ${foreign.join(', ')}.`)
    if (lost.length > 0) console.log(`Not restored, since it is not ours:\n${lost.join('\n')}`)
    console.log(`Next: node bin/migrate.js up (from ${manifest.schema}), then restart the service.`)
  },
})

/** Lists what a restore deletes and no dump contains; throws when that or data needs `yes`. */
async function findLosses(db: Db, yes: boolean) {
  const foreign = await findForeign(db)
  if (yes) return foreign
  const { schema_migrations, webhook, ...rows } = await countRows(db)
  const held = Object.keys(rows).find((table) => rows[table]! > 0)
  const sessions = await db.query(`select from pg_stat_activity
    where datname = current_database() and usename = 'user_service_manager'`)
  const reasons: string[] = []
  if (held !== undefined) reasons.push(`the database holds data (${held})`)
  if (sessions.length > 0) reasons.push('the service is connected (stop it first)')
  if (foreign.length > 0) reasons.push(`this would also drop ${foreign.join(', ')}`)
  if (reasons.length > 0) throw new ExitError(`${reasons.join('; ')}: pass --yes`)
  return foreign
}

async function findLatest({ bucket, database }: Places) {
  const dumps = await bucket.list(database.name)
  const latest = dumps.find(({ state }) => state === 'complete')
  const ahead = dumps.find(({ state }) => state === 'IN THE FUTURE')
  if (ahead !== undefined)
    throw new ExitError(
      `${ahead.name} is dated in the future: name it, or ${latest?.name ?? 'another'}`,
    )
  if (latest !== undefined) return latest.name
  throw new ExitError(`there is no complete dump of ${database.name} in ${bucket.url}`)
}

/** Fetches a dump by its manifest; throws unless it is the one that was uploaded. */
async function download(places: Places, name: string, file: string) {
  const { bucket, database } = places
  await bucket.get(`${name}.json`, `${file}.json`)
  const manifest = parseManifest(readFileSync(`${file}.json`, 'utf8'), name)
  if (manifest.database !== database.name)
    throw new ExitError(
      `${name} is a dump of ${JSON.stringify(manifest.database)}, not of ${database.name}`,
    )
  await bucket.get(name, file)
  if ((await hashFile(file)) === manifest.sha256) return manifest
  throw new ExitError(`${name} is not the dump that was uploaded: another SHA-256`)
}

/** Restores a dump into a database and returns what of others it left out. */
async function restore(file: string, manifest: Manifest, database: DatabaseConfig) {
  const what = 'the restore failed and nothing was changed'
  const env = postgresEnv(database)
  const read = (...args: string[]) => ({
    program: 'pg_restore',
    args: ['--no-owner', '--file=-', ...args, file],
    env,
  })
  const contents = await runProgram({ what, ...read('--list') })
  const migrations = readMigrations()
  const isLater = manifest.schema > migrations.at(-1)!.name
  const lost: string[] = []
  const kept = contents.stdout.replace(foreignEntry, (line, entry: string, name: string) => {
    const made = new RegExp('^create .*(index|trigger) (if not exists )?' + name + '\\b', 'm')
    // What a later version made cannot be told from what others did.
    if (isLater || migrations.some(({ up }) => made.test(up))) return line
    lost.push(entry)
    return ''
  })
  writeFileSync(`${file}.list`, kept)
  const list = `--use-list=${file}.list`
  const schema = await runProgram({ what, ...read('--schema-only', list) })
  // This option makes psql refuse backslash commands in the dump, which could start programs
  // (CVE-2025-8714). An older pg_restore rejects it, and the restore fails.
  const key = randomBytes(16).toString('hex')
  async function* input() {
    yield beginning
    const reading = startProgram(
      read(list, '--no-privileges', '--no-tablespaces', `--restrict-key=${key}`),
    )
    yield* withoutTimeout(reading.child.stdout)
    await reading.ended
    const checks = checkCounts(manifest.rows)
    yield [grantStatements, ...checks, ending].join('\n')
  }
  const args = ['--no-psqlrc', '--no-password', '--quiet', '--set=ON_ERROR_STOP=1']
  await runProgram({ what, program: 'psql', args, env, input: input() })
  const lines = schema.stdout.split('\n').filter((line) => foreignLine.test(line))
  return [...lost, ...new Set(lines)]
}

/** pg_restore 17 writes a SET that earlier servers do not know into its first lines. */
async function* withoutTimeout(sql: AsyncIterable<Buffer>) {
  let isHead = true
  for await (const chunk of sql) {
    const start = isHead ? chunk.indexOf('SET transaction_timeout') : -1
    if (start >= 0) chunk.fill(' ', start, chunk.indexOf(';', start))
    isHead = false
    yield chunk
  }
}

function checkCounts(rows: Manifest['rows']) {
  return Object.entries(rows).map(
    ([table, count]) => `do $$
      declare found bigint := (select count(*) from user_service_schema."${table}");
      begin if found <> ${count} then
        raise exception '${table} has % rows, its manifest says ${count}', found;
      end if; end $$;`,
  )
}

/** Restores a dump into a temporary PostgreSQL where only database.js create has run. */
async function drill(file: string, manifest: Manifest) {
  const { database: name } = manifest
  const server = await startPrivatePostgres({ directory: makeDirectory(), say: () => {} })
  try {
    await createDatabase(privateDatabase(server, 'postgres', name))
    await restore(file, manifest, privateDatabase(server, 'user_service_admin', name))
  } finally {
    await server.stop()
  }
}
