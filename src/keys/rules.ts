// What a key may do, and the most that it may hand on to keys that it makes.
import { AppError } from '../errors.ts'
import {
  addressSchema,
  booleanSchema,
  instantSchema,
  integer,
  list,
  nullable,
  oneOf,
  text,
  uuidSchema,
  type Members,
} from '../schema.ts'
import { secretSchema } from './format.ts'

/** A key's name. */
export const keyNameSchema = text({
  min: 1,
  max: 100,
  pattern: /^[^\x00-\x1f\x7f-\x9f]*$/,
  message: 'must have 1 to 100 characters, none of them a control character',
  example: 'laptop',
})

/** A name that services behind a gateway give a meaning; no comma, since it travels in a list. */
const permissionSchema = text({
  min: 1,
  max: 64,
  pattern: /^[A-Za-z0-9._:/*-]+$/,
  message: 'must have 1 to 64 letters, digits and . _ : / * -',
  example: 'orders:read',
})

/** A list of permissions, of a user or of a key. */
export const permissionsSchema = list(permissionSchema, 32)

/** `all`; `read`: GET, HEAD and forward-auth; `auth`: forward-auth; `metrics`: GET /metrics. */
export const scopeSchema = oneOf('all', 'read', 'auth', 'metrics')

/** `api`: made for machines; `session`: started by a log-in. */
export const kindSchema = oneOf('api', 'session')

/** A key as it is shown; `permissions` null: those of its user. */
export const keyMembers = {
  id: uuidSchema,
  kind: kindSchema,
  name: keyNameSchema,
  scope: scopeSchema,
  permissions: nullable(permissionsSchema),
  factors: integer(1, 2),
  enabled: booleanSchema,
  validUntil: nullable(instantSchema),
  lastUsedAt: nullable(instantSchema),
  createdAt: instantSchema,
  address: nullable(addressSchema),
  agent: nullable(text({ max: 200, pattern: /^[^\x00-\x1f\x7f]*$/, example: 'Firefox' })),
}
export type Key = Members<typeof keyMembers>
export type KeyKind = Key['kind']

/** The key itself, which only the answer that makes it holds. */
export const keyTextSchema = secretSchema('usk')

/** What a key may do, how well and when its holder was authenticated, and when it ends. */
export interface Powers {
  scope: Key['scope']
  permissions: string[] | null
  factors: number
  authenticatedAt: string | null
  validUntil: string | null
}

/** What can be wished for a new key; the default is what the key that makes it has. */
type Wish = Partial<Pick<Powers, 'scope' | 'permissions' | 'validUntil'>>

/** The key that acts, as it is now; every key that may make another has the scope `all`. */
export interface Maker extends Omit<Powers, 'scope'> {
  kind: KeyKind
  userId: string
  role: 'user' | 'admin'
  secondFactor: boolean
}

/** What `maker` may hand on at most to a key of a user; an admin gives others what it likes. */
export function limitsOf({ kind, userId, permissions, validUntil }: Maker, ownerId: string) {
  if (userId !== ownerId) return { permissions: null, validUntil: null }
  // A key may outlive the session that makes it.
  return { permissions, validUntil: kind === 'api' ? validUntil : null }
}

/** Whether an end, where one was given, comes later than another; null: it never comes. */
export function isLater(end: string | null | undefined, other: string | null) {
  if (end === undefined || other === null) return false
  return end === null || Date.parse(end) > Date.parse(other)
}

/** Whether `maker` may switch on or prolong a key of a user: none that may do more than itself. */
export function mayRevive(maker: Maker, ownerId: string, { permissions, factors }: Key) {
  if (maker.userId !== ownerId) return true
  return isSubset(permissions, maker.permissions) && factors <= maker.factors
}

/** The powers of a key that `maker` makes for a user; a wider wish throws `forbidden`. */
export function powersOfNew(maker: Maker, ownerId: string, wish: Wish) {
  const limits = limitsOf(maker, ownerId)
  const permissions = wish.permissions ?? limits.permissions
  const validUntil = wish.validUntil ?? limits.validUntil
  if (!isSubset(permissions, limits.permissions)) throw new AppError('forbidden')
  if (isLater(validUntil, limits.validUntil)) throw new AppError('forbidden')
  const { factors, authenticatedAt } = maker
  return { scope: wish.scope ?? 'all', permissions, factors, authenticatedAt, validUntil }
}

/** The powers of a key in place of a user's `old` one: the lesser of what it and `maker` have. */
export function powersOfRotated(maker: Maker, ownerId: string, old: Powers) {
  const limits = limitsOf(maker, ownerId)
  return {
    scope: old.scope,
    permissions: intersect(old.permissions, limits.permissions),
    factors: Math.min(old.factors, maker.factors),
    authenticatedAt: earlier(old.authenticatedAt, maker.authenticatedAt),
    validUntil: isLater(old.validUntil, limits.validUntil) ? limits.validUntil : old.validUntil,
  }
}

function isSubset(wished: string[] | null, held: string[] | null) {
  if (held === null) return true
  return wished !== null && wished.every((name) => held.includes(name))
}

function intersect(one: string[] | null, other: string[] | null) {
  if (one === null || other === null) return one ?? other
  return one.filter((name) => other.includes(name))
}

/** The earlier of two times of proof; null is never. */
function earlier(one: string | null, other: string | null) {
  if (one === null || other === null) return null
  return isLater(one, other) ? other : one
}
