import { deleteAll, first, one, type Db } from '../database/pool.ts'
import { requireFactors } from '../http/access.ts'
import type { Caller } from '../http/route.ts'
import { nilUuid } from '../schema.ts'
import { createKey, digestKey } from './format.ts'
import type { Key, KeyKind, Maker, Powers } from './rules.ts'

const columns = `id, kind, name, scope, permissions, factors, enabled, valid_until as "validUntil",
  last_used_at as "lastUsedAt", created_at as "createdAt", address, agent`

/** A key to make. By default it has no limits, and nothing was proved for it. */
export interface NewKey extends Partial<Powers> {
  userId: string
  kind: KeyKind
  name: string
  /** It ends so many seconds from now, by the database's clock. */
  seconds?: number
  /** The key itself, if it was made elsewhere. */
  key?: string
  /** Where a session was started. */
  address?: string | null
  agent?: string | null
}

/** A key that was just made, with the key itself. */
export type MadeKey = Key & { key: string }

/**
 * Makes a key. The time of proof of a session is now unless `authenticatedAt` is given. Throws
 * `user_not_found`, and `authentication_needed` for a session of one factor of a user who has two.
 */
export async function insertKey(db: Db, options: NewKey) {
  const {
    kind,
    key = createKey(),
    scope = 'all',
    factors = 1,
    // PostgreSQL replaces the text `now` by its own clock.
    authenticatedAt = kind === 'session' ? 'now' : null,
  } = options
  const made = await one<Key>(db, {
    text: `insert into api_keys (user_id, kind, name, digest, scope, permissions, factors,
       authenticated_at, valid_until, address, agent)
     select id, $2, $3, $4::bytea, $5, $6::text[], $7::int, $8::timestamptz,
       coalesce($9::timestamptz, now() + $10::int * interval '1 second'), $11, $12
     from users where id = $1::uuid for key share returning ${columns}`,
    values: [
      options.userId,
      kind,
      options.name,
      digestKey(key),
      scope,
      options.permissions,
      factors,
      authenticatedAt,
      options.validUntil,
      options.seconds,
      options.address,
      options.agent,
    ],
    orThrow: 'user_not_found',
  }).catch((error: { constraint?: string }) => {
    if (error.constraint === 'api_keys_second_factor') requireFactors({ factors })
    throw error
  })
  return { ...made, key }
}

/** Locks a user, so that what changes it and its keys comes one by one; null: there is none. */
export const lockOwner = (tx: Db, userId: string): Promise<{ id: string } | null> =>
  first(tx, 'select id from users where id = $1::uuid for update', [userId])

/** Keeps others from changing a user, while any number may hold this lock. */
export const holdOwner = (tx: Db, userId: string) =>
  tx.query('select from users where id = $1::uuid for key share', [userId])

/** Notes that a second factor was proved for a key. */
export const raiseKey = (tx: Db, keyId: string) =>
  tx.query('update api_keys set factors = 2 where id = $1::uuid', [keyId])

/** How many API keys a user has, disabled and ended ones too. */
export async function countKeys(db: Db, userId: string) {
  const { count } = await one<{ count: number }>(db, {
    text: `select count(*)::int from api_keys where user_id = $1::uuid and kind = 'api'`,
    values: [userId],
  })
  return count
}

/** Ends the sessions of a user that exceed `limit`, those unused for longest. */
export const deleteSurplusSessions = (tx: Db, userId: string, limit: number) =>
  tx.query(
    `delete from api_keys where id = any(array(
       select id from api_keys where user_id = $1::uuid and kind = 'session'
       order by valid_until > now() desc, greatest(last_used_at, created_at) desc, id desc
       offset $2::int))`,
    [userId, limit],
  )

/** Which keys of a user to list: those after the key `after`, oldest first. */
interface KeyPage {
  kind?: KeyKind
  after?: string
  limit: number
}

/** The keys and sessions of a user; throws `user_not_found`. */
export async function listKeys(db: Db, userId: string, page: KeyPage) {
  const keys = await db.query<Key>(
    `select ${columns} from api_keys
     where user_id = $1::uuid and id > $2::uuid and kind = coalesce($4, kind)
     order by id limit $3::int`,
    [userId, page.after ?? nilUuid, page.limit, page.kind],
  )
  if (keys.length === 0) {
    await one(db, {
      text: 'select from users where id = $1::uuid',
      values: [userId],
      orThrow: 'user_not_found',
    })
  }
  return keys
}

/** What can be changed of a key. */
export type KeyChanges = Partial<Pick<Key, 'name' | 'enabled' | 'validUntil'>>

/** Stores what can be changed of a key, which the transaction has locked. */
export const updateKey = (tx: Db, { id, name, enabled, validUntil }: Key): Promise<Key> =>
  one(tx, {
    text: `update api_keys set name = $2, enabled = $3::boolean, valid_until = $4::timestamptz
     where id = $1::uuid returning ${columns}`,
    values: [id, name, enabled, validUntil],
  })

