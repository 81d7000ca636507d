// Whether a caller may call a route: its role, its scope, and how long ago it logged in.
import { AppError } from '../errors.ts'
import type { Caller, Route } from './route.ts'

/** A request of a caller, before it is let in. */
interface Entry {
  route: Route
  caller: Caller
  method: string
  params: Record<string, string>
  freshSeconds: number
  requireFactor: FactorRule
}

/** Of whom a second factor is required: the setting REQUIRE_FACTOR. */
export type FactorRule = 'none' | 'admins' | 'all'

/** Throws `forbidden` or `authentication_needed` unless the request may reach the handler. */
export function authorize(entry: Entry) {
  const { route, caller, method, params, freshSeconds } = entry
  const { access } = route
  const isAdmin = caller.role === 'admin'
  const isSelf = caller.userId === params['id']
  if (!isInScope(route, caller, method)) throw new AppError('forbidden')
  if (access === 'admin' && !isAdmin) throw new AppError('forbidden')
  if (access === 'self' && !isAdmin && !isSelf) throw new AppError('forbidden')
  const isChange = access === 'self' && !isRead(method)
  const isNarrow = caller.keyPermissions !== null
  if (isNarrow && isChange && !route.changesKeys) throw new AppError('forbidden')
  requireSecond(entry)
  if (route.fresh) requireFresh(caller, freshSeconds)
}

/** REQUIRE_FACTOR leaves keys of one factor what their own users need to set up a second one. */
function requireSecond({ route, caller, params, requireFactor }: Entry): void {
  const isAdmin = caller.role === 'admin' || caller.isOfAdmin
  const isBound = requireFactor === 'all' || (requireFactor === 'admins' && isAdmin)
  const isOwn = (params['id'] ?? caller.userId) === caller.userId
  if (isBound && !(route.enrols && isOwn)) requireFactors(caller)
}

/** Throws `authentication_needed` unless two factors were proved. */
export function requireFactors({ factors }: Pick<Caller, 'factors'>): void {
  if (factors < 2) throw new AppError('authentication_needed', { challenge: 'acr_values="2"' })
}

/**
 * Throws `authentication_needed` (RFC 9470) for a key of one factor of a user who has two, and for
 * a session whose log-in was more than `freshSeconds` ago; 0: no limit. API keys pass otherwise:
 * they were made for machines, which cannot log in.
 */
export function requireFresh(caller: Caller, freshSeconds: number) {
  if (caller.secondFactor) requireFactors(caller)
  if (caller.keyKind === 'api' || freshSeconds === 0 || isRecent(caller, freshSeconds)) return
  throw new AppError('authentication_needed', { challenge: `max_age="${freshSeconds}"` })
}

/** Whether a password was proved within the last `seconds`; a time that is to come is none. */
export function isRecent({ provedSeconds }: Caller, seconds: number) {
  return provedSeconds !== null && provedSeconds >= 0 && provedSeconds <= seconds
}

function isInScope(route: Route, { scope }: Caller, method: string) {
  if (scope === 'all') return true
  if (scope === 'read') return isRead(method) || route.scope === 'auth'
  return route.scope === scope
}

const isRead = (method: string) => method === 'GET' || method === 'HEAD'
