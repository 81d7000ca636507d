import { readFileSync } from 'node:fs'
import { BlockList, isIPv4 } from 'node:net'
import { fileURLToPath } from 'node:url'

import { ExitError } from './errors.ts'

/** How to reach PostgreSQL; several hosts: the first that accepts writes. */
export type DatabaseConfig = NonNullable<ReturnType<typeof readDatabase>>
export type Config = ReturnType<typeof readConfig>
export type Env = Record<string, string | undefined>

/** Where `npm start` keeps its private database and the admin's key. */
export const localDirectory = fileURLToPath(new URL('../.local', import.meta.url))

/**
 * Reads settings one by one and collects what is wrong with them. A message names the setting and the rule, never the
 * value: a mistyped DATABASE_URL holds a password.
 */
export function createReader(env: Env) {
  const mistakes: string[] = []
  const text = (name: string) => env[name] || env[`ENV_${name}`] || undefined
  const wrong = (name: string, rule: string) => void mistakes.push(`${name} ${rule}`)

  /** What `parse` makes of a setting; it throws or returns undefined where the rule is broken. */
  function read<T>(
    name: string,
    fallback: T,
    rule: string,
    parse: (given: string) => T | undefined,
  ): T {
    const given = text(name)
    if (given === undefined) return fallback
    let value: T | undefined
    try {
      value = parse(given)
    } catch {
      /* said below */
    }
    if (value === undefined) wrong(name, rule)
    return value ?? fallback
  }

  return {
    text,
    wrong,
    read,
    integer: (name: string, fallback: number, min: number, max: number) =>
      read(name, fallback, `must be a whole number from ${min} to ${max}`, (given) =>
        /^\d{1,15}$/.test(given) && Number(given) >= min && Number(given) <= max
          ? Number(given)
          : undefined,
      ),
    file: (name: string) =>
      read(name, undefined, 'names a file that cannot be read', (path) =>
        readFileSync(path, 'utf8'),
      ),
    choice: <const T extends string>(name: string, choices: readonly [T, ...T[]]) =>
      read(name, choices[0], `must be one of ${choices.join(', ')}`, (given) =>
        choices.find((each) => each === given),
      ),
    pair<T>(one: string, other: string, make: (one: string, other: string) => T) {
      const [first, second] = [text(one), text(other)]
      if (!first !== !second) wrong(`${one} and ${other}`, 'must be set together')
      return first && second ? make(first, second) : null
    },
    /** Throws all mistakes in one message, exit status 2. */
    finish() {
      if (mistakes.length > 0) throw new ExitError(`Configuration: ${mistakes.join('; ')}`, 2)
    },
  }
}

/** How to reach the database, or null, for a private one, when neither DATABASE_URL nor DATABASE_HOST is set. */
export function readDatabase(reader: ReturnType<typeof createReader>, defaultUser: string) {
  const { text, read, integer, file, choice } = reader
  const url = read(
    'DATABASE_URL',
    undefined,
    'must be postgres://user:password@host:port/name, without parameters but host: see DATABASE_SSL',
    parseUrl,
  )
  const ca = file('DATABASE_CA_FILE')
  const mode = choice('DATABASE_SSL', ['disable', 'require', 'verify-full'])
  const database = {
    hosts: url?.hosts ?? read('DATABASE_HOST', [], 'must name a host', parseHosts),
    port: url?.port ?? integer('DATABASE_PORT', 5432, 1, 65_535),
    name: url?.name ?? text('DATABASE_NAME') ?? 'db_user_service',
    user: url?.user ?? text('DATABASE_USER') ?? defaultUser,
    password: url?.password ?? text('DATABASE_PASSWORD'),
    ssl: mode !== 'disable' && { rejectUnauthorized: mode === 'verify-full', ...(ca && { ca }) },
    poolSize: integer('DATABASE_POOL', 10, 1, 1000),
  }
  return database.hosts.length > 0 ? database : null
}

/** How to reach a private PostgreSQL, which asks nobody for a password. */
export const privateDatabase = (
  { socketDirectory, port }: { socketDirectory: string; port: number },
  user: string,
  name = 'db_user_service',
): DatabaseConfig => ({
  hosts: [socketDirectory],
  port,
  name,
  user,
  password: undefined,
  ssl: false,
  poolSize: 10,
})

