// How a user is shown.
import type { Caller } from '../http/route.ts'
import type { User } from './rules.ts'

/** The ETag of a user: its version in quotes. */
export const etag = ({ version }: Pick<User, 'version'>) => `"${version}"`

/**
 * The user of a caller whose key has no permissions of its own: those would hide the user's.
 * Member by member: spreading a row of `pg` would cost more than finding it.
 */
export const userOf = (caller: Caller) => ({
  id: caller.userId,
  email: caller.email,
  emailVerified: caller.emailVerified,
  role: caller.role,
  permissions: caller.permissions,
  metadata: caller.metadata ?? {},
  enabled: true,
  secondFactor: caller.secondFactor,
  version: caller.version,
  createdAt: caller.createdAt,
  updatedAt: caller.updatedAt,
})

/** A user as it is shown; `apiKeys` is empty, except in the answer to its creation. */
export const payload = (shown: User, apiKeys: string[] = []) => ({
  id: shown.id,
  email: shown.email,
  emailVerified: shown.emailVerified,
  role: shown.role,
  permissions: shown.permissions,
  metadata: shown.metadata,
  enabled: shown.enabled,
  secondFactor: shown.secondFactor,
  apiKeys,
  version: shown.version,
  createdAt: shown.createdAt,
  updatedAt: shown.updatedAt,
})

/** An answer that shows a user. */
export const reply = (shown: User) => ({
  body: payload(shown),
  headers: { ETag: etag(shown) },
})
