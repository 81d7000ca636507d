import { deleteAll, one, type Db } from '../database/pool.ts'
import { createSecret, digestKey } from '../keys/format.ts'

/** What a token is for. */
export type Purpose = 'password-reset' | 'email'

/** A token to insert. */
export interface NewToken {
  userId: string
  purpose: Purpose
  /** The address that it was sent to, or that it proves; null: none. */
  email: string | null
  /** It is good for so long, by the database's clock. */
  seconds: number
}

/** Makes a token: the only place where it exists in clear, until it is presented. */
export async function insertToken(tx: Db, { userId, purpose, email, seconds }: NewToken) {
  const token = createSecret('ust')
  const { validUntil } = await one<{ validUntil: string }>(tx, {
    text: `insert into tokens (digest, purpose, user_id, email, valid_until)
     values ($1::bytea, $2, $3::uuid, $4, now() + $5::int * interval '1 second')
     returning valid_until as "validUntil"`,
    values: [digestKey(token), purpose, userId, email, seconds],
  })
  return { token, validUntil }
}

/** Whose token was presented, and which address it proves. */
export interface Holder {
  userId: string
  email: string | null
}

const live = `digest = $1::bytea and purpose = $2 and valid_until > clock_timestamp()
  and exists (select from users where users.id = user_id and enabled)`

/** Whose live token this is, or null; a disabled user has none. */
export async function findHolder(db: Db, token: string, purpose: Purpose): Promise<Holder | null> {
  const [holder] = await db.query<Holder>(
    `select user_id as "userId", email from tokens where ${live}`,
    [digestKey(token), purpose],
  )
  return holder ?? null
}

/** Uses a live token up and returns whose it was; null for all but the first that tries. */
export async function takeToken(tx: Db, token: string, purpose: Purpose): Promise<Holder | null> {
  const [holder] = await tx.query<Holder>(
    `delete from tokens where ${live} returning user_id as "userId", email`,
    [digestKey(token), purpose],
  )
  return holder ?? null
}

/** Ends all tokens of a user. */
export const deleteTokens = (tx: Db, userId: string): Promise<unknown> =>
  tx.query('delete from tokens where user_id = $1::uuid', [userId])

/** Removes tokens that ended. */
export const deleteEndedTokens = (db: Db): Promise<void> =>
  deleteAll(db, 'tokens', 'valid_until < now()')
