// A restore is one transaction of psql: it drops the schema, runs what pg_restore makes of the dump,
// compares the row counts with the manifest and commits. Whatever fails before, pg_restore or this
// process among it, leaves the last line unsent, and PostgreSQL takes everything back.
import { randomBytes } from 'node:crypto'
import { chmodSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

import { createReader, readDatabase } from '../config.ts'
import type { DatabaseConfig } from '../config.ts'
import { startPrivatePostgres } from '../database/embedded.ts'
import { createDatabase, createSchema } from '../database/setup.ts'
import { ExitError } from '../errors.ts'
import { command, misuse, withDatabase } from './command.ts'
import { findProgram, withConnection, withLocalhost } from './postgres.ts'
import type { Connection } from './postgres.ts'
import { check, outputOf, run, stoppable, withDirectory } from './process.ts'
import { hashFile, parseDumpName, parseManifest, readBucket } from './s3.ts'
import type { Bucket, Manifest } from './s3.ts'

const usage = `Usage: node bin/restore.js NAME|latest [--yes]
       node bin/restore.js NAME|latest --check

Downloads a dump and its manifest, checks its SHA-256, and puts it in the place of what the database
holds, in one transaction: a failure leaves the database as it was. latest is the newest complete one.

  --yes    although the database holds data, or the service is connected
  --check  restore into a PostgreSQL of its own that is removed again: a drill. The database is not
           touched; needs PostgreSQL's server programs (fetched if there are none)

Connects as user_service_admin unless DATABASE_USER says otherwise, to DATABASE_URL or DATABASE_HOST
(default localhost), _PORT, _NAME, _PASSWORD (else ~/.pgpass), where bin/database.js create has run.
S3_BUCKET, IAM_ROLE and AWS_* as for bin/backup.js.
Exit status: 0 done, 1 failed or refused, 2 misuse.
`

await command(usage, { yes: { type: 'boolean' }, check: { type: 'boolean' } }, async ({ flags, words, env }) => {
  const [word = ''] = words
  if (words.length !== 1 || (word !== 'latest' && parseDumpName(word) === null)) {
    throw misuse('Say latest, or the name of a dump as node bin/backup.js list shows it')
  }
  await stoppable(null, async (signal) => {
    const reader = createReader(withLocalhost(env))
    const database = readDatabase(reader, 'user_service_admin')!
    const bucket = readBucket(reader, env, signal)
    reader.finish()

    const surroundings = { env, signal, writes: true }
    if (flags['check'] !== true && flags['yes'] !== true) {
      await withConnection(database, surroundings, refuseUnlessUnused)
    }
    await withDirectory(async (directory) => {
      const { manifest, file } = await download(bucket, word, database.name, directory)
      if (flags['check'] === true) {
        await withScratch(database.name, (config) => withConnection(config, surroundings,
          (connection) => restore(connection, manifest, file, signal)))
        return console.log(`${manifest.name} can be restored: ${describeRows(manifest)}`)
      }
      await withConnection(database, surroundings, (connection) => restore(connection, manifest, file, signal))
      console.log(`Restored ${manifest.name} into ${database.name}: ${describeRows(manifest)}
What was changed after ${manifest.at} is gone; keys and passwords revoked since are valid again.
Next: node bin/migrate.js up (the dump is at ${manifest.schema}), then restart the service.`)
    })
  })
})

function describeRows({ rows }: Manifest): string {
  return Object.entries(rows).map(([table, count]) => `${table} ${count}`).join(', ')
}

async function refuseUnlessUnused({ query }: Connection) {
  const tables = await query<{ name: string }>(`select tablename as name from pg_tables
    where schemaname = 'user_service_schema' and tablename <> 'schema_migrations'`)
  for (const { name } of tables) {
    const found = await query(`select from user_service_schema."${name}" limit 1`)
    if (found.length > 0) {
      throw new ExitError(`the database holds data (in ${name}), which a restore replaces: say --yes if that is meant`)
    }
  }
  const sessions = await query(`select from pg_stat_activity
    where datname = current_database() and usename = 'user_service_manager'`)
  if (sessions.length > 0) {
    throw new ExitError('the service is connected to the database: stop it first, or say --yes')
  }
}

/** Fetches a dump with its manifest; throws unless it is, byte for byte, the one that was taken. */
async function download(bucket: Bucket, word: string, database: string, directory: string) {
  const name = word === 'latest' ? (await bucket.list(database)).find(({ complete }) => complete)?.name : word
  if (name === undefined) throw new ExitError(`there is no complete dump of ${database} in ${bucket.url}`)
  const file = join(directory, 'dump.bck')
  const manifestFile = join(directory, 'manifest.json')
  await bucket.get(`${name}.json`, manifestFile)
  const manifest = parseManifest(readFileSync(manifestFile, 'utf8'), name)
  await bucket.get(name, file)
  const { size } = statSync(file)
  if (size !== manifest.size) {
    throw new ExitError(`${name} has ${size} bytes instead of ${manifest.size}: it was cut short; nothing was touched`)
  }
  if (await hashFile(file) !== manifest.sha256) {
    throw new ExitError(`${name} is not what was uploaded (its SHA-256 differs); nothing was touched`)
  }
  return { manifest, file }
}

async function restore(connection: Connection, manifest: Manifest, file: string, signal: AbortSignal) {
  const surroundings = { env: connection.env, signal }
  const pgRestore = findProgram('pg_restore', Number.parseInt(manifest.pgDump, 10))
  const script = restoreScript(manifest, outputOf(pgRestore, [
    '--file=-', '--no-owner', `--restrict-key=${randomBytes(16).toString('hex')}`, file,
  ], surroundings), connection.major)
  const psql = pgRestore.replace(/pg_restore$/, 'psql')
  const args = ['--no-psqlrc', '--no-password', '--quiet', '--output=/dev/null', '--set=ON_ERROR_STOP=1']
  check(await run(psql, args, { ...surroundings, input: script }), 'nothing was changed, the restore failed')
}

/**
 * With a restrict key psql takes no commands of its own from the dump, which could name programs to
 * run (CVE-2025-8714); a pg_restore that does not know the option is refused by its own complaint.
 */
async function* restoreScript(manifest: Manifest, dump: AsyncIterable<Buffer>, major: number) {
  yield `begin; set local lock_timeout = '30s'; set role user_service_admin;
    drop schema if exists user_service_schema cascade;\n`
  let head = true
  for await (const chunk of dump) {
    // pg_restore 17 writes a setting that older servers do not know.
    yield head && major < 17 ? Buffer.from(chunk.toString('latin1').replace('SET transaction_timeout = 0;', ''), 'latin1') : chunk
    head = false
  }
  yield `do $check$
    declare expected record; found bigint;
    begin
      for expected in select * from json_each_text('${JSON.stringify(manifest.rows)}') loop
        execute format('select count(*) from user_service_schema.%I', expected.key) into found;
        if found <> expected.value::bigint then
          raise exception '% has % rows, its manifest says %', expected.key, found, expected.value;
        end if;
      end loop;
    end $check$;
    commit;\n`
}

/** A PostgreSQL for the time of `work`, as empty as a new instance where database.js create has run. */
async function withScratch(name: string, work: (config: DatabaseConfig) => Promise<void>) {
  await withDirectory(async (directory) => {
    // PostgreSQL, which does not run as root, must get through to its own directory.
    chmodSync(directory, 0o711)
    const settings = { fsync: 'off' }
    const server = await startPrivatePostgres({ directory: join(directory, 'scratch'), say: () => {}, settings })
    try {
      const config: DatabaseConfig = {
        hosts: [server.socketDirectory], port: server.port, name: 'postgres', user: 'postgres',
        password: undefined, ssl: false, poolSize: 1,
      }
      await withDatabase(config, (db) => createDatabase(db, name, {}))
      await withDatabase({ ...config, name }, createSchema)
      await work({ ...config, name, user: 'user_service_admin' })
    } finally {
      await server.stop()
    }
  })
}
