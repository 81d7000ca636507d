// Slows guessing down. Failures in a row are counted in the database: per account and client, per
// account from anywhere, and per client over all accounts. From a limit on, each further attempt
// has to wait, 1 s doubling to 15 min. An attempt during the wait is refused and not counted.
//
// One failure is forgotten per 15 min, so a stranger at one address, who then gets one try per 15
// min, never reaches the limit of an account from anywhere and cannot keep its owner out elsewhere.
// Addresses that nobody has are counted like accounts.
import type { Db } from '../database/pool.ts'
import {
  copyFailures,
  countFailure,
  deleteFailuresOf,
  digest,
  lockGuess,
  refuseWaiting,
} from './queries.ts'

/** The name under which the failures of a user are counted. */
export const accountOfUser = (id: string) => digest(`user ${id}`)
/** The name under which the failures of an address that no user has are counted. */
export const accountOfAddress = (folded: string) => digest(`address ${folded}`)
/** The name under which the wrong codes of a user are counted. */
export const accountOfCodes = (id: string) => digest(`codes ${id}`)

/** Counts a request for a reset; throws `throttled` if this client has to wait. */
export async function countReset(tx: Db, client: string) {
  const request = { account: digest(`resets ${client}`), client, isReset: true }
  await lockGuess(tx, request)
  await refuseWaiting(tx, request)
  await countFailure(tx, request)
}

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
