import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

import type { createReader, Env } from '../config.ts'
import { ExitError } from '../errors.ts'
import { check, run, searchPath } from './process.ts'

/** What lies beside a dump once it is whole and in the bucket. */
export interface Manifest {
  name: string
  /** When the dump's snapshot was taken. */
  at: string
  database: string
  sha256: string
  size: number
  server: string
  pgDump: string
  /** The last migration that is in the dump. */
  schema: string
  rows: Record<string, number>
}

/** A dump in the bucket; one without a manifest is not complete, and does not count. */
export interface Dump {
  name: string
  at: Date
  size: number
  complete: boolean
}

export interface Bucket {
  url: string
  /** Uploads a file, three times if need be; throws unless the bucket then holds all of it. */
  put(file: string, name: string, size: number): Promise<void>
  get(name: string, file: string): Promise<void>
  /** The dumps of a database, newest first. */
  list(database: string): Promise<Dump[]>
}

/** Names what no second try changes. */
const final = /NoSuchBucket|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|credentials|config profile|not installed/
const passed = /^(AWS_|HOME$|LANG$|LC_|TMPDIR$|SSL_CERT_|REQUESTS_CA_BUNDLE$|(https?|no)_proxy$)/i

/** Reads S3_BUCKET and IAM_ROLE; the AWS CLI's own variables pass through. */
export function readBucket(reader: ReturnType<typeof createReader>, env: Env, signal: AbortSignal): Bucket {
  const url = (reader.text('S3_BUCKET') ?? 's3://user-service-database-dumps').replace(/\/+$/, '')
  const [, bucket = '', folder = ''] = /^s3:\/\/([a-z0-9][a-z0-9.-]+)((?:\/[\w.=+-]+)*)$/.exec(url) ?? []
  if (bucket === '') reader.wrong('S3_BUCKET', 'must be s3://bucket or s3://bucket/prefix')
  const profile = reader.text('IAM_ROLE')
  // The variables are given as options too: the CLI of Debian 12 (2.9.19) ignores them.
  const endpoint = env['AWS_ENDPOINT_URL_S3'] || env['AWS_ENDPOINT_URL']
  const options = [...(profile ? [`--profile=${profile}`] : []), ...(endpoint ? [`--endpoint-url=${endpoint}`] : [])]
  const childEnv = { ...Object.fromEntries(Object.entries(env).filter(([name]) => passed.test(name))), PATH: searchPath(env) }
  const prefix = folder === '' ? '' : `${folder.slice(1)}/`

  async function aws(what: string, ...args: string[]): Promise<string> {
    const finished = await run('aws', [...args, ...options], { env: childEnv, signal })
    check(finished, what)
    return finished.stdout
  }

  async function putOnce(file: string, name: string, size: number) {
    await aws(`cannot upload ${name} to ${url}`, 's3', 'cp', '--only-show-errors', file, `${url}/${name}`)
    const stored = await aws(`cannot see ${name} in ${url}`, 's3api', 'head-object', `--bucket=${bucket}`,
      `--key=${prefix}${name}`, '--query=ContentLength', '--output=text')
    if (Number(stored) !== size) throw new ExitError(`${url}/${name} has not the ${size} bytes that were uploaded`)
  }

  return {
    url,
    async put(file, name, size) {
      for (let attempt = 1; ; attempt++) {
        try {
          return await putOnce(file, name, size)
        } catch (error) {
          if (attempt === 3 || final.test((error as Error).message)) throw error
          await sleep(attempt * 2000, undefined, { signal })
        }
      }
    },
    async get(name, file) {
      await aws(`cannot download ${url}/${name}`, 's3', 'cp', '--only-show-errors', `${url}/${name}`, file)
    },
    async list(database) {
      const found = await aws(`cannot list ${url}`, 's3api', 'list-objects-v2', `--bucket=${bucket}`,
        `--prefix=${prefix}${dumpPrefix(database)}`, '--query=Contents[].[Key,Size]', '--output=json')
      const sizes = new Map((JSON.parse(found || 'null') as [string, number][] | null ?? [])
        .map(([key, size]) => [key.slice(prefix.length), size]))
      return [...sizes].flatMap(([name, size]) => {
        const at = parseDumpName(name)
        return at === null ? [] : [{ name, at, size, complete: sizes.has(`${name}.json`) }]
      }).sort((a, b) => b.at.getTime() - a.at.getTime())
    },
  }
}

const dumpPrefix = (database: string) => `${database.replace(/[^\w-]/g, '_')}_dump_`

/** The name of a database's dump of that instant. */
export function dumpName(database: string, at: Date): string {
  const [date, time] = at.toISOString().slice(0, 19).split('T')
  return `${dumpPrefix(database)}${date}-${time!.replaceAll(':', '_')}.bck`
}

/** The instant in a dump's name, or null when it is no such name. */
export function parseDumpName(name: string): Date | null {
  const [, date, hour, minute, second] =
    /^\w[\w-]*_dump_(\d{4}-\d\d-\d\d)-(\d\d)_(\d\d)_(\d\d)\.bck$/.exec(name) ?? []
  const at = new Date(`${date}T${hour}:${minute}:${second}Z`)
  return Number.isNaN(at.getTime()) ? null : at
}

/** Reads a manifest; throws when it is not the one of `name`. */
export function parseManifest(text: string, name: string): Manifest {
  try {
    const manifest = JSON.parse(text) as Manifest
    const { sha256, size, rows, pgDump, schema, at } = manifest
    const counts = Object.entries(rows)
    const valid = manifest.name === name && /^[0-9a-f]{64}$/.test(sha256) && Number.isSafeInteger(size) &&
      [pgDump, schema, at].every((text) => typeof text === 'string') && /^\d+/.test(pgDump) && counts.length > 0 &&
      counts.every(([table, count]) => /^[a-z_]\w*$/.test(table) && Number.isSafeInteger(count))
    if (valid) return manifest
  } catch { /* said below */ }
  throw new ExitError(`the manifest ${name}.json is damaged: take another dump, see node bin/backup.js list`)
}

/** The SHA-256 of a file of any size. */
export async function hashFile(file: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

/** A number of bytes for people. */
export function formatSize(bytes: number): string {
  const power = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), 3)
  return `${(bytes / 1000 ** power).toFixed(power === 0 ? 0 : 1)} ${['B', 'kB', 'MB', 'GB'][power]}`
}
