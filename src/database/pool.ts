// PostgreSQL, without any table of a domain: connections and transactions, batches of look-ups,
// migrations, roles and databases, and the private server of `npm start` and `npm test`.
import { hash } from 'node:crypto'

import pg, { type Client, type Query } from 'pg'

import type { DatabaseConfig } from '../config.ts'
import { AppError, type Code } from '../errors.ts'
import { causeOf, codeOf, sqlState, type DatabaseError } from './codes.ts'
import { commandSettings, prepareSession, serviceSettings } from './session.ts'

/** What runs statements: the pool, or one open transaction. */
export interface Db {
  /**
   * Runs a statement and returns its rows. A `prepared` one is parsed and planned once per
   * connection, and may be sent twice. Throws `database_unavailable`, or the server's error.
   */
  query<Row>(text: string, values?: unknown[], prepared?: boolean): Promise<Row[]>
}

/** A pool of connections to one database. */
export type Database = ReturnType<typeof openDatabase>

/** How often a transaction that loses to others is tried. */
const attempts = 3
/**
 * A pooler in transaction mode hands out other connections than were prepared, or a column of the
 * result has got another type.
 */
const unprepared = [
  sqlState.invalidStatementName,
  sqlState.duplicateStatementName,
  sqlState.cachedPlanChanged,
]

/**
 * Opens a pool that survives the loss of its server: a call that meets it fails with
 * `database_unavailable`, the next one connects again. Each new connection goes to the first of
 * several hosts that accepts writes. Connecting and statements take two seconds at most, so that a
 * request to a dead database is answered; with `timeoutMs` 0, statements may take any time.
 */
export function openDatabase(
  config: DatabaseConfig,
  onLost: (error: Error) => void,
  timeoutMs = 1900,
) {
  const { hosts, name: database, poolSize: max } = config
  let host = 0
  let prepares = true
  /** Connections that have answered before; the server may have ended them since. */
  const used = new WeakSet<Client>()
  const pool = new pg.Pool({
    ...config,
    ...addressOf(config, host),
    database,
    max,
    application_name: 'user-service',
    keepAlive: true,
    // All hosts but one may be dead.
    connectionTimeoutMillis: 1500 / Math.max(1, hosts.length - 1),
    query_timeout: timeoutMs,
    idleTimeoutMillis: 60_000,
    types: { getTypeParser },
    onConnect: prepare,
  })
  pool.on('error', onLost)
  // A connection that dies while it is checked out and idle would otherwise end the process.
  pool.on('connect', (client: Client) => client.on('error', () => {}))

  async function prepare(client: Client) {
    const settings = timeoutMs === 0 ? commandSettings : serviceSettings
    const acceptsWrites = await prepareSession(client, settings)
    if (hosts.length > 1 && !acceptsWrites) throw new Error('the server does not accept writes')
  }

  /** The pool's own limit is for waiting, and again for each host. */
  function connectInTime(): Promise<Client> {
    if (pool.idleCount > 0 || timeoutMs === 0) return connect()
    return new Promise((resolve, reject) => {
      const connecting = connect()
      const late = setTimeout(() => {
        reject(unavailable(new Error('no connection in time')))
        connecting.then(
          (client) => client.release(false),
          () => {},
        )
      }, timeoutMs)
      connecting.finally(() => clearTimeout(late)).then(resolve, reject)
    })
  }

  async function connect() {
    for (let hostsLeft = hosts.length; ; hostsLeft--) {
      const tried = host
      try {
        return await pool.connect()
      } catch (error) {
        // New connections go to the next host, unless another call has switched already.
        if (tried === host) {
          host = (host + 1) % hosts.length
          Object.assign(pool.options, addressOf(config, host))
        }
        if (hostsLeft === 1) throw isOurs(error) ? error : unavailable(error)
      }
    }
  }

  /**
   * Runs a statement as the first on a connection, which the caller releases. A `repeatable` one
   * changes nothing: it is run again when the server or a firewall had ended the connection
   * unnoticed.
   */
  async function start<Row>(statement: Query, repeatable: boolean) {
    while (true) {
      const client = await connectInTime()
      const mayBeCut = repeatable && used.has(client)
      used.add(client)
      try {
        return { client, rows: await run<Row>(client, statement) }
      } catch (error) {
        client.release(codeOf(error) === 'database_unavailable')
        if (!mayBeCut || !isCut(causeOf(error))) throw error
      }
    }
  }

  async function ask<Row>(statement: Query, repeatable: boolean) {
    const { client, rows } = await start<Row>(statement, repeatable)
    client.release(false)
    return rows
  }

  const query: Db['query'] = (text, values = [], prepared = false) => {
    const repeatable = prepared || /^\s*select\b/.test(text)
    return retryLostRaces(async () => {
      if (!prepared || !prepares) return ask({ text, values }, repeatable)
      // The statement's name is a hash of its text: behind a pooler, a session may be shared with
      // another release that prepared different SQL.
      const name = hash('sha256', text, 'base64url')
      try {
        return await ask({ text, values, name }, repeatable)
      } catch (error) {
        if (!unprepared.includes(codeOf(error))) throw error
        prepares = false
        return ask({ text, values }, repeatable)
      }
    })
  }

  /** Runs a transaction once; closes its connection unless the transaction is known to be over. */
  async function transact<T>(work: (tx: Db) => Promise<T>) {
    const { client } = await start({ text: 'begin isolation level read committed' }, true)
    const tx: Db = { query: (text, values = []) => run(client, { text, values }) }
    let close = true
    try {
      const result = await work(tx)
      await tx.query('commit')
      close = false
      return result
    } catch (error) {
      // A lost connection is closed, which rolls back too, and without waiting for an answer.
      if (codeOf(error) !== 'database_unavailable') {
        await tx.query('rollback')
        close = false
      }
      throw error
    } finally {
      client.release(close)
    }
  }

  return {
    query,
    /** Runs `work` in a transaction, rolled back if it throws; retries after a lost deadlock. */
    transaction: <T>(work: (tx: Db) => Promise<T>) => retryLostRaces(() => transact(work)),
    connections: () => ({
      total: pool.totalCount,
      idle: pool.idleCount,
      waiting: pool.waitingCount,
    }),
    stop: () => pool.end(),
  }
}

