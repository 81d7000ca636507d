import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto'

import type { DatabaseConfig } from '../config.ts'
import { withDatabase } from './pool.ts'

// Who owns, who serves, who backs up.
const roles = ['user_service_admin', 'user_service_manager', 'user_service_user'] as const
type Passwords = Partial<Record<(typeof roles)[number], string>>

/**
 * Creates the roles, the database `config.name` and its schema, or what is missing of them, as the superuser that
 * `config` connects as; a role without a password cannot log in by one.
 */
export async function createDatabase(config: DatabaseConfig, passwords: Passwords = {}): Promise<void> {
  await withDatabase({ ...config, name: 'postgres' }, async (db) => {
    for (const role of roles) {
      const found = await db.query('select from pg_roles where rolname = $1', [role])
      if (found.length === 0) await db.query(`create role ${role}`)
      await db.query(`alter role ${role} login nosuperuser nocreatedb nocreaterole noreplication nobypassrls`)
      // The verifier instead of the password: a server that logs statements must not learn it.
      const password = passwords[role]
      if (password !== undefined) await db.query(`alter role ${role} password '${verifier(password)}'`)
    }
    const database = `database ${quote(config.name)}`
    const found = await db.query('select from pg_database where datname = $1', [config.name])
    if (found.length === 0) await db.query(`create ${database} owner ${roles[0]} encoding 'UTF8' template template0`)
    await db.query(`
      -- Before the service itself gives up: a statement that waits for a lock would wait on, and hold its session.
      alter role user_service_manager set statement_timeout = '1800ms';
      alter role user_service_manager set idle_in_transaction_session_timeout = '10s';
      alter ${database} set search_path = user_service_schema;
      revoke all on ${database} from public;
      grant connect on ${database} to ${roles.join(', ')}`)
  })
  await withDatabase(config, (db) => db.query(`
    create schema if not exists user_service_schema authorization user_service_admin;
    revoke all on schema public from public;
    grant usage on schema user_service_schema to user_service_manager, user_service_user;
    alter default privileges for role user_service_admin in schema user_service_schema
      grant select on tables to user_service_user`))
}

/** Drops the database, with whoever is connected to it, and the roles where nothing else needs them. */
export const dropDatabase = (config: DatabaseConfig) => withDatabase({ ...config, name: 'postgres' }, async (db) => {
  await db.query(`drop database if exists ${quote(config.name)} with (force)`)
  for (const role of roles) {
    const uses = await db.query('select from pg_shdepend where refobjid = to_regrole($1) limit 1', [role])
    if (uses.length === 0) await db.query(`drop role if exists ${role}`)
  }
})

const quote = (identifier: string) => `"${identifier.replaceAll('"', '""')}"`

/** The SCRAM-SHA-256 verifier that PostgreSQL keeps of a password (RFC 5803). */
function verifier(password: string): string {
  const salt = randomBytes(16)
  const salted = pbkdf2Sync(password.normalize('NFKC'), salt, 4096, 32, 'sha256')
  const key = (name: string) => createHmac('sha256', salted).update(name).digest()
  const stored = createHash('sha256').update(key('Client Key')).digest('base64')
  return `SCRAM-SHA-256$4096:${salt.toString('base64')}$${stored}:${key('Server Key').toString('base64')}`
}
