// The bucket that holds the dumps, reached with the AWS CLI.
import { statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

import { createReader, readDatabase, type DatabaseConfig, type Env } from '../config.ts'
import { ExitError } from '../errors.ts'
import { signal } from './command.ts'
import { dumpPrefix, parseDumpName } from './dumps.ts'
import { programEnv, runProgram } from './programs.ts'

/** A dump in the bucket; `complete`: its manifest is there, too. */
export interface StoredDump {
  name: string
  at: Date
  size: number
  complete: boolean
}

/** Each of its functions throws when the AWS CLI fails, with its reason. */
export interface Bucket {
  url: string
  /** Uploads a file, trying three times; throws unless the bucket then holds all of it. */
  put(file: string, name: string): Promise<void>
  /** Downloads into a file. */
  get(name: string, file: string): Promise<void>
  /** The dumps of a database, newest first. */
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
        if (triesLeft === 0) throw error
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
      '--query=Contents[].[Key,Size]',
      '--output=json',
    ])
    const found = (JSON.parse(text || 'null') ?? []) as [string, number][]
    const sizes = new Map(found.map(([key, size]) => [key.slice(prefix.length), size]))
    const dumps: StoredDump[] = []
    for (const [name, size] of sizes) {
      const at = parseDumpName(name)
      if (at !== null) dumps.push({ name, at, size, complete: sizes.has(`${name}.json`) })
    }
    return dumps.sort((a, b) => Number(b.at) - Number(a.at))
  }

  return { url, put, get, list }
}
