import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

import { privateDatabase, type DatabaseConfig } from '../config.ts'
import { startPrivatePostgres } from '../database/private.ts'
import { withDatabase, type Db } from '../database/pool.ts'
import { createDatabase } from '../database/setup.ts'
import { ExitError } from '../errors.ts'
import { command, misuse, makeDirectory, postgresEnv, run, stopAfter } from './command.ts'
import { countRows, hashFile, parseDumpName, parseManifest, readPlaces, type Bucket } from './s3.ts'

const usage = `Usage: node bin/restore.js NAME|latest [--yes | --check]

Downloads a dump and its manifest, checks the SHA-256, and puts the dump in the place of what the database holds,
in one transaction: a failure leaves the database as it was. latest: the newest complete one of backup.js list.

  --yes    although the database holds data, or the service is connected to it
  --check  a drill: restore into a PostgreSQL of its own, which is removed again

Connects as user_service_admin, else as node bin/backup.js --help says. Exit status: 0 done, 1 failed, 2 misuse.`

// A restore is one transaction of psql: it drops the schema, runs what pg_restore makes of the dump, compares the
// row counts with the manifest, and commits. Whatever fails before, or ends this process ($PPID), leaves the last
// line unsent, and PostgreSQL takes everything back. With the key psql takes no commands of its own from the dump,
// which could run programs (CVE-2025-8714); a pg_restore without the option is too old, and says so by refusing it.
// In its first lines pg_restore 17 sets what servers before do not know.
const script = `set -o pipefail
{ echo "$1" && pg_restore --file=- --no-owner --restrict-key="$2" "$3" | sed '1,30s/^SET transaction_timeout = 0;//' &&
  kill -0 $PPID && echo "$4"; } |
psql --no-psqlrc --no-password --quiet --output=/dev/null --set=ON_ERROR_STOP=1`

await command(
  usage,
  /^ \S+( --check| --yes)?$/,
  async ({ values: { yes, check }, positionals: [word = ''], env }) => {
    if (word !== 'latest' && parseDumpName(word) === null)
      throw misuse('Say latest, or the name of a dump')
    stopAfter(86_400_000)
    const { database, bucket } = readPlaces(env, 'user_service_admin')
    if (!check && !yes) await withDatabase(database, refuseUnlessUnused)
    const file = join(makeDirectory(), 'dump.bck')
    const { name, at, schema, rows } = await download(bucket, word, database.name, file)
    const counts = Object.entries(rows)
      .map(([table, count]) => `${table} ${count}`)
      .join(', ')
    const restoreInto = (place: DatabaseConfig) => restore(file, rows, postgresEnv(place, env))
    await (check ? withScratch(database.name, restoreInto) : restoreInto(database))
    console.log(
      check
        ? `${name} can be restored: ${counts}`
        : `Restored ${name} into ${database.name}: ${counts}
Changes after ${at} are gone; keys and passwords that were revoked since are valid again.
Next: node bin/migrate.js up (the dump is at ${schema}), then restart the service.`,
    )
  },
)

async function refuseUnlessUnused(db: Db) {
  const rows = await countRows(db)
  const held = Object.keys(rows).find((table) => table !== 'schema_migrations' && rows[table]! > 0)
  if (held !== undefined)
    throw new ExitError(`the database holds data (${held}): say --yes to replace it`)
  const sessions = await db.query(`select from pg_stat_activity
    where datname = current_database() and usename = 'user_service_manager'`)
  if (sessions.length > 0)
    throw new ExitError('the service is connected: stop it first, or say --yes')
}

/** Fetches a dump by its manifest; throws unless it is, byte for byte, the one that was uploaded. */
async function download(bucket: Bucket, word: string, database: string, file: string) {
  const latest = word === 'latest' && (await bucket.list(database)).find(({ complete }) => complete)
  const name = latest === false ? word : latest?.name
  if (name === undefined)
    throw new ExitError(`there is no complete dump of ${database} in ${bucket.url}`)
  await bucket.get(`${name}.json`, `${file}.json`)
  const manifest = parseManifest(readFileSync(`${file}.json`, 'utf8'), name)
  await bucket.get(name, file)
  if ((await hashFile(file)) === manifest.sha256) return manifest
  throw new ExitError(
    `${name} is not the dump that was uploaded: another SHA-256; nothing was touched`,
  )
}

async function restore(file: string, rows: Record<string, number>, env: NodeJS.ProcessEnv) {
  const start = `begin; set local lock_timeout = '30s'; set role user_service_admin;
    drop schema if exists user_service_schema cascade;`
  const checks = Object.entries(rows).map(
    ([table, count]) => `
    do $$ declare found bigint := (select count(*) from user_service_schema."${table}"); begin if found <> ${count} then
      raise exception '${table} has % rows, its manifest says ${count}', found; end if; end $$;`,
  )
  const key = randomBytes(16).toString('hex')
  const end = `${checks.join('')}\ncommit;`
  await run(
    'the restore failed and nothing was changed',
    'bash',
    ['-c', script, 'bash', start, key, file, end],
    env,
  )
}

/** A PostgreSQL for the time of `work`, as empty as one where only database.js create has run. */
async function withScratch(name: string, work: (database: DatabaseConfig) => Promise<void>) {
  const server = await startPrivatePostgres({ directory: makeDirectory(), say: () => {} })
  await createDatabase(privateDatabase(server, 'postgres', name))
    .then(() => work(privateDatabase(server, 'user_service_admin', name)))
    .finally(() => server.stop())
}
