import { one, type Db } from '../database/pool.ts'
import { deleteSessions } from '../keys/queries.ts'

/** The confirmed factor of a user, as it is shown; throws `factor_not_found`. */
export const getFactor = (db: Db, userId: string) =>
  one(db, {
    text: `select factor_confirmed_at as "confirmedAt",
       cardinality(factor_recovery) as "recoveryCodesLeft"
     from users where id = $1::uuid and factor_confirmed_at is not null`,
    values: [userId],
    orThrow: 'factor_not_found',
  })

/** A sealed secret, and the step of 30 s that it is now by the database's clock. */
interface Factor {
  secret: Buffer
  step: number
}

/**
 * The factor of a user, locked. Throws `token_invalid` unless it `isConfirmed` or, where it must
 * not be yet, `factor_not_found`.
 */
export const lockFactor = (tx: Db, userId: string, isConfirmed: boolean): Promise<Factor> =>
  one(tx, {
    text: `select factor_secret as secret,
       floor(extract(epoch from clock_timestamp()) / 30)::int as step
     from users where id = $1::uuid and factor_secret is not null
       and (factor_confirmed_at is not null) = $2::boolean for update`,
    values: [userId, isConfirmed],
    orThrow: isConfirmed ? 'token_invalid' : 'factor_not_found',
  })

/** Stores the sealed secret of a new factor, in place of one that waits for its first code. */
export const storeSecret = (tx: Db, userId: string, secret: Buffer) =>
  tx.query('update users set factor_secret = $2, factor_step = 0 where id = $1::uuid', [
    userId,
    secret,
  ])

/** What a code may be: that of a step, or the recovery code of a digest. */
interface Meanings {
  step: number | null
  digest: Buffer
}

/** Uses a code up; false if it is neither of a later step than the last one nor a recovery code. */
export async function spendCode(tx: Db, userId: string, code: Meanings) {
  const spent = await tx.query(
    `update users set factor_step = greatest(factor_step, $2::int),
       factor_recovery = array_remove(factor_recovery, $3::bytea)
     where id = $1::uuid and (factor_step < $2::int or $3::bytea = any(factor_recovery))
     returning id`,
    [userId, code.step, code.digest],
  )
  return spent.length > 0
}

/** Stores the digests of new recovery codes, and confirms the factor if it was not. */
export const storeRecoveryCodes = (tx: Db, userId: string, digests: Buffer[]) =>
  tx.query(
    `update users set factor_recovery = $2::bytea[],
       updated_at = case when factor_confirmed_at is null then now() else updated_at end,
       version = version + (factor_confirmed_at is null)::int,
       factor_confirmed_at = coalesce(factor_confirmed_at, now())
     where id = $1::uuid`,
    [userId, digests],
  )

/** Removes a factor and ends all sessions of its user; throws `factor_not_found`. */
export async function removeFactor(tx: Db, userId: string) {
  await one(tx, {
    text: `update users set factor_secret = null, factor_confirmed_at = null,
       factor_recovery = '{}', version = version + 1, updated_at = now()
     where id = $1::uuid and factor_secret is not null returning id`,
    values: [userId],
    orThrow: 'factor_not_found',
  })
  await deleteSessions(tx, userId)
}

/** The sealed secrets of confirmed factors, at most `limit`. */
export const listSecrets = (db: Db, limit: number) =>
  db.query<{ id: string; secret: Buffer }>(
    `select id, factor_secret as secret from users where factor_confirmed_at is not null
     order by id limit $1::int`,
    [limit],
  )
