// Checks of a password, and what guessing costs. Failures in a row are counted in the database, per account and client
// (from the 5th) and per account from anywhere (from the 100th): each further attempt has to wait, 1 s doubling to
// 15 min. One failure is forgotten per 15 min, so a stranger at one address, who gets no more than one try per 15 min,
// never reaches the second bound and cannot keep an owner elsewhere out. Accounts that do not exist are counted alike.
//
// An attempt that waits is refused before any hashing and is not counted. Of many attempts at once, all may be
// hashed, but they are settled one by one: once the bound is reached, the rest do not learn whether they were right.
import { createHash } from 'node:crypto'

import { normalPassword } from './rules.ts'
import { insertEvent } from '../audit/queries.ts'
import { locks } from '../database/codes.ts'
import { deleteAll, type Database, type Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import type { Hasher } from './hasher.ts'
import type { Origin } from '../http/route.ts'

/** Whose password is checked; `passwordHash` is a PHC string, or null where there is none. */
export interface Account {
  id: string
  enabled: boolean
  passwordHash: string | null
}

/**
 * `find`: the user, or null when nobody has the `address`, which must not be felt; failures are counted by the user or,
 * for want of one, by the address; `next`: a new password, to store in place of the right one.
 */
type Attempt = {
  find: () => Promise<Account | null>
  address: string
  password: string
  next?: string
  origin: Origin
}

/**
 * Checks a password and, when it is right, does `work` in one transaction with clearing the count and with
 * storing `next`, or the same anew where it was stored with less work than today's. Throws `login_throttled`,
 * `overloaded` or, alike for all that can be wrong, `invalid_credentials`.
 */
export async function checkPassword<T extends object>(
  deps: { db: Database; hasher: Hasher },
  attempt: Attempt,
  work: (tx: Db, userId: string) => Promise<T>,
): Promise<T> {
  const { db, hasher } = deps
  const {
    find,
    next,
    origin,
    origin: { client },
  } = attempt
  const password = normalPassword(attempt.password)
  let [user, account] = [null as Account | null, Buffer.of()]
  const { right, renew } = await hasher.verify(
    password,
    async () => {
      user = await find()
      account = createHash('sha256')
        .update(user?.id ?? attempt.address)
        .digest()
      await refuseWaiting(db, account, client)
      return user?.passwordHash ?? null
    },
    client,
  )
  const known = right && user?.enabled ? user : null
  // `next` is hashed in any case: the time must not tell which of many guesses at once was right.
  const stored =
    next !== undefined || (known && renew) ? await hasher.hash(next ?? password, client) : null
  const done = await db.transaction(async (tx) => {
    await tx.query('select pg_advisory_xact_lock($1::int, $2::int)', [
      locks.account,
      account.readInt32BE(),
    ])
    // Right or wrong, so that the wait says nothing about the password.
    await refuseWaiting(tx, account, client)
    if (known === null) {
      await countFailure(tx, account, client, 5)
      await countFailure(tx, account, '', 100)
      await insertEvent(tx, {
        action: 'session.failed',
        actor: null,
        subject: user?.id ?? null,
        origin,
      })
      return 'wrong'
    }
    const current = await tx.query(
      `update users set password_hash = coalesce($3, password_hash)
       where id = $1::uuid and enabled and password_hash = $2 returning id`,
      [known.id, known.passwordHash, stored],
    )
    if (current.length === 0) return 'changed'
    await tx.query('delete from login_failures where account = $1 and client = $2', [
      account,
      client,
    ])
    return work(tx, known.id)
  })
  if (done === 'wrong') throw new AppError('invalid_credentials')
  // The user, or how its password is stored, was changed while this one was hashed: what holds now?
  return done === 'changed' ? checkPassword(deps, attempt, work) : done
}

/** What was counted in what is now the future, before the clock was put back, makes nobody wait for its return. */
async function refuseWaiting(db: Db, account: Buffer, client: string) {
  const [row] = await db.query<{ seconds: number }>(
    `select ceil(extract(epoch from wait_until - now()))::int as seconds from login_failures
     where account = $1 and client in ($2, '') and wait_until > now() and updated_at < now() + interval '5 minutes'
     order by wait_until desc limit 1`,
    [account, client],
  )
  if (row !== undefined) throw new AppError('login_throttled', { retryAfterSeconds: row.seconds })
}

/** Counts a failure; beyond ten doublings, which are more than 15 min, there is nothing to count. */
const countFailure = (tx: Db, account: Buffer, client: string, free: number) =>
  tx.query(
    `insert into login_failures as old (account, client, failures, wait_until) values ($1, $2, 1, '-infinity')
   on conflict (account, client) do update set updated_at = now(),
     (failures, wait_until) = (
       select n, case when n < $3::int then '-infinity'
         else now() + least(900, power(2, n - $3::int)) * interval '1 second' end
       from (select least($3::int + 10, 1 + greatest(0, old.failures
         - greatest(0, trunc(extract(epoch from now() - old.updated_at) / 900))::int)) as n) as counted)`,
    [account, client, free],
  )

/** Removes the counts that have been forgotten. */
export const deleteForgottenFailures = (db: Db) =>
  deleteAll(
    db,
    'login_failures',
    `updated_at < now() - interval '15 minutes' and updated_at + failures * interval '15 minutes' < now()`,
  )
