// PostgreSQL, without any table of a domain: connections and transactions, batches of look-ups,
// migrations, roles and databases, and the private server of `npm start` and `npm test`.
import { hash } from 'node:crypto'

import pg, { type Client } from 'pg'

import type { DatabaseConfig } from '../config.ts'
import { AppError, type Code } from '../errors.ts'
import { sqlState } from './codes.ts'

/** What runs statements: the pool, or one open transaction. */
export interface Db {
  /**
   * Runs a statement and returns its rows; `prepared`: parsed and planned once per connection.
   * Throws `database_unavailable`, or the server's error.
   */
  query<Row>(text: string, values?: unknown[], prepared?: boolean): Promise<Row[]>
}

/** A pool of connections to one database. */
export interface Database extends Db {
  /** Runs `work` in a transaction, rolled back if it throws; again, if it lost a deadlock. */
  transaction<T>(work: (tx: Db) => Promise<T>): Promise<T>
  connections(): { total: number; idle: number; waiting: number }
  stop(): Promise<void>
}

const attempts = 3
const lostTransaction: string[] = [sqlState.deadlock, sqlState.serializationFailure]
/** A pooler in transaction mode hands out other connections than were prepared. */
const unprepared: string[] = [sqlState.invalidStatementName, sqlState.duplicateStatementName]

/**
 * Opens a pool that survives the loss of its server: the call that met it fails with
 * `database_unavailable`, the next one connects again. Of several hosts it uses the first that
 * accepts writes, decided for each new connection. Connecting ends within two seconds, so that a
 * request to a dead database is answered, and so does a statement; `timeoutMs` 0: no limit.
 */
export function openDatabase(
  config: DatabaseConfig,
  onLost: (error: Error) => void,
  timeoutMs = 1900,
): Database {
  const { hosts, name: database, poolSize: max } = config
  let host = 0
  let prepares = true
  const pool = new pg.Pool({
    ...config,
    host: hosts[host],
    database,
    max,
    application_name: 'user-service',
    keepAlive: true,
    connectionTimeoutMillis: 1500,
    query_timeout: timeoutMs,
    idleTimeoutMillis: 60_000,
    types: { getTypeParser },
    ...(hosts.length > 1 && { onConnect: refuseReadOnly }),
  })
  pool.on('error', onLost)
  // A connection that dies while it is checked out and idle would otherwise end the process.
  pool.on('connect', (client: Client) => client.on('error', () => {}))

  /** Lets new connections go to the next host, unless somebody else did since `tried`. */
  function useNextHost(tried: number) {
    if (tried !== host) return
    host = (host + 1) % hosts.length
    pool.options.host = hosts[host]
  }

  async function connect(): Promise<Client> {
    for (let hostsLeft = hosts.length; ; hostsLeft--) {
      const tried = host
      try {
        return await pool.connect()
      } catch (error) {
        useNextHost(tried)
        if (hostsLeft === 1) throw explain(error)
      }
    }
  }

  /** Runs `work` with a connection, which is closed afterwards if it can no longer be trusted. */
  async function borrow<T>(work: (db: Db) => Promise<T>): Promise<T> {
    const client = await connect()
    let close = false
    try {
      return await work({ query: (text, values, prepared) => run(client, text, values, prepared) })
    } catch (error) {
      close = codeOf(error) === 'database_unavailable'
      throw error
    } finally {
      client.release(close)
    }
  }

  async function query<Row>(text: string, values?: unknown[], prepared = false): Promise<Row[]> {
    try {
      return await borrow((db) => db.query<Row>(text, values, prepared && prepares))
    } catch (error) {
      if (!prepared || !unprepared.includes(codeOf(error))) throw error
      prepares = false
      return query(text, values)
    }
  }

  async function transaction<T>(work: (tx: Db) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await borrow((tx) => runTransaction(tx, work))
      } catch (error) {
        if (attempt === attempts || !lostTransaction.includes(codeOf(error))) throw error
      }
    }
  }

  const connections = () => ({
    total: pool.totalCount,
    idle: pool.idleCount,
    waiting: pool.waitingCount,
  })

  return { query, transaction, connections, stop: () => pool.end() }
}

