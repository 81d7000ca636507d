// Whether a caller may call a route: its role, its scope, and how well and how recently it
// authenticated.
import { AppError } from '../errors.ts'
import type { Caller, Route } from './route.ts'

/** A request of a caller, before it is let in. */
interface Entry {
  route: Route
  caller: Caller
  method: string
  params: Record<string, string>
}

/** How well callers must have authenticated. */
export interface Demands {
  /** The maximum age in seconds of a session's log-in for sensitive changes; 0: no limit. */
  freshSeconds: number
  /** Of whom a second factor is asked. */
  requireFactor: 'none' | 'admins' | 'all'
}

/** Throws `forbidden` or `authentication_needed` unless the request may reach the handler. */
export function authorize(entry: Entry, { freshSeconds, requireFactor }: Demands) {
  const { route, caller, method, params } = entry
  const { access } = route
  const isAdmin = caller.role === 'admin'
  const isSelf = caller.userId === params['id']
  if (!isInScope(route, caller, method)) throw new AppError('forbidden')
  if (access === 'admin' && !isAdmin) throw new AppError('forbidden')
  if (access === 'self' && !isAdmin && !isSelf) throw new AppError('forbidden')
  const isChange = access === 'self' && !isRead(method)
  const isNarrow = caller.keyPermissions !== null
  if (isNarrow && isChange && !route.changesKeys) throw new AppError('forbidden')
  if (!isEnrolment(entry)) demandFactor(caller, requireFactor)
  if (route.fresh) requireFresh(caller, freshSeconds)
}

/** Whether it is what somebody needs to set up a second factor of their own. */
const isEnrolment = ({ route, caller, params }: Entry) =>
  route.enrols && (params['id'] ?? caller.userId) === caller.userId

/** Returns a caller; throws `authentication_needed` if it lacks the second factor that is asked. */
export function demandFactor(caller: Caller, rule: Demands['requireFactor']) {
  const isAdmins = caller.role === 'admin' || caller.isAdmins
  if (rule === 'all' || (rule === 'admins' && isAdmins)) requireFactors(caller)
  return caller
}

/** Throws `authentication_needed` unless two factors were proved. */
export function requireFactors({ factors }: Pick<Caller, 'factors'>) {
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
