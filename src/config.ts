import { createPrivateKey, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { BlockList, isIP, isIPv4 } from 'node:net'
import { fileURLToPath } from 'node:url'

import { createReader, findMistyped, type Env, type Reader } from './settings.ts'

export { createReader, type Env, type Reader } from './settings.ts'

/** How to reach PostgreSQL; several hosts: the first that accepts writes. */
export interface DatabaseConfig {
  hosts: string[]
  port: number
  name: string
  user: string
  password: string | undefined
  ssl: false | DatabaseTls
  poolSize: number
}
interface DatabaseTls {
  rejectUnauthorized: boolean
  ca?: string
  /** A client's certificate and its key, where the server asks for one. */
  cert?: string
  key?: string
}

export type Config = ReturnType<typeof readConfig>

/** Where `npm start` keeps its private database and the admin's key. */
export const localDirectory = fileURLToPath(new URL('../.local', import.meta.url))

/** Reads how to reach the database; null, for a private one, when neither URL nor host is set. */
export function readDatabase(reader: Reader, defaultUser: string): DatabaseConfig | null {
  const { text, read, integer } = reader
  const url = readUrl(reader)
  const hosts =
    url?.hosts ?? read('DATABASE_HOST', [], 'must name a host, without a port', parseHosts)
  const database = {
    hosts,
    port: url?.port ?? integer('DATABASE_PORT', 5432, 1, 65_535),
    name: url?.name ?? text('DATABASE_NAME') ?? 'db_user_service',
    user: url?.user ?? text('DATABASE_USER') ?? defaultUser,
    password: readPassword(reader, url?.password),
    ssl: readSsl(reader, url?.sslMode),
    poolSize: integer('DATABASE_POOL', 10, 1, 1000),
  }
  return hosts.length > 0 ? database : null
}

/** Names what a connection is asked for as DATABASE_SSL and libpq do. */
export function sslModeOf({ ssl }: DatabaseConfig): SslMode {
  if (ssl === false) return 'disable'
  return ssl.rejectUnauthorized ? 'verify-full' : 'require'
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

/** What holds for accounts, their keys, sessions and tokens. */
function readAccounts({ read, integer, choice }: Reader) {
  return {
    signup: choice('SIGNUP', ['open', 'admin']),
    passwordMinLength: integer('PASSWORD_MIN_LENGTH', 8, 8, 64),
    emailChange: choice('EMAIL_CHANGE', ['direct', 'confirmed']),
    sessionSeconds: integer('SESSION_SECONDS', 10_800, 1, 31_536_000),
    sessionIdleSeconds: read(
      'SESSION_IDLE_SECONDS',
      0,
      'must be 0 or a whole number from 120 to 86400',
      parseIdleSeconds,
    ),
    freshSeconds: integer('FRESH_SECONDS', 900, 0, 86_400),
    sessionsPerUser: integer('SESSIONS_PER_USER', 100, 0, 1_000_000),
    keysPerUser: integer('KEYS_PER_USER', 100, 0, 1_000_000),
    resetSeconds: integer('RESET_SECONDS', 3600, 60, 604_800),
    verificationSeconds: integer('VERIFICATION_SECONDS', 86_400, 60, 604_800),
  }
}

function parseIdleSeconds(given: string): number | undefined {
  const seconds = /^\d{1,5}$/.test(given) ? Number(given) : NaN
  return seconds === 0 || (seconds >= 120 && seconds <= 86_400) ? seconds : undefined
}

/** Turns the environment into the service's settings; throws all mistakes at once, exit status 2. */
export function readConfig(env: Env) {
  const reader = createReader(env)
  const { text, wrong, read, integer, file, choice, pair } = reader
  const database = readDatabase(reader, 'user_service_manager')
  const isPrivate = text('DATABASE_URL') === undefined && text('DATABASE_HOST') === undefined
  if (isPrivate && env['NODE_ENV'] === 'production')
    wrong('DATABASE_URL or DATABASE_HOST', 'must be set in production')
  const rateLimit = integer('RATE_LIMIT', 10, 0, 1_000_000)
  const config = {
    database,
    host: text('SERVER_HOST') ?? (isPrivate ? '127.0.0.1' : undefined),
    port: integer('SERVER_PORT', 60_001, 0, 65_535),
    basePath: read('SERVER_BASE_PATH', '/v1', 'must be a path such as /v1', parseBasePath),
    tls: pair('TLS_CERT_FILE', 'TLS_KEY_FILE', (certFile, keyFile) => {
      // Each is read again with the other; here one that cannot be read is named.
      file('TLS_CERT_FILE')
      file('TLS_KEY_FILE')
      return { certFile, keyFile }
    }),
    rateLimit,
    rateLimitBurst: integer('RATE_LIMIT_BURST', rateLimit, 1, 1_000_000),
    trustedProxies: read(
      'TRUSTED_PROXIES',
      null,
      'must be addresses or networks such as 10.0.0.0/8',
      parseProxies,
    ),
    accounts: readAccounts(reader),
    corsOrigins: read(
      'CORS_ORIGINS',
      [],
      'must be origins such as https://app.example.org, each in full, without *',
      parseOrigins,
    ),
    bootstrap: pair('BOOTSTRAP_ADMIN_EMAIL', 'BOOTSTRAP_ADMIN_KEY_FILE', (email, keyFile) => ({
      email,
      keyFile,
    })),
    drainSeconds: integer('DRAIN_SECONDS', 0, 0, 3600),
    shutdownSeconds: integer('SHUTDOWN_SECONDS', 10, 0, 3600),
    logLevel: choice('LOG_LEVEL', ['info', 'error', 'warn', 'debug']),
    // The image sets it.
    commit: text('GIT_COMMIT_HASH')?.replace(/[^\w.-]/g, '') ?? 'unknown',
    /** One sentence for each name of the environment that seems to be a mistyped setting. */
    warnings: findMistyped(env),
  }
  reader.finish()
  return config
}

const split = (given: string) =>
  given
    .split(',')
    .map((each) => each.trim())
    .filter((each) => each !== '')

/** Names, addresses and directories of sockets; none with a port or a scheme. */
function parseHosts(given: string): string[] | undefined {
  const hosts = split(given)
  const isHost = (host: string) => isIP(host) !== 0 || /^(\/.+|[\p{L}\d._-]+)$/u.test(host)
  return hosts.length > 0 && hosts.every(isHost) ? hosts : undefined
}

function parseBasePath(given: string): string | undefined {
  const path = given.replace(/^\/*/, '/').replace(/\/+$/, '')
  return /^(\/[\w.~-]+)*$/.test(path) ? path : undefined
}

/** Of schemes such as capacitor: and chrome-extension:, WHATWG's URL knows no origin. */
function isOrigin(given: string): boolean {
  if (given.includes('*')) return false
  const { origin } = new URL(given)
  return (
    origin === given || (origin === 'null' && /^[a-z][a-z\d+-]*:\/\/[\w.-]+(:\d+)?$/.test(given))
  )
}

function parseOrigins(given: string): string[] | undefined {
  const origins = split(given)
  return origins.every(isOrigin) ? origins : undefined
}

function parseProxies(given: string): BlockList {
  const proxies = new BlockList()
  for (const entry of split(given)) {
    const [, address = '', bits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(entry) ?? []
    const family = isIPv4(address) ? 'ipv4' : 'ipv6'
    proxies.addSubnet(address, Number(bits ?? (family === 'ipv4' ? 32 : 128)), family)
  }
  return proxies
}

type SslMode = (typeof sslModes)[number]
interface DatabaseUrl {
  hosts: string[]
  port: number | undefined
  name: string | undefined
  user: string | undefined
  password: string | undefined
  sslMode: SslMode | undefined
}

const sslModes = ['disable', 'require', 'verify-full'] as const
/** Said by providers' URLs, and without a meaning here. */
const ignoredParameters = [
  'application_name',
  'channel_binding',
  'connect_timeout',
  'pgbouncer',
  'target_session_attrs',
]

function readUrl({ text, read, wrong }: Reader): DatabaseUrl | undefined {
  const name = 'DATABASE_URL'
  // The `@` of the password's end, after what would end the host: part of the password would be
  // taken for a host, asked of DNS and shown in messages.
  if (/#|^\w+:\/\/[^/?]*[/?].*@/.test(text(name) ?? '')) {
    wrong(name, 'has a character in its user or password to percent-encode (# is %23, / is %2F)')
    return undefined
  }
  return read(
    name,
    undefined,
    'must be postgres://user:password@host:port/name, all percent-encoded, with no parameters ' +
      'but host and sslmode=disable, require or verify-full',
    parseUrl,
  )
}

function parseUrl(given: string): DatabaseUrl | undefined {
  const { protocol, hostname, port, pathname, username, password, searchParams } = new URL(given)
  if (!/^postgres(ql)?:$/.test(protocol)) return undefined
  const known = ['host', 'sslmode', ...ignoredParameters]
  if (![...searchParams.keys()].every((name) => known.includes(name))) return undefined
  const sslMode = sslModes.find((mode) => mode === searchParams.get('sslmode'))
  if (searchParams.has('sslmode') && sslMode === undefined) return undefined
  const part = (text: string) => decodeURIComponent(text) || undefined
  const host = searchParams.get('host') ?? part(hostname.replace(/[[\]]/g, '')) ?? 'localhost'
  const hosts = parseHosts(host)
  if (hosts === undefined) return undefined
  return {
    hosts,
    port: Number(port) || undefined,
    name: part(pathname.slice(1)),
    user: part(username),
    password: part(password),
    sslMode,
  }
}

function readPassword({ text, wrong, read }: Reader, inUrl: string | undefined) {
  const given = inUrl ?? text('DATABASE_PASSWORD')
  const name = 'DATABASE_PASSWORD_FILE'
  if (given !== undefined && text(name) !== undefined)
    wrong(name, 'is given beside another password')
  const inFile = read(name, undefined, 'must name a file that holds a password', (path) => {
    const [line = ''] = readFileSync(path, 'utf8').split(/\r?\n/)
    return line === '' ? undefined : line
  })
  return given ?? inFile
}

function readSsl(reader: Reader, inUrl: SslMode | undefined): DatabaseConfig['ssl'] {
  const { text, wrong } = reader
  const given = reader.choice('DATABASE_SSL', sslModes)
  if (inUrl !== undefined && text('DATABASE_SSL') !== undefined && inUrl !== given)
    wrong('DATABASE_SSL', 'is not what sslmode in DATABASE_URL says')
  const mode = inUrl ?? given
  const ca = reader.read(
    'DATABASE_CA_FILE',
    undefined,
    'must name a file with certificates in PEM',
    parseCertificates,
  )
  if (text('DATABASE_CA_FILE') !== undefined && mode !== 'verify-full')
    wrong('DATABASE_CA_FILE', 'is of use with DATABASE_SSL=verify-full only')
  const own = readClientCertificate(reader)
  if (own !== null && mode === 'disable') wrong('DATABASE_CERT_FILE', 'is of use with TLS only')
  if (mode === 'disable') return false
  return { rejectUnauthorized: mode === 'verify-full', ...(ca !== undefined && { ca }), ...own }
}

function readClientCertificate({ pair, file, wrong }: Reader) {
  return pair('DATABASE_CERT_FILE', 'DATABASE_KEY_FILE', () => {
    const cert = file('DATABASE_CERT_FILE') ?? ''
    const key = file('DATABASE_KEY_FILE') ?? ''
    if (!isPair(cert, key))
      wrong('DATABASE_CERT_FILE and DATABASE_KEY_FILE', 'must be a certificate and its key, in PEM')
    return { cert, key }
  })
}

function isPair(cert: string, key: string): boolean {
  try {
    return new X509Certificate(cert).checkPrivateKey(createPrivateKey(key))
  } catch {
    return false
  }
}

function parseCertificates(path: string): string | undefined {
  const text = readFileSync(path, 'utf8')
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[^]+?-----END CERTIFICATE-----/g)
  for (const block of blocks ?? []) new X509Certificate(block)
  return blocks === null ? undefined : text
}
