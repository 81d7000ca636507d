// PostgreSQL, without any table of a domain: connections and transactions, batches of look-ups,
// migrations, roles and databases, and the private server of `npm start` and `npm test`.
import { hash } from 'node:crypto'

import pg, { type Client, type Query } from 'pg'

import type { DatabaseConfig } from '../config.ts'
import { AppError, type Code } from '../errors.ts'
import { sqlState } from './codes.ts'
import { commandSettings, prepareSession, serviceSettings } from './session.ts'

/** What runs statements: the pool, or one open transaction. */
export interface Db {
  /**
   * Runs a statement and returns its rows. `prepared`: it is parsed and planned once per
   * connection, and may be sent twice. Throws `database_unavailable`, or the server's error.
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

/** How often a transaction is run that loses to others. */
const attempts = 3
const lostRace: string[] = [sqlState.deadlock, sqlState.serializationFailure]
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
  /** How often the result of a prepared statement has changed its type. */
  let generation = 0
  /** Connections that have answered before; the server may have ended them since. */
  const used = new WeakSet<Client>()
  const pool = new pg.Pool({
    ...config,
    ...addressOf(config, host),
    database,
    max,
    application_name: 'user-service',
    keepAlive: true,
    connectionTimeoutMillis: 1500,
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

  /** Lets new connections go to the next host, unless somebody else did since `tried`. */
  function useNextHost(tried: number) {
    if (tried !== host) return
    host = (host + 1) % hosts.length
    Object.assign(pool.options, addressOf(config, host))
  }

  async function connect(): Promise<Client> {
    for (let hostsLeft = hosts.length; ; hostsLeft--) {
      const tried = host
      try {
        return await pool.connect()
      } catch (error) {
        useNextHost(tried)
        if (hostsLeft === 1) throw isOurs(error) ? error : unavailable(error)
      }
    }
  }

  /** Runs `work` with a connection, which is closed afterwards if it can no longer be trusted. */
  async function borrow<T>(client: Client, work: () => Promise<T>): Promise<T> {
    let close = false
    try {
      return await work()
    } catch (error) {
      close = codeOf(error) === 'database_unavailable'
      throw error
    } finally {
      client.release(close)
    }
  }

  /**
   * Runs a statement that changes nothing as the first on a connection; again on the next one when
   * the server or a firewall had ended the connection unnoticed.
   */
  async function start<Row>(statement: Query): Promise<{ client: Client; rows: Row[] }> {
    while (true) {
      const client = await connect()
      const isUsed = used.has(client)
      try {
        const { rows } = await client.query<Row>(statement)
        used.add(client)
        return { client, rows }
      } catch (error) {
        const failure = explain(error)
        client.release(codeOf(failure) === 'database_unavailable')
        if (!isUsed || !isCut(error)) throw failure
      }
    }
  }

  async function ask<Row>(statement: Query, repeatable: boolean): Promise<Row[]> {
    if (repeatable) {
      const { client, rows } = await start<Row>(statement)
      client.release(false)
      return rows
    }
    const client = await connect()
    return borrow(client, () => run<Row>(client, statement))
  }

  async function askByName<Row>(text: string, values: unknown[]): Promise<Row[]> {
    // The statement's name is a hash of its text: behind a pooler, a session may be shared with
    // another release that prepared different SQL.
    const current = generation
    const marked = current === 0 ? text : `${text}\n-- ${current}`
    const name = hash('sha256', marked, 'base64url')
    try {
      return await ask<Row>({ text: marked, values, name }, true)
    } catch (error) {
      learnFrom(error, current)
      return ask<Row>({ text, values }, true)
    }
  }

  /** Draws the conclusion from an error of a named statement; throws it when it is another one. */
  function learnFrom(error: unknown, current: number) {
    const code = codeOf(error)
    if (unprepared.includes(code)) {
      prepares = false
    } else if (code === sqlState.cachedPlanChanged) {
      // A column got another type. With another text, a pooler prepares the statement again, too.
      if (current === generation) generation++
    } else {
      throw error
    }
  }

  function query<Row>(text: string, values: unknown[] = [], prepared = false): Promise<Row[]> {
    if (prepared && prepares) return retryLostRaces(() => askByName<Row>(text, values))
    const repeatable = prepared || /^\s*select\b/.test(text)
    return retryLostRaces(() => ask<Row>({ text, values }, repeatable))
  }

  async function transaction<T>(work: (tx: Db) => Promise<T>): Promise<T> {
    return retryLostRaces(async () => {
      const { client } = await start({ text: 'begin isolation level read committed' })
      return borrow(client, () => finishTransaction(client, work))
    })
  }

  const connections = () => ({
    total: pool.totalCount,
    idle: pool.idleCount,
    waiting: pool.waitingCount,
  })

  return { query, transaction, connections, stop: () => pool.end() }
}

/** As with libpq, there is no TLS on a Unix socket. */
function addressOf({ hosts, ssl }: DatabaseConfig, index: number) {
  const host = hosts[index]!
  return { host, ssl: host.startsWith('/') ? (false as const) : ssl }
}

async function run<Row>(client: Client, statement: Query): Promise<Row[]> {
  try {
    const { rows } = await client.query<Row>(statement)
    return rows
  } catch (error) {
    throw explain(error)
  }
}

/** Runs `work` in the transaction that was begun, and commits; rolls back if it throws. */
async function finishTransaction<T>(client: Client, work: (tx: Db) => Promise<T>): Promise<T> {
  const query = <Row>(text: string, values: unknown[] = []) => run<Row>(client, { text, values })
  let result: T
  try {
    result = await work({ query })
  } catch (error) {
    // A lost connection is closed, which rolls back too, and without waiting for an answer.
    if (codeOf(error) !== 'database_unavailable') await query('rollback')
    throw error
  }
  await query('commit')
  return result
}

async function retryLostRaces<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work()
    } catch (error) {
      if (attempt === attempts || !lostRace.includes(codeOf(error))) throw error
    }
  }
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

