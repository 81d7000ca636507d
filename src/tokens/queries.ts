import { deleteAll, first, one, type Db } from '../database/pool.ts'
import { createSecret, digestKey } from '../keys/format.ts'

/** What a token is for. */
export type Purpose = 'password-reset' | 'email' | 'log-in'

/** A token to insert. */
interface NewToken {
  userId: string
  purpose: Purpose
  /** The address that it was sent to, or that it proves; null: none. */
  email: string | null
  /** It is good for so long, by the database's clock. */
  seconds: number
}

/** Makes a token and returns it; the database holds only its digest. */
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

const live = `digest = $1::bytea and purpose = $2 and valid_until > clock_timestamp()
  and users.id = user_id and enabled`

/** The enabled user whose live token this is, or null. */
export const findHolder = (
  db: Db,
  token: string,
  purpose: Purpose,
): Promise<{ id: string; email: string } | null> =>
  first(db, `select users.id, users.email from tokens, users where ${live}`, [
    digestKey(token),
    purpose,
  ])

/** Whose token was used, and which address it proves. */
export interface Taken {
  userId: string
  email: string | null
}

/**
 * Uses a live token up and returns whose it was; null for all but the first that tries. Locks the
 * user first, as everything does that ends the user's tokens.
 */
export const takeToken = (tx: Db, token: string, purpose: Purpose): Promise<Taken | null> =>
  first(
    tx,
    `with holder as (select users.id from tokens, users where ${live} for update of users)
     delete from tokens using holder where digest = $1::bytea and user_id = holder.id
     returning user_id as "userId", email`,
    [digestKey(token), purpose],
  )

/**
 * Ends all tokens of a user, and what was asked for and is not sent yet; with `kept`, a folded
 * address, only those that prove another one.
 */
export const deleteTokens = (tx: Db, userId: string, kept?: string) =>
  tx.query(
    `with asked as (
       update outbox set give_up_at = now(),
         next_at = case when last_failure is null then next_at else now() end
       where address is not null and ((subject = $1::uuid and address is distinct from $2::text)
         or ($2 is null and lane = 'token: password.reset_requested '
           || (select email_lower from users where id = $1))))
     delete from tokens
     where user_id = $1::uuid and ($2 is null or (purpose = 'email' and lower(email) <> $2))`,
    [userId, kept],
  )

/** Removes tokens that ended. */
export const deleteEndedTokens = (db: Db) => deleteAll(db, 'tokens', 'valid_until < now()')