/** Ends a key; throws `key_not_found` if the user has no such key. */
export const deleteKey = (db: Db, userId: string, keyId: string) =>
  one(db, {
    text: 'delete from api_keys where user_id = $1::uuid and id = $2::uuid returning id',
    values: [userId, keyId],
    orThrow: 'key_not_found',
  })

/** A key with what it hands on: when it was proved, and whether it has ended by now. */
type StoredKey = Key & { authenticatedAt: string | null; hasEnded: boolean }

/** A key of a user with what it hands on, locked; throws `key_not_found`. */
export const lockStoredKey = (tx: Db, userId: string, keyId: string): Promise<StoredKey> =>
  one(tx, {
    text: `select ${columns}, authenticated_at as "authenticatedAt",
       coalesce(valid_until <= clock_timestamp(), false) as "hasEnded"
     from api_keys where user_id = $1::uuid and id = $2::uuid for update`,
    values: [userId, keyId],
    orThrow: 'key_not_found',
  })

/** Lets a key work for so many seconds more, at most until its end. */
export const endKeyIn = (tx: Db, keyId: string, seconds: number) =>
  tx.query(
    `update api_keys set valid_until = least(valid_until, now() + $2::int * interval '1 second')
     where id = $1::uuid`,
    [keyId, seconds],
  )

/** Ends the sessions of a user, but for the key `exceptId`. */
export const deleteSessions = (db: Db, userId: string, exceptId?: string) =>
  db.query(
    `delete from api_keys
     where user_id = $1::uuid and kind = 'session' and id is distinct from $2::uuid`,
    [userId, exceptId],
  )

/** Ends the API keys of a user. */
export const deleteApiKeys = (db: Db, userId: string) =>
  db.query(`delete from api_keys where user_id = $1::uuid and kind = 'api'`, [userId])

/** Removes sessions that ended. An ended API key stays: its end may be moved. */
export const deleteEndedSessions = (db: Db) =>
  deleteAll(db, 'api_keys', `kind = 'session' and valid_until < now() - interval '1 hour'`)

/**
 * A caller before its key's own permissions are applied, with its place among the digests and
 * whether its use in this minute has yet to be noted.
 */
type FoundCaller = Caller & { asked: number; isUnmarked: boolean }

/**
 * The callers of the usable keys among `digests`. A session that was not used for `idleSeconds` has
 * ended; uses are noted by the minute, so it lasts a minute longer. 0: no such limit.
 */
export const findCallers = (
  db: Db,
  digests: Buffer[],
  idleSeconds: number,
): Promise<FoundCaller[]> =>
  db.query(
    `select asked::int - 1 as asked, found.*
     from unnest($1::bytea[]) with ordinality as a (digest, asked)
     cross join lateral (
       select k.id as "keyId", k.kind as "keyKind", k.scope, k.factors,
         extract(epoch from now() - k.authenticated_at)::int as "provedSeconds",
         floor(extract(epoch from k.authenticated_at))::float8 as "provedAt",
         k.permissions as "keyPermissions", u.id as "userId", u.email,
         u.email_verified_at is not null as "emailVerified", u.role, u.permissions,
         u.factor_confirmed_at is not null as "secondFactor",
         nullif(u.metadata, '{}') as metadata, u.version, u.created_at as "createdAt",
         u.updated_at as "updatedAt",
         extract(epoch from k.valid_until)::float8 as "endsAt",
         k.last_used_at is distinct from date_trunc('minute', now()) as "isUnmarked"
       from api_keys k join users u on u.id = k.user_id
       where k.digest = a.digest and k.enabled and u.enabled
         and (k.valid_until is null or k.valid_until > now())
         and (k.kind = 'api' or $2::int = 0 or greatest(k.last_used_at, k.created_at)
           > now() - ($2::int + 60) * interval '1 second')
       limit 1) found`,
    [digests, idleSeconds],
    true,
  )

/**
 * Notes, to the minute, that keys were used; waits neither for other transactions nor for the disk.
 */
export const markUsed = (db: Db, keyIds: string[]) =>
  db.query(
    // The first condition is there for its effect: this transaction does not wait for the disk.
    `update api_keys set last_used_at = date_trunc('minute', now())
     where (select set_config('synchronous_commit', 'off', true)) = 'off' and ctid = any(array(
       select ctid from api_keys where id = any($1::uuid[])
         and last_used_at is distinct from date_trunc('minute', now())
       for no key update skip locked))`,
    [keyIds],
    true,
  )

/** The key that acts and its user's role, or null if it may not act any more. */
export const findMaker = (tx: Db, keyId: string): Promise<Maker | null> =>
  first(
    tx,
    `select u.id as "userId", case when k.permissions is null then u.role else 'user' end as role,
       k.kind, k.permissions, k.factors, k.authenticated_at as "authenticatedAt",
       k.valid_until as "validUntil", u.factor_confirmed_at is not null as "secondFactor"
     from api_keys k join users u on u.id = k.user_id
     where k.id = $1::uuid and u.enabled and k.enabled
       and (k.valid_until is null or k.valid_until > clock_timestamp())`,
    [keyId],
  )
