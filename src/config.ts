import { readFileSync } from 'node:fs'
import { BlockList, isIP } from 'node:net'

import { ExitError } from './errors.ts'
import type { Level } from './log.ts'

/** How to reach PostgreSQL; several hosts: the first that accepts writes. */
export interface DatabaseConfig {
  hosts: string[]
  port: number
  name: string
  user: string
  password: string | undefined
  ssl: false | { rejectUnauthorized: boolean; ca?: string }
  poolSize: number
}

export interface Config {
  /** `null`: a private PostgreSQL. */
  database: DatabaseConfig | null
  host: string | undefined
  port: number
  basePath: string
  tls: { certFile: string; keyFile: string } | null
  rateLimit: number
  rateLimitBurst: number
  trustedProxies: BlockList | null
  signup: 'open' | 'admin'
  corsOrigins: string[]
  sessionSeconds: number
  passwordMinLength: number
  bootstrap: { email: string; keyFile: string } | null
  shutdownSeconds: number
  logLevel: Level
  /** Of the build, as the image has it. */
  commit: string
}

export type Env = Record<string, string | undefined>

const names = [
  'DATABASE_URL', 'DATABASE_HOST', 'DATABASE_PORT', 'DATABASE_NAME', 'DATABASE_USER',
  'DATABASE_PASSWORD', 'DATABASE_SSL', 'DATABASE_CA_FILE', 'DATABASE_POOL', 'SERVER_HOST',
  'SERVER_PORT', 'SERVER_BASE_PATH', 'TLS_CERT_FILE', 'TLS_KEY_FILE', 'RATE_LIMIT',
  'RATE_LIMIT_BURST', 'TRUSTED_PROXIES', 'SIGNUP', 'CORS_ORIGINS', 'SESSION_SECONDS',
  'PASSWORD_MIN_LENGTH', 'BOOTSTRAP_ADMIN_EMAIL', 'BOOTSTRAP_ADMIN_KEY_FILE', 'SHUTDOWN_SECONDS',
  'LOG_LEVEL',
]

/**
 * Reads settings one by one and collects what is wrong with them. A message names the setting and
 * the rule, never the value: a mistyped DATABASE_URL holds a password.
 */
export function createReader(env: Env) {
  const mistakes: string[] = []
  const text = (name: string) => env[name] || env[`ENV_${name}`] || undefined
  const wrong = (name: string, rule: string) => void mistakes.push(`${name} ${rule}`)
  return {
    text,
    wrong,
    integer(name: string, fallback: number, min: number, max: number): number {
      const given = text(name)
      if (given === undefined) return fallback
      const value = /^\d{1,15}$/.test(given) ? Number(given) : NaN
      if (value >= min && value <= max) return value
      wrong(name, `must be a whole number from ${min} to ${max}`)
      return fallback
    },
    choice<const T extends string>(name: string, choices: readonly [T, ...T[]]): T {
      const given = text(name) ?? choices[0]
      const found = choices.find((choice) => choice === given)
      if (found === undefined) wrong(name, `must be one of ${choices.join(', ')}`)
      return found ?? choices[0]
    },
    list: (name: string) => (text(name) ?? '').split(',').map((s) => s.trim()).filter((s) => s !== ''),
    file(name: string): string | undefined {
      const path = text(name)
      try {
        return path === undefined ? undefined : readFileSync(path, 'utf8')
      } catch {
        wrong(name, 'names a file that cannot be read')
        return undefined
      }
    },
    /** Throws all mistakes in one message, exit status 2. */
    finish() {
      if (mistakes.length > 0) throw new ExitError(`Configuration: ${mistakes.join('; ')}`, 2)
    },
  }
}

type Reader = ReturnType<typeof createReader>

/** Reads how to reach the database, or null when neither DATABASE_URL nor DATABASE_HOST is set. */
export function readDatabase(reader: Reader, defaultUser: string): DatabaseConfig | null {
  const url = readUrl(reader)
  const ca = reader.file('DATABASE_CA_FILE')
  const mode = reader.choice('DATABASE_SSL', ['disable', 'require', 'verify-full'])
  const database: DatabaseConfig = {
    hosts: url?.hosts ?? reader.list('DATABASE_HOST'),
    port: url?.port ?? reader.integer('DATABASE_PORT', 5432, 1, 65_535),
    name: url?.name ?? reader.text('DATABASE_NAME') ?? 'db_user_service',
    user: url?.user ?? reader.text('DATABASE_USER') ?? defaultUser,
    password: url?.password ?? reader.text('DATABASE_PASSWORD'),
    ssl: mode === 'disable' ? false : { rejectUnauthorized: mode === 'verify-full', ...(ca && { ca }) },
    poolSize: reader.integer('DATABASE_POOL', 10, 1, 1000),
  }
  return database.hosts.length === 0 ? null : database
}

function readUrl(reader: Reader) {
  const given = reader.text('DATABASE_URL')
  if (given === undefined) return null
  try {
    const url = new URL(given)
    const host = decodeURIComponent(url.hostname) || (url.searchParams.get('host') ?? 'localhost')
    const part = (text: string) => decodeURIComponent(text) || undefined
    if (!/^postgres(ql)?:$/.test(url.protocol)) throw new Error('another protocol')
    if ([...url.searchParams.keys()].some((name) => name !== 'host')) {
      reader.wrong('DATABASE_URL', 'takes no parameter but host: see DATABASE_SSL')
    }
    return {
      hosts: [host.replace(/^\[(.*)\]$/, '$1')],
      port: url.port === '' ? undefined : Number(url.port),
      name: part(url.pathname.slice(1)),
      user: part(url.username),
      password: part(url.password),
    }
  } catch {
    reader.wrong('DATABASE_URL', 'must be postgres://user:password@host:port/name')
    return null
  }
}

