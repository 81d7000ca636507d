// Reads the environment, and warns of names that are nearly a setting. Settings are named where
// they are read: see config.ts.
import { readFileSync } from 'node:fs'

import { ExitError } from './errors.ts'

/** The environment. */
export type Env = Record<string, string | undefined>

/** How settings begin. */
const beginnings = [
  'DATABASE_',
  'SERVER_',
  'BOOTSTRAP_',
  'CORS_',
  'TLS_',
  'TRUSTED_',
  'WEBHOOK_',
  'SECRETS_',
  'TOKEN_',
  'REQUIRE_',
  'RATE_LIMIT',
  'SESSION',
]
/** Set by desktops, not by whoever configures a service. */
const foreign = ['SESSION_MANAGER', 'SESSIONNAME']

/** Reads settings one by one and collects what is wrong with them. */
export type Reader = ReturnType<typeof createReader>

/** Returns a reader of `env`. A mistyped DATABASE_URL holds a password, so no value is echoed. */
export function createReader(env: Env) {
  const mistakes: string[] = []
  const names = new Set<string>()
  const replaced: Env = {}

  function text(name: string): string | undefined {
    names.add(name)
    return replaced[name] || env[name] || env[`ENV_${name}`] || undefined
  }

  const wrong = (name: string, rule: string) => void mistakes.push(`${name} ${rule}`)

  function read<T>(
    name: string,
    fallback: T,
    rule: string,
    parse: (given: string) => T | undefined,
  ) {
    const given = text(name)
    if (given === undefined) return fallback
    try {
      const value = parse(given)
      if (value !== undefined) return value
    } catch {
      // It breaks the rule, too.
    }
    wrong(name, rule)
    return fallback
  }

  return {
    /** A setting as it is given, or undefined when it is not or empty. */
    text,
    /** Replaces what is given, unless the value is empty. */
    set(name: string, value: string | undefined) {
      replaced[name] = value
    },
    /** The names that were asked for so far. */
    names,
    /** Adds a mistake: the name of a setting and the rule that it breaks, never the value. */
    wrong,
    /** Parses a setting; `parse` throws or returns undefined if the rule is broken. */
    read,
    integer: (name: string, fallback: number, min: number, max: number) =>
      read(name, fallback, `must be a whole number from ${min} to ${max}`, (given) => {
        const value = /^\d{1,15}$/.test(given) ? Number(given) : NaN
        return value >= min && value <= max ? value : undefined
      }),
    /** The text of the file that a setting names. */
    file: (name: string) =>
      read<string | undefined>(name, undefined, 'names a file that cannot be read', (path) =>
        readFileSync(path, 'utf8'),
      ),
    /** One of `choices`, by default the first. */
    choice: <const T extends string>(name: string, choices: readonly [T, ...T[]]) =>
      read<T>(name, choices[0], `must be one of ${choices.join(', ')}`, (given) =>
        choices.find((each) => each === given),
      ),
    /** What `make` makes of two settings that are given together, else null. */
    pair<T>(one: string, other: string, make: (one: string, other: string) => T) {
      const first = text(one)
      const second = text(other)
      if (first !== undefined && second !== undefined) return make(first, second)
      if (first !== second) wrong(`${one} and ${other}`, 'must be set together')
      return null
    },
    /** Throws all mistakes in one message, exit status 2. */
    finish() {
      if (mistakes.length > 0) throw new ExitError(`Configuration: ${mistakes.join('; ')}`, 2)
    },
  }
}

/**
 * Warns of each name that is not one of `settings` but within two letters of one, or begins like
 * ours: a mistyped security setting would silently be off.
 */
export function findMistyped(env: Env, settings: ReadonlySet<string>) {
  const warnings: string[] = []
  for (const given of Object.keys(env)) {
    const spelt = given.replace(/^ENV_/, '')
    const name = given.toUpperCase().replace(/^ENV_/, '')
    if (settings.has(spelt) || foreign.includes(name) || !env[given]) continue
    const nearest = [...settings].reduce((best, setting) =>
      countEdits(name, setting) < countEdits(name, best) ? setting : best,
    )
    if (beginnings.some((each) => name.startsWith(each)) || countEdits(name, nearest) <= 2)
      warnings.push(`${given} is no setting and has no effect; the nearest one is ${nearest}`)
  }
  return warnings
}

/** Whether the file at `path` sets what `env` does not have: then nobody has read it. */
export function isUnread(path: string, env: Env) {
  try {
    const lines = readFileSync(path, 'utf8').matchAll(/^\s*(?:export\s+)?(\w+)\s*=/gm)
    return [...lines].some(([, name = '']) => env[name] === undefined)
  } catch {
    return false
  }
}

/** How many letters must be inserted, removed or replaced to turn one word into the other. */
function countEdits(one: string, other: string) {
  let row = Array.from({ length: other.length + 1 }, (_, index) => index)
  for (const [i, letter] of [...one].entries()) {
    const next = [i + 1]
    for (const [j, wanted] of [...other].entries()) {
      const replaced = row[j]! + Number(letter !== wanted)
      next.push(Math.min(replaced, row[j + 1]! + 1, next[j]! + 1))
    }
    row = next
  }
  return row.at(-1)!
}
