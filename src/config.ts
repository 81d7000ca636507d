import { readFileSync } from 'node:fs'
import { BlockList, isIPv4 } from 'node:net'

import { ExitError } from './errors.ts'

/** How to reach PostgreSQL; several hosts: the first that accepts writes. */
export type DatabaseConfig = NonNullable<ReturnType<typeof readDatabase>>
export type Config = ReturnType<typeof readConfig>
export type Env = Record<string, string | undefined>

/**
 * Reads settings one by one and collects what is wrong with them. A message names the setting and
 * the rule, never the value: a mistyped DATABASE_URL holds a password.
 */
export function createReader(env: Env) {
  const mistakes: string[] = []
  const text = (name: string) => env[name] || env[`ENV_${name}`] || undefined
  const wrong = (name: string, rule: string) => void mistakes.push(`${name} ${rule}`)
  return {
    text, wrong,
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
    pair(one: string, other: string): [string | undefined, string | undefined] {
      if (text(one) === undefined !== (text(other) === undefined)) wrong(`${one} and ${other}`, 'must be set together')
      return [text(one), text(other)]
    },
    file(name: string): string | undefined {
      const path = text(name)
      try {
        return path && readFileSync(path, 'utf8')
      } catch {
        return void wrong(name, 'names a file that cannot be read')
      }
    },
    /** Throws all mistakes in one message, exit status 2. */
    finish() {
      if (mistakes.length > 0) throw new ExitError(`Configuration: ${mistakes.join('; ')}`, 2)
    },
  }
}

type Reader = ReturnType<typeof createReader>

/** How to reach the database, or null when neither DATABASE_URL nor DATABASE_HOST is set. */
export function readDatabase(reader: Reader, defaultUser: string) {
  const url = readUrl(reader)
  const ca = reader.file('DATABASE_CA_FILE')
  const mode = reader.choice('DATABASE_SSL', ['disable', 'require', 'verify-full'])
  const hosts = url?.hosts ?? reader.list('DATABASE_HOST')
  const database = {
    hosts,
    port: url?.port ?? reader.integer('DATABASE_PORT', 5432, 1, 65_535),
    name: url?.name ?? reader.text('DATABASE_NAME') ?? 'db_user_service',
    user: url?.user ?? reader.text('DATABASE_USER') ?? defaultUser,
    password: url?.password ?? reader.text('DATABASE_PASSWORD'),
    ssl: mode !== 'disable' && { rejectUnauthorized: mode === 'verify-full', ...(ca && { ca }) },
    poolSize: reader.integer('DATABASE_POOL', 10, 1, 1000),
  }
  return hosts.length === 0 ? null : database
}

function readUrl(reader: Reader) {
  const given = reader.text('DATABASE_URL')
  if (given === undefined) return undefined
  try {
    const { protocol, hostname, port, pathname, username, password, searchParams } = new URL(given)
    if (!/^postgres(ql)?:$/.test(protocol)) throw new Error('another protocol')
    if ([...searchParams.keys()].some((name) => name !== 'host')) {
      reader.wrong('DATABASE_URL', 'takes no parameter but host: see DATABASE_SSL')
    }
    const part = (text: string) => decodeURIComponent(text) || undefined
    const host = part(hostname) ?? searchParams.get('host') ?? 'localhost'
    return {
      hosts: [host.replace(/^\[(.*)\]$/, '$1')], port: port === '' ? undefined : Number(port),
      name: part(pathname.slice(1)), user: part(username), password: part(password),
    }
  } catch {
    return void reader.wrong('DATABASE_URL', 'must be postgres://user:password@host:port/name')
  }
}

