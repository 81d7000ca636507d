import { readFileSync } from 'node:fs'

import { bootstrap, ensureKeyFile } from './auth/bootstrap.ts'
import { createIdentify } from './auth/identify.ts'
import type { Config, DatabaseConfig } from './config.ts'
import { startPrivatePostgres } from './database/embedded.ts'
import { checkSchema, migrateUp } from './database/migrate.ts'
import { openDatabase, withDatabase, type Database } from './database/pool.ts'
import { createDatabase, createSchema } from './database/setup.ts'
import { AppError, ExitError } from './errors.ts'
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
import { deleteForgottenFailures } from './users/credentials.ts'

/** `localDirectory`: where a private database and the key of its admin lie; `say` speaks to a person. */
export interface Surroundings {
  log: Log
  localDirectory: string
  say(line: string): void
}

const databaseWaitMs = 10_000

/** The version of the service, from its package. */
export const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as
  { version: string }

/**
 * Builds everything in order and starts it; each started thing pushes its own undo, and `stop` runs
 * them last-first, as does a start that fails half-way.
 */
export async function startApp(config: Config, surroundings: Surroundings) {
  const { log } = surroundings
  const undo: (() => unknown)[] = []
  const stop = async () => {
    for (const each of undo.splice(0).reverse()) {
      await Promise.resolve(each()).catch((error) => log('error', 'stopping failed', describeError(error)))
    }
  }
  try {
    const privately = config.database === null ? await startPrivately(surroundings, undo) : null
    const db = openDatabase(config.database ?? privately!.database, (error) =>
      log('warn', 'database connection lost', describeError(error)))
    undo.push(() => db.stop())
    await waitForDatabase(db, log)
    await checkSchema(db)
    const admin = privately?.admin ?? config.bootstrap
    if (admin && await bootstrap(db, admin)) log('info', 'first admin created', { email: admin.email })

    const hasher = createHasher()
    undo.push(() => hasher.stop())
    const { rateLimit, rateLimitBurst } = config
    const limiter = rateLimit === 0 ? null : createLimiter(rateLimit, rateLimitBurst)
    const metrics = createMetrics()
    const pipeline = createPipeline({
      basePath: config.basePath,
      router: createRouter(allRoutes({ db, hasher, limiter, metrics, version, ...config })),
      identify: createIdentify(db),
      readClient: createClientReader(config.trustedProxies),
      throttle: limiter && { limiter, policy: `"default";q=${rateLimit};w=1` },
      corsOrigins: config.corsOrigins,
      secure: config.tls !== null,
      log,
      metrics,
    })
    const clean = () => Promise.all([deleteEndedSessions(db), deleteForgottenFailures(db)])
      .catch((error) => log('warn', 'cleaning failed', describeError(error)))
    const cleaning = setInterval(clean, 3_600_000).unref()
    undo.push(() => clearInterval(cleaning))
    const listener = await listen(pipeline, config)
    undo.push(() => listener.stop(config.shutdownSeconds))
    const url = `${listener.url}${config.basePath}`
    log('info', 'listening', { url, version, commit: config.commit, node: process.version })
    if (privately) surroundings.say(welcome(url, privately.admin.keyFile))
    return { url: listener.url, rereadTls: listener.rereadTls, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

async function startPrivately({ localDirectory, say }: Surroundings, undo: (() => unknown)[]) {
  const postgres = await startPrivatePostgres({ directory: localDirectory, say }).catch(({ message }: Error) => {
    throw new ExitError(message)
  })
  undo.push(() => postgres.stop())
  const as = (user: string, name: string): DatabaseConfig => ({
    hosts: [postgres.socketDirectory], port: postgres.port, name, user,
    password: undefined, ssl: false, poolSize: 10,
  })
  const name = 'db_user_service'
  await withDatabase(as('postgres', 'postgres'), (db) => createDatabase(db, name, {}))
  await withDatabase(as('postgres', name), createSchema)
  await withDatabase(as('user_service_admin', name), (db) => migrateUp(db))
  const keyFile = `${localDirectory}/admin-key`
  ensureKeyFile(keyFile)
  return { database: as('user_service_manager', name), admin: { email: 'admin@localhost', keyFile } }
}

const welcome = (url: string, keyFile: string) =>
  `user-service is at ${url} with a private database; its API is shown at ${url}/docs
The admin's key is in ${keyFile}. Try:
  curl -H "X-Api-Key: $(cat '${keyFile}')" ${url}/users`

/** Waits a little for a database that starts at the same time. */
async function waitForDatabase(db: Database, log: Log) {
  const deadline = performance.now() + databaseWaitMs
  for (;;) {
    try {
      return await db.query('select')
    } catch (error) {
      const lost = error instanceof AppError && error.code === 'database_unavailable'
      if (!lost || performance.now() > deadline) throw error
      log('warn', 'waiting for the database', { error: (error.cause as Error).message })
      await new Promise((resolve) => setTimeout(resolve, 500))
    }
  }
}
