import { one, violates, type Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import type { Caller } from '../http/route.ts'
import { nilUuid } from '../schema.ts'
import { createKey, digestKey } from '../secrets.ts'

export interface Key {
  id: string
  kind: 'api' | 'session'
  name: string
  enabled: boolean
  validUntil: Date | null
  lastUsedAt: Date | null
  createdAt: Date
}

/** A key as it is shown once, when it is made. */
export type NewKey = Key & { key: string }

const columns = `id, kind, name, enabled, valid_until as "validUntil",
  last_used_at as "lastUsedAt", created_at as "createdAt"`

export interface KeyOptions {
  userId: string
  kind: 'api' | 'session'
  name: string
  validUntil?: Date | null
  /** Instead of `validUntil`: so long from now, by the database's clock. */
  seconds?: number
  /** A key that was made elsewhere. */
  key?: string
}

/** Makes a key; throws `user_not_found` when there is no such user. */
export async function insertKey(db: Db, options: KeyOptions): Promise<NewKey> {
  const { userId, kind, name, validUntil = null, seconds = null, key = createKey() } = options
  try {
    const row = await one<Key>(db,
      `insert into api_keys (user_id, kind, name, digest, valid_until)
       values ($1::uuid, $2, $3, $4::bytea,
         coalesce($5::timestamptz, now() + $6::int * interval '1 second'))
       returning ${columns}`,
      [userId, kind, name, digestKey(key), validUntil, seconds])
    return { ...row, key }
  } catch (error) {
    if (violates(error, 'api_keys_user_id_fkey')) throw new AppError('user_not_found')
    throw error
  }
}

/** The keys and sessions of a user, oldest first, those after the key `after`; throws `user_not_found`. */
export async function listKeys(
  db: Db, userId: string, { after = nilUuid, limit }: { after?: string; limit: number },
): Promise<Key[]> {
  const rows = await db.query<Key>(
    `select k.* from users u left join lateral (
       select ${columns} from api_keys where user_id = u.id and id > $2::uuid order by id limit $3::int
     ) k on true where u.id = $1::uuid`,
    [userId, after, limit],
  )
  if (rows.length === 0) throw new AppError('user_not_found')
  return rows.filter(({ id }) => id !== null)
}

type KeyChanges = { [K in 'name' | 'enabled' | 'validUntil']?: Key[K] }

/** Changes what is given, but prolongs no session; throws `key_not_found` when the user has no such key. */
export async function updateKey(
  db: Db, userId: string, keyId: string, { name, enabled, validUntil }: KeyChanges,
): Promise<Key> {
  const [row] = await db.query<Key>(
    `update api_keys set name = coalesce($3, name), enabled = coalesce($4::boolean, enabled),
       valid_until = case when not $5::boolean then valid_until
         when kind = 'session' then least(valid_until, $6::timestamptz) else $6::timestamptz end
     where user_id = $1::uuid and id = $2::uuid returning ${columns}`,
    [userId, keyId, name ?? null, enabled ?? null, validUntil !== undefined, validUntil ?? null],
  )
  if (row === undefined) throw new AppError('key_not_found')
  return row
}

/** Ends a key; throws `key_not_found` when the user has no such key. */
export async function deleteKey(db: Db, userId: string, keyId: string): Promise<{ id: string }> {
  const [row] = await db.query<{ id: string }>(
    'delete from api_keys where user_id = $1::uuid and id = $2::uuid returning id', [userId, keyId])
  if (row === undefined) throw new AppError('key_not_found')
  return row
}

/**
 * Makes a key in place of another, with its kind, name and end; the old one works for
 * `overlapSeconds` more, at most. Throws `key_not_found` when the user has no such key or it ended.
 */
export async function rotateKey(tx: Db, userId: string, keyId: string, overlapSeconds: number): Promise<NewKey> {
  const [old] = await tx.query<Key>(
    `select ${columns} from api_keys where user_id = $1::uuid and id = $2::uuid
       and (valid_until is null or valid_until > now()) for update`,
    [userId, keyId],
  )
  if (old === undefined) throw new AppError('key_not_found')
  await tx.query(
    `update api_keys set valid_until = least(valid_until, now() + $2::int * interval '1 second')
     where id = $1::uuid`,
    [keyId, overlapSeconds],
  )
  return insertKey(tx, { userId, kind: old.kind, name: old.name, validUntil: old.validUntil })
}

/** Ends the sessions of a user, but for the key `exceptId`. */
export async function deleteSessions(db: Db, userId: string, exceptId: string | null): Promise<void> {
  await db.query(
    `delete from api_keys where user_id = $1::uuid and kind = 'session'
       and id is distinct from $2::uuid`,
    [userId, exceptId],
  )
}

/** Removes sessions that ended; theirs is the only kind of key that nobody prolongs. */
export async function deleteEndedSessions(db: Db): Promise<void> {
  await db.query(`delete from api_keys where kind = 'session' and valid_until < now() - interval '1 hour'`)
}

/** `unmarked`: its use has not been noted in the current minute. */
export type Found = Caller & { asked: number; unmarked: boolean }

/** Finds whose the usable keys among `digests` are; `asked` is the index. One statement for all. */
export function findCallers(db: Db, digests: Buffer[]): Promise<Found[]> {
  return db.query(
    `select a.asked::int - 1 as asked, k.id as "keyId", k.kind as "keyKind", u.id as "userId",
       u.email, u.role, u.permissions, u.version, u.created_at as "createdAt",
       u.updated_at as "updatedAt",
       (k.last_used_at is null or k.last_used_at < date_trunc('minute', now())) as unmarked
     from unnest($1::bytea[]) with ordinality as a (digest, asked)
     join api_keys k on k.digest = a.digest
     join users u on u.id = k.user_id
     where k.enabled and u.enabled and (k.valid_until is null or k.valid_until > now())`,
    [digests],
    'find-callers',
  )
}

/** Notes, to the minute, that keys were used; waits for nobody, so that nobody has to for it. */
export async function markUsed(db: Db, keyIds: string[]): Promise<void> {
  await db.query(
    `update api_keys set last_used_at = date_trunc('minute', now())
     where id in (select id from api_keys where id = any($1::uuid[])
       and (last_used_at is null or last_used_at < date_trunc('minute', now())) for update skip locked)`,
    [keyIds],
  )
}
