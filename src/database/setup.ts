import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto'

import pg from 'pg'

import type { DatabaseConfig } from '../config.ts'
import { sqlState } from './codes.ts'
import { withDatabase, type Db } from './pool.ts'

/** The owner, the service and the backup. */
const roles = ['user_service_admin', 'user_service_manager', 'user_service_user'] as const

type Role = (typeof roles)[number]
type Passwords = Partial<Record<Role, string>>

/**
 * Creates the roles, the database `config.name` and its schema, or those of them that are missing,
 * as the superuser that `config` connects as. A role without a password cannot log in with one.
 */
export async function createDatabase(config: DatabaseConfig, passwords: Passwords = {}) {
  await withDatabase({ ...config, name: 'postgres' }, async (db) => {
    for (const role of roles) await createRole(db, role, passwords[role])
    await createEmptyDatabase(db, pg.escapeIdentifier(config.name))
  })
  await withDatabase(config, createSchema)
}

/** Drops the database, ends its connections, and drops the roles that nothing else needs. */
export async function dropDatabase(config: DatabaseConfig) {
  await withDatabase({ ...config, name: 'postgres' }, async (db) => {
    await db.query(`drop database if exists ${pg.escapeIdentifier(config.name)} with (force)`)
    for (const role of roles)
      await unless(sqlState.dependentObjects, () => db.query(`drop role if exists ${role}`))
  })
}

async function createRole(db: Db, role: Role, password: string | undefined) {
  await unless(sqlState.duplicateRole, () => db.query(`create role ${role} login`))
  if (password === undefined) return
  // The verifier instead of the password: a server that logs statements must not learn it.
  await db.query(`alter role ${role} password '${verifier(password)}'`)
}

async function createEmptyDatabase(db: Db, name: string) {
  await unless(sqlState.duplicateDatabase, () =>
    db.query(`create database ${name} owner user_service_admin encoding 'UTF8' template template0`),
  )
  await db.query(`
    -- Shorter than the service's own timeout; otherwise a statement waiting for a lock would
    -- outlive its request and hold the session.
    alter role user_service_manager set statement_timeout = '1800ms';
    alter role user_service_manager set idle_in_transaction_session_timeout = '10s';
    -- To plan the look-up of a key each time would cost more than the look-up.
    alter role user_service_manager set plan_cache_mode = force_generic_plan;
    -- The zone in which timestamps are read fastest.
    alter role user_service_manager set timezone = 'UTC';
    alter database ${name} set search_path = user_service_schema;
    revoke all on database ${name} from public;
    grant connect on database ${name} to ${roles.join(', ')}`)
}

const createSchema = (db: Db) =>
  db.query(`
    create schema if not exists user_service_schema authorization user_service_admin;
    revoke all on schema public from public;
    grant usage on schema user_service_schema to user_service_manager, user_service_user;
    alter default privileges for role user_service_admin in schema user_service_schema
      grant select on tables to user_service_user`)

/** Runs `work`, which may fail with this SQLSTATE: then there is nothing to do. */
async function unless(code: string, work: () => Promise<unknown>) {
  try {
    await work()
  } catch (error) {
    if ((error as { code?: string }).code !== code) throw error
  }
}

/** The SCRAM-SHA-256 verifier that PostgreSQL keeps of a password (RFC 5803). */
function verifier(password: string): string {
  const salt = randomBytes(16)
  const salted = pbkdf2Sync(password.normalize('NFKC'), salt, 4096, 32, 'sha256')
  const key = (name: string) => createHmac('sha256', salted).update(name).digest()
  const stored = createHash('sha256').update(key('Client Key')).digest('base64')
  return `SCRAM-SHA-256$4096:${salt.toString('base64')}$${stored}:${key('Server Key').toString('base64')}`
}
