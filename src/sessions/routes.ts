// Sessions: log-in and log-out. A session is a key that a log-in makes; its row lies with those of
// the keys.
import { insertEvent } from '../audit/queries.ts'
import type { Database } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import { route } from '../http/route.ts'
import { audited } from '../keys/acting.ts'
import { deleteKey, deleteSessions, deleteSurplusSessions, insertKey } from '../keys/queries.ts'
import { keyTextSchema } from '../keys/rules.ts'
import { checkPassword } from '../passwords/check.ts'
import type { Hasher } from '../passwords/hasher.ts'
import { anyPasswordSchema } from '../passwords/rules.ts'
import { documented, instantSchema, object, oneOf, titled, uuidSchema } from '../schema.ts'
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

/** The routes of sessions. */
export const sessionRoutes = (deps: SessionDeps) => [
  route('POST /users/sessions', {
    operationId: 'logIn',
    tag: 'sessions',
    access: 'anyone',
    summary: 'Log in',
    description:
      'An unknown address, a wrong password and a disabled user get one and the same answer. ' +
      'A user has a limited number of sessions: a new one ends the one that was used longest ago.',
    body: object({ email: anyEmailSchema, password: anyPasswordSchema }),
    bodySentence: 'Invalid user syntax',
    replies: {
      201: {
        says: 'A session and its key, shown this once',
        body: session,
        creates: { id: 'user' },
      },
    },
    fails: ['invalid_credentials', 'login_throttled', 'overloaded', 'database_unavailable'],
    async handle({ body: { email, password }, origin, headers }) {
      const attempt = {
        find: () => findUserByEmail(deps.db, email),
        address: foldEmail(email),
        password,
        origin,
      }
      return checkPassword(deps, attempt, async (tx, userId) => {
        // The check holds the user's lock, so that simultaneous log-ins are counted one by one.
        if (deps.sessionsPerUser > 0) {
          await deleteSurplusSessions(tx, userId, deps.sessionsPerUser - 1)
        }
        const made = await insertKey(tx, {
          userId,
          kind: 'session',
          name: 'session',
          seconds: deps.sessionSeconds,
          address: origin.address,
          agent: readAgent(headers['user-agent']),
        })
        await insertEvent(tx, {
          action: 'session.started',
          actor: userId,
          subject: userId,
          keyId: made.id,
          origin,
        })
        const { id: keyId, key, validUntil } = made
        return { body: { user: userId, key, keyId, validUntil } }
      })
    },
  }),
  route('DELETE /users/sessions', {
    operationId: 'logOut',
    tag: 'sessions',
    access: 'key',
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
