import pg from 'pg'
import type { Client } from 'pg'
import { join } from 'node:path'

import { createReader } from '../config.ts'
import type { DatabaseConfig, Env } from '../config.ts'
import { findPostgresBin } from '../database/embedded.ts'
import { clientOptions } from '../database/pool.ts'
import { ExitError } from '../errors.ts'
import { searchPath } from './process.ts'

/** A connection without a time limit on its statements, and how programs make the same one. */
export interface Connection {
  client: Client
  query<Row>(text: string, values?: unknown[]): Promise<Row[]>
  /** The environment for pg_dump and psql: the password is nowhere else. */
  env: Env
  major: number
  version: string
}

/** The environment with a database on localhost, unless it names one. */
export function withLocalhost(env: Env): Env {
  const { text } = createReader(env)
  return text('DATABASE_URL') ?? text('DATABASE_HOST') ? env : { ...env, DATABASE_HOST: 'localhost' }
}

/**
 * Connects for the time of `work`, to the first host that answers (and accepts writes, if it must);
 * the signal ends the connection. Throws one sentence when no host can be used.
 */
export async function withConnection<T>(
  config: DatabaseConfig,
  options: { env: Env; signal: AbortSignal; writes: boolean },
  work: (connection: Connection) => Promise<T>,
): Promise<T> {
  const { client, host } = await connect(config, options)
  const end = () => void client.end().catch(() => {})
  options.signal.addEventListener('abort', end)
  const query = async <Row>(text: string, values: unknown[] = []) =>
    (await client.query<Row>({ text, values })).rows
  try {
    options.signal.throwIfAborted()
    const [server] = await query<{ version: string; major: number }>(`
      select current_setting('server_version') as version,
        current_setting('server_version_num')::integer / 10000 as major`)
    return await work({ client, query, env: programEnv(config, host, options.env), ...server! })
  } finally {
    options.signal.removeEventListener('abort', end)
    end()
  }
}

async function connect(config: DatabaseConfig, { writes, signal }: { writes: boolean; signal: AbortSignal }) {
  let why = ''
  for (const host of config.hosts) {
    signal.throwIfAborted()
    const client = new pg.Client({
      ...clientOptions(config, host),
      application_name: 'user-service-operator',
      connectionTimeoutMillis: 10_000,
    })
    client.on('error', () => {})
    try {
      await client.connect()
      const { rows } = await client.query<{ standby: boolean }>({ text: 'select pg_is_in_recovery() as standby' })
      if (!writes || rows[0]?.standby === false) return { client, host }
      why = 'the server does not accept writes'
    } catch (error) {
      const { message, code } = error as Error & { code?: string }
      // The driver's own words when the server wants a password and there is none.
      why = /password must be a string/.test(message) ? 'no password: set DATABASE_PASSWORD, or a line in ~/.pgpass'
        : message || String(code)
    }
    void client.end().catch(() => {})
  }
  throw new ExitError(`cannot use ${config.name} on ${config.hosts.join(', ')} as ${config.user}: ${why}`)
}

function programEnv(config: DatabaseConfig, host: string, env: Env): Env {
  const mode = config.ssl === false ? 'disable' : config.ssl.rejectUnauthorized ? 'verify-full' : 'require'
  const ca = createReader(env).text('DATABASE_CA_FILE')
  return {
    PATH: searchPath(env),
    HOME: env['HOME'],
    LC_ALL: 'C',
    PGHOST: host,
    PGPORT: String(config.port),
    PGDATABASE: config.name,
    PGUSER: config.user,
    ...(config.password !== undefined && { PGPASSWORD: config.password }),
    ...(env['PGPASSFILE'] && { PGPASSFILE: env['PGPASSFILE'] }),
    PGSSLMODE: mode,
    ...(mode !== 'disable' && ca !== undefined && { PGSSLROOTCERT: ca }),
    ...(mode === 'verify-full' && ca === undefined && { PGSSLROOTCERT: '/etc/ssl/certs/ca-certificates.crt' }),
    PGCONNECT_TIMEOUT: '10',
    PGAPPNAME: 'user-service-operator',
  }
}

/** The file of PostgreSQL's `program`, of the lowest major version from `major` on; throws when none is there. */
export function findProgram(program: string, major: number): string {
  for (let version = major; version < major + 8; version++) {
    const bin = findPostgresBin(program, String(version))
    if (bin !== null) return join(bin, program)
  }
  throw new ExitError(`${program} of PostgreSQL ${major} or newer is not installed (Debian: postgresql-client-${major})`)
}
