import { createKey, digestKey } from './format.ts'
import { deleteAll, one, type Db } from '../database/pool.ts'
import type { Caller } from '../http/route.ts'
import {
  booleanSchema,
  instantSchema,
  nilUuid,
  nullable,
  oneOf,
  text,
  uuidSchema,
  type Members,
} from '../schema.ts'

export const name = text({
  min: 1,
  max: 100,
  pattern: /^[^\x00-\x1f\x7f-\x9f]*$/,
  message: 'must have 1 to 100 characters, none of them a control character',
  example: 'laptop',
})

/** A key as it is shown, and the key itself, which only the answer that makes it holds. */
export const members = {
  id: uuidSchema,
  kind: oneOf('api', 'session'),
  name,
  enabled: booleanSchema,
  validUntil: nullable(instantSchema),
  lastUsedAt: nullable(instantSchema),
  createdAt: instantSchema,
}
export const keyText = text({
  min: 53,
  max: 53,
  pattern: /^usk_[0-9A-Za-z]{49}$/,
  example: `usk_${'0'.repeat(49)}`,
})
export type Key = Members<typeof members>

const columns = `id, kind, name, enabled, valid_until as "validUntil",
  last_used_at as "lastUsedAt", created_at as "createdAt"`

/** `seconds`: it ends so long from now, by the database's clock; `key`: one that was made elsewhere. */
type KeyOptions = Pick<Key, 'kind' | 'name'> & {
  userId: string
  validUntil?: string | null
  seconds?: number
  key?: string
}

/** Makes a key; throws `user_not_found` when there is no such user. */
export async function insertKey(
  db: Db,
  { userId, kind, name, validUntil, seconds, key = createKey() }: KeyOptions,
) {
  const made = await one<Key>(
    db,
    `insert into api_keys (user_id, kind, name, digest, valid_until)
     select id, $2, $3, $4::bytea, coalesce($5::timestamptz, now() + $6::int * interval '1 second')
     from users where id = $1::uuid for key share returning ${columns}`,
    [userId, kind, name, digestKey(key), validUntil, seconds],
    'user_not_found',
  )
  return { ...made, key }
}

/** The keys and sessions of a user, oldest first, those after the key `after`; throws `user_not_found`. */
export async function listKeys(
  db: Db,
  userId: string,
  page: { after?: string; limit: number },
): Promise<Key[]> {
  const keys = await db.query<Key>(
    `select ${columns} from api_keys where user_id = $1::uuid and id > $2::uuid order by id limit $3::int`,
    [userId, page.after ?? nilUuid, page.limit],
  )
  if (keys.length === 0)
    await one(db, 'select from users where id = $1::uuid', [userId], 'user_not_found')
  return keys
}

/** Changes what is given, but prolongs no session; throws `key_not_found` when the user has no such key. */
export const updateKey = (
  db: Db,
  userId: string,
  keyId: string,
  { name, enabled, validUntil }: Partial<Key>,
) =>
  one<Key>(
    db,
    `update api_keys set name = coalesce($3, name), enabled = coalesce($4::boolean, enabled),
       valid_until = case when not $5::boolean then valid_until
         when kind = 'session' then least(valid_until, $6::timestamptz) else $6::timestamptz end
     where user_id = $1::uuid and id = $2::uuid returning ${columns}`,
    [userId, keyId, name, enabled, validUntil !== undefined, validUntil],
    'key_not_found',
  )

/** Ends a key; throws `key_not_found` when the user has no such key. */
export async function deleteKey(db: Db, userId: string, keyId: string): Promise<void> {
  await one(
    db,
    'delete from api_keys where user_id = $1::uuid and id = $2::uuid returning id',
    [userId, keyId],
    'key_not_found',
  )
}

/**
 * Makes a key in place of another, with its kind, name and end; the old one works for `overlapSeconds` more, at most.
 * Throws `key_not_found` when the user has no such key or it ended: by now, not by when the transaction began.
 */
export async function rotateKey(tx: Db, userId: string, keyId: string, overlapSeconds: number) {
  const { kind, name, validUntil } = await one<Key>(
    tx,
    `select ${columns} from api_keys where user_id = $1::uuid and id = $2::uuid
       and (valid_until is null or valid_until > clock_timestamp()) for update`,
    [userId, keyId],
    'key_not_found',
  )
  await tx.query(
    `update api_keys set valid_until = least(valid_until, now() + $2::int * interval '1 second') where id = $1::uuid`,
    [keyId, overlapSeconds],
  )
  return insertKey(tx, { userId, kind, name, validUntil })
}

/** Ends the sessions of a user, but for the key `exceptId`. */
export const deleteSessions = (db: Db, userId: string, exceptId: string | null) =>
  db.query(
    `delete from api_keys where user_id = $1::uuid and kind = 'session' and id is distinct from $2::uuid`,
    [userId, exceptId],
  )

/** Removes sessions that ended. An API key that did stays: it may be prolonged. */
export const deleteEndedSessions = (db: Db) =>
  deleteAll(db, 'api_keys', `kind = 'session' and valid_until < now() - interval '1 hour'`)

/** Whose the usable keys among `digests` are; `asked`: the index; `unmarked`: its use is not noted this minute. */
export function findCallers(
  db: Db,
  digests: Buffer[],
): Promise<(Caller & { asked: number; unmarked: boolean })[]> {
  return db.query(
    `select a.asked::int - 1 as asked, k.id as "keyId", k.kind as "keyKind", u.id as "userId",
       u.email, u.role, u.permissions, u.version, u.created_at as "createdAt",
       u.updated_at as "updatedAt",
       k.last_used_at is distinct from date_trunc('minute', now()) as unmarked
     from unnest($1::bytea[]) with ordinality as a (digest, asked)
     cross join lateral (select * from api_keys where digest = a.digest limit 1) k
     cross join lateral (select * from users where id = k.user_id limit 1) u
     where k.enabled and u.enabled and (k.valid_until is null or k.valid_until > now())`,
    [digests],
    true,
  )
}

/** Notes, to the minute, that keys were used; waits neither for other transactions nor for the disk. */
export const markUsed = (db: Db, keyIds: string[]) =>
  db.query(
    `update api_keys set last_used_at = date_trunc('minute', now())
   where (select set_config('synchronous_commit', 'off', true)) = 'off' and ctid = any(array(
     select ctid from api_keys where id = any($1::uuid[])
       and last_used_at is distinct from date_trunc('minute', now()) for no key update skip locked))`,
    [keyIds],
    true,
  )
