// Sessions: log-in and log-out. A session is a key that a log-in makes; its row lies with those of
// the keys.
import { insertEvent } from '../audit/queries.ts'
import type { Database, Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import { route, type Call, type Route } from '../http/route.ts'
import { audited } from '../keys/acting.ts'
import { deleteKey, deleteSessions, deleteSurplusSessions, insertKey } from '../keys/queries.ts'
import { keyTextSchema } from '../keys/rules.ts'
import { checkPassword } from '../passwords/check.ts'
import type { Hasher } from '../passwords/hasher.ts'
import { anyPasswordSchema } from '../passwords/rules.ts'
import {
  documented,
  instantSchema,
  object,
  omittable,
  oneOf,
  text,
  titled,
  uuidSchema,
} from '../schema.ts'
import { findUserByEmail, lockUser } from '../users/queries.ts'
import { anyEmailSchema, foldEmail } from '../users/rules.ts'

const session = titled('Session', {
  user: uuidSchema,
  key: keyTextSchema,
  keyId: uuidSchema,
  validUntil: instantSchema,
})

/** What the routes of sessions need; `sessionsPerUser`: 0 is no limit. */
export interface SessionDeps {
  db: Database
  hasher: Hasher
  sessionSeconds: number
  sessionsPerUser: number
}

type LogIn = Call<'anyone', '', unknown, { email: string; password: string }>

interface Starting extends Pick<LogIn, 'origin' | 'headers'> {
  userId: string
  factors?: number
}

/** What the document says of any log-in. */
export const logInSpec = {
  operationId: 'logIn',
  tag: 'sessions',
  access: 'anyone',
  summary: 'Log in',
  description:
    'An unknown address, a wrong password and a disabled user get one and the same answer. ' +
    'A user has a limited number of sessions: a new one ends the one that was used longest ago.',
  bodySentence: 'Invalid user syntax',
  replies: {
    201: {
      says: 'A session and its key, shown this once',
      body: session,
      creates: { id: 'user' },
    },
  },
  fails: [
    'invalid_credentials',
    'authentication_needed',
    'login_throttled',
    'overloaded',
    'database_unavailable',
  ],
} as const

/** A code as it was typed: a malformed one is a wrong one. */
export const codeSchema = text({ max: 200, example: '123456' })
/** What a password logs in with. */
export const credentials = { email: anyEmailSchema, password: anyPasswordSchema }

/** A log-in by a password alone. */
export const createLogIn = (deps: SessionDeps) =>
  route('POST /users/sessions', {
    ...logInSpec,
    // There are no second factors: a code is ignored.
    body: object(credentials, { code: omittable(codeSchema) }),
    handle: (call) =>
      provePassword(deps, call, (tx, userId) => startSession(deps, tx, { ...call, userId })),
  })

/** Checks the password of a log-in, then does `work`; throws as `checkPassword` does. */
export function provePassword<T>(
  deps: SessionDeps,
  { body: { email, password }, origin }: Pick<LogIn, 'body' | 'origin'>,
  work: (tx: Db, userId: string) => Promise<T>,
) {
  const find = () => findUserByEmail(deps.db, email)
  return checkPassword(deps, { find, address: foldEmail(email), password, origin }, work)
}

/** Starts a session of a user, which is locked, so that simultaneous log-ins are counted. */
export async function startSession(
  { sessionSeconds, sessionsPerUser }: SessionDeps,
  tx: Db,
  { userId, factors = 1, origin, headers }: Starting,
) {
  if (sessionsPerUser > 0) await deleteSurplusSessions(tx, userId, sessionsPerUser - 1)
  const made = await insertKey(tx, {
    userId,
    kind: 'session',
    name: 'session',
    factors,
    seconds: sessionSeconds,
    address: origin.address,
    agent: readAgent(headers['user-agent']),
  })
  const { id: keyId, key, validUntil } = made
  const event = { actor: userId, subject: userId, keyId, origin }
  await insertEvent(tx, { action: 'session.started', ...event })
  return { body: { user: userId, key, keyId, validUntil } }
}

/** The routes of sessions, one of which logs in. */
export const sessionRoutes = (deps: SessionDeps, logIn: Route) => [
  logIn,
  route('DELETE /users/sessions', {
    operationId: 'logOut',
    tag: 'sessions',
    access: 'key',
    enrols: true,
    summary: 'Log out: end the calling session',
    replies: { 204: { says: 'The session has ended' } },
    fails: ['key_not_found', 'not_a_session'],
    handle({ caller, origin }) {
      const { keyKind, keyId, userId: id } = caller
      if (keyKind === 'api') throw new AppError('not_a_session')
      const act = { action: 'session.ended', caller, origin, params: { id, keyId } } as const
      return audited(deps.db, act, async (tx) => {
        await deleteKey(tx, id, keyId)
      })
    },
  }),
  route('DELETE /users/sessions/{id}', {
    operationId: 'endSessions',
    tag: 'sessions',
    access: 'self',
    summary: 'Log out everywhere: end every session of the user',
    query: object(
      {},
      {
        others: documented(oneOf('true', 'false'), {
          description: '`true`: all but the calling session',
        }),
      },
    ),
    replies: { 204: { says: 'The sessions have ended' } },
    fails: ['user_not_found'],
    handle: ({ query, ...call }) =>
      audited(deps.db, { action: 'sessions.ended', ...call }, async (tx) => {
        const { id } = call.params
        await lockUser(tx, id) // locked already: this throws `user_not_found`
        await deleteSessions(tx, id, query.others === 'true' ? call.caller.keyId : undefined)
      }),
  }),
]

/** What a client calls itself, without control characters, at most 200 characters of it. */
function readAgent(given: string | undefined) {
  if (given === undefined) return null
  const printable = given.replace(/[\u0000-\u001f\u007f-\u009f]/g, '')
  return [...printable].slice(0, 200).join('')
}
