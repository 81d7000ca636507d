import { createHash } from 'node:crypto'
import { createReadStream, statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

import { createReader, readDatabase, type Env } from '../config.ts'
import { one, type Db } from '../database/pool.ts'
import { ExitError } from '../errors.ts'
import { programEnv, run, signal } from './command.ts'

/** Lies beside a dump once all of it is in the bucket. `at`: of the snapshot; `schema`: the last migration in it. */
type Manifest = Record<'name' | 'sha256' | 'at' | 'schema' | 'pgDump', string> & {
  rows: Record<string, number>
}
export type Bucket = ReturnType<typeof readPlaces>['bucket']

/** The rows of each table of the schema. */
export async function countRows(db: Db): Promise<Record<string, number>> {
  const tables = await db.query<{ name: string }>(
    `select tablename as name from pg_tables where schemaname = 'user_service_schema' order by 1`,
  )
  const counts = tables.map(
    ({ name }) => `(select count(*) from user_service_schema."${name}")::float8 as "${name}"`,
  )
  return one(db, `select ${counts.join(', ')}`)
}

/** Reads the database, on localhost unless another is named, and the bucket. */
export function readPlaces(env: Env, user: string) {
  const reader = createReader({
    ...env,
    ENV_DATABASE_HOST: env['ENV_DATABASE_HOST'] || 'localhost',
  })
  const database = readDatabase(reader, user)!
  const url = (reader.text('S3_BUCKET') ?? 's3://user-service-database-dumps').replace(/\/+$/, '')
  const [, name = '', folder = ''] =
    /^s3:\/\/([a-z0-9][a-z0-9.-]+)((?:\/[\w.=+-]+)*)$/.exec(url) ?? []
  if (!name) reader.wrong('S3_BUCKET', 'must be s3://bucket or s3://bucket/prefix')
  reader.finish()
  const prefix = `${folder}/`.slice(1)
  // As an option too: the CLI of Debian 12 (2.9.19) ignores the variables.
  const endpoint = env['AWS_ENDPOINT_URL_S3'] || env['AWS_ENDPOINT_URL']
  const options = Object.entries({
    '--profile': reader.text('IAM_ROLE'),
    '--endpoint-url': endpoint,
  }).flatMap(([option, value]) => (value ? [`${option}=${value}`] : []))
  const aws = async (what: string, ...args: string[]) =>
    (await run(what, 'aws', [...args, ...options], programEnv(env))).stdout
  const copy = (what: string, from: string, to: string) =>
    aws(what, 's3', 'cp', '--only-show-errors', from, to)

  return {
    database,
    bucket: {
      url,
      /** Uploads a file, trying three times; throws unless the bucket then holds all of it. */
      async put(file: string, as: string) {
        const target = `${url}/${as}`
        const upload = () => copy(`cannot upload to ${target}`, file, target)
        const again = () => sleep(3000, undefined, { signal }).then(upload)
        await upload().catch(again).catch(again)
        const stored = await aws(
          `cannot look at ${target}`,
          's3api',
          'head-object',
          `--bucket=${name}`,
          `--key=${prefix}${as}`,
          '--query=ContentLength',
          '--output=text',
        )
        const { size } = statSync(file)
        if (Number(stored) !== size)
          throw new ExitError(`${target} does not have the ${size} bytes that were sent`)
      },
      get: (dump: string, file: string) =>
        copy(`cannot download ${url}/${dump}`, `${url}/${dump}`, file),
      /** The dumps of a database, newest first. */
      async list(database: string) {
        const text = await aws(
          `cannot list ${url}`,
          's3api',
          'list-objects-v2',
          `--bucket=${name}`,
          `--prefix=${prefix}${dumpPrefix(database)}`,
          '--query=Contents[].[Key,Size]',
          '--output=json',
        )
        const found = (JSON.parse(text || 'null') ?? []) as [string, number][]
        const sizes = new Map(found.map(([key, size]) => [key.slice(prefix.length), size]))
        return [...sizes]
          .flatMap(([name, size]) => {
            const at = parseDumpName(name)
            return at === null ? [] : [{ name, at, size, complete: sizes.has(`${name}.json`) }]
          })
          .sort((a, b) => Number(b.at) - Number(a.at))
      },
    },
  }
}

const dumpPrefix = (database: string) => `${database.replace(/[^\w-]/g, '_')}_dump_`

/** The name of a database's dump of that instant, in UTC. */
export const dumpName = (database: string, at: Date) =>
  `${dumpPrefix(database)}${at.toISOString().slice(0, 19).replace('T', '-').replaceAll(':', '_')}.bck`

/** The instant in a dump's name, or null when it is no such name. */
export function parseDumpName(name: string): Date | null {
  const [, day, time = ''] =
    /^\w[\w-]*_dump_(\d{4}-\d\d-\d\d)-(\d\d_\d\d_\d\d)\.bck$/.exec(name) ?? []
  const at = new Date(`${day}T${time.replaceAll('_', ':')}Z`)
  return Number.isNaN(at.getTime()) ? null : at
}

/** Reads a manifest; throws when it is damaged or not the one of `name`. */
export function parseManifest(text: string, name: string): Manifest {
  try {
    const manifest = JSON.parse(text) as Manifest
    const tables = Object.entries(manifest.rows)
    if (
      manifest.name === name &&
      /^[0-9a-f]{64}$/.test(manifest.sha256) &&
      tables.length > 0 &&
      /^\d+/.test(manifest.pgDump) &&
      /^\w+$/.test(manifest.schema) &&
      !Number.isNaN(Date.parse(manifest.at)) &&
      tables.every(([table, count]) => /^[a-z_]\w*$/.test(table) && Number.isSafeInteger(count))
    )
      return manifest
  } catch {
    /* said below */
  }
  throw new ExitError(`the manifest ${name}.json is damaged: choose another dump`)
}

/** The SHA-256 of a file of any size. */
export async function hashFile(file: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer)
  return hash.digest('hex')
}