/** Opens a database for the duration of `work`, whose statements may take any time. */
export async function withDatabase<T>(
  config: DatabaseConfig,
  work: (db: Database) => Promise<T>,
): Promise<T> {
  const database = openDatabase({ ...config, poolSize: 2 }, () => {}, 0)
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

/** A statement that is to give a row. */
interface Wanted {
  text: string
  values?: unknown[]
  /** What is thrown when it gives none; by default `internal`. */
  orThrow?: Code
}

/** The first row of a statement; throws `orThrow` when it gives none. */
export async function one<Row>(db: Db, wanted: Wanted): Promise<Row> {
  const { text, values, orThrow = 'internal' } = wanted
  const [row] = await db.query<Row>(text, values)
  if (row === undefined) throw new AppError(orThrow)
  return row
}

/** Deletes the rows that meet a condition, 5,000 at a time: each in under two seconds. */
export async function deleteAll(db: Db, table: string, condition: string): Promise<void> {
  const batch = 5000
  let deleted = batch
  while (deleted === batch) {
    const rows = await db.query(`delete from ${table} where ctid = any(array(
      select ctid from ${table} where ${condition} limit ${batch})) returning 1`)
    deleted = rows.length
  }
}

/** SQLSTATEs that mean that the database cannot be used now. */
const lostClasses: string[] = [
  '08', // the connection is lost
  '25006', // read-only
  '25P03', // the transaction was idle for too long
  '25P04', // the transaction took too long
  '28', // access: a wrong password, no line of pg_hba.conf
  '3D', // no such database
  '53', // out of connections, memory, disk
  '55000', // the database or a standby accepts no connections
  '55006', // the database is being dropped, renamed or copied
  '55P03', // a lock was not to be had
  '57', // stopped, or cancelled after its time
  '58', // an error of the system
]

interface DatabaseError extends Error {
  code?: string
  /** Given by the server alone: not by the driver, the resolver, TLS or a socket. */
  severity?: string
}

/** Makes `database_unavailable` of an error that is neither our mistake nor the statement's. */
function explain(error: unknown): unknown {
  const { code = '', severity } = error as DatabaseError
  const isStatements =
    severity !== undefined && !lostClasses.some((state) => code.startsWith(state))
  return isStatements || isOurs(error) ? error : unavailable(error)
}

const unavailable = (cause: unknown) =>
  new AppError('database_unavailable', { retryAfterSeconds: 1, cause })

const mistakes = [AppError, TypeError, RangeError, ReferenceError, SyntaxError]
const isOurs = (error: unknown) => mistakes.some((mistake) => error instanceof mistake)

const cuts: string[] = [sqlState.adminShutdown, sqlState.idleSessionTimeout]

/** Whether the connection was ended, rather than the statement given up. */
function isCut(error: unknown): boolean {
  const { code = '', severity, message } = error as DatabaseError
  if (severity !== undefined) return cuts.includes(code)
  return ['ECONNRESET', 'EPIPE'].includes(code) || /terminated|not queryable/i.test(message)
}
