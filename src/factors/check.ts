// Proves codes. Wrong ones are counted as wrong passwords are, in rows of their own, which neither
// a right password nor a new one clears.
import { insertEvent } from '../audit/queries.ts'
import type { Database, Db } from '../database/pool.ts'
import { AppError, ExitError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Origin, Reply } from '../http/route.ts'
import { accountOfCodes } from '../passwords/guessing.ts'
import { countFailure, lockGuess, refuseWaiting } from '../passwords/queries.ts'
import { open } from '../secrets/keys.ts'
import { digestCode, findStep } from './codes.ts'
import { listSecrets, lockFactor, spendCode } from './queries.ts'

/** The place for which a user's secret is sealed. */
export const placeOf = (userId: string) => `factor ${userId}`

/** An attempt to prove a code of a factor that is confirmed, or is not yet. */
interface Attempt {
  userId: string
  code: string
  origin: Origin
  isConfirmed: boolean
}

/**
 * Returns a function that uses a code up and does `work`, in one transaction that locks the user.
 * It throws `invalid_credentials`, `login_throttled`, and without such a factor `token_invalid`
 * for a confirmed one, `factor_not_found` for another.
 */
export const createProveCode =
  (db: Database, keys: Buffer[]) =>
  async ({ userId, code, origin, isConfirmed }: Attempt, work: (tx: Db) => Promise<Reply>) => {
    const guess = { account: accountOfCodes(userId), client: origin.client }
    const event = { actor: userId, subject: userId, origin }
    const reply = await db.transaction(async (tx) => {
      await lockGuess(tx, guess)
      await refuseWaiting(tx, guess)
      const factor = await lockFactor(tx, userId, isConfirmed)
      const secret = open(keys, placeOf(userId), factor.secret)
      const step = secret && findStep(secret, code, factor.step)
      if (await spendCode(tx, userId, { step, digest: digestCode(code) })) {
        if (step === null) await insertEvent(tx, { ...event, action: 'factor.recovery_used' })
        return work(tx)
      }
      // A secret that does not open cannot tell that the code is wrong.
      if (secret !== null) {
        await countFailure(tx, guess)
        await insertEvent(tx, { ...event, action: 'session.failed', actor: null })
      }
      return null
    })
    if (reply === null) throw new AppError('invalid_credentials')
    return reply
  }

/**
 * Logs how many of the first thousand second factors do not open; throws an `ExitError` if there
 * are any and no keys.
 */
export async function checkFactors(db: Db, keys: Buffer[] | null, log: Log) {
  const factors = await listSecrets(db, 1000)
  const unopened = factors.filter(({ id, secret }) => !open(keys ?? [], placeOf(id), secret))
  if (unopened.length === 0) return
  if (keys === null) {
    throw new ExitError(
      'Users have second factors: set SECRETS_KEY_FILE or, of a private database, put ' +
        '.local/secrets-key where it was; see bin/README.md',
      2,
    )
  }
  log('error', 'SECRETS_KEY_FILE does not open second factors: they need recovery codes', {
    count: unopened.length,
  })
}
