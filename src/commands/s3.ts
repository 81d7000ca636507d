// The bucket that holds the dumps, reached with the AWS CLI.
import { statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

import { createReader, readDatabase, type DatabaseConfig, type Env } from '../config.ts'
import { ExitError } from '../errors.ts'
import { signal } from './command.ts'
import { dumpName, dumpPrefix, parseDumpName, type StoredDump } from './dumps.ts'
import { programEnv, runProgram } from './programs.ts'

/** Each of its functions throws when the AWS CLI fails, with its reason. */
export interface Bucket {
  url: string
  /**
   * Uploads a file, three times where it may help; throws unless the bucket then holds all of it.
   */
  put(file: string, name: string): Promise<void>
  /** Downloads into a file. */
  get(name: string, file: string): Promise<void>
  /** The dumps of a database, those that were stored last first. */
  list(database: string): Promise<StoredDump[]>
}

/** Reads the database, on localhost unless another is named, and the bucket. */
export function readPlaces(env: Env, user: string): { database: DatabaseConfig; bucket: Bucket } {
  const host = env['ENV_DATABASE_HOST'] || 'localhost'
  const reader = createReader({ ...env, ENV_DATABASE_HOST: host })
  const database = readDatabase(reader, user)!
  const url = (reader.text('S3_BUCKET') ?? 's3://user-service-database-dumps').replace(/\/+$/, '')
  const [, name = '', folder = ''] =
    /^s3:\/\/([a-z0-9][a-z0-9.-]+)((?:\/[\w.=+-]+)*)$/.exec(url) ?? []
  if (!name) reader.wrong('S3_BUCKET', 'must be s3://bucket or s3://bucket/prefix')
  reader.finish()
  // The endpoint as an option, too: the CLI of Debian 12 (2.9.19) ignores the variables.
  const options = Object.entries({
    '--profile': reader.text('IAM_ROLE'),
    '--endpoint-url': env['AWS_ENDPOINT_URL_S3'] || env['AWS_ENDPOINT_URL'],
  })
  const given = options.filter(([, value]) => value)
  const aws = async (what: string, args: string[]) => {
    const all = [...args, ...given.map(([option, value]) => `${option}=${value}`)]
    const { stdout } = await runProgram({ what, program: 'aws', args: all, env: programEnv(env) })
    return stdout
  }
  return { database, bucket: openBucket({ url, name, prefix: `${folder}/`.slice(1), aws }) }
}

/** An object as the AWS CLI lists it. */
interface StoredObject {
  key: string
  size: number
  storedAt: string
}

/** Answers that may be others a little later. */
const passing = /\((5\d\d|InternalError|SlowDown|ServiceUnavailable|RequestTimeout\w*)\)/

/** Whether S3 or the CLI refused: neither the rights nor the names change while we wait. */
function isRefusal(error: unknown): boolean {
  const { message } = error as Error
  if (/credentials|config profile|is not installed/.test(message)) return true
  return /An error occurred \(/.test(message) && !passing.test(message)
}

interface Place {
  url: string
  name: string
  /** Of the keys: empty, or ends with a slash. */
  prefix: string
  aws(what: string, args: string[]): Promise<string>
}

function openBucket({ url, name: bucket, prefix, aws }: Place): Bucket {
  const copy = (what: string, from: string, to: string) =>
    aws(what, ['s3', 'cp', '--only-show-errors', from, to])

  async function put(file: string, name: string): Promise<void> {
    const target = `${url}/${name}`
    for (let triesLeft = 2; ; triesLeft--) {
      try {
        await copy(`cannot upload to ${target}`, file, target)
        break
      } catch (error) {
        if (triesLeft === 0 || isRefusal(error)) throw error
        await sleep(3000, undefined, { signal })
      }
    }
    const stored = await aws(`cannot look at ${target}`, [
      's3api',
      'head-object',
      `--bucket=${bucket}`,
      `--key=${prefix}${name}`,
      '--query=ContentLength',
      '--output=text',
    ])
    const { size } = statSync(file)
    if (Number(stored) === size) return
    throw new ExitError(`${target} does not have the ${size} bytes that were sent`)
  }

  async function get(name: string, file: string): Promise<void> {
    await copy(`cannot download ${url}/${name}`, `${url}/${name}`, file)
  }

  async function list(database: string): Promise<StoredDump[]> {
    const text = await aws(`cannot list ${url}`, [
      's3api',
      'list-objects-v2',
      `--bucket=${bucket}`,
      `--prefix=${prefix}${dumpPrefix(database)}`,
      '--query=Contents[].{key:Key,size:Size,storedAt:LastModified}',
      '--output=json',
    ])
    const objects = (JSON.parse(text || 'null') ?? []) as StoredObject[]
    const keys = new Set(objects.map(({ key }) => key))
    const dumps: StoredDump[] = []
    for (const { key, size, storedAt } of objects) {
      const name = key.slice(prefix.length)
      const at = parseDumpName(name)
      // The dumps of `app` are listed with those of `app_dump_old`.
      if (at === null || name !== dumpName(database, at)) continue
      const complete = keys.has(`${key}.json`)
      dumps.push({ name, at, storedAt: new Date(storedAt), size, complete })
    }
    return dumps.sort(
      (a, b) => Number(b.storedAt) - Number(a.storedAt) || Number(b.at) - Number(a.at),
    )
  }

  return { url, put, get, list }
}
