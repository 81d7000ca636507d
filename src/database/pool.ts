import pg, { type Client, type PoolClient } from 'pg'

import type { DatabaseConfig } from '../config.ts'
import { AppError, type Code } from '../errors.ts'

/** Something that runs statements: the pool, or one open transaction. */
export interface Db {
  /** Runs one statement; `name` prepares it once per connection. Resolves with its rows. */
  query<Row>(text: string, values?: unknown[], name?: string): Promise<Row[]>
}

export type Database = ReturnType<typeof openDatabase>

// Each is below two seconds, so that a request that meets a dead database is answered within two.
const connectTimeoutMs = 1500
const requestTimeoutMs = 1900

/**
 * Opens a pool that survives the loss of its server: a failure of the connection is the failure
 * `database_unavailable` of the call that met it, and the next call connects anew. Of several hosts it uses
 * the first that accepts writes, decided for each new connection. A statement may take `timeoutMs`; 0: no limit.
 */
export function openDatabase(config: DatabaseConfig, onLost: (error: Error) => void, timeoutMs = requestTimeoutMs) {
  const { hosts, port, name: database, user, password, ssl, poolSize } = config
  let host = 0
  let prepares = true
  const pool = new pg.Pool({
    host: hosts[host], port, database, user, password, ssl, application_name: 'user-service', keepAlive: true,
    connectionTimeoutMillis: connectTimeoutMs, query_timeout: timeoutMs, max: poolSize, idleTimeoutMillis: 60_000,
    ...(hosts.length > 1 && { onConnect: refuseReadOnly }),
  })
  pool.on('error', onLost)
  // A connection that dies while it is checked out and idle would otherwise end the process.
  pool.on('connect', (client: Client) => client.on('error', () => {}))

  async function connect(hostsLeft = hosts.length): Promise<PoolClient> {
    const tried = host
    try {
      return await pool.connect()
    } catch (error) {
      if (tried === host) pool.options.host = hosts[host = (host + 1) % hosts.length]
      if (hostsLeft === 1) throw explain(error)
      return connect(hostsLeft - 1)
    }
  }

  /** Runs `work` with a connection, which is closed afterwards when it can no longer be trusted. */
  async function borrow<T>(work: (client: PoolClient) => Promise<T>): Promise<T> {
    const client = await connect()
    try {
      const result = await work(client)
      client.release(false)
      return result
    } catch (error) {
      client.release(isLost(error))
      throw explain(error)
    }
  }

  async function query<Row>(text: string, values: unknown[] = [], name?: string): Promise<Row[]> {
    try {
      return (await borrow((client) => client.query<Row>({ text, values, name: prepares ? name : undefined }))).rows
    } catch (error) {
      // A pooler in transaction mode hands out other connections than were prepared.
      if (name === undefined || !hasCode(error, '26000', '42P05')) throw error
      prepares = false
      return query(text, values)
    }
  }

  return {
    query,
    /** Runs `work` in one transaction, rolled back when it throws; again where it lost a deadlock. */
    transaction: <T>(work: (tx: Db) => Promise<T>): Promise<T> => borrow((client) => transact(client, work)),
    connections: () => ({ total: pool.totalCount, idle: pool.idleCount, waiting: pool.waitingCount }),
    stop: () => pool.end(),
  }
}

async function transact<T>(client: Client, work: (tx: Db) => Promise<T>, tries = 3): Promise<T> {
  const query = async <Row>(text: string, values: unknown[] = []) => (await client.query<Row>({ text, values })).rows
  await query('begin')
  try {
    const result = await work({ query })
    await query('commit')
    return result
  } catch (error) {
    // A lost connection is closed, which rolls back too, and without waiting for an answer.
    if (!isLost(error)) await query('rollback')
    // Nothing was done of what lost a deadlock.
    if (tries > 1 && hasCode(error, '40P01', '40001')) return transact(client, work, tries - 1)
    throw error
  }
}

async function refuseReadOnly(client: Client) {
  const { rows } = await client.query({ text: `select where current_setting('transaction_read_only') = 'on'` })
  if (rows.length > 0) throw new Error('the server does not accept writes')
}

/** Opens one connection for the time of `work`, whose statements may take any time. */
export async function withDatabase<T>(config: DatabaseConfig, work: (db: Database) => Promise<T>): Promise<T> {
  const database = openDatabase({ ...config, poolSize: 1 }, () => {}, 0)
  return work(database).finally(() => database.stop())
}

/** The first row of a statement; throws `code` when it gives none. */
export async function one<Row>(db: Db, text: string, values: unknown[] = [], code: Code = 'internal'): Promise<Row> {
  const [row] = await db.query<Row>(text, values)
  if (row === undefined) throw new AppError(code)
  return row
}

/** Whether `error` is the violation of the constraint of that name. */
export const violates = (error: unknown, constraint: string) =>
  hasCode(error, '23505', '23503') && (error as { constraint?: string }).constraint === constraint

const hasCode = (error: unknown, ...codes: string[]) => codes.includes((error as { code?: string }).code ?? '')

/**
 * Tells a database that cannot be used now from a statement that is wrong. SQLSTATEs: 08 lost connection,
 * 25006 read-only, 28 and 3D access, 53 out of resources, 55P03 and 57 stopped or timed out, 58 the server's
 * disk. Errors of the driver and of sockets have no SQLSTATE, and no severity.
 */
function isLost(error: unknown): boolean {
  if (error instanceof AppError || !(error instanceof Error)) return false
  const { code = '', severity } = error as { code?: string; severity?: string }
  return severity !== undefined
    ? /^(08|25006|28|3D|53|55P03|57|58)/.test(code)
    : /^E[A-Z]+$/.test(code) || /timeout|terminated|not queryable|accept writes/i.test(error.message)
}

const explain = (error: unknown) =>
  isLost(error) ? new AppError('database_unavailable', { retryAfterSeconds: 1, cause: error }) : error
