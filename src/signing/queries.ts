import { locks } from '../database/codes.ts'
import { one, type Db } from '../database/pool.ts'

/** A signing key as the database holds it. */
export interface SealedKey {
  kid: string
  box: Buffer
}

/** A key that verifiers must know, and what the database says of it and of the time. */
interface PublishedKey extends SealedKey {
  /** Whether it signs now: exactly one does. */
  signs: boolean
  /** Seconds since 1970. */
  now: number
}

/**
 * A key signs when it is a day old, so that all verifiers know it by then; the first signs at once.
 * It is published for a day after the next one began to sign.
 */
const spans = `(
  select *, lead(starts_at) over (order by created_at, kid) as ends_at
  from (
    select *, case when row_number() over (order by created_at, kid) = 1 then '-infinity'
      else created_at + interval '1 day' end as starts_at
    from signing_keys) as started) as spans`
const isPublished = `coalesce(ends_at + interval '1 day' > now(), true)`

/** The published keys, the oldest first; none before the first is made. */
export const listPublished = (db: Db) =>
  db.query<PublishedKey>(
    `select kid, box, starts_at <= now() and coalesce(ends_at > now(), true) as signs,
       extract(epoch from clock_timestamp())::float8 as now
     from ${spans} where ${isPublished} order by created_at, kid`,
  )

/** Locks so that one instance alone makes a key. */
export const lockRing = (tx: Db) => tx.query('select pg_advisory_xact_lock($1)', [locks.signing])

/** Whether there is no key of the last 30 days. */
export async function isKeyDue(db: Db) {
  const { isDue } = await one<{ isDue: boolean }>(db, {
    text: `select count(*) = 0 as "isDue" from signing_keys
      where created_at > clock_timestamp() - interval '30 days'`,
  })
  return isDue
}

/** Stores a key. */
export const insertKey = (tx: Db, { kid, box }: SealedKey) =>
  tx.query('insert into signing_keys (kid, box) values ($1, $2)', [kid, box])

/** Deletes the keys that nobody has to know any more. */
export const deleteUnpublished = (tx: Db) =>
  tx.query(
    `delete from signing_keys where kid in (select kid from ${spans} where not ${isPublished})`,
  )

/** Deletes all keys: what they signed is worth nothing from then on. */
export const deleteKeys = (tx: Db) => tx.query('delete from signing_keys')
