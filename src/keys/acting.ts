// A change and its event are one transaction, which checks once more whether the calling key may
// still act: the body of its request may have taken 15 s to arrive.
import { insertEvent, type NewEvent } from '../audit/queries.ts'
import type { Database, Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import type { Action } from '../events.ts'
import { requireFactors } from '../http/access.ts'
import type { Caller, Origin } from '../http/route.ts'
import { findMaker, holdOwner, lockOwner } from './queries.ts'
import type { Maker } from './rules.ts'

/**
 * Reads the caller's key again; throws `key_invalid` or `forbidden` if it may not act any more, and
 * `authentication_needed` for one factor if a second one was confirmed after the request began.
 * From then on, a change of the caller's account waits for the transaction: a password reset, for
 * example, then also finds what the key has made.
 */
export async function requireStill(tx: Db, caller: Caller) {
  await holdOwner(tx, caller.userId)
  const maker = await findMaker(tx, caller.keyId)
  if (maker === null) throw new AppError('key_invalid')
  if (caller.role === 'admin' && maker.role !== 'admin') throw new AppError('forbidden')
  if (maker.secondFactor && !caller.secondFactor) requireFactors(maker)
  return maker
}

/** What is done, for the audit. */
interface Act {
  action: Action
  caller: Caller
  origin: Origin
  params: { id: string; keyId?: string }
}

/** What came of it. */
interface Done extends Pick<NewEvent, 'told' | 'recipient'> {
  /** The payload. */
  body?: unknown
  /** The key that was made. */
  keyId?: string
  /** The names of changed members; an empty list: nothing changed, so there is no event. */
  changes?: string[]
}

/**
 * Locks the user, does `work`, which may return nothing, and writes its event in one transaction.
 */
export function audited(
  db: Database,
  { action, caller, origin, params }: Act,
  work: (tx: Db, maker: Maker) => Promise<Done | void>,
) {
  return db.transaction(async (tx) => {
    await lockOwner(tx, params.id)
    const maker = await requireStill(tx, caller)
    const { body, keyId, changes, ...rest } = (await work(tx, maker)) ?? {}
    const hasChanged = changes === undefined || changes.length > 0
    if (hasChanged) {
      await insertEvent(tx, {
        action,
        actor: caller.userId,
        subject: params.id,
        keyId: params.keyId ?? keyId,
        changes,
        origin,
        ...rest,
      })
    }
    return { body }
  })
}