/** Turns the environment into the service's settings; throws all mistakes at once, exit status 2. */
export function readConfig(env: Env) {
  const reader = createReader(env)
  const { text, integer, choice, list, pair, wrong } = reader
  // Null: a private PostgreSQL.
  const database = readDatabase(reader, 'user_service_manager')
  if (env['NODE_ENV'] === 'production' && !(text('DATABASE_URL') ?? text('DATABASE_HOST'))) {
    wrong('DATABASE_URL or DATABASE_HOST', 'must be set when NODE_ENV is production')
  }
  const basePath = (text('SERVER_BASE_PATH') ?? '/v1').replace(/^\/*/, '/').replace(/\/+$/, '')
  if (!/^(\/[A-Za-z0-9._~-]+)*$/.test(basePath)) wrong('SERVER_BASE_PATH', 'must be a path such as /v1')
  const corsOrigins = list('CORS_ORIGINS')
  if (!corsOrigins.every((origin) => URL.canParse(origin) && new URL(origin).origin === origin)) {
    wrong('CORS_ORIGINS', 'must be origins such as https://app.example.org')
  }
  const [certFile, keyFile] = pair('TLS_CERT_FILE', 'TLS_KEY_FILE')
  const [adminEmail, adminKeyFile] = pair('BOOTSTRAP_ADMIN_EMAIL', 'BOOTSTRAP_ADMIN_KEY_FILE')
  const rateLimit = integer('RATE_LIMIT', 10, 0, 1_000_000)
  const config = {
    database,
    host: text('SERVER_HOST') ?? (database === null ? '127.0.0.1' : undefined),
    port: integer('SERVER_PORT', 60_001, 0, 65_535),
    basePath,
    tls: certFile && keyFile ? { certFile, keyFile } : null,
    rateLimit,
    rateLimitBurst: integer('RATE_LIMIT_BURST', rateLimit, 1, 1_000_000),
    trustedProxies: readProxies(reader),
    signup: choice('SIGNUP', ['open', 'admin']),
    corsOrigins,
    sessionSeconds: integer('SESSION_SECONDS', 10_800, 1, 31_536_000),
    passwordMinLength: integer('PASSWORD_MIN_LENGTH', 8, 8, 64),
    bootstrap: adminEmail && adminKeyFile ? { email: adminEmail, keyFile: adminKeyFile } : null,
    shutdownSeconds: integer('SHUTDOWN_SECONDS', 10, 0, 3600),
    logLevel: choice('LOG_LEVEL', ['info', 'error', 'warn', 'debug']),
    // Of the build, as the image has it.
    commit: text('GIT_COMMIT_HASH')?.replace(/[^0-9A-Za-z._-]/g, '') ?? 'unknown',
  }
  reader.finish()
  return config
}

function readProxies({ list, wrong }: Reader): BlockList | null {
  const entries = list('TRUSTED_PROXIES')
  const proxies = new BlockList()
  try {
    for (const entry of entries) {
      const [address = '', bits] = entry.split('/')
      const [family, most] = isIPv4(address) ? ['ipv4', 32] as const : ['ipv6', 128] as const
      if (!/^[^/]+(\/\d{1,3})?$/.test(entry)) throw new Error('another form')
      proxies.addSubnet(address, Number(bits ?? most), family)
    }
  } catch {
    wrong('TRUSTED_PROXIES', 'must be addresses or networks such as 10.0.0.0/8')
  }
  return entries.length === 0 ? null : proxies
}

/** Settings that are spelled almost right: one letter missing, too many, other, or two exchanged. */
export function findMisspelt(env: Env): { set: string; meant: string }[] {
  const names = new Set<string>()
  const asked = new Proxy({}, { get: (_, name: string) => void names.add(name.replace(/^ENV_/, '')) })
  readConfig(asked)
  const near = (name: string) => [name, ...Array.from(name, (_, i) => name.slice(0, i) + name.slice(i + 1))]
  return Object.keys(env).map((name) => name.replace(/^ENV_/, '')).filter((name) => !names.has(name))
    .flatMap((set) => [...names].filter((name) => near(name).some((each) => near(set).includes(each)))
      .map((meant) => ({ set, meant })))
}
