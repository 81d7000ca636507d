// Changing a user: what differs, who may change it, and which keys and tokens end with it.
import type { IncomingHttpHeaders } from 'node:http'

import { insertEvent } from '../audit/queries.ts'
import type { Database, Db } from '../database/pool.ts'
import { AppError, faultIn } from '../errors.ts'
import { requireFactors, requireFresh } from '../http/access.ts'
import { matches } from '../http/etag.ts'
import type { Caller, Origin } from '../http/route.ts'
import { requireStill } from '../keys/acting.ts'
import { deleteSessions } from '../keys/queries.ts'
import { checkPassword } from '../passwords/check.ts'
import type { Hasher } from '../passwords/hasher.ts'
import { differing } from '../schema.ts'
import { deleteTokens } from '../tokens/queries.ts'
import { findUser, lockUser, requireAnotherAdmin, updateUser, type StoredUser } from './queries.ts'
import { foldEmail, refuseEmailAsPassword, type Reserved } from './rules.ts'
import { etag, reply } from './view.ts'

/** What a change needs. */
export interface ChangeDeps {
  db: Database
  hasher: Hasher
  emailChange: 'direct' | 'confirmed'
  freshSeconds: number
}

/** A change that was asked for, without the password. */
export interface Change {
  id: string
  given: Partial<Reserved> & { email?: string }
  caller: Caller
  headers: IncomingHttpHeaders
  origin: Origin
}

/** Changes the password, and whatever else was asked for, in the way that fits the caller. */
export async function changePassword(
  deps: ChangeDeps,
  change: Change,
  given: { password: string; currentPassword: string | undefined },
) {
  const { db, hasher } = deps
  const { id, caller, origin } = change
  const { password, currentPassword } = given
  // Not locked, to refuse before paying for a hash; the transaction checks again.
  const found = await lockVersion(db, id, change.headers)
  refuseEmailAsPassword(password, change.given.email ?? found.email)
  requireAllowed(deps, caller, differing(found, change.given))
  if (caller.userId === id && found.passwordHash !== null) {
    if (found.secondFactor) requireFactors(caller)
    if (currentPassword === undefined) {
      throw faultIn('invalid_body', 'currentPassword', 'is missing')
    }
    const attempt = {
      find: () => findUser(db, id),
      address: foldEmail(found.email),
      password: currentPassword,
      next: password,
      origin,
    }
    return checkPassword(deps, attempt, (tx) =>
      applyChange(tx, deps, { ...change, passwordHash: null }),
    )
  }
  requireFresh(caller, deps.freshSeconds)
  const passwordHash = await hasher.hash(password, origin.client)
  return db.transaction((tx) => applyChange(tx, deps, { ...change, passwordHash }))
}

/**
 * Applies a change in a transaction and answers with the user; what is so already is left out.
 * `passwordHash`: the one to store; null: stored already, when the old password was proved.
 * Throws what the route's `fails` lists.
 */
export async function applyChange(
  tx: Db,
  deps: ChangeDeps,
  change: Change & { passwordHash?: string | null },
) {
  const { id, caller, origin, passwordHash } = change
  const before = await lockVersion(tx, id, change.headers)
  await requireStill(tx, caller)
  // A user without password got one while this one was hashed: it must now be proved.
  const isUnproved = caller.userId === id && typeof passwordHash === 'string'
  if (isUnproved && before.passwordHash !== null) throw new AppError('invalid_credentials')
  const wanted = differing(before, change.given)
  requireAllowed(deps, caller, wanted)
  const changes = Object.keys(wanted)
  const isPasswordNew = passwordHash !== undefined
  if (isPasswordNew) changes.push('password')
  if (changes.length === 0) return reply(before)
  if (isSensitive(wanted)) requireFresh(caller, deps.freshSeconds)
  if (endsAdmin(before, wanted)) await requireAnotherAdmin(tx, id)
  if (isPasswordNew || wanted.email !== undefined) await deleteTokens(tx, id)
  const after = await updateUser(tx, before, {
    ...wanted,
    ...verification(before, wanted, change),
    ...(passwordHash && { passwordHash }),
  })
  if (isPasswordNew) await deleteSessions(tx, id, caller.keyId)
  // Of the address after it, too.
  if (wanted.email !== undefined) await deleteTokens(tx, id)
  await insertEvent(tx, {
    action: 'user.changed',
    actor: caller.userId,
    subject: id,
    changes,
    told: wanted.email === undefined ? undefined : { previousEmail: before.email },
    origin,
  })
  return reply(after)
}

/** Whether a change affects who holds the account or what it may do. */
function isSensitive({ metadata, enabled, ...others }: Change['given']) {
  return Object.keys(others).length > 0 || enabled === true
}

/** Whether a change leaves the service without this admin. */
function endsAdmin({ role, enabled }: StoredUser, wanted: Change['given']) {
  return role === 'admin' && enabled && (wanted.role !== undefined || wanted.enabled === false)
}

/** Another address is unverified, unless an admin says otherwise in the same call. */
function verification(before: StoredUser, wanted: Change['given'], { caller, given }: Change) {
  const { email } = wanted
  if (email === undefined || foldEmail(email) === foldEmail(before.email)) return {}
  return { emailVerified: caller.role === 'admin' && given.emailVerified === true }
}

/** Throws `forbidden` if the caller may not make this change. */
function requireAllowed(
  { emailChange }: ChangeDeps,
  { role }: Caller,
  { email, ...reserved }: Change['given'],
) {
  if (role === 'admin') return
  const wantsConfirmation = email !== undefined && emailChange === 'confirmed'
  if (wantsConfirmation || Object.keys(reserved).length > 0) throw new AppError('forbidden')
}

/**
 * Locks the user; throws `user_not_found` or, if If-Match means another version, `stale_version`.
 */
export async function lockVersion(tx: Db, id: string, headers: IncomingHttpHeaders) {
  const found = await lockUser(tx, id)
  if (!matches(headers, etag(found))) throw new AppError('stale_version')
  return found
}
