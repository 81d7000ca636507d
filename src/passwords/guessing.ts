// Slows guessing down. Failures in a row are counted in the database: per account and client, per
// account from anywhere, and per client over all accounts. From a limit on, each further attempt
// has to wait, 1 s doubling to 15 min. An attempt during the wait is refused and not counted.
//
// One failure is forgotten per 15 min, so a stranger at one address, who then gets one try per 15
// min, never reaches the limit of an account from anywhere and cannot keep its owner out elsewhere.
// Addresses that nobody has are counted like accounts.
import { createHash } from 'node:crypto'

import type { Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import {
  copyFailures,
  deleteFailures,
  deleteFailuresOf,
  findFailures,
  forgetSeconds,
  lockGuesses,
  saveFailures,
  subtractFailures,
  type Counter,
  type Failures,
} from './queries.ts'

const maxWaitSeconds = 15 * 60
/** With these the wait is `maxWaitSeconds`: there is nothing more to count. */
const maxDoublings = Math.ceil(Math.log2(maxWaitSeconds))
/** Rows that are further in the future were written before the clock was set back. */
const maxClockSkewSeconds = 5 * 60

/** Whose password is guessed, and by which client. */
export interface Guess {
  account: Buffer
  client: string
}

/** The name under which the failures of a user are counted. */
export const accountOfUser = (id: string): Buffer => digest(`user ${id}`)
/** The name under which the failures of an address that no user has are counted. */
export const accountOfAddress = (folded: string): Buffer => digest(`address ${folded}`)
/** Stands for all accounts that a client guesses at. */
const anyAccount = digest('any account')

function digest(name: string): Buffer {
  return createHash('sha256').update(name).digest()
}

/** The rows in which a guess is counted, each with the number of failures that cost nothing. */
const countersOf = ({ account, client }: Guess): (Counter & { free: number })[] => [
  { account, client, free: 5 },
  { account, client: '', free: 100 },
  { account: anyAccount, client, free: 50 },
]

/** Locks so that the guesses of this client, and those at this account, are settled one by one. */
export const lockGuess = (tx: Db, { account, client }: Guess): Promise<unknown> =>
  lockGuesses(tx, digest(`client ${client}`).readInt32BE(), account.readInt32BE())

/** Throws `login_throttled` if this guess has to wait. */
export async function refuseWaiting(db: Db, guess: Guess): Promise<void> {
  const rows = await findFailures(db, countersOf(guess))
  const current = rows.filter(({ quietSeconds }) => quietSeconds > -maxClockSkewSeconds)
  const retryAfterSeconds = Math.max(0, ...current.map(({ waitSeconds }) => waitSeconds))
  if (retryAfterSeconds > 0) throw new AppError('login_throttled', { retryAfterSeconds })
}

/** Counts a failure; the transaction holds the guess's lock. */
export async function countFailure(tx: Db, guess: Guess): Promise<void> {
  const counters = countersOf(guess)
  const rows = await findFailures(tx, counters)
  const counted = counters.map(({ account, client, free }) => {
    const row = rows.find((each) => each.client === client && each.account.equals(account))
    const failures = Math.min(rememberedOf(row) + 1, free + maxDoublings)
    const waitSeconds = failures < free ? 0 : Math.min(2 ** (failures - free), maxWaitSeconds)
    return { account, client, failures, waitSeconds }
  })
  await saveFailures(tx, counted)
}

/** Clears the failures of this client at this account, and takes them off the client's own. */
export async function clearFailures(tx: Db, guess: Guess): Promise<void> {
  const row = await deleteFailures(tx, guess)
  if (row === null) return
  const ofClient = { account: anyAccount, client: guess.client }
  await subtractFailures(tx, ofClient, rememberedOf(row))
}

/** The failures of a row that are not forgotten by now. */
function rememberedOf(row: Failures | undefined): number {
  if (row === undefined) return 0
  const forgotten = Math.max(0, Math.trunc(row.quietSeconds / forgetSeconds))
  return Math.max(0, row.failures - forgotten)
}

/**
 * Moves what was counted for an address to the user who gets it: whether an address has to wait
 * must not reveal that somebody has it now.
 */
export async function gainAddress(tx: Db, userId: string, folded: string): Promise<void> {
  await copyFailures(tx, accountOfAddress(folded), accountOfUser(userId))
  await deleteFailuresOf(tx, accountOfAddress(folded))
}

/** Counts for an address what was counted for the user that had it. */
export const loseAddress = (tx: Db, userId: string, folded: string): Promise<unknown> =>
  copyFailures(tx, accountOfUser(userId), accountOfAddress(folded))

/** Forgets the failures of a user, from wherever. */
export const forgetFailures = (tx: Db, userId: string): Promise<unknown> =>
  deleteFailuresOf(tx, accountOfUser(userId))