async function run<Row>(
  client: Client,
  text: string,
  values: unknown[] = [],
  prepared = false,
): Promise<Row[]> {
  // The statement's name is a hash of its text: behind a pooler, a session may be shared with
  // another release that prepared different SQL.
  const name = prepared ? hash('sha256', text, 'base64url') : undefined
  try {
    const { rows } = await client.query<Row>({ text, values, name })
    return rows
  } catch (error) {
    throw explain(error)
  }
}

async function runTransaction<T>(tx: Db, work: (tx: Db) => Promise<T>): Promise<T> {
  await tx.query('begin')
  let result: T
  try {
    result = await work(tx)
  } catch (error) {
    // A lost connection is closed, which rolls back too, and without waiting for an answer.
    if (codeOf(error) !== 'database_unavailable') await tx.query('rollback')
    throw error
  }
  await tx.query('commit')
  return result
}

const codeOf = (error: unknown): string => (error as { code?: string }).code ?? ''

/**
 * Timestamps come as the ISO text that the API sends. Going through `Date` costs more than the
 * rest of decoding a row.
 */
const getTypeParser: typeof pg.types.getTypeParser = (type, format) => {
  const parse = pg.types.getTypeParser(type, format)
  return type === pg.types.builtins.TIMESTAMPTZ ? (text) => toIso(text, parse) : parse
}

/** Makes `2024-01-02T03:04:05.678Z` of `2024-01-02 03:04:05.67812+00`. */
function toIso(text: string, parse: (text: string) => unknown): string | null {
  const isUsual = text.endsWith('+00') && text[4] === '-'
  if (isUsual) {
    const day = text.slice(0, 10)
    const time = text.slice(11, 19)
    const milliseconds = text.slice(20, -3).padEnd(3, '0').slice(0, 3)
    return `${day}T${time}.${milliseconds}Z`
  }
  // In another time zone, or far away; `infinity` is no date.
  const parsed = parse(text)
  return parsed instanceof Date ? parsed.toJSON() : null
}

async function refuseReadOnly(client: Client) {
  const { rows } = await client.query({
    text: `select where current_setting('transaction_read_only') = 'on'`,
  })
  if (rows.length > 0) throw new Error('the server does not accept writes')
}

/** Opens one connection for the duration of `work`, whose statements may take any time. */
export async function withDatabase<T>(
  config: DatabaseConfig,
  work: (db: Database) => Promise<T>,
): Promise<T> {
  const database = openDatabase({ ...config, poolSize: 1 }, () => {}, 0)
  try {
    return await work(database)
  } finally {
    await database.stop()
  }
}

/** Asks the database for nothing, to see that it answers. Throws what any query does. */
export async function ping(db: Db): Promise<void> {
  await db.query('select')
}

/** The first row of a statement; throws `code` when it gives none. */
export async function one<Row>(
  db: Db,
  text: string,
  values: unknown[] = [],
  code: Code = 'internal',
): Promise<Row> {
  const [row] = await db.query<Row>(text, values)
  if (row === undefined) throw new AppError(code)
  return row
}

/** Deletes the rows of a table that meet a condition, 5,000 at a time: each in under two seconds. */
export async function deleteAll(db: Db, table: string, condition: string): Promise<void> {
  const batch = 5000
  let deleted = batch
  while (deleted === batch) {
    const rows = await db.query(`delete from ${table} where ctid = any(array(
      select ctid from ${table} where ${condition} limit ${batch})) returning 1`)
    deleted = rows.length
  }
}

/**
 * Whether the database cannot be used now: SQLSTATEs 08 lost connection, 25006 read-only, 28 and
 * 3D access, 53 out of resources, 55P03 and 57 stopped or timed out, 58 disk. Errors of the driver
 * and of sockets have no severity.
 */
function isLost(error: Error & { code?: string; severity?: string }): boolean {
  const { code = '', severity, message } = error
  if (severity !== undefined) return /^(08|25006|28|3D|53|55P03|57|58)/.test(code)
  return /^E[A-Z]+$/.test(code) || /timeout|terminated|not queryable|accept writes/i.test(message)
}

function explain(error: unknown): unknown {
  if (!isLost(error as Error)) return error
  return new AppError('database_unavailable', { retryAfterSeconds: 1, cause: error })
}
