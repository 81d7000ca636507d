import { hash } from 'node:crypto'

import { locks } from '../database/codes.ts'
import { deleteAll, one, type Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'

/** Each time this much time has passed, one failure is forgotten. */
const forgetSeconds = 15 * 60
const maxWaitSeconds = 15 * 60
/** After so many doublings the wait is `maxWaitSeconds`, and further failures change nothing. */
const maxDoublings = Math.ceil(Math.log2(maxWaitSeconds))
/** Rows that are further in the future were written before the clock was set back. */
const maxClockSkewSeconds = 5 * 60

/** How long ago the last failure of a row was. */
const quietSeconds = 'extract(epoch from now() - updated_at)::int'
/** The failures of a row that are not forgotten by now. */
const remembered = `greatest(0, failures - greatest(0, ${quietSeconds} / ${forgetSeconds}))`

/** Whose password is guessed, and by which client; the empty client stands for anybody. */
interface Guess {
  account: Buffer
  client: string
  /** No password is guessed: the client asks for a reset, which is counted alone. */
  isReset?: boolean
}

/** The form in which accounts and clients are named here. */
export const digest = (name: string) => hash('sha256', name, 'buffer')

/** Stands for all accounts that a client guesses at. */
const anyAccount = digest('any account')

/** The rows that count a guess; the failure of the number `free` is the first to cost a wait. */
const counters = `(select * from (
  values (false, $1::bytea, $2::text, 5), (false, $1, '', 100), (false, $3::bytea, $2, 50),
    (true, $1, $2, 20)) as counter (is_reset, account, client, free)
  where is_reset = $4) as counters`
const valuesOf = ({ account, client, isReset = false }: Guess) => [
  account,
  client,
  anyAccount,
  isReset,
]

/** Locks so that the guesses of this client, and those at this account, are settled one by one. */
export const lockGuess = (tx: Db, { account, client }: Guess) =>
  tx.query('select pg_advisory_xact_lock($1, $2::int), pg_advisory_xact_lock($3, $4::int)', [
    locks.client,
    digest(`client ${client}`).readInt32BE(),
    locks.account,
    account.readInt32BE(),
  ])

/** Throws `login_throttled` if this guess has to wait. */
export async function refuseWaiting(db: Db, guess: Guess) {
  const { retryAfterSeconds } = await one<{ retryAfterSeconds: number }>(db, {
    text: `select coalesce(ceil(extract(epoch from max(wait_until) - now()))::int, 0)
       as "retryAfterSeconds"
     from ${counters} join login_failures using (account, client)
     where wait_until > now() and ${quietSeconds} > -${maxClockSkewSeconds}`,
    values: valuesOf(guess),
  })
  const code = guess.isReset ? 'throttled' : 'login_throttled'
  if (retryAfterSeconds > 0) throw new AppError(code, { retryAfterSeconds })
}

/** Counts a failure; the transaction holds the guess's lock. */
export const countFailure = (tx: Db, guess: Guess) =>
  tx.query(
    `insert into login_failures (account, client, failures, wait_until)
     select account, client, count, case when count < free then '-infinity'
       else now() + least(2 ^ (count - free), ${maxWaitSeconds}) * interval '1 second' end
     from (
       select account, client, free,
         least(coalesce(${remembered}, 0) + 1, free + ${maxDoublings}) as count
       from ${counters} left join login_failures using (account, client)) as counted
     on conflict (account, client) do update set failures = excluded.failures,
       wait_until = excluded.wait_until, updated_at = now()`,
    valuesOf(guess),
  )

/** Clears the failures of this client at this account, and takes them off the client's own. */
export const clearFailures = (tx: Db, { account, client }: Guess) =>
  tx.query(
    `with cleared as (
       delete from login_failures where account = $1 and client = $2
       returning ${remembered} as count)
     update login_failures set failures = greatest(0, failures - cleared.count)
     from cleared where account = $3 and client = $2`,
    [account, client, anyAccount],
  )

/** Deletes all rows of an account. */
export const deleteFailuresOf = (tx: Db, account: Buffer) =>
  tx.query('delete from login_failures where account = $1', [account])

/** Adds the rows of one account to those of another; where both have one, the greater counts. */
export const copyFailures = (tx: Db, from: Buffer, to: Buffer) =>
  tx.query(
    `insert into login_failures as old (account, client, failures, wait_until, updated_at)
     select $2, client, failures, wait_until, updated_at from login_failures where account = $1
     on conflict (account, client) do update set
       failures = greatest(old.failures, excluded.failures),
       wait_until = greatest(old.wait_until, excluded.wait_until),
       updated_at = greatest(old.updated_at, excluded.updated_at)`,
    [from, to],
  )

/** Deletes the counts that are forgotten by now. */
export const deleteForgottenFailures = (db: Db) =>
  deleteAll(
    db,
    'login_failures',
    // The first condition can use the index; the second cannot.
    `updated_at < now() - interval '${forgetSeconds} s'
     and updated_at + failures * interval '${forgetSeconds} s' < now()`,
  )

/** Replaces the password `before`, if the user is enabled and still has it; returns whether. */
export async function replacePassword(
  tx: Db,
  id: string,
  { before, after }: { before: string; after: string },
) {
  const rows = await tx.query(
    `update users set password_hash = $3
     where id = $1::uuid and enabled and password_hash = $2 returning id`,
    [id, before, after],
  )
  return rows.length > 0
}
