import pg from 'pg'
import { join } from 'node:path'

import { createReader } from '../config.ts'
import type { DatabaseConfig, Env } from '../config.ts'
import { findPostgresBin } from '../database/embedded.ts'
import { clientOptions } from '../database/pool.ts'
import { ExitError } from '../errors.ts'
import { searchPath } from './process.ts'
import type { Surroundings } from './process.ts'

/** A connection without a limit on its statements' time; `env` lets programs make the same one. */
export interface Connection {
  query<Row>(text: string, values?: unknown[]): Promise<Row[]>
  env: Env
  version: string
}

/** Connects for the time of `work`, or until the signal; throws one sentence when it cannot. */
export async function withConnection<T>(
  config: DatabaseConfig, { env, signal }: Surroundings, work: (db: Connection) => Promise<T>,
): Promise<T> {
  const { client, host } = await connect(config)
  const end = () => void client.end().catch(() => {})
  signal.addEventListener('abort', end)
  const query = async <Row>(text: string, values: unknown[] = []) =>
    (await client.query<Row>({ text, values })).rows
  try {
    const text = `select current_setting('server_version') as version`
    const [server] = await query<{ version: string }>(text)
    return await work({ query, env: programEnv(config, host, env), version: server!.version })
  } finally {
    end()
  }
}

/** Of several hosts the first that accepts writes. */
async function connect(config: DatabaseConfig) {
  const { name, hosts, user } = config
  let why = ''
  for (const host of hosts) {
    const options = { ...clientOptions(config, host), connectionTimeoutMillis: 10_000 }
    const client = new pg.Client(options).on('error', () => {})
    try {
      await client.connect()
      const text = 'select not pg_is_in_recovery() as writes'
      const { rows } = await client.query<{ writes: boolean }>({ text })
      if (rows[0]!.writes || hosts.length === 1) return { client, host }
      why = 'it does not accept writes'
    } catch (error) {
      const { message, code } = error as Error & { code?: string }
      // The driver's way of saying that it has none.
      const isMissing = /password must be a string/.test(message)
      why = isMissing ? 'there is no DATABASE_PASSWORD, nor one in ~/.pgpass' : message || `${code}`
    }
    void client.end().catch(() => {})
  }
  throw new ExitError(`cannot use ${name} on ${hosts.join(', ')} as ${user}: ${why}`)
}

function programEnv(config: DatabaseConfig, host: string, env: Env): Env {
  const mode = !config.ssl ? 'disable' : config.ssl.rejectUnauthorized ? 'verify-full' : 'require'
  const authority = createReader(env).text('DATABASE_CA_FILE') ??
    (mode === 'verify-full' ? '/etc/ssl/certs/ca-certificates.crt' : undefined)
  return {
    PATH: searchPath(env), HOME: env['HOME'], PGPASSFILE: env['PGPASSFILE'], LC_ALL: 'C',
    PGHOST: host, PGPORT: String(config.port), PGDATABASE: config.name, PGUSER: config.user,
    PGPASSWORD: config.password, PGSSLMODE: mode, PGSSLROOTCERT: authority,
  }
}

/** The PostgreSQL program of the lowest major version that is not below `version`'s; or throws. */
export function findProgram(program: string, version: string): string {
  const major = Number.parseInt(version, 10)
  for (let candidate = major; candidate < major + 8; candidate++) {
    const bin = findPostgresBin(program, String(candidate))
    if (bin !== null) return join(bin, program)
  }
  throw new ExitError(`${program} of PostgreSQL ${major} or newer is not installed ` +
    `(Debian: postgresql-client-${major})`)
}
