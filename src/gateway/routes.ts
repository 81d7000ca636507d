// Gateways: forward-auth. A gateway asks whether a request may pass, appending the
// request's path and query as it likes: what is appended can only tighten.
import { AppError } from '../errors.ts'
import { isRecent } from '../http/access.ts'
import { route, type Caller } from '../http/route.ts'

const identityHeaders = [
  'X-Auth-User-Id',
  'X-Auth-User-Email',
  'X-Auth-User-Email-Verified',
  'X-Auth-Role',
  'X-Auth-Permissions',
  'X-Auth-Key-Id',
  'X-Auth-Key-Kind',
  'X-Auth-Factors',
]

/** What a gateway is told: always all of it, so that it overwrites what a client sent. */
const identityOf = (caller: Caller) => ({
  'X-Auth-User-Id': caller.userId,
  'X-Auth-User-Email': headerText(caller.email),
  'X-Auth-User-Email-Verified': String(caller.emailVerified),
  'X-Auth-Role': caller.role,
  'X-Auth-Permissions': headerText(caller.permissions.join()),
  'X-Auth-Key-Id': caller.keyId,
  'X-Auth-Key-Kind': caller.keyKind,
  'X-Auth-Factors': String(caller.factors),
})

/** Percent-encodes everything but visible ASCII, and `%`: headers are ASCII. */
const headerText = (text: string) => text.replace(/[^!-$&-~]+/gu, encodeURIComponent)

/** Whether a caller meets a requirement; if a log-in would help, what RFC 9470 asks of that. */
type Requirement = (caller: Caller, value: string) => boolean | [parameter: string, bound: number]

const requirements: Record<string, Requirement> = {
  // An admin may do all that a user may.
  'require-role': ({ role }, value) => value === role || (value === 'user' && role === 'admin'),
  'require-permission': ({ permissions }, name) => permissions.includes(name),
  'require-verified': ({ emailVerified }, value) => value === 'true' && emailVerified,
  'require-factor'({ factors }, value) {
    if (value !== '1' && value !== '2') return false
    return factors >= Number(value) || ['acr_values', 2]
  },
  'require-max-age'(caller, value) {
    if (!/^\d{1,9}$/.test(value)) return false
    const isMet = caller.keyKind === 'session' && isRecent(caller, Number(value))
    return isMet || ['max_age', Number(value)]
  },
}

const lettersOf = (name: string) => name.toLowerCase().replace(/[^a-z]/g, '')
const knownLetters = new Set(Object.keys(requirements).map(lettersOf))

/**
 * Whether a parameter looks like a misspelt requirement: clients write lists (`require-role[]`),
 * and authors of configurations err (`require_role`, `requireRole`).
 */
function isMisspelt(name: string) {
  if (Object.hasOwn(requirements, name)) return false
  const letters = lettersOf(name)
  const spellsOne = knownLetters.has(letters) || knownLetters.has(letters.replace(/s$/, ''))
  return spellsOne || /^require($|[^a-z])/.test(name.toLowerCase())
}

/** Throws unless all requirements hold: `authentication_needed` only if a log-in would help. */
function requireAll(caller: Caller, search: string) {
  const asked = new Map<string, number>()
  for (const [name, value] of new URLSearchParams(search)) {
    if (isMisspelt(name)) throw new AppError('forbidden')
    if (!Object.hasOwn(requirements, name)) continue
    const met = requirements[name]!(caller, value)
    if (met === false) throw new AppError('forbidden')
    if (met === true) continue
    const [parameter, bound] = met
    asked.set(parameter, Math.min(bound, asked.get(parameter) ?? bound))
  }
  if (asked.size === 0) return
  const challenge = Array.from(asked, ([parameter, bound]) => `${parameter}="${bound}"`).join(', ')
  throw new AppError('authentication_needed', { challenge })
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

const tokenQuery = {
  'token-audience': {
    type: 'string',
    examples: ['orders'],
    description: 'For whom X-Auth-Token is signed; without it, the header is empty',
  },
}

/** Returns the value of X-Auth-Token, by the query of a gateway; may throw `forbidden`. */
type TokenHeader = (caller: Caller, search: string) => Promise<string>

/** The routes that gateways ask; the header is absent where there is nothing that makes it. */
export const gatewayRoutes = (tokenFor: TokenHeader | null) =>
  ['/users/auth', '/users/auth/*'].map((path) =>
    route(`ANY ${path}`, {
      operationId: path.endsWith('*') ? 'authorizeBelow' : 'authorize',
      tag: 'auth',
      access: 'key',
      scope: 'auth',
      summary: 'Ask whether a request may pass',
      description:
        'The same by any other method, and for any path below. Each requirement may be repeated, ' +
        'and all must hold; a misspelt one is 403. Any other parameter is ignored, as is a body: ' +
        'gateways append what they got.',
      looseQuery: tokenFor ? { ...looseQuery, ...tokenQuery } : looseQuery,
      throttled: false,
      replies: {
        200: {
          says: 'It may; the headers say who asks',
          headers: tokenFor ? [...identityHeaders, 'X-Auth-Token'] : identityHeaders,
        },
      },
      async handle({ caller, search }) {
        requireAll(caller, search)
        const headers: Record<string, string> = identityOf(caller)
        if (tokenFor !== null) headers['X-Auth-Token'] = await tokenFor(caller, search)
        return { headers }
      },
    }),
  )
