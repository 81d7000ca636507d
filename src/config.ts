import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { BlockList, isIP, isIPv4 } from 'node:net'
import { availableParallelism } from 'node:os'
import { createSecureContext, type ConnectionOptions } from 'node:tls'
import { fileURLToPath } from 'node:url'

import { createReader, findMistyped, type Env, type Reader } from './environment.ts'
import { matching } from './events.ts'
import { readSecrets } from './secrets/settings.ts'

/** How to reach PostgreSQL; several hosts: the first that accepts writes. */
export interface DatabaseConfig {
  hosts: string[]
  port: number
  name: string
  user: string
  password: string | undefined
  ssl: false | ConnectionOptions
  poolSize: number
}

export type Config = ReturnType<typeof readConfig>

/** Where `npm start` keeps its private database and the admin's key. */
export const localDirectory = fileURLToPath(new URL('../.local', import.meta.url))

/** Reads how to reach the database; null, for a private one, when neither URL nor host is set. */
export function readDatabase(reader: Reader, defaultUser: string) {
  const { text, read, integer } = reader
  readUrl(reader)
  const hosts = read('DATABASE_HOST', [], 'must name a host, without a port', parseHosts)
  const database = {
    hosts,
    port: integer('DATABASE_PORT', 5432, 1, 65_535),
    name: text('DATABASE_NAME') ?? 'db_user_service',
    user: text('DATABASE_USER') ?? defaultUser,
    password: readPassword(reader),
    ssl: readSsl(reader),
    poolSize: integer('DATABASE_POOL', 10, 1, 1000),
  }
  return hosts.length > 0 ? database : null
}

