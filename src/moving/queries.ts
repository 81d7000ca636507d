import type { Db } from '../database/pool.ts'
import { gainAddress } from '../passwords/guessing.ts'
import type { Traveller } from './form.ts'

/** A user who moves, numbered within the import, with the API keys that come along. */
export type Mover = Traveller & { number: number; address: string; keys: MovingKey[] }

/** A key that moves, by its digest. */
export interface MovingKey {
  id: string
  /** Hexadecimal, after `\\x`. */
  digest: string
  enabled: boolean
  validUntil: string | null | undefined
  createdAt: string | null | undefined
}

const given = `jsonb_to_recordset($1) as given (number int, id uuid, email text, address text,
  "passwordHash" text, role text, permissions text[], metadata jsonb, enabled boolean,
  "emailVerified" boolean, "createdAt" timestamptz, keys jsonb)`

/** Bytes as PostgreSQL writes them. */
export const toBytea = (bytes: Buffer) => `\\x${bytes.toString('hex')}`

/**
 * Finds the movers that cannot be inserted: a user has the id or the address (`isOther`: the
 * address, under another id), or else the metadata is too long as PostgreSQL writes numbers.
 */
export const findObstacles = (db: Db, movers: Mover[]) =>
  db.query<{ number: number; isThere: boolean; isOther: boolean }>(
    `select number, count(there.id) > 0 as "isThere",
       coalesce(bool_or(there.id <> given.id), false) as "isOther"
     from ${given} left join users as there on there.id = given.id or email_lower = address
     where there.id is not null or octet_length(given.metadata::text) > 16384
     group by number order by number`,
    [JSON.stringify(movers)],
  )

/** Whether the id or address is that of a user who is no admin. */
export async function isNonAdmin(db: Db, id: unknown, address: string) {
  const there = `select from users where (id = $1 or email_lower = $2) and role = 'user'`
  return (await db.query(there, [id, address])).length > 0
}

/** Inserts those whose id and address nobody has, with their keys; returns whom. */
export async function insertMovers(tx: Db, movers: Mover[]) {
  const made = await tx.query<{ id: string; address: string; keys: string[]; wasTried: boolean }>(
    `with made as (
       insert into users (id, email, email_lower, password_hash, role, permissions, metadata,
         enabled, email_verified_at, created_at)
       select coalesce(id, uuid_v7()), email, address, "passwordHash", role, permissions,
         metadata, enabled, case when "emailVerified" then now() end, coalesce("createdAt", now())
       from ${given} order by number on conflict do nothing returning id, email_lower),
     keyed as (
       insert into api_keys (id, user_id, digest, kind, name, enabled, valid_until, created_at)
       select coalesce(key.id, uuid_v7()), made.id, digest, 'api', 'imported', key.enabled,
         "validUntil", coalesce(key."createdAt", now())
       from made join ${given} using (id) cross join jsonb_to_recordset(keys) as key (id uuid,
         digest bytea, enabled boolean, "validUntil" timestamptz, "createdAt" timestamptz)
       on conflict do nothing returning id, user_id),
     noted as (insert into audit_events (action, subject, key_id)
       select 'user.imported', made.id, keyed.id from made left join keyed on user_id = made.id)
     select id, email_lower as address, array(select id from keyed where user_id = made.id) as keys,
       -- As accountOfAddress in passwords/guessing.ts names it.
       exists (select from login_failures
         where account = sha256(convert_to('address ' || email_lower, 'UTF8'))) as "wasTried"
     from made`,
    [JSON.stringify(movers)],
  )
  for (const { id, address, wasTried } of made) if (wasTried) await gainAddress(tx, id, address)
  return made
}

/** A user or key of the Go service, which may lack the columns of another version of it. */
export interface GoRecord {
  id: string
  key: string
  password?: unknown
  enabled?: unknown
  valid_until?: string
  created_at?: string
}
/** A user of the Go service with its keys. */
export interface GoRow {
  user: GoRecord
  keys: GoRecord[]
}

/** The Go service's users, the oldest first. What is sorted, maybe on disk, holds no password. */
export const listGoUsers = (from: Db) =>
  from.query<{ id: string; email: string }>(
    `select id, email from api_user
     order by (to_jsonb(api_user) ->> 'created_at')::timestamptz, id`,
  )

/** The tables of the Go service that are not read, such as those of permissions. */
export const listGoRest = (from: Db) =>
  from.query<{ name: string }>(
    `select table_name as name from information_schema.tables
     where table_schema = 'user_service_schema'
       and table_name !~ '^(api_user|api_key|schema_migrations)$'
     order by name`,
  )

/** A row with its creation in this session's time zone, where its column has none. */
const record = (table: string) => `to_jsonb(${table})
  || jsonb_build_object('created_at', (to_jsonb(${table}) ->> 'created_at')::timestamptz)`

/** Users of the Go service with all that is known of them. */
export const findGoRows = (from: Db, ids: unknown[]) =>
  from.query<GoRow>(
    `select ${record('api_user')} as user, (
       select coalesce(jsonb_agg(${record('api_key')}), '[]') from api_key
       where api_key.api_user = api_user.id) as keys
     from api_user where id = any($1::uuid[])`,
    [ids],
  )
