// What a key may do, and what a key that it makes may do at most.
import { AppError } from '../errors.ts'
import {
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
export const permissionSchema = text({
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
export type Scope = Members<{ scope: typeof scopeSchema }>['scope']

/** `api`: made for machines; `session`: started by a log-in. */
export const kindSchema = oneOf('api', 'session')
export type KeyKind = Members<{ kind: typeof kindSchema }>['kind']

/** A key as it is shown; `permissions`: null are those of its user. */
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
  address: nullable(text({ min: 0, max: 64, pattern: /^[0-9a-fA-F.:]*$/, example: '203.0.113.7' })),
  agent: nullable(text({ min: 0, max: 200, pattern: /^[^\x00-\x1f\x7f]*$/, example: 'Firefox' })),
}
export type Key = Members<typeof keyMembers>

/** The key itself, which only the answer that makes it holds. */
export const keyTextSchema = secretSchema('usk')

/** What a key may do, how well and when its holder was authenticated, and when it ends. */
export interface Powers {
  scope: Scope
  permissions: string[] | null
  factors: number
  authenticatedAt: string | null
  validUntil: string | null
}

/** What can be wished of a new key; left out is what the key that makes it has. */
export type Wish = Partial<Pick<Powers, 'scope' | 'permissions' | 'validUntil'>>

const scopesWithin: Record<Scope, Scope[]> = {
  all: ['all', 'read', 'auth', 'metrics'],
  read: ['read', 'auth', 'metrics'],
  auth: ['auth'],
  metrics: ['metrics'],
}

/**
 * The end of keys that `maker` makes for its own user, at the latest: a session's does not count.
 */
const endOf = (maker: Powers & { kind: KeyKind }) =>
  maker.kind === 'api' ? maker.validUntil : null

/** Whether an end, or none, comes later than another. */
export function isLater(end: string | null, other: string | null): boolean {
  if (other === null) return false
  return end === null || Date.parse(end) > Date.parse(other)
}

/** Throws `forbidden` if an API key would give a key of its user an end later than its own. */
export function requireEndWithin(maker: Powers & { kind: KeyKind }, end: string | null): void {
  if (isLater(end, endOf(maker))) throw new AppError('forbidden')
}

/** The powers of a key that `maker` makes for another user: all, but proved no better than it. */
export const powersForOther = (maker: Powers, wish: Wish): Powers => ({
  scope: wish.scope ?? 'all',
  permissions: wish.permissions ?? null,
  factors: maker.factors,
  authenticatedAt: maker.authenticatedAt,
  validUntil: wish.validUntil ?? null,
})

/** The powers of a key that `maker` makes for its own user; a wider wish throws `forbidden`. */
export function powersWithin(maker: Powers & { kind: KeyKind }, wish: Wish): Powers {
  const scope = wish.scope ?? maker.scope
  const permissions = wish.permissions ?? maker.permissions
  const validUntil = wish.validUntil ?? endOf(maker)
  if (!scopesWithin[maker.scope].includes(scope)) throw new AppError('forbidden')
  if (!isSubset(permissions, maker.permissions)) throw new AppError('forbidden')
  requireEndWithin(maker, validUntil)
  const { factors, authenticatedAt } = maker
  return { scope, permissions, factors, authenticatedAt, validUntil }
}

/** The powers of a key in place of `old`: the lesser of what it and `maker` have. */
export function powersOfRotated(
  old: Powers,
  maker: Powers & { kind: KeyKind },
  isOwn: boolean,
): Powers {
  const proof = {
    factors: Math.min(old.factors, maker.factors),
    authenticatedAt: earlier(old.authenticatedAt, maker.authenticatedAt),
  }
  const { scope, permissions, validUntil } = old
  if (!isOwn) return { scope, permissions, validUntil, ...proof }
  if (!scopesWithin[maker.scope].includes(scope)) throw new AppError('forbidden')
  const end = endOf(maker)
  return {
    scope,
    permissions: intersect(permissions, maker.permissions),
    validUntil: isLater(validUntil, end) ? end : validUntil,
    ...proof,
  }
}

function isSubset(wished: string[] | null, held: string[] | null): boolean {
  if (held === null) return true
  return wished !== null && wished.every((name) => held.includes(name))
}

function intersect(one: string[] | null, other: string[] | null): string[] | null {
  if (one === null || other === null) return one ?? other
  return one.filter((name) => other.includes(name))
}

/** The earlier of two times of proof; null is never. */
function earlier(one: string | null, other: string | null): string | null {
  if (one === null || other === null) return null
  return Date.parse(one) < Date.parse(other) ? one : other
}
