import pg from 'pg'
import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto'

import type { DatabaseConfig } from '../config.ts'
import { sqlState } from './codes.ts'
import { withDatabase } from './pool.ts'

// Who owns, who serves, who backs up.
const roles = ['user_service_admin', 'user_service_manager', 'user_service_user'] as const

/**
 * Creates the roles, the database `config.name` and its schema, or what is missing of them, as the superuser that
 * `config` connects as; a role without a password cannot log in by one.
 */
export async function createDatabase(
  config: DatabaseConfig,
  passwords: Partial<Record<string, string>> = {},
) {
  const database = `database ${pg.escapeIdentifier(config.name)}`
  await withDatabase({ ...config, name: 'postgres' }, async (db) => {
    for (const role of roles) {
      await db.query(`create role ${role} login`).catch(ignoring(sqlState.duplicateRole))
      // The verifier instead of the password: a server that logs statements must not learn it.
      if (passwords[role])
        await db.query(`alter role ${role} password '${verifier(passwords[role])}'`)
    }
    await db
      .query(`create ${database} owner user_service_admin encoding 'UTF8' template template0`)
      .catch(ignoring(sqlState.duplicateDatabase))
    await db.query(`
      -- Before the service itself gives up: a statement that waits for a lock would wait on, and hold its session.
      alter role user_service_manager set statement_timeout = '1800ms';
      alter role user_service_manager set idle_in_transaction_session_timeout = '10s';
      -- Planning the look-up of a key anew each time would cost more than the look-up.
      alter role user_service_manager set plan_cache_mode = force_generic_plan;
      -- What instants are quickest read in.
      alter role user_service_manager set timezone = 'UTC';
      alter ${database} set search_path = user_service_schema;
      revoke all on ${database} from public;
      grant connect on ${database} to ${roles.join(', ')}`)
  })
  await withDatabase(config, (db) =>
    db.query(`
    create schema if not exists user_service_schema authorization user_service_admin;
    revoke all on schema public from public;
    grant usage on schema user_service_schema to user_service_manager, user_service_user;
    alter default privileges for role user_service_admin in schema user_service_schema
      grant select on tables to user_service_user`),
  )
}

/** Drops the database, with whoever is connected to it, and the roles where nothing else needs them. */
export const dropDatabase = (config: DatabaseConfig) =>
  withDatabase({ ...config, name: 'postgres' }, async (db) => {
    await db.query(`drop database if exists ${pg.escapeIdentifier(config.name)} with (force)`)
    for (const role of roles)
      await db.query(`drop role if exists ${role}`).catch(ignoring(sqlState.dependentObjects))
  })

const ignoring = (code: string) => (error: { code?: string }) => {
  if (error.code !== code) throw error
}

/** The SCRAM-SHA-256 verifier that PostgreSQL keeps of a password (RFC 5803). */
function verifier(password: string): string {
  const salt = randomBytes(16)
  const salted = pbkdf2Sync(password.normalize('NFKC'), salt, 4096, 32, 'sha256')
  const key = (name: string) => createHmac('sha256', salted).update(name).digest()
  const stored = createHash('sha256').update(key('Client Key')).digest('base64')
  return `SCRAM-SHA-256$4096:${salt.toString('base64')}$${stored}:${key('Server Key').toString('base64')}`
}
