// Slows guessing down. Failures in a row are counted in the database: per account and client, per
// account from anywhere, and per client over all accounts. From a limit on, each further attempt
// has to wait, 1 s doubling to 15 min. An attempt during the wait is refused and not counted.
//
// One failure is forgotten per 15 min, so a stranger at one address, who then gets one try per 15
// min, never reaches the limit of an account from anywhere and cannot keep its owner out elsewhere.
// Addresses that nobody has are counted like accounts.
import { hash } from 'node:crypto'

import type { Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import {
  addFailure,
  copyFailures,
  deleteFailures,
  deleteFailuresOf,
  findWait,
  lockGuesses,
  type Counter,
  type Guess,
} from './queries.ts'

/** The name under which the failures of a user are counted. */
export const accountOfUser = (id: string): Buffer => digest(`user ${id}`)
/** The name under which the failures of an address that no user has are counted. */
export const accountOfAddress = (folded: string): Buffer => digest(`address ${folded}`)
/** Stands for all accounts that a client guesses at. */
const anyAccount = digest('any account')

function digest(name: string): Buffer {
  return hash('sha256', name, 'buffer')
}

/** The rows in which a guess is counted. */
const countersOf = ({ account, client }: Guess): Counter[] => [
  { account, client, free: 5 },
  { account, client: '', free: 100 },
  { account: anyAccount, client, free: 50 },
]

/** Locks so that the guesses of this client, and those at this account, are settled one by one. */
export const lockGuess = (tx: Db, { account, client }: Guess) =>
  lockGuesses(tx, digest(`client ${client}`).readInt32BE(), account.readInt32BE())

/** Throws `login_throttled` if this guess has to wait. */
export async function refuseWaiting(db: Db, guess: Guess) {
  const retryAfterSeconds = await findWait(db, countersOf(guess))
  if (retryAfterSeconds > 0) throw new AppError('login_throttled', { retryAfterSeconds })
}

/** Counts a failure; the transaction holds the guess's lock. */
export const countFailure = (tx: Db, guess: Guess) => addFailure(tx, countersOf(guess))

/** Clears the failures of this client at this account, and takes them off the client's own. */
export const clearFailures = (tx: Db, guess: Guess) => deleteFailures(tx, guess, anyAccount)

/**
 * Moves what was counted for an address to the user who gets it: whether an address has to wait
 * must not reveal that somebody has it now.
 */
export async function gainAddress(tx: Db, userId: string, folded: string) {
  await copyFailures(tx, accountOfAddress(folded), accountOfUser(userId))
  await deleteFailuresOf(tx, accountOfAddress(folded))
}

/** Counts for an address what was counted for the user that had it. */
export const loseAddress = (tx: Db, userId: string, folded: string) =>
  copyFailures(tx, accountOfUser(userId), accountOfAddress(folded))

/** Forgets the failures of a user, from wherever. */
export const forgetFailures = (tx: Db, userId: string) =>
  deleteFailuresOf(tx, accountOfUser(userId))