/** The name that DATABASE_SSL and libpq have for how a connection is secured. */
export function sslModeOf({ ssl }: DatabaseConfig) {
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
function readAccounts({ integer, choice, wrong }: Reader) {
  const sessionIdleSeconds = integer('SESSION_IDLE_SECONDS', 0, 0, 86_400)
  if (sessionIdleSeconds > 0 && sessionIdleSeconds < 120) {
    wrong('SESSION_IDLE_SECONDS', 'must be 0 or at least 120')
  }
  return {
    signup: choice('SIGNUP', ['open', 'admin']),
    passwordMinLength: integer('PASSWORD_MIN_LENGTH', 8, 8, 64),
    emailChange: choice('EMAIL_CHANGE', ['direct', 'confirmed']),
    sessionSeconds: integer('SESSION_SECONDS', 10_800, 1, 31_536_000),
    sessionIdleSeconds,
    freshSeconds: integer('FRESH_SECONDS', 900, 0, 86_400),
    sessionsPerUser: integer('SESSIONS_PER_USER', 100, 0, 1_000_000),
    keysPerUser: integer('KEYS_PER_USER', 100, 0, 1_000_000),
    resetSeconds: integer('RESET_SECONDS', 3600, 60, 604_800),
    verificationSeconds: integer('VERIFICATION_SECONDS', 86_400, 60, 604_800),
  }
}

/** Where what happens is told, what of it, and the secrets, each of which signs. */
export type Webhook = NonNullable<ReturnType<typeof readWebhook>>

/** Reads who is told what happens; null: nobody. */
export function readWebhook({ pair, read }: Reader) {
  const events = read(
    'WEBHOOK_EVENTS',
    parseEvents('user.*,password.*,email.*,factor.*,token.*')!,
    'must be names of events, or families such as user.*, separated by commas',
    parseEvents,
  )
  return pair('WEBHOOK_URL', 'WEBHOOK_SECRET_FILE', () => ({
    events,
    url: read(
      'WEBHOOK_URL',
      '',
      'must be https:, or http: to this machine or a dotless name; no user, nothing link-local, ' +
        'no port that Node never connects to, such as 22 or 6000',
      parseReceiver,
    ),
    secrets: read<Buffer[]>(
      'WEBHOOK_SECRET_FILE',
      [],
      'must name a file of one to three lines, each whsec_ and the base64 of 24 to 64 bytes',
      parseSecrets,
    ),
  }))
}

function parseEvents(given: string) {
  const found = split(given).map(matching)
  return found.every(({ length }) => length > 0) ? found.flat() : undefined
}

/** 169.254.0.0/16 also as IPv6 wrote it once, as SIIT, NAT64 and 6to4 map it; AWS's metadata. */
const linkLocal =
  '169.254.0.0/16, fe80::/10, ::a9fe:0/112, ::ffff:0:a9fe:0/112, 64:ff9b::a9fe:0/112, ' +
  '64:ff9b:1::/48, 2002:a9fe::/32, fd00:ec2::254'

/** Of the Fetch standard, which Node follows: those of other protocols. */
const blockedPorts =
  '1 7 9 11 13 15 17 19 20 21 22 23 25 37 42 43 53 69 77 79 87 95 101 102 103 104 109 110 111 ' +
  '113 115 117 119 123 135 137 139 143 161 179 389 427 465 512 513 514 515 526 530 531 532 540 ' +
  '548 554 556 563 587 601 636 989 990 993 995 1719 1720 1723 2049 3659 4045 4190 5060 5061 ' +
  '6000 6566 6665 6666 6667 6668 6669 6679 6697 10080'

function parseReceiver(given: string) {
  // The parser makes plain addresses of 2852039166, 0xa9.254.43518 and the like.
  const { protocol, hostname, port, username, password, href } = new URL(given)
  const host = hostname.replace(/[[\]]/g, '')
  const isIn = (networks: string) =>
    isIP(host) > 0 && parseProxies(networks).check(host, isIPv4(host) ? 'ipv4' : 'ipv6')
  const isNear = isIn('127.0.0.0/8, ::1') || /^[^.:]+$/.test(host)
  const isPrivate = protocol === 'https:' || (protocol === 'http:' && isNear)
  const isBlocked = isIn(linkLocal) || blockedPorts.split(' ').includes(port)
  const isAllowed = isPrivate && !isBlocked && username + password === ''
  return isAllowed ? href : undefined
}

function parseSecrets(path: string) {
  const lines = readFileSync(path, 'utf8').trim().split(/\r?\n/)
  const areSecrets = lines.every((line) => /^whsec_[A-Za-z\d+/]{32,86}={0,2}$/.test(line))
  if (lines.length > 3 || !areSecrets) return undefined
  return lines.map((line) => Buffer.from(line.slice(6), 'base64'))
}

/**
 * Turns the environment into the service's settings; throws all mistakes at once, exit status 2.
 */
export function readConfig(env: Env) {
  const reader = createReader(env)
  const { text, wrong, read, integer, file, choice, pair } = reader
  const database = readDatabase(reader, 'user_service_manager')
  const isPrivate = database === null
  if (isPrivate && env['NODE_ENV'] === 'production')
    wrong('DATABASE_URL or DATABASE_HOST', 'must be set in production')
  const rateLimit = integer('RATE_LIMIT', 10, 0, 1_000_000)
  const config = {
    database,
    host: text('SERVER_HOST') ?? (isPrivate ? '127.0.0.1' : undefined),
    port: integer('SERVER_PORT', 60_001, 0, 65_535),
    basePath: read('SERVER_BASE_PATH', '/v1', 'must be a path such as /v1', parseBasePath),
    tls: pair('TLS_CERT_FILE', 'TLS_KEY_FILE', (certFile, keyFile) => {
      // Both are read again as a pair; here a file that cannot be read is named.
      file('TLS_CERT_FILE')
      file('TLS_KEY_FILE')
      return { certFile, keyFile }
    }),
    hasAdminPage: choice('ADMIN_PAGE', ['on', 'off']) === 'on',
    rateLimit,
    rateLimitBurst: integer('RATE_LIMIT_BURST', rateLimit, 1, 1_000_000),
    trustedProxies: read(
      'TRUSTED_PROXIES',
      null,
      'must be addresses or networks such as 10.0.0.0/8',
      parseProxies,
    ),
    accounts: readAccounts(reader),
    takesUuids: choice('UUID_KEYS', ['off', 'on']) === 'on',
    // One core stays free for requests.
    hashThreads: integer('HASH_THREADS', Math.max(1, availableParallelism() - 1), 1, 1000),
    webhook: readWebhook(reader),
    ...readSecrets(reader, isPrivate),
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
    /** Of all settings. */
    names: reader.names,
    /** One sentence for each name of the environment that seems to be a mistyped setting. */
    warnings: findMistyped(env, reader.names),
  }
  reader.finish()
  return config
}

const split = (given: string) =>
  given
    .split(',')
    .map((each) => each.trim())
    .filter(Boolean)

/** Names, addresses and directories of sockets; none with a port or a scheme. */
function parseHosts(given: string) {
  const hosts = split(given)
  const isHost = (host: string) => isIP(host) !== 0 || /^(\/.+|[\p{L}\d._-]+)$/u.test(host)
  return hosts.length > 0 && hosts.every(isHost) ? hosts : undefined
}

function parseBasePath(given: string) {
  const path = given.replace(/^\/*/, '/').replace(/\/+$/, '')
  return /^(\/[\w.~-]+)*$/.test(path) ? path : undefined
}

/** Of schemes such as capacitor: and chrome-extension:, WHATWG's URL knows no origin. */
function isOrigin(given: string) {
  if (given.includes('*')) return false
  const { origin } = new URL(given)
  return (
    origin === given || (origin === 'null' && /^[a-z][a-z\d+-]*:\/\/[\w.-]+(:\d+)?$/.test(given))
  )
}

function parseOrigins(given: string) {
  const origins = split(given)
  return origins.every(isOrigin) ? origins : undefined
}

function parseProxies(given: string) {
  const proxies = new BlockList()
  for (const entry of split(given)) {
    const [, address = '', bits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(entry) ?? []
    const family = isIPv4(address) ? 'ipv4' : 'ipv6'
    proxies.addSubnet(address, Number(bits ?? (family === 'ipv4' ? 32 : 128)), family)
  }
  return proxies
}

const sslModes = ['disable', 'require', 'verify-full'] as const

/** Parameters in the URLs of providers that have no meaning here. */
const ignoredParameters = [
  'application_name',
  'channel_binding',
  'connect_timeout',
  'pgbouncer',
  'target_session_attrs',
]

/** Sets the settings that are parts of DATABASE_URL. */
function readUrl({ text, read, set, wrong }: Reader) {
  // With one of these characters before its `@`, the password is not encoded: part of it would be
  // taken for the host, looked up in DNS and shown in messages.
  if (/#|^\w+:\/\/[^/?]*[/?].*@/.test(text('DATABASE_URL') ?? '')) {
    const rule = 'has a character in its user or password to percent-encode (# is %23, / is %2F)'
    wrong('DATABASE_URL', rule)
    return
  }
  const rule =
    'must be postgres://user:password@host:port/name, all percent-encoded, with no parameters ' +
    'but host and sslmode=disable, require or verify-full'
  const parts = read('DATABASE_URL', {}, rule, parseUrl)
  const ssl = text('DATABASE_SSL')
  for (const [name, value] of Object.entries(parts)) set(name, value)
  if (ssl !== undefined && ssl !== text('DATABASE_SSL'))
    wrong('DATABASE_SSL', 'is not what sslmode in DATABASE_URL says')
}

function parseUrl(given: string): Env | undefined {
  const { hostname, port, pathname, username, password, searchParams } = new URL(given)
  const { host, sslmode, ...others } = Object.fromEntries(searchParams)
  const hosts = host ?? (decodeURIComponent(hostname.replace(/[[\]]/g, '')) || 'localhost')
  const isUnderstood =
    /^postgres(ql)?:\/\//.test(given) &&
    /^(disable|require|verify-full|undefined)$/.test(String(sslmode)) &&
    new Set(searchParams.keys()).size === searchParams.size &&
    Object.keys(others).every((name) => ignoredParameters.includes(name)) &&
    parseHosts(hosts) !== undefined
  if (!isUnderstood) return undefined
  return {
    DATABASE_HOST: hosts,
    DATABASE_PORT: port,
    DATABASE_NAME: decodeURIComponent(pathname.slice(1)),
    DATABASE_USER: decodeURIComponent(username),
    DATABASE_PASSWORD: decodeURIComponent(password),
    DATABASE_SSL: sslmode,
  }
}

function readPassword({ text, wrong, read }: Reader) {
  const given = text('DATABASE_PASSWORD')
  const rule = 'must name a file that holds a password'
  const inFile = read('DATABASE_PASSWORD_FILE', undefined, rule, (path) => {
    const [line] = readFileSync(path, 'utf8').split(/\r?\n/)
    return line || undefined
  })
  if (given !== undefined && inFile !== undefined)
    wrong('DATABASE_PASSWORD_FILE', 'is given beside another password')
  return given ?? inFile
}

function readSsl(reader: Reader): DatabaseConfig['ssl'] {
  const { text, read, wrong, choice } = reader
  const mode = choice('DATABASE_SSL', sslModes)
  const rule = 'must name a file with certificates in PEM'
  const ca = read('DATABASE_CA_FILE', undefined, rule, readCertificates)
  if (text('DATABASE_CA_FILE') !== undefined && mode !== 'verify-full')
    wrong('DATABASE_CA_FILE', 'is of use with DATABASE_SSL=verify-full only')
  const own = readClientCertificate(reader)
  if (own !== null && mode === 'disable') wrong('DATABASE_CERT_FILE', 'is of use with TLS only')
  if (mode === 'disable') return false
  return { rejectUnauthorized: mode === 'verify-full', ...(ca !== undefined && { ca }), ...own }
}

/** Throws unless a certificate comes first in the file. */
function readCertificates(path: string) {
  const text = readFileSync(path, 'utf8')
  new X509Certificate(text)
  return text
}

const readClientCertificate = ({ pair, file, wrong }: Reader) =>
  pair('DATABASE_CERT_FILE', 'DATABASE_KEY_FILE', () => {
    const own = { cert: file('DATABASE_CERT_FILE'), key: file('DATABASE_KEY_FILE') }
    try {
      createSecureContext(own)
    } catch {
      wrong('DATABASE_CERT_FILE and DATABASE_KEY_FILE', 'must be a certificate and its key, in PEM')
    }
    return own
  })
