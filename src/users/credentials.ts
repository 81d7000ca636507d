// Checks of a password, and what guessing costs. Failures in a row are counted in the database, per
// account and client (from the 5th) and per account from anywhere (from the 100th): each further
// attempt has to wait, 1 s doubling to 15 min. One failure is forgotten per 15 min, so a stranger at
// one address, who gets no more than one try per 15 min, never reaches the second bound and cannot
// keep an owner elsewhere out. Accounts that do not exist are counted alike.
//
// An attempt that waits is refused before any hashing and is not counted. Of many attempts at once,
// all may be hashed, but once the bound is reached the rest get no answer to whether they were right.
import { createHash } from 'node:crypto'

import { insertEvent } from '../audit/queries.ts'
import type { Database, Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import type { Hasher } from '../hasher.ts'
import type { Origin } from '../http/route.ts'
import type { Credentials } from './queries.ts'
import { foldEmail, normalPassword } from './rules.ts'

const freeFailures = { client: 5, anywhere: 100 }
const doublings = 10

export interface Attempt {
  /** Null when nobody has the address, which must not be felt. */
  user: Credentials | null
  email: string
  password: string
  origin: Origin
}

/**
 * Checks a password and, when it is right, does `work` in one transaction with clearing the count;
 * throws `login_throttled`, `overloaded` or, alike for all that can be wrong, `invalid_credentials`.
 * `renewed`: the password as it should be stored from now on, where that is stronger.
 */
export async function checkPassword<T>(
  { db, hasher }: { db: Database; hasher: Hasher },
  { user, email, password, origin }: Attempt,
  work: (tx: Db, user: Credentials, renewed: string | null) => Promise<T>,
): Promise<T> {
  const account = createHash('sha256').update(foldEmail(email)).digest()
  await refuseWaiting(db, account, origin.client)
  const { right, renew } = await hasher.verify(normalPassword(password), user?.passwordHash ?? null, origin.client)
  if (right && user?.enabled) {
    const renewed = renew ? await hasher.hash(normalPassword(password), origin.client) : null
    return db.transaction(async (tx) => {
      await refuseWaiting(tx, account, origin.client)
      await tx.query('delete from login_failures where account = $1 and client = $2', [account, origin.client])
      // A password that was changed while this one was hashed is not right any more.
      const [now] = await tx.query<Credentials>(
        `select id from users where id = $1::uuid and enabled and password_hash = $2 for update`,
        [user.id, user.passwordHash])
      if (now === undefined) throw new AppError('invalid_credentials')
      return work(tx, user, renewed)
    })
  }
  await db.transaction(async (tx) => {
    // As for who was right, so that the wait says nothing about the password.
    await refuseWaiting(tx, account, origin.client)
    await countFailure(tx, account, origin.client, freeFailures.client)
    await countFailure(tx, account, '', freeFailures.anywhere)
    await insertEvent(tx, { action: 'session.failed', actor: null, subject: user?.id ?? null, origin })
  })
  throw new AppError('invalid_credentials')
}

async function refuseWaiting(db: Db, account: Buffer, client: string) {
  const [row] = await db.query<{ seconds: number | null }>(
    `select ceil(extract(epoch from max(wait_until) - now()))::int as seconds from login_failures
     where account = $1 and client in ($2, '') and wait_until > now()`,
    [account, client],
  )
  if (row?.seconds != null) throw new AppError('login_throttled', { retryAfterSeconds: row.seconds })
}

/** Counts a failure; throws `login_throttled` when one counted meanwhile has to be waited for. */
async function countFailure(tx: Db, account: Buffer, client: string, free: number) {
  const counted = await tx.query(
    `insert into login_failures as old (account, client, failures, wait_until)
     values ($1, $2, 1, '-infinity')
     on conflict (account, client) do update set updated_at = now(),
       (failures, wait_until) = (
         select n, case when n < $3::int then '-infinity'
           else now() + least(900, power(2, n - $3::int)) * interval '1 second' end
         from (select least($3::int + $4::int, 1 + greatest(0, old.failures
           - trunc(extract(epoch from now() - old.updated_at) / 900)::int)) as n) as counted)
     where old.wait_until <= now() returning failures`,
    [account, client, free, doublings],
  )
  if (counted.length > 0) return
  await refuseWaiting(tx, account, client)
  throw new AppError('login_throttled', { retryAfterSeconds: 1 })
}

/** Removes the counts that have been forgotten. */
export async function deleteForgottenFailures(db: Db): Promise<void> {
  await db.query(`delete from login_failures where updated_at < now() - interval '15 minutes'
    and updated_at + failures * interval '15 minutes' < now()`)
}
