import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto'

import { one } from './pool.ts'
import type { Db } from './pool.ts'

/** The three roles: who owns, who serves, who backs up. */
export const roles = ['user_service_admin', 'user_service_manager', 'user_service_user'] as const

export type Passwords = Partial<Record<(typeof roles)[number], string>>

/**
 * Creates what is missing of the roles and the database, as a superuser connected to another
 * database. A role without a password cannot log in by one.
 */
export async function createDatabase(db: Db, name: string, passwords: Passwords): Promise<void> {
  for (const role of roles) {
    const found = await db.query('select from pg_roles where rolname = $1', [role])
    if (found.length === 0) await db.query(`create role ${role}`)
    await db.query(`alter role ${role} login nosuperuser nocreatedb nocreaterole noreplication nobypassrls`)
    const password = passwords[role]
    // The verifier instead of the password: a server that logs statements must not learn it.
    if (password !== undefined) await db.query(`alter role ${role} password '${verifier(password)}'`)
  }
  await db.query(`alter role user_service_manager set statement_timeout = '10s'`)
  await db.query(`alter role user_service_manager set lock_timeout = '5s'`)
  await db.query(`alter role user_service_manager set idle_in_transaction_session_timeout = '10s'`)
  const found = await db.query('select from pg_database where datname = $1', [name])
  const id = quote(name)
  if (found.length === 0) {
    await db.query(`create database ${id} owner user_service_admin encoding 'UTF8' template template0`)
  }
  await db.query(`alter database ${id} set search_path = user_service_schema`)
  await db.query(`revoke all on database ${id} from public`)
  await db.query(`grant connect on database ${id} to ${roles.join(', ')}`)
}

/** Creates the schema and its default privileges, as a superuser connected to the database. */
export async function createSchema(db: Db): Promise<void> {
  await db.query('create schema if not exists user_service_schema authorization user_service_admin')
  await db.query('revoke all on schema public from public')
  await db.query('grant usage on schema user_service_schema to user_service_manager, user_service_user')
  await db.query(`alter default privileges for role user_service_admin in schema user_service_schema
    grant select on tables to user_service_user`)
}

/** Drops the database, with whoever is connected to it, and the roles where nothing else needs them. */
export async function dropDatabase(db: Db, name: string): Promise<void> {
  await db.query(`drop database if exists ${quote(name)} with (force)`)
  for (const role of roles) {
    const { used } = await one<{ used: boolean }>(db,
      `select exists (select from pg_shdepend where refobjid = to_regrole($1)) as used`, [role])
    if (!used) await db.query(`drop role if exists ${role}`)
  }
}

const quote = (identifier: string) => `"${identifier.replaceAll('"', '""')}"`

/** The SCRAM-SHA-256 verifier that PostgreSQL keeps of a password (RFC 5803). */
function verifier(password: string): string {
  const salt = randomBytes(16)
  const salted = pbkdf2Sync(password.normalize('NFKC'), salt, 4096, 32, 'sha256')
  const key = (name: string) => createHmac('sha256', salted).update(name).digest()
  const stored = createHash('sha256').update(key('Client Key')).digest('base64')
  return `SCRAM-SHA-256$4096:${salt.toString('base64')}$${stored}:${key('Server Key').toString('base64')}`
}