/** Turns the environment into the service's settings; throws all mistakes at once, exit status 2. */
export function readConfig(env: Env) {
  const reader = createReader(env)
  const { text, wrong, read, integer, file, choice, pair } = reader
  const database = readDatabase(reader, 'user_service_manager')
  if (!database && env['NODE_ENV'] === 'production')
    wrong('DATABASE_URL or DATABASE_HOST', 'must be set in production')
  const rateLimit = integer('RATE_LIMIT', 10, 0, 1_000_000)
  const config = {
    database,
    host: text('SERVER_HOST') ?? (database ? undefined : '127.0.0.1'),
    port: integer('SERVER_PORT', 60_001, 0, 65_535),
    basePath: read('SERVER_BASE_PATH', '/v1', 'must be a path such as /v1', parseBasePath),
    tls: pair(
      'TLS_CERT_FILE',
      'TLS_KEY_FILE',
      (certFile, keyFile) => (file('TLS_CERT_FILE'), file('TLS_KEY_FILE'), { certFile, keyFile }),
    ),
    rateLimit,
    rateLimitBurst: integer('RATE_LIMIT_BURST', rateLimit, 1, 1_000_000),
    trustedProxies: read(
      'TRUSTED_PROXIES',
      null,
      'must be addresses or networks such as 10.0.0.0/8',
      parseProxies,
    ),
    signup: choice('SIGNUP', ['open', 'admin']),
    corsOrigins: read(
      'CORS_ORIGINS',
      [],
      'must be origins such as https://app.example.org',
      parseOrigins,
    ),
    sessionSeconds: integer('SESSION_SECONDS', 10_800, 1, 31_536_000),
    passwordMinLength: integer('PASSWORD_MIN_LENGTH', 8, 8, 64),
    bootstrap: pair('BOOTSTRAP_ADMIN_EMAIL', 'BOOTSTRAP_ADMIN_KEY_FILE', (email, keyFile) => ({
      email,
      keyFile,
    })),
    drainSeconds: integer('DRAIN_SECONDS', 0, 0, 3600),
    shutdownSeconds: integer('SHUTDOWN_SECONDS', 10, 0, 3600),
    logLevel: choice('LOG_LEVEL', ['info', 'error', 'warn', 'debug']),
    commit: text('GIT_COMMIT_HASH')?.replace(/[^\w.-]/g, '') ?? 'unknown', // the image sets it
  }
  reader.finish()
  return config
}

const split = (given: string) =>
  given
    .split(',')
    .map((each) => each.trim())
    .filter((each) => each !== '')
const parseHosts = (given: string) => (split(given).length > 0 ? split(given) : undefined)
const parseBasePath = (given: string) =>
  /^(\/[\w.~-]+)*$/.exec(given.replace(/^\/*/, '/').replace(/\/+$/, ''))?.[0]
const parseOrigins = (given: string) =>
  split(given).every((origin) => new URL(origin).origin === origin) ? split(given) : undefined

function parseUrl(given: string) {
  const { protocol, hostname, port, pathname, username, password, searchParams } = new URL(given)
  if (!/^postgres(ql)?:$/.test(protocol) || !/^(host)?$/.test([...searchParams.keys()].join()))
    return undefined
  const part = (text: string) => decodeURIComponent(text) || undefined
  const hosts = [searchParams.get('host') ?? part(hostname.replace(/[[\]]/g, '')) ?? 'localhost']
  const name = part(pathname.slice(1))
  return {
    hosts,
    port: Number(port) || undefined,
    name,
    user: part(username),
    password: part(password),
  }
}

function parseProxies(given: string) {
  const proxies = new BlockList()
  for (const entry of split(given)) {
    const [, address = '', bits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(entry) ?? []
    proxies.addSubnet(
      address,
      Number(bits ?? (isIPv4(address) ? 32 : 128)),
      isIPv4(address) ? 'ipv4' : 'ipv6',
    )
  }
  return proxies
}
