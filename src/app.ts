import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

import { bootstrap } from './auth/bootstrap.ts'
import { createIdentify } from './auth/identify.ts'
import { localDirectory, privateDatabase, type Config } from './config.ts'
import { startPrivatePostgres } from './database/embedded.ts'
import { checkSchema, migrateUp } from './database/migrate.ts'
import { openDatabase, withDatabase, type Database } from './database/pool.ts'
import { createDatabase } from './database/setup.ts'
import { ExitError, type AppError } from './errors.ts'
import { createHasher } from './hasher.ts'
import { createClientReader } from './http/client.ts'
import { listen } from './http/listen.ts'
import { createPipeline } from './http/pipeline.ts'
import { createRouter } from './http/router.ts'
import { deleteEndedSessions } from './keys/queries.ts'
import { createLimiter } from './limiter.ts'
import { describeError, type Log } from './log.ts'
import { createMetrics } from './metrics.ts'
import { allRoutes } from './routes.ts'
import { createKey } from './secrets.ts'
import { deleteForgottenFailures } from './users/credentials.ts'

/** The version of the service, from its package. */
export const version: string = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')).version

const adminKeyFile = `${localDirectory}/admin-key`

/**
 * Builds everything in order and starts it; each started thing pushes its own undo, and `stop` runs them last-first,
 * as does a start that fails half-way.
 */
export async function startApp(config: Config, log: Log) {
  const undo: (() => unknown)[] = []
  const stop = async () => {
    for (const each of undo.splice(0).reverse()) {
      await Promise.resolve(each()).catch((error) => log('error', 'stopping failed', describeError(error)))
    }
  }
  try {
    const { database, admin } = config.database === null
      ? await startPrivately(undo) : { database: config.database, admin: config.bootstrap }
    const db = openDatabase(database, (error) => log('warn', 'database connection lost', describeError(error)))
    undo.push(() => db.stop())
    await waitForDatabase(db, log)
    await checkSchema(db)
    if (admin && await bootstrap(db, admin)) log('info', 'first admin created', { email: admin.email })

    const hasher = createHasher()
    undo.push(() => hasher.stop())
    const { rateLimit, rateLimitBurst } = config
    const limiter = rateLimit === 0 ? null : createLimiter(rateLimit, rateLimitBurst)
    const metrics = createMetrics()
    const pipeline = createPipeline({
      ...config,
      router: createRouter(allRoutes({ db, hasher, limiter, metrics, version, ...config })),
      identify: createIdentify(db),
      readClient: createClientReader(config.trustedProxies),
      throttle: limiter && { limiter, policy: `"default";q=${rateLimit};w=1` },
      secure: config.tls !== null,
      log, metrics,
    })
    const clean = () => Promise.all([deleteEndedSessions(db), deleteForgottenFailures(db)])
      .catch((error) => log('warn', 'cleaning failed', describeError(error)))
    const cleaning = setInterval(clean, 3_600_000).unref()
    undo.push(() => clearInterval(cleaning))
    const listener = await listen(pipeline, config, log)
    undo.push(() => listener.stop(config.shutdownSeconds))
    const url = `${listener.url}${config.basePath}`
    log('info', 'listening', { url, version, commit: config.commit, node: process.version })
    if (config.database === null) console.error(welcome(url))
    return { url: listener.url, rereadTls: listener.rereadTls, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

async function startPrivately(undo: (() => unknown)[]) {
  const postgres = await startPrivatePostgres({ directory: localDirectory, say: console.error })
    .catch(({ message }: Error) => { throw new ExitError(message) })
  undo.push(() => postgres.stop())
  const as = (user: string) => privateDatabase(postgres, user)
  await createDatabase(as('postgres'))
  await withDatabase(as('user_service_admin'), (db) => migrateUp(db))
  if (!existsSync(adminKeyFile)) writeFileSync(adminKeyFile, `${createKey()}\n`, { mode: 0o600, flag: 'wx' })
  return { database: as('user_service_manager'), admin: { email: 'admin@localhost', keyFile: adminKeyFile } }
}

const welcome = (url: string) =>
  `user-service is at ${url} with a private database; its API is shown at ${url}/docs
The admin's key is in ${adminKeyFile}. Try:
  curl -H "X-Api-Key: $(cat '${adminKeyFile}')" ${url}/users`

/** Waits a little for a database that starts at the same time. */
async function waitForDatabase(db: Database, log: Log, tries = 10): Promise<void> {
  await db.query('select').catch(async (error: AppError) => {
    if (error.code !== 'database_unavailable' || tries === 0) throw error
    log('warn', 'waiting for the database', { error: (error.cause as Error).message })
    await sleep(1000)
    await waitForDatabase(db, log, tries - 1)
  })
}
