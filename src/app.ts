import { existsSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

import { bootstrap, type FirstAdmin } from './users/first-admin.ts'
import { createIdentify } from './keys/identify.ts'
import { localDirectory, privateDatabase, type Config } from './config.ts'
import { startPrivatePostgres } from './database/private.ts'
import { checkSchema, migrateUp } from './database/migrate.ts'
import { openDatabase, withDatabase, type Database } from './database/pool.ts'
import { createDatabase } from './database/setup.ts'
import { ExitError } from './errors.ts'
import { createHasher } from './passwords/hasher.ts'
import { createClientReader } from './http/address.ts'
import { listen } from './http/server.ts'
import { createPipeline } from './http/pipeline.ts'
import { createRouter } from './http/router.ts'
import { deleteEndedSessions } from './keys/queries.ts'
import { createLimiter } from './http/limiter.ts'
import { describeError, type Log } from './log.ts'
import { createMetrics } from './http/metrics.ts'
import { allRoutes } from './routes.ts'
import { deleteForgottenFailures } from './passwords/check.ts'

/** Of the private database, unless another is configured. */
const ownAdmin: FirstAdmin = {
  email: 'admin@localhost',
  keyFile: `${localDirectory}/admin-key`,
  makesFile: true,
}
export const version: string = JSON.parse(
  readFileSync(new URL('../package.json', import.meta.url), 'utf8'),
).version

/**
 * Builds everything in order and starts it; each started thing pushes its own undo, and `stop` runs them last-first,
 * as does a start that fails half-way.
 */
export async function startApp(config: Config, log: Log) {
  const report = (level: 'warn' | 'error', what: string) => (error: unknown) =>
    log(level, what, describeError(error))
  const undo: (() => unknown)[] = []
  const stop = async () => {
    for (const each of undo.splice(0).reverse())
      await Promise.resolve(each()).catch(report('error', 'stopping failed'))
  }
  try {
    const database = config.database ?? (await startPrivately(undo))
    const admin = config.bootstrap ?? (config.database === null ? ownAdmin : null)
    // Keys are looked up on connections of their own: a burst of log-ins must not stand before them.
    const forKeys = Math.min(4, Math.ceil(database.poolSize / 2))
    const [keyDb, db] = [forKeys, Math.max(1, database.poolSize - forKeys)].map((poolSize) => {
      const opened = openDatabase(
        { ...database, poolSize },
        report('warn', 'database connection lost'),
      )
      undo.push(() => opened.stop())
      return opened
    }) as [Database, Database]
    // A database that starts at the same time has ten seconds.
    const isUp = () =>
      db.query('select').then(
        () => true,
        ({ code }) => code !== 'database_unavailable' || sleep(1000, false),
      )
    for (let tries = 10; tries > 0 && !(await isUp()); tries--)
      log('warn', 'waiting for the database')
    await checkSchema(db)
    if (admin && (await bootstrap(db, admin)))
      log('info', 'first admin created', { email: admin.email })

    const hasher = createHasher()
    undo.push(() => hasher.stop())
    const limiter =
      config.rateLimit === 0 ? null : createLimiter(config.rateLimit, config.rateLimitBurst)
    const metrics = createMetrics()
    let stopping = false
    const pipeline = createPipeline({
      ...config,
      router: createRouter(
        allRoutes({
          db,
          databases: [keyDb, db],
          hasher,
          limiter,
          metrics,
          version,
          isStopping: () => stopping,
          ...config,
        }),
      ),
      identify: createIdentify(keyDb),
      readClient: createClientReader(config.trustedProxies),
      throttle: limiter && { limiter, policy: `"default";q=${config.rateLimit};w=1` },
      secure: config.tls !== null,
      log,
      metrics,
    })
    const clean = () => Promise.all([deleteEndedSessions(db), deleteForgottenFailures(db)])
    const cleaning = setInterval(
      () => clean().catch(report('warn', 'cleaning failed')),
      3_600_000,
    ).unref()
    undo.push(() => clearInterval(cleaning))
    const listener = await listen(pipeline, config, log)
    undo.push(() => listener.stop(config.shutdownSeconds))
    // Whoever connects in the very moment in which nobody accepts any more is reset: first balancers are to look away.
    undo.push(() => (stopping = true) && sleep(config.drainSeconds * 1000))
    const url = `${listener.url}${config.basePath}`
    log('info', 'listening', { url, version, commit: config.commit, node: process.version })
    if (config.database === null) console.error(welcome(url, admin!))
    return { url: listener.url, rereadTls: listener.rereadTls, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

async function startPrivately(undo: (() => unknown)[]) {
  const postgres = await startPrivatePostgres({
    directory: localDirectory,
    say: console.error,
  }).catch(({ message }: Error) => {
    throw new ExitError(message)
  })
  undo.push(() => postgres.stop())
  const as = (user: string) => privateDatabase(postgres, user)
  await createDatabase(as('postgres'))
  await withDatabase(as('user_service_admin'), (db) => migrateUp(db))
  return as('user_service_manager')
}

const welcome = (url: string, { email, keyFile }: FirstAdmin) =>
  `user-service is at ${url} with a private database; its API is shown at ${url}/docs
` +
  (existsSync(keyFile)
    ? `The admin's key is in ${keyFile}. Try:
  curl -H "X-Api-Key: $(cat '${keyFile}')" ${url}/users`
    : `For an admin's key: node bin/admin.js key ${email}`)
