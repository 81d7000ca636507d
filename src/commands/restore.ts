// A restore is one transaction of psql: it drops the schema, runs what pg_restore makes of the dump,
// compares the row counts with the manifest, and commits. Whatever fails before, this process among
// it, leaves the last line unsent, and PostgreSQL takes everything back.
import { randomBytes } from 'node:crypto'
import { chmodSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

import type { DatabaseConfig } from '../config.ts'
import { startPrivatePostgres } from '../database/embedded.ts'
import { createDatabase, createSchema } from '../database/setup.ts'
import { ExitError } from '../errors.ts'
import { withDatabase } from '../database/pool.ts'
import { command, misuse } from './command.ts'
import { findProgram, withConnection } from './postgres.ts'
import type { Connection } from './postgres.ts'
import { outputOf, run, stoppable, withDirectory } from './process.ts'
import { hashFile, parseDumpName, parseManifest, readPlaces } from './s3.ts'
import type { Bucket, Manifest } from './s3.ts'

const usage = `Usage: node bin/restore.js NAME|latest [--yes | --check]

Downloads a dump and its manifest, checks the SHA-256, and puts the dump in the place of what the
database holds, in one transaction: a failure leaves the database as it was. latest is the newest
complete dump; node bin/backup.js list shows them all.

  --yes    although the database holds data, or the service is connected to it
  --check  a drill: restore into a PostgreSQL of its own, which is removed again

Connects as user_service_admin unless DATABASE_USER says otherwise, to DATABASE_URL or DATABASE_HOST
(default localhost), _PORT, _NAME, _PASSWORD (else ~/.pgpass), where bin/database.js create has run.
S3_BUCKET, IAM_ROLE and AWS_* as for bin/backup.js.
Exit status: 0 done, 1 failed or refused, 2 misuse.
`

const limitMs = 86_400_000

const options = { yes: { type: 'boolean' }, check: { type: 'boolean' } } as const

await command(usage, options, async ({ flags, words, env }) => {
  const [word = ''] = words
  if (words.length !== 1 || (word !== 'latest' && parseDumpName(word) === null)) {
    throw misuse('Say latest, or the name of a dump')
  }
  await stoppable(limitMs, (signal) => withDirectory(async (directory) => {
    const { database, bucket } = readPlaces(env, 'user_service_admin', signal)
    const check = flags['check'] === true
    if (!check && !flags['yes']) await withConnection(database, { env, signal }, refuseUnlessUnused)
    const file = join(directory, 'dump.bck')
    const manifest = await download(bucket, word, database.name, file)
    const { name, at, schema, rows } = manifest
    const counts = Object.entries(rows).map(([table, count]) => `${table} ${count}`).join(', ')
    const put = (into: DatabaseConfig) =>
      withConnection(into, { env, signal }, (db) => restore(db, manifest, file, signal))
    if (check) {
      await withScratch(database.name, put)
      return console.log(`${name} can be restored: ${counts}`)
    }
    await put(database)
    console.log(`Restored ${name} into ${database.name}: ${counts}
Changes after ${at} are gone; keys and passwords that were revoked since are valid again.
Next: node bin/migrate.js up (the dump is at ${schema}), then restart the service.`)
  }))
})

async function refuseUnlessUnused({ query }: Connection) {
  for (const { name } of await query<{ name: string }>(`select tablename as name from pg_tables
    where schemaname = 'user_service_schema' and tablename <> 'schema_migrations' order by 1`)) {
    const found = await query(`select from user_service_schema."${name}" limit 1`)
    if (found.length > 0) {
      throw new ExitError(`the database holds data (${name}): say --yes if the dump shall replace it`)
    }
  }
  const sessions = await query(`select from pg_stat_activity
    where datname = current_database() and usename = 'user_service_manager'`)
  if (sessions.length > 0) throw new ExitError('the service is connected: stop it first, or say --yes')
}

/** Fetches a dump by its manifest; throws unless it is, byte for byte, the one that was uploaded. */
async function download(bucket: Bucket, word: string, database: string, file: string) {
  const newest = async () => (await bucket.list(database)).find(({ complete }) => complete)?.name
  const name = word === 'latest' ? await newest() : word
  if (name === undefined) throw new ExitError(`there is no complete dump of ${database} in ${bucket.url}`)
  await bucket.get(`${name}.json`, `${file}.json`)
  const manifest = parseManifest(readFileSync(`${file}.json`, 'utf8'), name)
  await bucket.get(name, file)
  const { size } = statSync(file)
  if (size !== manifest.size || await hashFile(file) !== manifest.sha256) {
    throw new ExitError(`${name} is not the dump that was uploaded (${size} of ${manifest.size} bytes, ` +
      'or another SHA-256); nothing was touched')
  }
  return manifest
}

async function restore(db: Connection, made: Manifest, file: string, signal: AbortSignal) {
  const what = 'the restore failed and nothing was changed'
  const surroundings = { env: db.env, signal }
  // With the key psql takes no commands of its own from the dump, which could run programs
  // (CVE-2025-8714). A pg_restore without the option is too old, and says so by refusing it.
  const sql = outputOf(what, findProgram('pg_restore', made.pgDump), ['--file=-', '--no-owner',
    `--restrict-key=${randomBytes(16).toString('hex')}`, file], surroundings)
  const script = makeScript(made.rows, sql, Number.parseInt(db.version, 10) < 17)
  const options = ['--no-psqlrc', '--no-password', '--quiet', '--output=/dev/null']
  const psql = findProgram('psql', made.pgDump)
  await run(what, psql, [...options, '--set=ON_ERROR_STOP=1'], surroundings, script)
}

async function* makeScript(rows: Manifest['rows'], sql: AsyncIterable<Buffer>, isOld: boolean) {
  yield `begin; set local lock_timeout = '30s'; set role user_service_admin;
    drop schema if exists user_service_schema cascade;\n`
  let head = isOld
  for await (const chunk of sql) {
    // pg_restore 17 and later set this, which older servers do not know.
    const text = () => chunk.toString('latin1').replace('SET transaction_timeout = 0;', '')
    yield head ? Buffer.from(text(), 'latin1') : chunk
    head = false
  }
  yield `do $check$ declare expected record; found bigint; begin
      for expected in select * from json_each_text('${JSON.stringify(rows)}') loop
        execute format('select count(*) from user_service_schema.%I', expected.key) into found;
        if found <> expected.value::bigint then
          raise exception '% has % rows, its manifest says %', expected.key, found, expected.value;
        end if;
      end loop;
    end $check$;
    commit;\n`
}

/** A PostgreSQL for the time of `work`, as empty as one where only database.js create has run. */
async function withScratch(name: string, work: (config: DatabaseConfig) => Promise<void>) {
  await withDirectory(async (directory) => {
    // PostgreSQL, which does not run as root, must get through to its own.
    chmodSync(directory, 0o711)
    const server = await startPrivatePostgres({
      directory: join(directory, 'drill'), say: () => {}, settings: { fsync: 'off' },
    })
    const as = (user: string, database: string): DatabaseConfig => ({
      hosts: [server.socketDirectory], port: server.port, name: database, user,
      password: undefined, ssl: false, poolSize: 1,
    })
    try {
      await withDatabase(as('postgres', 'postgres'), (db) => createDatabase(db, name, {}))
      await withDatabase(as('postgres', name), createSchema)
      await work(as('user_service_admin', name))
    } finally {
      await server.stop()
    }
  })
}
