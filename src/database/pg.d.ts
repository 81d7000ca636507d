// The part of `pg` that this service uses.
declare module 'pg' {
  import type { EventEmitter } from 'node:events'
  import type { ConnectionOptions } from 'node:tls'

  interface Options {
    host?: string | undefined
    port?: number
    database?: string
    user?: string
    password?: string | undefined
    ssl?: false | ConnectionOptions
    application_name?: string
    keepAlive?: boolean
    connectionTimeoutMillis?: number
    query_timeout?: number
    max?: number
    idleTimeoutMillis?: number
    onConnect?: (client: Client) => Promise<void>
    types?: Types
  }
  interface Types {
    getTypeParser(type: number, format?: string): (text: string) => unknown
  }
  export interface Query {
    text: string
    values?: unknown[]
    name?: string | undefined
  }
  export class Client extends EventEmitter {
    constructor(options: Options)
    connect(): Promise<void>
    query<Row>(query: Query): Promise<{ rows: Row[] }>
    end(): Promise<void>
    release(close: boolean): void
  }
  class Pool extends EventEmitter {
    constructor(options: Options)
    /** Read for each new connection. */
    readonly options: Options
    readonly totalCount: number
    readonly idleCount: number
    readonly waitingCount: number
    connect(): Promise<Client>
    end(): Promise<void>
  }
  const pg: {
    Client: typeof Client
    Pool: typeof Pool
    escapeIdentifier(name: string): string
    types: Types & { builtins: { TIMESTAMPTZ: number } }
  }
  export default pg
}