/** As with libpq, there is no TLS on a Unix socket. */
function addressOf({ hosts, ssl }: DatabaseConfig, index: number) {
  const host = hosts[index]!
  return { host, ssl: host.startsWith('/') ? (false as const) : ssl }
}

/** Runs a statement; throws `database_unavailable`, or the server's error. */
async function run<Row>(client: Client, statement: Query) {
  try {
    const { rows } = await client.query<Row>(statement)
    return rows
  } catch (error) {
    throw toFailure(error)
  }
}

async function retryLostRaces<T>(work: () => Promise<T>) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work()
    } catch (error) {
      // A deadlock, a failure to serialize, and what else rolled the transaction back.
      if (!codeOf(error).startsWith('40')) throw error
      if (attempt === attempts) throw unavailable(error)
    }
  }
}

/**
 * Timestamps come as the ISO text that the API sends. Going through `Date` costs more than the
 * rest of decoding a row.
 */
const getTypeParser: typeof pg.types.getTypeParser = (type, format) =>
  type === pg.types.builtins.TIMESTAMPTZ ? toIso : pg.types.getTypeParser(type, format)

/** Makes `2024-01-02T03:04:05.678Z` of `2024-01-02 03:04:05.67812+00`. */
function toIso(text: string) {
  // Far away, or `infinity`, which is no date.
  if (text[4] !== '-' || !text.endsWith('+00')) return new Date(text).toJSON()
  const day = text.slice(0, 10)
  const time = text.slice(11, 19)
  const milliseconds = text.slice(20, -3).padEnd(3, '0').slice(0, 3)
  return `${day}T${time}.${milliseconds}Z`
}

/** Opens a database for the duration of `work`, whose statements may take any time. */
export async function withDatabase<T>(config: DatabaseConfig, work: (db: Database) => Promise<T>) {
  const database = openDatabase({ ...config, poolSize: 2 }, () => {}, 0)
  try {
    return await work(database)
  } finally {
    await database.stop()
  }
}

/** Asks the database for nothing, to see that it answers. Throws what any query does. */
export async function ping(db: Db) {
  await db.query('select')
}

/** The first row of a statement, or null. */
export async function first<Row>(db: Db, text: string, values: unknown[]): Promise<Row | null> {
  const [row] = await db.query<Row>(text, values)
  return row ?? null
}

/** The first row of a statement; throws `orThrow`, by default `internal`, when it gives none. */
export async function one<Row>(
  db: Db,
  { text, values, orThrow = 'internal' }: { text: string; values?: unknown[]; orThrow?: Code },
) {
  const [row] = await db.query<Row>(text, values)
  if (row === undefined) throw new AppError(orThrow)
  return row
}

/** Deletes the rows that meet a condition, 5,000 at a time: each in under two seconds. */
export async function deleteAll(db: Db, table: string, condition: string) {
  const batch = 5000
  let deleted = batch
  while (deleted === batch) {
    const rows = await db.query(`delete from ${table} where ctid = any(array(
      select ctid from ${table} where ${condition} limit ${batch})) returning 1`)
    deleted = rows.length
  }
}

/** SQLSTATEs that mean that the database cannot be used now. */
const lostClasses = [
  '08', // the connection is lost
  '25006', // read-only
  '25P03', // the transaction was idle for too long
  '25P04', // the transaction took too long
  '28', // access: a wrong password, no line of pg_hba.conf
  '42501', // a right that was taken from the role
  // Not our mistake, as tests show, but what somebody dropped, renamed or did not restore.
  sqlState.undefinedTable,
  sqlState.undefinedColumn,
  sqlState.undefinedFunction,
  '3D', // no such database
  '53', // out of connections, memory, disk
  '55', // no connections are accepted, the database is being dropped, a lock was not to be had
  '57', // stopped, or cancelled after its time
  '58', // an error of the system
  'XX', // an error of PostgreSQL's own, such as a corrupted page
]

/** Makes `database_unavailable` of an error that is neither our mistake nor the statement's. */
function toFailure(error: unknown) {
  const { code = '', severity } = error as DatabaseError
  const isStatements =
    severity !== undefined && !lostClasses.some((state) => code.startsWith(state))
  return isStatements || isOurs(error) ? error : unavailable(error)
}

const unavailable = (cause: unknown) =>
  new AppError('database_unavailable', { retryAfterSeconds: 1, cause })

const mistakes = [AppError, TypeError, RangeError, ReferenceError, SyntaxError]
const isOurs = (error: unknown) => mistakes.some((mistake) => error instanceof mistake)

const cuts = [sqlState.adminShutdown, sqlState.idleSessionTimeout, 'ECONNRESET', 'EPIPE']

/** Whether the connection was ended, rather than the statement cancelled. */
function isCut({ code = '', message }: DatabaseError) {
  return cuts.includes(code) || /^Connection terminated|not queryable/.test(message)
}
