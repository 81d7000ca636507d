import { AppError } from '../errors.ts'
import { route, type Caller, type Reply, type Route } from '../http/route.ts'

const identity = [
  'X-Auth-User-Id', 'X-Auth-User-Email', 'X-Auth-Role', 'X-Auth-Permissions', 'X-Auth-Key-Id', 'X-Auth-Key-Kind',
]

/**
 * Forward-auth: gateways ask whether a request may pass, appending its path and query as they like.
 * What they do not know is ignored; what they append of what is known can only tighten.
 */
export const authRoutes = (): Route[] => ['/users/auth', '/users/auth/*'].map((path) =>
  route('ANY', path, 'key', 'Ask whether a request may pass', {
    description: 'Any method. `require-role` and `require-permission`, any number, must all hold.',
    throttled: false,
    replies: { 200: { says: 'It may; the headers say who asks', headers: identity } },
    fails: ['forbidden'],
    handle({ caller, search }): Reply {
      for (const [name, value] of new URLSearchParams(search)) {
        if (name === 'require-role' && !holdsRole(caller, value)) throw new AppError('forbidden')
        if (name === 'require-permission' && !caller.permissions.includes(value)) throw new AppError('forbidden')
      }
      return {
        status: 200,
        headers: {
          'X-Auth-User-Id': caller.userId,
          'X-Auth-User-Email': headerText(caller.email),
          'X-Auth-Role': caller.role,
          'X-Auth-Permissions': headerText(caller.permissions.join(',')),
          'X-Auth-Key-Id': caller.keyId,
          'X-Auth-Key-Kind': caller.keyKind,
        },
      }
    },
  }))

/** An admin may do all that a user may. */
const holdsRole = (caller: Caller, role: string) =>
  caller.role === role || (role === 'user' && caller.role === 'admin')

/** Headers are ASCII: other characters, and `%`, as their UTF-8 bytes in percent-encoding. */
const headerText = (text: string) => text.replace(/[^!-$&-~]+/gu, encodeURIComponent)
