// Gateways: forward-auth. A gateway asks whether a request may pass, appending the
// request's path and query as it likes: what is appended can only tighten.
import { AppError } from '../errors.ts'
import { route, type Caller, type Route } from '../http/route.ts'

/**
 * What a gateway is told of a caller, always all of it, so that it overwrites what a client sent.
 */
const identity: Record<string, (caller: Caller) => unknown> = {
  'X-Auth-User-Id': (caller) => caller.userId,
  'X-Auth-User-Email': (caller) => caller.email,
  'X-Auth-User-Email-Verified': (caller) => caller.emailVerified,
  'X-Auth-Role': (caller) => caller.role,
  'X-Auth-Permissions': (caller) => caller.permissions,
  'X-Auth-Key-Id': (caller) => caller.keyId,
  'X-Auth-Key-Kind': (caller) => caller.keyKind,
  'X-Auth-Factors': (caller) => caller.factors,
}

/** Percent-encodes everything but visible ASCII, and `%`: headers are ASCII. */
const headerText = (text: string) => text.replace(/[^!-$&-~]+/gu, encodeURIComponent)

/** A requirement: throws `forbidden` or `authentication_needed` unless the caller meets it. */
type Requirement = (caller: Caller, value: string) => void

/** In this order: first those that throw `forbidden`, then those that a log-in can meet. */
const requirements: Record<string, Requirement> = {
  'require-role'(caller, role) {
    // An admin may do all that a user may.
    const isHeld = role === caller.role || (role === 'user' && caller.role === 'admin')
    if (!isHeld) throw new AppError('forbidden')
  },
  'require-permission'(caller, name) {
    if (!caller.permissions.includes(name)) throw new AppError('forbidden')
  },
  'require-verified'(caller, value) {
    if (value !== 'true' || !caller.emailVerified) throw new AppError('forbidden')
  },
  'require-factor'(caller, value) {
    if (value !== '1' && value !== '2') throw new AppError('forbidden')
    if (caller.factors < Number(value)) {
      throw new AppError('authentication_needed', { challenge: 'acr_values="2"' })
    }
  },
  'require-max-age'(caller, value) {
    if (!/^\d{1,9}$/.test(value)) throw new AppError('forbidden')
    const { keyKind, provedSeconds } = caller
    const isRecent =
      keyKind === 'session' &&
      provedSeconds !== null &&
      provedSeconds >= 0 &&
      provedSeconds <= Number(value)
    if (!isRecent) throw new AppError('authentication_needed', { challenge: `max_age="${value}"` })
  },
}

const lettersOf = (name: string) => name.toLowerCase().replace(/[^a-z]/g, '')
const knownLetters = new Set(Object.keys(requirements).map(lettersOf))

/**
 * Whether a parameter looks like a misspelt requirement: clients write lists (`require-role[]`),
 * and authors of configurations err (`require_role`, `requireRole`).
 */
function isMisspelt(name: string): boolean {
  if (Object.hasOwn(requirements, name)) return false
  const letters = lettersOf(name)
  const spellsOne = knownLetters.has(letters) || knownLetters.has(letters.replace(/s$/, ''))
  return spellsOne || /^require($|[^a-z])/.test(name.toLowerCase())
}

/** Throws unless all requirements hold: first what no log-in mends, then what one does. */
function requireAll(caller: Caller, search: string): void {
  const parameters = [...new URLSearchParams(search)]
  if (parameters.some(([name]) => isMisspelt(name))) throw new AppError('forbidden')
  for (const [known, check] of Object.entries(requirements)) {
    for (const [name, value] of parameters) {
      if (name === known) check(caller, value)
    }
  }
}

/** A requirement that may be repeated. */
const repeated = (example: string, description: string) => ({
  type: 'array',
  maxItems: 32,
  items: { type: 'string', maxLength: 64, examples: [example] },
  description,
})

const looseQuery = {
  'require-role': repeated('user', 'The caller has this role or a higher one'),
  'require-permission': repeated('orders:read', 'The caller has this permission'),
  'require-verified': { type: 'string', enum: ['true'], description: 'The address is verified' },
  'require-factor': {
    type: 'string',
    enum: ['1', '2'],
    description: 'The minimum number of factors that were proved',
  },
  'require-max-age': {
    type: 'string',
    pattern: '^\\d{1,9}$',
    examples: ['900'],
    description: 'The maximum age of the log-in in seconds; an API key never passes',
  },
}

/** The routes that gateways ask. */
export const gatewayRoutes = (): Route[] =>
  ['/users/auth', '/users/auth/*'].map((path) =>
    route({
      method: 'ANY',
      path,
      operationId: path.endsWith('*') ? 'authorizeBelow' : 'authorize',
      tag: 'auth',
      access: 'key',
      scope: 'auth',
      summary: 'Ask whether a request may pass',
      description:
        'The same by any other method, and for any path below. Each requirement may be repeated, ' +
        'and all must hold; a misspelt one is 403. Any other parameter is ignored, as is a body: ' +
        'gateways append what they got.',
      looseQuery,
      throttled: false,
      replies: {
        200: { says: 'It may; the headers say who asks', headers: Object.keys(identity) },
      },
      fails: ['forbidden', 'authentication_needed'],
      handle({ caller, search }) {
        requireAll(caller, search)
        const headers: Record<string, string> = {}
        for (const [name, valueOf] of Object.entries(identity)) {
          headers[name] = headerText(String(valueOf(caller)))
        }
        return { status: 200, headers }
      },
    }),
  )
