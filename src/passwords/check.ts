// Checks a password. Attempts at the same time may all be hashed, but they are settled one by one:
// once a limit is reached, the rest do not learn whether they were right.
import { insertEvent } from '../audit/queries.ts'
import type { Database, Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import type { Origin } from '../http/route.ts'
import { accountOfAddress, accountOfUser } from './guessing.ts'
import type { Hasher } from './hasher.ts'
import {
  clearFailures,
  countFailure,
  lockGuess,
  refuseWaiting,
  replacePassword,
} from './queries.ts'
import { normalPassword } from './rules.ts'

/** Whose password is checked; `passwordHash` is a PHC string, or null where there is none. */
interface Account {
  id: string
  enabled: boolean
  passwordHash: string | null
}

/** An attempt to prove a password. */
interface Attempt {
  /** The account, or null if nobody has the `address`, which must not be observable. */
  find(): Promise<Account | null>
  /** The folded address that was tried: failures are counted by it where there is no account. */
  address: string
  password: string
  /** A new password, to store in place of the right one. */
  next?: string
  origin: Origin
}

/** What was found out about an attempt before its transaction. */
type Checked = Awaited<ReturnType<typeof compare>>

type Deps = { db: Database; hasher: Hasher }
type Work<T> = (tx: Db, userId: string) => Promise<T>

/**
 * Checks a password. If it is right, one transaction clears the failures, stores `next` (or the
 * same password at today's cost, if that is higher) and does `work`. Throws `login_throttled`,
 * `overloaded` or `invalid_credentials`, which does not tell what is wrong.
 */
export async function checkPassword<T>(deps: Deps, attempt: Attempt, work: Work<T>) {
  for (let tries = 0; tries < 3; tries++) {
    const checked = await compare(deps.hasher, deps.db, attempt)
    const outcome = await deps.db.transaction((tx) => settle(tx, checked, work))
    if (outcome === 'wrong') throw new AppError('invalid_credentials')
    if (outcome !== 'changed') return outcome.value
    // The account or its stored password changed during the hashing: check what holds now.
  }
  throw new AppError('overloaded', { retryAfterSeconds: 1 })
}

async function compare(hasher: Hasher, db: Database, attempt: Attempt) {
  const { next, origin, password } = attempt
  const { client } = origin
  const find = async () => {
    const account = await attempt.find()
    const name = account === null ? accountOfAddress(attempt.address) : accountOfUser(account.id)
    const guess = { account: name, client }
    await refuseWaiting(db, guess)
    return { account, guess, passwordHash: account?.passwordHash ?? null }
  }
  const { found, isRight, renew } = await hasher.verify(password, find, client)
  const { account, guess } = found
  const mayPass = isRight && account !== null && account.enabled
  // `next` is hashed in any case: the time must not tell which of many guesses was right.
  const isHashed = next !== undefined || (mayPass && renew)
  // The PHC string to store in place of the right one, if any.
  const replacement = isHashed ? await hasher.hash(next ?? normalPassword(password), client) : null
  return { account, isRight: mayPass, guess, origin, replacement }
}

async function settle<T>(tx: Db, checked: Checked, work: Work<T>) {
  const { account, isRight, guess, origin, replacement } = checked
  await lockGuess(tx, guess)
  // Right or wrong, so that the wait says nothing about the password.
  await refuseWaiting(tx, guess)
  if (account === null || account.passwordHash === null || !isRight) {
    await countFailure(tx, guess)
    const subject = account?.id ?? null
    await insertEvent(tx, { action: 'session.failed', actor: null, subject, origin })
    return 'wrong'
  }
  const before = account.passwordHash
  const isStored = await replacePassword(tx, account.id, { before, after: replacement ?? before })
  if (!isStored) return 'changed'
  await clearFailures(tx, guess)
  return { value: await work(tx, account.id) }
}
