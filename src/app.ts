import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

import { localDirectory, privateDatabase, type Config, type DatabaseConfig } from './config.ts'
import { explain, isHopeless } from './database/explain.ts'
import { checkSchema, migrate } from './database/migrate.ts'
import { openDatabase, ping, withDatabase, type Database } from './database/pool.ts'
import { startPrivatePostgres } from './database/private.ts'
import { checkRights } from './database/grants.ts'
import { createDatabase } from './database/setup.ts'
import { checkFactors } from './factors/check.ts'
import { demandFactor } from './http/access.ts'
import { createClientReader } from './http/address.ts'
import { createLimiter } from './http/token-bucket.ts'
import { createMetrics } from './http/metrics.ts'
import { createPipeline } from './http/pipeline.ts'
import { createRouter } from './http/router.ts'
import { bind, listen } from './http/server.ts'
import { readTlsSettings } from './http/tls.ts'
import { createIdentify } from './keys/identify.ts'
import { deleteEndedSessions } from './keys/queries.ts'
import { describeError, type Log } from './log.ts'
import { createHasher, type Hasher } from './passwords/hasher.ts'
import { deleteForgottenFailures } from './passwords/queries.ts'
import { allRoutes } from './routes.ts'
import { makeOwnKeyFile, readOwnKeyFile } from './secrets/keys.ts'
import { openSigner, type Signer } from './signing/sign.ts'
import { deleteEndedTokens } from './tokens/queries.ts'
import { bootstrap, type FirstAdmin } from './users/first-admin.ts'
import { tellOf } from './webhooks/queries.ts'
import { startSender, type Sender } from './webhooks/sender.ts'

/** A service that runs. */
export interface App {
  /** Scheme, host and port. */
  url: string
  /** Rereads certificate and key; throws and keeps the old pair when the new one cannot be used. */
  rereadTls(): void
  /** Stops accepting, finishes what is in flight and undoes the start; never rejects. */
  stop(): Promise<void>
}

/** What stops each started thing, the first started first. */
type Undo = (() => unknown)[]

interface Pools {
  keyDb: Database
  db: Database
}

/** What runs beside the requests. */
interface Started {
  hasher: Hasher
  log: Log
  sender: Sender | null
  secretKeys: Buffer[] | null
  signer: Signer | null
  isStopping(): boolean
}

/** The private database's first admin, unless another is configured. */
const ownAdmin: FirstAdmin = {
  email: 'admin@localhost',
  keyFile: `${localDirectory}/admin-key`,
  makesFile: true,
}

/** The version in package.json. */
export const version: string = JSON.parse(
  readFileSync(new URL('../package.json', import.meta.url), 'utf8'),
).version

/**
 * Builds everything in order and starts it. Each started thing pushes its own undo; `stop` runs
 * them last-first, and so does a start that fails half-way or is aborted by `signal`.
 */
