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
}

/** Throws `forbidden` or `authentication_needed` unless the request may reach the handler. */
export function authorize({ route, caller, method, params, freshSeconds }: Entry) {
  const { access } = route
  const isAdmin = caller.role === 'admin'
  const isSelf = caller.userId === params['id']
  if (!isInScope(route, caller, method)) throw new AppError('forbidden')
  if (access === 'admin' && !isAdmin) throw new AppError('forbidden')
  if (access === 'self' && !isAdmin && !isSelf) throw new AppError('forbidden')
  const isChange = access === 'self' && !isRead(method)
  const isNarrow = caller.keyPermissions !== null
  if (isNarrow && isChange && !route.changesKeys) throw new AppError('forbidden')
  if (route.fresh) requireFresh(caller, freshSeconds)
}

/**
 * Throws `authentication_needed` (RFC 9470) for a session whose log-in was more than `freshSeconds`
 * ago; 0: no limit. API keys pass: they were made for machines, which cannot log in.
 */
export function requireFresh(caller: Caller, freshSeconds: number) {
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
