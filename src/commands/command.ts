import { parseArgs, type ParseArgsConfig } from 'node:util'

import { createReader, localDirectory, readDatabase, type DatabaseConfig, type Env } from '../config.ts'
import { findPrivatePostgres } from '../database/embedded.ts'
import { ExitError, exitWith } from '../errors.ts'

export interface Arguments {
  flags: Record<string, string | boolean | undefined>
  words: string[]
  env: Env
}

/**
 * Runs a command and sets the exit status: what `run` resolves with, else 0; 2 for misuse; 1 or
 * what an ExitError says for a failure, whose sentence goes to stderr. `--help` prints `usage`.
 */
export async function command(
  usage: string,
  options: NonNullable<ParseArgsConfig['options']>,
  run: (call: Arguments) => Promise<number | void>,
): Promise<void> {
  const name = /^Usage: (?:node )?(?:bin\/)?(\S+?)(?:\.js)?\s/.exec(usage)?.[1] ?? 'command'
  try {
    const { values, positionals } = parse(options)
    if (values['help'] === true) return void process.stdout.write(usage)
    const flags = values as Arguments['flags']
    process.exitCode = (await run({ flags, words: positionals, env: process.env })) ?? 0
  } catch (error) {
    exitWith(name, error)
  }
}

function parse(options: NonNullable<ParseArgsConfig['options']>) {
  try {
    const help = { help: { type: 'boolean', short: 'h' } } as const
    return parseArgs({ options: { ...options, ...help }, allowPositionals: true })
  } catch (error) {
    throw new ExitError(`${(error as Error).message}\nSee --help.`, 2)
  }
}

/** The failure of a command that was called with the wrong words. */
export const misuse = (message: string) => new ExitError(`${message}\nSee --help.`, 2)

/** How a command reaches the database: as configured, else the private one while it runs. */
export function readCommandDatabase(env: Env, defaultUser: string): DatabaseConfig {
  const reader = createReader(env)
  const configured = readDatabase(reader, defaultUser)
  reader.finish()
  if (configured !== null) return configured
  const found = findPrivatePostgres(localDirectory)
  if (found === null) {
    throw new ExitError('No database: set DATABASE_URL or DATABASE_HOST, or run npm start meanwhile')
  }
  return {
    hosts: [found.socketDirectory], port: found.port, name: 'db_user_service', user: defaultUser,
    password: undefined, ssl: false, poolSize: 1,
  }
}
