// The part of `pg` that this service uses.
declare module 'pg' {
  import type { EventEmitter } from 'node:events'
  import type { ConnectionOptions } from 'node:tls'

  export interface ClientOptions {
    host?: string
    port?: number
    database?: string
    user?: string
    password?: string
    ssl?: false | ConnectionOptions
    application_name?: string
    connectionTimeoutMillis?: number
    query_timeout?: number
    keepAlive?: boolean
  }
  export interface PoolOptions extends ClientOptions {
    max?: number
    idleTimeoutMillis?: number
    Client?: new (options: ClientOptions) => Client
    onConnect?: (client: Client) => Promise<void>
  }
  export interface Query {
    text: string
    values?: unknown[]
    /** A name makes it a prepared statement of the connection. */
    name?: string
  }
  export interface Result<Row> {
    rows: Row[]
    rowCount: number | null
  }
  export class Client extends EventEmitter {
    constructor(options: ClientOptions)
    connect(): Promise<void>
    query<Row>(query: Query): Promise<Result<Row>>
    end(): Promise<void>
  }
  export class PoolClient extends Client {
    release(error?: Error | boolean): void
  }
  export class Pool extends EventEmitter {
    constructor(options: PoolOptions)
    readonly totalCount: number
    readonly idleCount: number
    readonly waitingCount: number
    connect(): Promise<PoolClient>
    query<Row>(query: Query): Promise<Result<Row>>
    end(): Promise<void>
  }
  const pg: { Client: typeof Client; Pool: typeof Pool }
  export default pg
}
