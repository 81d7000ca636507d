import { createHmac, hash, pbkdf2Sync, randomBytes } from 'node:crypto'

import pg from 'pg'

import type { DatabaseConfig } from '../config.ts'
import { ExitError } from '../errors.ts'
import { codeOf, sqlState } from './codes.ts'
import { findHistory } from './migrate.ts'
import { one, withDatabase, type Db } from './pool.ts'
import { grantStatements } from './grants.ts'
import { serviceSettings } from './session.ts'

/** The owner, the service and the backup. */
export const roles = ['user_service_admin', 'user_service_manager', 'user_service_user'] as const

type Role = (typeof roles)[number]
type Passwords = Partial<Record<Role, string>>

/**
 * Creates the roles, the database `config.name` and its schema, or those of them that are missing,
 * and grants what the service needs. Connects as a superuser, or as a role that may create roles
 * and databases, which becomes a member of the owner. A role without a password cannot log in with
 * one. Throws in a database that holds something else, before anything is changed.
 */
export async function createDatabase(config: DatabaseConfig, passwords: Passwords = {}) {
  await withDatabase({ ...config, name: 'postgres' }, async (db) => {
    const existing = await db.query('select from pg_database where datname = $1', [config.name])
    if (existing.length > 0) await withDatabase(config, findHistory)
    for (const role of roles) await createRole(db, role, passwords[role])
    // Only a member may make an owner of a role.
    await db.query(`
      do $$ begin
        if not pg_has_role('user_service_admin', 'usage') then
          grant user_service_admin to current_user;
        end if;
      end $$`)
    await createEmptyDatabase(db, pg.escapeIdentifier(config.name))
  })
  await withDatabase(config, createSchema)
}

/**
 * Drops the database, ends its connections, and drops the roles that nothing else needs. Throws,
 * before anything is done, when the database is not one of ours or the role may not drop roles.
 * Returns what was done, a sentence for each.
 */
export async function dropDatabase(config: DatabaseConfig) {
  return withDatabase({ ...config, name: 'postgres' }, async (db) => {
    const { owner, mayDropRoles, present } = await one<{
      owner: string | null
      mayDropRoles: boolean
      present: Role[]
    }>(db, {
      text: `
        -- Since PostgreSQL 16 a role is dropped only by its administrators.
        select rolsuper or rolcreaterole and (
            current_setting('server_version_num')::int < 160000 or not exists (
              select from pg_roles as role where role.rolname = any($2)
                and not pg_has_role(current_user, role.oid, 'member with admin option')))
            as "mayDropRoles",
          (select datdba::regrole::text from pg_database where datname = $1) as owner,
          array(select rolname::text from pg_roles where rolname = any($2) order by 1) as present
        from pg_roles where rolname = current_user`,
      values: [config.name, roles],
    })
    if (!mayDropRoles)
      throw new ExitError(
        `${config.user} may not drop the database and its roles: connect as a superuser, or as ` +
          'the role that created them; nothing was dropped',
      )
    if (owner !== null) await withDatabase(config, checkOurs)
    if (owner !== null && owner !== 'user_service_admin')
      throw new ExitError(
        `that database belongs to ${owner}, and may hold more than this service: drop the schema ` +
          'user_service_schema in it instead; nothing was dropped',
      )
    await db.query(`drop database if exists ${pg.escapeIdentifier(config.name)} with (force)`)
    const done = [`${owner === null ? 'There is no database' : 'Dropped'} ${config.name}`]
    for (const role of present) {
      const isDropped = await unless(sqlState.dependentObjects, () => db.query(`drop role ${role}`))
      done.push(`${isDropped ? 'Dropped' : 'Kept, since another database needs it:'} ${role}`)
    }
    return done
  })
}

/** Throws in a database without our schema, and in one of another service. */
async function checkOurs(db: Db) {
  const schemas = await db.query("select from pg_namespace where nspname = 'user_service_schema'")
  if (schemas.length === 0)
    throw new ExitError(
      'there is no schema user_service_schema in that database: it is not one of this service; ' +
        'nothing was dropped',
    )
  await findHistory(db)
}

async function createRole(db: Db, role: Role, password: string | undefined) {
  await unless(sqlState.duplicateRole, () => db.query(`create role ${role} login`))
  if (password === undefined) return
  // The verifier instead of the password, so that a server that logs statements cannot log it.
  await db.query(`alter role ${role} password '${verifier(password)}'`)
}

async function createEmptyDatabase(db: Db, name: string) {
  await unless(sqlState.duplicateDatabase, () =>
    db.query(`create database ${name} owner user_service_admin encoding 'UTF8' template template0`),
  )
  // Each connection of ours sets them itself; here they are for poolers, behind which that may not
  // reach each connection to the server. Some exist in later versions of PostgreSQL only.
  for (const [setting, value] of Object.entries(serviceSettings))
    await unless(sqlState.undefinedObject, () =>
      db.query(`alter role user_service_manager in database ${name} set ${setting} = '${value}'`),
    )
  await db.query(`
    alter role user_service_admin in database ${name} set search_path = user_service_schema;
    alter role user_service_user in database ${name} set search_path = user_service_schema;
    grant connect on database ${name} to ${roles.join(', ')}`)
}

async function createSchema(db: Db) {
  // The database of another application is left as it is.
  const [owned] = await db.query<{ name: string }>(
    'select quote_ident(datname) as name from pg_database ' +
      "where datname = current_database() and datdba = 'user_service_admin'::regrole",
  )
  if (owned !== undefined)
    await db.query(`
      -- Not for everybody: what others create without naming a schema is not ours.
      alter database ${owned.name} reset search_path;
      revoke all on database ${owned.name} from public;
      revoke all on schema public from public`)
  await db.query(`
    create schema if not exists user_service_schema authorization user_service_admin;
    -- A service that used the database before may have left some: the audit is append-only.
    alter default privileges for role user_service_admin
      revoke all on tables from public, user_service_manager, user_service_user`)
  await db.query(grantStatements)
}

/** Runs `work`; returns false if it fails with this SQLSTATE, since there is nothing to do. */
async function unless(code: string, work: () => Promise<unknown>) {
  try {
    await work()
    return true
  } catch (error) {
    if (codeOf(error) !== code) throw error
    return false
  }
}

/** The SCRAM-SHA-256 verifier that PostgreSQL keeps of a password (RFC 5803). */
function verifier(password: string) {
  const salt = randomBytes(16)
  const salted = pbkdf2Sync(prepare(password), salt, 4096, 32, 'sha256')
  const key = (name: string) => createHmac('sha256', salted).update(name).digest()
  const stored = hash('sha256', key('Client Key'), 'base64')
  const server = key('Server Key').toString('base64')
  return `SCRAM-SHA-256$4096:${salt.toString('base64')}$${stored}:${server}`
}

const spaces = /[\p{Zs}\u200b]/gu
const invisible = /[\u00ad\u034f\u1806\u180b-\u180d\u200c\u200d\u2060\ufe00-\ufe0f\ufeff]/g

/** SASLprep (RFC 4013), as far as libpq and `pg` apply it to the password of a log-in. */
const prepare = (password: string) =>
  password.replace(spaces, ' ').replace(invisible, '').normalize('NFKC')