/** Turns the environment into the service's settings; throws all mistakes at once, exit status 2. */
export function readConfig(env: Env): Config {
  const reader = createReader(env)
  const database = readDatabase(reader, 'user_service_manager')
  const configured = reader.text('DATABASE_URL') ?? reader.text('DATABASE_HOST')
  if (env['NODE_ENV'] === 'production' && configured === undefined) {
    reader.wrong('DATABASE_URL or DATABASE_HOST', 'must be set when NODE_ENV is production')
  }
  const rateLimit = reader.integer('RATE_LIMIT', 10, 0, 1_000_000)
  const config: Config = {
    database,
    host: reader.text('SERVER_HOST') ?? (database === null ? '127.0.0.1' : undefined),
    port: reader.integer('SERVER_PORT', 60_001, 0, 65_535),
    basePath: readBasePath(reader),
    tls: readPair(reader, 'TLS_CERT_FILE', 'TLS_KEY_FILE', (certFile, keyFile) => ({ certFile, keyFile })),
    rateLimit,
    rateLimitBurst: reader.integer('RATE_LIMIT_BURST', rateLimit, 1, 1_000_000),
    trustedProxies: readProxies(reader),
    signup: reader.choice('SIGNUP', ['open', 'admin']),
    corsOrigins: readOrigins(reader),
    sessionSeconds: reader.integer('SESSION_SECONDS', 10_800, 1, 31_536_000),
    passwordMinLength: reader.integer('PASSWORD_MIN_LENGTH', 8, 8, 64),
    bootstrap: readPair(reader, 'BOOTSTRAP_ADMIN_EMAIL', 'BOOTSTRAP_ADMIN_KEY_FILE',
      (email, keyFile) => ({ email, keyFile })),
    shutdownSeconds: reader.integer('SHUTDOWN_SECONDS', 10, 0, 3600),
    logLevel: reader.choice('LOG_LEVEL', ['info', 'error', 'warn', 'debug']),
    commit: reader.text('GIT_COMMIT_HASH')?.replace(/[^0-9A-Za-z._-]/g, '') ?? 'unknown',
  }
  reader.finish()
  return config
}

function readBasePath(reader: Reader): string {
  const given = reader.text('SERVER_BASE_PATH') ?? '/v1'
  const path = `/${given.replace(/^\/+|\/+$/g, '')}`
  if (!/^(\/[A-Za-z0-9._~-]+)*\/?$/.test(path)) reader.wrong('SERVER_BASE_PATH', 'must be a path such as /v1')
  return path === '/' ? '' : path
}

function readPair<T>(reader: Reader, one: string, other: string, make: (a: string, b: string) => T) {
  const [a, b] = [reader.text(one), reader.text(other)]
  if (a !== undefined && b !== undefined) return make(a, b)
  if (a !== b) reader.wrong(`${one} and ${other}`, 'must be set together')
  return null
}

function readProxies(reader: Reader): BlockList | null {
  const proxies = new BlockList()
  const entries = reader.list('TRUSTED_PROXIES')
  for (const entry of entries) {
    const [address = '', bits, ...rest] = entry.split('/')
    const family = isIP(address)
    const most = family === 4 ? 32 : 128
    const prefix = bits === undefined ? most : /^\d{1,3}$/.test(bits) ? Number(bits) : NaN
    if (family !== 0 && prefix <= most && rest.length === 0) {
      proxies.addSubnet(address, prefix, family === 4 ? 'ipv4' : 'ipv6')
    } else {
      reader.wrong('TRUSTED_PROXIES', 'must be addresses or networks such as 10.0.0.0/8')
      break
    }
  }
  return entries.length === 0 ? null : proxies
}

function readOrigins(reader: Reader): string[] {
  const origins = reader.list('CORS_ORIGINS')
  if (!origins.every((origin) => URL.canParse(origin) && new URL(origin).origin === origin)) {
    reader.wrong('CORS_ORIGINS', 'must be origins such as https://app.example.org')
  }
  return origins
}

/** Settings that are spelled almost right, as pairs of what is set and what may be meant. */
export function findMisspelt(env: Env): { set: string; meant: string }[] {
  const set = Object.keys(env).map((name) => name.replace(/^ENV_/, ''))
  return set.filter((name) => !names.includes(name)).flatMap((name) => {
    const meant = names.find((known) => distance(name, known) <= (known.length > 8 ? 2 : 1))
    return meant === undefined ? [] : [{ set: name, meant }]
  })
}

/** Levenshtein's distance, good enough for names that differ by up to two letters in length. */
function distance(a: string, b: string): number {
  if (Math.abs(a.length - b.length) > 2) return 3
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (const letter of a) {
    const next = [row[0]! + 1]
    for (let i = 1; i <= b.length; i++) {
      next.push(Math.min(next[i - 1]! + 1, row[i]! + 1, row[i - 1]! + (letter === b[i - 1] ? 0 : 1)))
    }
    row = next
  }
  return row[b.length]!
}
