import { parseArgs, type ParseArgsConfig } from 'node:util'

import { createReader, localDirectory, privateDatabase, readDatabase, type Env } from '../config.ts'
import { findPrivatePostgres } from '../database/embedded.ts'
import { ExitError, exitWith } from '../errors.ts'

type Options = NonNullable<ParseArgsConfig['options']>
type Call<T extends Options> = {
  flags: ReturnType<typeof parseArgs<{ options: T }>>['values']
  words: string[]
  env: Env
  /** The signal that aborts at SIGTERM, SIGINT, SIGHUP and after that time: the command fails with that status. */
  stopAfter(limitMs: number, status?: number): AbortSignal
}

/** The failure of a command that was called with the wrong words. */
export const misuse = (message: string) => new ExitError(`${message}\nSee --help.`, 2)

/**
 * Runs a command. When it fails, the sentence goes to stderr, and the exit status is 2 for misuse, else 1
 * or what an ExitError says. `--help` prints `usage`. What still waits for a server that hangs when the
 * command is stopped is left alone: the process ends all the same.
 */
export async function command<T extends Options>(usage: string, options: T, run: (call: Call<T>) => Promise<void>) {
  const controller = new AbortController()
  const { signal } = controller
  const hangs = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => void setTimeout(reject, 4000, signal.reason).unref())
  })
  const stopAfter = (limitMs: number, status = 1) => {
    const stop = (why: string) => controller.abort(new ExitError(why, status))
    for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(name, () => stop(`got ${name}`))
    setTimeout(stop, limitMs, `given up after ${limitMs / 1000} s`).unref()
    return signal
  }
  try {
    const help = { help: { type: 'boolean', short: 'h' } } as const
    const { values, positionals: words } = parseArgs({ options: { ...options, ...help }, allowPositionals: true })
    if ('help' in values) return void process.stdout.write(usage)
    await Promise.race([run({ flags: values as Call<T>['flags'], words, env: process.env, stopAfter }), hangs])
  } catch (error) {
    const { code, message } = error as Error & { code?: string }
    const failure = signal.aborted ? signal.reason
      : code?.startsWith('ERR_PARSE_ARGS') ? misuse(message)
      // The driver's way of saying that it has none.
      : /password must be a string/.test(message) ? new ExitError('there is no DATABASE_PASSWORD, nor one in ~/.pgpass')
      : error
    exitWith(/bin\/(\w+)/.exec(usage)![1]!, failure)
  }
  setTimeout(() => process.exit(), 1000).unref()
}

/** How a command reaches the database: as configured, else the private one of `npm start` while that runs. */
export function readCommandDatabase(env: Env, user: string) {
  const reader = createReader(env)
  const configured = readDatabase(reader, user)
  reader.finish()
  if (configured !== null) return configured
  const found = findPrivatePostgres(localDirectory)
  if (found !== null) return privateDatabase(found, user)
  throw new ExitError('No database: set DATABASE_URL or DATABASE_HOST, or run npm start meanwhile')
}
