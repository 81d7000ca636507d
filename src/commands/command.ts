// What operators run: how a command is called, stopped and ended, and how it finds its database.
// Each command is one file here, which a launcher in bin/ starts; programs.ts runs other programs.
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'

import { localDirectory, privateDatabase, readConfig, readDatabase } from '../config.ts'
import { exitWith } from '../database/explain.ts'
import { findPrivatePostgres } from '../database/private.ts'
import { createReader, findMistyped } from '../environment.ts'
import { ExitError } from '../errors.ts'

const controller = new AbortController()
/** Aborts when the command is stopped; its reason is the failure that ends the command. */
export const { signal } = controller

/** Stops the command: its programs are ended, and it fails. */
export const stop = (why: string, status = 1) => controller.abort(new ExitError(why, status))

/** Stops the command at a signal that would end it, and after that time. */
export function stopAfter(limitMs: number, status = 1) {
  for (const name of ['SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGHUP'])
    process.on(name, () => stop(`got ${name}`, status))
  setTimeout(stop, limitMs, `given up after ${limitMs / 1000} s`, status).unref()
}

/** The options of all commands; each command's pattern tells which it takes. */
const options = {
  admin: { type: 'string', multiple: true },
  from: { type: 'string' },
  'dry-run': { type: 'boolean' },
  help: { type: 'boolean', short: 'h' },
  'max-age': { type: 'string' },
  quiet: { type: 'boolean' },
  timeout: { type: 'string' },
  yes: { type: 'boolean' },
} as const

/** What commands read beside the server's settings. */
const ownSettings =
  'ADMIN_PASSWORD MANAGER_PASSWORD USER_PASSWORD S3_BUCKET IAM_ROLE SERVICE_URL SERVICE_NAME ' +
  'SERVICE_PORT SERVICE_ENDPOINT MONITOR_COOLDOWN'

const readCall = (checkType: 'boolean' | 'string') =>
  parseArgs({ options: { ...options, check: { type: checkType } }, allowPositionals: true })

/** The arguments and options of a command. */
type Call = ReturnType<typeof readCall>

interface Command {
  name: string
  /** The arguments, as they are shown: `create EMAIL | generate`. */
  synopsis: string
  /** What `--help` prints below the synopsis, before the exit statuses. */
  usage: string
  statuses?: string
  /**
   * Matches the call, with a space before each word: the arguments, then the names of the
   * options, sorted and without their values, as in ` down 2 --yes`.
   */
  pattern: RegExp
  /** What follows `--check`, by default nothing. */
  checkType?: 'string'
  run(call: Call): Promise<void>
}

/** The failure of a command that was called with wrong arguments. */
export const misuse = (message: string) => new ExitError(`${message}\nSee --help.`, 2)

/**
 * Runs a command whose arguments match its pattern. A failure is one sentence on stderr; the exit
 * status is 2 for misuse, else 1 or that of an ExitError.
 */
export async function command({
  name,
  synopsis,
  usage,
  statuses = '0 done, 1 failed, 2 misuse',
  pattern,
  checkType,
  run,
}: Command) {
  // `pg` warns of a deprecation where ~/.pgpass is read, which cron would mail each time.
  process.noDeprecation = true
  // A reader that goes away, as head does, is no failure to speak of; a full disk is one.
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') exitWith(name, error)
      process.exit(1)
    })
  }
  const header = `Usage: node bin/${name}.js ${synopsis}`.trimEnd()
  try {
    const call = readCall(checkType ?? 'boolean')
    if (call.values.help) {
      console.log(`${header}\n\n${usage}\nExit status: ${statuses}.`)
      return
    }
    if (!pattern.test(spell(call))) throw misuse(header)
    const settings = new Set([...readConfig({}).names, ...ownSettings.split(' ')])
    for (const warning of findMistyped(process.env, settings)) console.error(`${name}: ${warning}`)
    await Promise.race([run(call), failWhenStuck()])
  } catch (error) {
    exitWith(name, findFailure(error))
  }
  // Work that still hangs on a server keeps the process alive no longer than this.
  setTimeout(() => process.exit(), 1000).unref()
}

function spell({ positionals, values }: Call) {
  const names = Object.keys(values).sort()
  // An argument is one word, whatever is in it.
  const words = positionals.map((each) => each.replace(/\s/g, '_'))
  return ['', ...words, ...names.map((name) => `--${name}`)].join(' ')
}

/** Fails four seconds after the command was stopped. */
async function failWhenStuck() {
  await once(signal, 'abort')
  await sleep(4000, undefined, { ref: false })
  signal.throwIfAborted()
}

function findFailure(error: unknown) {
  if (signal.aborted) return signal.reason
  const { code, message } = error as Error & { code?: string }
  return code?.startsWith('ERR_PARSE_ARGS') ? misuse(message) : error
}

/** How to reach the database: as configured, else the private one of a running `npm start`. */
export function readCommandDatabase(user: string) {
  const reader = createReader(process.env)
  const configured = readDatabase(reader, user)
  reader.finish()
  if (configured !== null) return configured
  const found = findPrivatePostgres(localDirectory)
  if (found !== null) return privateDatabase(found, user)
  throw new ExitError('no database: set DATABASE_URL or DATABASE_HOST, or keep npm start running')
}

/** Reads the settings; the database is on localhost unless they name another host. */
export function createLocalReader() {
  const reader = createReader(process.env)
  reader.set('DATABASE_HOST', reader.text('DATABASE_HOST') ?? 'localhost')
  return reader
}

const unitsMs: Record<string, number> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }

/** Milliseconds of a duration from 1s to 20d such as 90s, 15m, 1h; undefined when it is none. */
export function parseDuration(text: string) {
  const match = /^(\d{1,5})([smhd])$/.exec(text)
  if (match === null) return undefined
  const ms = Number(match[1]) * unitsMs[match[2]!]!
  return ms >= 1000 && ms <= 20 * 86_400_000 ? ms : undefined
}

/** Reads the duration of an option, where it is given; throws misuse when it is none. */
export function readDuration(given: string | undefined) {
  if (given === undefined) return undefined
  const ms = parseDuration(given)
  if (ms === undefined) throw misuse('A duration is a number and a unit: 90s, 15m, 1h, 2d')
  return ms
}
