// The bucket that holds the dumps, reached with the AWS CLI.
import { statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

import { readDatabase } from '../config.ts'
import { ExitError } from '../errors.ts'
import { createLocalReader, signal } from './command.ts'
import { dumpName, dumpPrefix, parseDumpName } from './dumps.ts'
import { runProgram } from './programs.ts'

/** How far our clock and the database's may differ. */
const skewMs = 5 * 60_000

/** The database that is dumped or restored, and the bucket of its dumps. */
export type Places = ReturnType<typeof readPlaces>

/** Does `upload` up to three times, three seconds apart, unless S3 itself refuses it. */
async function trying(upload: () => Promise<unknown>) {
  for (let tries = 1; ; tries++) {
    try {
      await upload()
      return
    } catch (error) {
      if (tries === 3 || /An error occurred/.test((error as Error).message)) throw error
    }
    await sleep(3000, undefined, { signal })
  }
}

/** Reads the database, on localhost unless another is named, and the bucket. */
export function readPlaces(user: string) {
  const reader = createLocalReader()
  const database = readDatabase(reader, user)!
  const url = (reader.text('S3_BUCKET') ?? 's3://user-service-database-dumps').replace(/\/+$/, '')
  const [, bucketName, folder] = /^s3:\/\/([a-z0-9][a-z0-9.-]+)((?:\/[\w.=+-]+)*)$/.exec(url) ?? []
  if (!bucketName) reader.wrong('S3_BUCKET', 'must be s3://bucket or s3://bucket/prefix')
  reader.finish()
  const options: string[] = []
  const profile = reader.text('IAM_ROLE') // despite its name, a profile of the AWS CLI
  if (profile) options.push(`--profile=${profile}`)
  // Also as an option, since the CLI of Debian 12 (2.9.19) ignores the variables.
  const endpoint = process.env['AWS_ENDPOINT_URL_S3'] || process.env['AWS_ENDPOINT_URL']
  if (endpoint) options.push(`--endpoint-url=${endpoint}`)

  async function aws(what: string, ...args: string[]) {
    const { stdout } = await runProgram({ what, program: 'aws', args: [...args, ...options] })
    return stdout
  }

  const prefix = folder ? `${folder.slice(1)}/` : ''
  /** Each of its functions throws when the AWS CLI fails, with its reason. */
  const bucket = {
    url,
    /** Uploads a file, trying three times; throws unless the bucket then has all of it. */
    async put(file: string, name: string) {
      const target = `${url}/${name}`
      const copy = ['s3', 'cp', '--only-show-errors', file, target]
      await trying(() => aws(`cannot upload to ${target}`, ...copy))
      const stored = await aws(
        `cannot look at ${target}`,
        's3api',
        'head-object',
        `--bucket=${bucketName}`,
        `--key=${prefix}${name}`,
        '--query=ContentLength',
        '--output=text',
      )
      const { size } = statSync(file)
      if (Number(stored) !== size)
        throw new ExitError(`${target} does not have the ${size} bytes that were sent`)
    },

    /** Downloads into a file. */
    async get(name: string, file: string) {
      const source = `${url}/${name}`
      await aws(`cannot download ${source}`, 's3', 'cp', '--only-show-errors', source, file)
    },

    /** The dumps of a database; the one that was stored last comes first. */
    async list(database: string) {
      const text = await aws(
        `cannot list ${url}`,
        's3api',
        'list-objects-v2',
        `--bucket=${bucketName}`,
        `--prefix=${prefix}${dumpPrefix(database)}`,
        '--query=Contents[].{key:Key,size:Size,storedAt:LastModified}',
        '--output=json',
      )
      const objects: { key: string; size: number; storedAt: string }[] =
        JSON.parse(text || 'null') ?? []
      objects.sort((a, b) => Date.parse(b.storedAt) - Date.parse(a.storedAt))
      const keys = new Set(objects.map(({ key }) => key))
      return objects.flatMap(({ key, size, storedAt }) => {
        const name = key.slice(prefix.length)
        const at = parseDumpName(name)
        // The prefix of `app`, `app_dump_`, also begins the dumps of a database `app_dump_old`.
        if (at === null || name !== dumpName(database, at)) return []
        const isAhead = at.getTime() > Date.now() + skewMs
        // Once a date in the future has come, S3 knows how old the dump is.
        const madeAt = isAhead ? at.getTime() : Math.min(at.getTime(), Date.parse(storedAt))
        // In the future if a clock was wrong; incomplete without its manifest.
        const stateIfComplete = isAhead ? 'IN THE FUTURE' : 'complete'
        const state = keys.has(`${key}.json`) ? stateIfComplete : 'INCOMPLETE'
        return [{ name, ageMs: Date.now() - madeAt, size, state }]
      })
    },
  }
  return { database, bucket }
}
