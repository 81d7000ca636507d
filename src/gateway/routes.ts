import { AppError } from '../errors.ts'
import { route, type Route } from '../http/route.ts'

/** What gateways are told, and where the caller has it. */
const identity = [
  ['X-Auth-User-Id', 'userId'],
  ['X-Auth-User-Email', 'email'],
  ['X-Auth-Role', 'role'],
  ['X-Auth-Permissions', 'permissions'],
  ['X-Auth-Key-Id', 'keyId'],
  ['X-Auth-Key-Kind', 'keyKind'],
] as const

const requirement = {
  type: 'array',
  maxItems: 32,
  items: { type: 'string', maxLength: 64, examples: ['user'] },
  description: 'Must hold; may be repeated',
}

/** Headers are ASCII: other characters, and `%`, as their UTF-8 bytes in percent-encoding. */
const headerText = (text: string) => text.replace(/[^!-$&-~]+/gu, encodeURIComponent)

/**
 * Forward-auth: gateways ask whether a request may pass, appending its path and query as they like.
 * What they do not know is ignored; what they append of what is known can only tighten.
 */
export const authRoutes = (): Route[] =>
  ['/users/auth', '/users/auth/*'].map((path) =>
    route({
      method: 'ANY',
      path,
      operationId: path.endsWith('*') ? 'authorizeBelow' : 'authorize',
      tag: 'auth',
      access: 'key',
      summary: 'Ask whether a request may pass',
      description:
        'The same by any other method, and for any path below. Each requirement may be repeated, and ' +
        'all must hold. Any other parameter is ignored, as is a body: gateways append what they got.',
      looseQuery: { 'require-role': requirement, 'require-permission': requirement },
      throttled: false,
      replies: {
        200: { says: 'It may; the headers say who asks', headers: identity.map(([name]) => name) },
      },
      fails: ['forbidden'],
      handle({ caller, search }) {
        const required = new URLSearchParams(search)
        // An admin may do all that a user may.
        const holdsRole = (role: string) =>
          role === caller.role || (role === 'user' && caller.role === 'admin')
        const holds =
          required.getAll('require-role').every(holdsRole) &&
          required.getAll('require-permission').every((name) => caller.permissions.includes(name))
        if (!holds) throw new AppError('forbidden')
        const headers: Record<string, string> = {}
        for (const [name, member] of identity) headers[name] = headerText(String(caller[member]))
        return { status: 200, headers }
      },
    }),
  )