export async function startApp(config: Config, log: Log, signal = new AbortController().signal) {
  const undo: Undo = []
  async function stop() {
    for (const step of undo.splice(0).reverse()) {
      try {
        await step()
      } catch (error) {
        log('error', 'stopping failed', describeError(error))
      }
    }
  }
  try {
    await checkPort(config)
    const database = config.database ?? (await startPrivately(undo, signal))
    const admin = config.bootstrap ?? (config.database === null ? ownAdmin : null)
    const pools = openPools(database, log, undo)
    await waitForDatabase(pools.db, log, signal)
    await checkSchema(pools.db)
    for (const warning of await checkRights(pools.db, database.hosts)) log('warn', warning)
    const secrets = await openSecrets(config, pools.db, log)
    signal.throwIfAborted()
    for (const warning of await tellOf(pools.db, config.webhook?.events)) log('warn', warning)
    if (admin !== null && (await bootstrap(pools.db, admin)))
      log('info', 'first admin created', { email: admin.email })
    startCleaning(pools.db, log, undo)

    const hasher = createHasher(config.hashThreads, new URL('foreign/thread.js', import.meta.url))
    undo.push(() => hasher.stop())
    let stopping = false
    const { webhook, accounts } = config
    const sender = webhook && startSender({ ...accounts, webhook, db: pools.db, log })
    undo.push(() => sender?.stop())
    const db = sender?.db ?? pools.db
    const started = { hasher, ...secrets, log, sender, isStopping: () => stopping }
    const pipeline = buildPipeline(config, { ...pools, db }, started)
    const listener = await listen(pipeline, config, log)
    undo.push(() => listener.stop(config.shutdownSeconds))
    // A client that connects just as the listener closes gets a reset, so give load balancers time
    // to stop sending first.
    undo.push(() => {
      stopping = true
      return sleep(config.drainSeconds * 1000)
    })
    const url = `${listener.url}${config.basePath}`
    log('info', 'listening', { url, version, commit: config.commit, node: process.version })
    if (config.database === null && admin !== null) console.error(welcome(url, admin))
    return { url: listener.url, rereadTls: () => listener.rereadTls(), stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Throws when nothing can listen there, before anything is made. */
async function checkPort({ host, port, tls }: Config) {
  if (tls !== null) readTlsSettings(tls)
  const probe = createServer()
  await bind(probe, host, port)
  probe.close()
  await once(probe, 'close')
}

/** Starts the private PostgreSQL and brings it to this version's schema. */
async function startPrivately(undo: Undo, signal: AbortSignal) {
  const directory = localDirectory
  const postgres = await startPrivatePostgres({ directory, say: console.error, signal })
  undo.push(() => postgres.stop())
  const as = (user: string) => privateDatabase(postgres, user)
  await createDatabase(as('postgres'))
  await withDatabase(as('user_service_admin'), (db) => migrate(db, 'up'))
  return as('user_service_manager')
}

/** The keys that seal secrets, one of its own with a private database, and what signs by them. */
async function openSecrets(config: Config, db: Database, log: Log) {
  const { database, secretKeys, signing, accounts, basePath } = config
  const isOwn = secretKeys === null && database === null
  const found = isOwn ? readOwnKeyFile() : secretKeys
  await checkFactors(db, found, log)
  const keys = isOwn ? (found ?? makeOwnKeyFile()) : found
  const deps = { db, log, basePath, ...accounts }
  const signer = signing && keys && (await openSigner({ ...deps, keys, ...signing }))
  return { secretKeys: keys, signer }
}

/** Keys are looked up on connections of their own: a burst of log-ins must not delay them. */
function openPools(database: DatabaseConfig, log: Log, undo: Undo) {
  function open(poolSize: number) {
    const pool = openDatabase({ ...database, poolSize }, (error) =>
      log('warn', 'database connection lost', { reason: explain(error) }),
    )
    undo.push(() => pool.stop())
    return pool
  }
  const forKeys = Math.min(4, Math.ceil(database.poolSize / 2))
  return { keyDb: open(forKeys), db: open(Math.max(1, database.poolSize - forKeys)) }
}

/**
 * Gives a database that starts at the same time as the service ten seconds. Throws at once where
 * waiting cannot help, and when `signal` aborts the start.
 */
async function waitForDatabase(db: Database, log: Log, signal: AbortSignal) {
  const tries = 10
  for (let count = 1; ; count++) {
    signal.throwIfAborted()
    try {
      await ping(db)
      return
    } catch (error) {
      if (isHopeless(error) || count === tries) throw error
      const reason = explain(error)
      log('warn', 'waiting for the database', { reason, try: count, of: tries })
    }
    await sleep(1000, undefined, { signal })
  }
}

/** Deletes what has ended, every hour. */
function startCleaning(db: Database, log: Log, undo: Undo) {
  async function clean() {
    try {
      await Promise.all([
        deleteEndedSessions(db),
        deleteEndedTokens(db),
        deleteForgottenFailures(db),
      ])
    } catch (error) {
      log('warn', 'cleaning failed', { reason: explain(error) })
    }
  }
  const cleaning = setInterval(() => void clean(), 3_600_000).unref()
  undo.push(() => clearInterval(cleaning))
}

function buildPipeline(config: Config, { keyDb, db }: Pools, { log, ...started }: Started) {
  const { rateLimit, basePath } = config
  const limiter =
    rateLimit === 0 ? null : createLimiter({ rate: rateLimit, burst: config.rateLimitBurst })
  const metrics = createMetrics()
  const identify = createIdentify(keyDb, config.accounts.sessionIdleSeconds, config.takesUuids)
  const routes = allRoutes({
    db,
    databases: [keyDb, db],
    ...started,
    // Handlers that identify a caller themselves demand what the pipeline does.
    identify: async (headers, client) =>
      demandFactor(await identify(headers, client), config.requireFactor),
    hasWebhook: started.sender !== null,
    limiter,
    metrics,
    ...config.accounts,
    basePath,
    hasAdminPage: config.hasAdminPage,
    version,
    commit: config.commit,
  })
  return createPipeline({
    router: createRouter(routes, basePath),
    identify,
    readClient: createClientReader(config.trustedProxies, log),
    throttle: limiter && { limiter, policy: `"default";q=${rateLimit};w=1` },
    freshSeconds: config.accounts.freshSeconds,
    requireFactor: config.requireFactor,
    corsOrigins: config.corsOrigins,
    secure: config.tls !== null,
    explain,
    log,
    metrics,
  })
}

/** What `npm start` tells a newcomer. */
function welcome(url: string, { email, keyFile }: FirstAdmin) {
  const lines = [
    `user-service is at ${url} with a private database; its API is shown at ${url}/docs`,
  ]
  if (existsSync(keyFile)) {
    lines.push(`The admin's key is in ${keyFile}`)
    const quoted = `'${keyFile.replaceAll(`'`, `'\\''`)}'`
    // A certificate is seldom one for this address, so curl would refuse it.
    if (url.startsWith('http:'))
      lines.push('Try:', `  curl -H "X-Api-Key: $(cat ${quoted})" ${url}/users`)
  } else {
    lines.push(`For an admin's key: node bin/admin.js key ${email}`)
  }
  return lines.join('\n')
}
