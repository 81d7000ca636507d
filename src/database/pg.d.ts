// The part of `pg` that this service uses.
declare module 'pg' {
  import type { EventEmitter } from 'node:events'

  interface ClientOptions {
    host?: string | undefined; port?: number; database?: string; user?: string; password?: string | undefined
    ssl?: false | { rejectUnauthorized: boolean; ca?: string }
    application_name?: string; keepAlive?: boolean; connectionTimeoutMillis?: number; query_timeout?: number
  }
  interface PoolOptions extends ClientOptions {
    max?: number; idleTimeoutMillis?: number; onConnect?: (client: Client) => Promise<void>
  }
  export interface Query { text: string; values?: unknown[]; name?: string | undefined }
  export class Client extends EventEmitter {
    constructor(options: ClientOptions)
    connect(): Promise<void>
    query<Row>(query: Query): Promise<{ rows: Row[] }>
    end(): Promise<void>
  }
  export class PoolClient extends Client { release(close: boolean): void }
  class Pool extends EventEmitter {
    constructor(options: PoolOptions)
    /** Each new connection is made by what they are then. */
    readonly options: PoolOptions
    readonly totalCount: number
    readonly idleCount: number
    readonly waitingCount: number
    connect(): Promise<PoolClient>
    end(): Promise<void>
  }
  const pg: { Client: typeof Client; Pool: typeof Pool }
  export default pg
}
