import { hash } from 'node:crypto'

import pg, { type Client } from 'pg'

import type { DatabaseConfig } from '../config.ts'
import { AppError, type Code } from '../errors.ts'
import { sqlState } from './codes.ts'

const lostTransaction: string[] = [sqlState.deadlock, sqlState.serializationFailure]
/** A pooler in transaction mode hands out other connections than were prepared. */
const unprepared: string[] = [sqlState.invalidStatementName, sqlState.duplicateStatementName]

/** What runs a statement, the pool or one open transaction; `prepared`: once per connection. */
export type Db = {
  query<Row>(text: string, values?: unknown[], prepared?: boolean): Promise<Row[]>
}
export type Database = ReturnType<typeof openDatabase>

/**
 * Opens a pool that survives the loss of its server: the call that met it fails with `database_unavailable`, the next
 * connects anew. Of several hosts it uses the first that accepts writes, decided for each new connection. Connecting
 * ends within two seconds, so that a request to a dead database is answered, and so does a statement; 0: no limit.
 */
export function openDatabase(
  config: DatabaseConfig,
  onLost: (error: Error) => void,
  timeoutMs = 1900,
) {
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

  async function connect(hostsLeft = hosts.length): Promise<Client> {
    const tried = host
    return pool.connect().catch((error) => {
      if (tried === host) pool.options.host = hosts[(host = (host + 1) % hosts.length)]
      if (hostsLeft === 1) throw explain(error)
      return connect(hostsLeft - 1)
    })
  }

  /** Runs `work` with a connection, which is closed afterwards when it can no longer be trusted. */
  async function borrow<T>(work: (db: Db) => Promise<T>): Promise<T> {
    const client = await connect()
    let close = false
    // Named for its text: behind a pooler another version may have prepared another one.
    const query = <Row>(text: string, values: unknown[] = [], prepared = false) =>
      client
        .query<Row>({
          text,
          values,
          name: prepared ? hash('sha256', text, 'base64url') : undefined,
        })
        .then(
          ({ rows }) => rows,
          (error) => {
            throw explain(error)
          },
        )
    return work({ query })
      .catch((error) => {
        close = error.code === 'database_unavailable'
        throw error
      })
      .finally(() => client.release(close))
  }

  const query = <Row>(text: string, values?: unknown[], prepared = false): Promise<Row[]> =>
    borrow((db) => db.query<Row>(text, values, prepared && prepares)).catch((error) => {
      // A pooler in transaction mode hands out other connections than were prepared.
      if (!prepared || !unprepared.includes(error.code)) throw error
      prepares = false
      return query(text, values)
    })

  /** Runs `work` in one transaction, rolled back when it throws; again where it lost a deadlock. */
  const transaction = <T>(work: (tx: Db) => Promise<T>, tries = 3): Promise<T> =>
    borrow(async (tx) => {
      await tx.query('begin')
      const result = await work(tx).catch(async (error) => {
        // A lost connection is closed, which rolls back too, and without waiting for an answer.
        if (error.code !== 'database_unavailable') await tx.query('rollback')
        throw error
      })
      await tx.query('commit')
      return result
    }).catch((error) => {
      if (tries === 1 || !lostTransaction.includes(error.code)) throw error
      return transaction(work, tries - 1)
    })

  return {
    query,
    transaction,
    connections: () => ({
      total: pool.totalCount,
      idle: pool.idleCount,
      waiting: pool.waitingCount,
    }),
    stop: () => pool.end(),
  }
}

/** Instants come as the text that answers show: to make dates of them, and text again, costs more than all the rest. */
const getTypeParser: typeof pg.types.getTypeParser = (type, format) => {
  const parse = pg.types.getTypeParser(type, format)
  if (type !== pg.types.builtins.TIMESTAMPTZ) return parse
  return (text) =>
    text.endsWith('+00') && text[4] === '-'
      ? `${text.slice(0, 10)}T${text.slice(11, 19)}.${text.slice(20, -3).padEnd(3, '0').slice(0, 3)}Z`
      : ((parse(text) as Date).toJSON?.() ?? null) // In another time zone or far away; `infinity` is no date.
}

async function refuseReadOnly(client: Client) {
  const { rows } = await client.query({
    text: `select where current_setting('transaction_read_only') = 'on'`,
  })
  if (rows.length > 0) throw new Error('the server does not accept writes')
}

/** Opens one connection for the time of `work`, whose statements may take any time. */
export async function withDatabase<T>(
  config: DatabaseConfig,
  work: (db: Database) => Promise<T>,
): Promise<T> {
  const database = openDatabase({ ...config, poolSize: 1 }, () => {}, 0)
  return work(database).finally(() => database.stop())
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

/** Deletes the rows of a table that meet a condition, 5,000 at a time: each statement has less than two seconds. */
export async function deleteAll(db: Db, table: string, condition: string): Promise<void> {
  const deleted = await db.query(`delete from ${table} where ctid = any(array(
    select ctid from ${table} where ${condition} limit 5000)) returning 1`)
  if (deleted.length === 5000) await deleteAll(db, table, condition)
}

/**
 * Whether the database cannot be used now: SQLSTATEs 08 lost connection, 25006 read-only, 28 and 3D access, 53 out of
 * resources, 55P03 and 57 stopped or timed out, 58 disk. Errors of the driver and of sockets have no severity.
 */
function isLost({
  code = '',
  severity,
  message,
}: Error & { code?: string; severity?: string }): boolean {
  return severity !== undefined
    ? /^(08|25006|28|3D|53|55P03|57|58)/.test(code)
    : /^E[A-Z]+$/.test(code) || /timeout|terminated|not queryable|accept writes/i.test(message)
}

const explain = (error: Error) =>
  isLost(error)
    ? new AppError('database_unavailable', { retryAfterSeconds: 1, cause: error })
    : error
