import { parseArgs } from 'node:util'

import { createReader, localDirectory, privateDatabase, readDatabase, type Env } from '../config.ts'
import { findPrivatePostgres } from '../database/embedded.ts'
import { ExitError, exitWith } from '../errors.ts'
import { signal } from './process.ts'

const [flag, text] = [{ type: 'boolean' }, { type: 'string' }] as const
/** The options of all commands: the pattern of each says which it takes. */
const options = { help: flag, check: flag, 'max-age': text, quiet: flag, timeout: text, yes: flag } as const
const readCall = () => ({ env: process.env as Env, ...parseArgs({ options, allowPositionals: true }) })

/** The failure of a command that was called with the wrong words. */
export const misuse = (message: string) => new ExitError(`${message}\nSee --help.`, 2)

/**
 * Runs a command when its words and then the names of its options, sorted, match `pattern`, as in ` down 2 --yes`.
 * When it fails, the sentence goes to stderr, and the exit status is 2 for misuse, else 1 or what an ExitError
 * says. `--help` prints `usage`. What still waits for a server that hangs when the command is stopped is left
 * alone: the process ends all the same.
 */
export async function command(
  usage: string, pattern: RegExp, run: (call: ReturnType<typeof readCall>) => Promise<void>,
) {
  const hangs = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => void setTimeout(reject, 4000, signal.reason).unref())
  })
  try {
    const call = readCall()
    if (call.values.help) return console.log(usage)
    const names = Object.keys(call.values).sort().map((name) => `--${name}`)
    if (!pattern.test(['', ...call.positionals, ...names].join(' '))) throw misuse(`Say ${/: (.*)/.exec(usage)![1]}`)
    await Promise.race([run(call), hangs])
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
