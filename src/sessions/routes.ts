import { audited } from '../keys/acting.ts'
import { insertEvent } from '../audit/queries.ts'
import type { Database } from '../database/pool.ts'
import type { Hasher } from '../passwords/hasher.ts'
import { route, type Route } from '../http/route.ts'
import { deleteKey, deleteSessions, insertKey, keyText } from '../keys/queries.ts'
import { instantSchema, object, uuidSchema } from '../schema.ts'
import { checkPassword } from '../passwords/check.ts'
import { findUserByEmail, lockUser } from '../users/queries.ts'
import { anyPasswordSchema } from '../passwords/rules.ts'
import { anyEmailSchema, foldEmail } from '../users/rules.ts'

const session = {
  title: 'Session',
  ...object({ user: uuidSchema, key: keyText, validUntil: instantSchema }).json,
}

type Deps = { db: Database; hasher: Hasher; sessionSeconds: number }

export const sessionRoutes = ({ db, hasher, sessionSeconds }: Deps): Route[] => [
  route({
    method: 'POST',
    path: '/users/sessions',
    operationId: 'logIn',
    tag: 'sessions',
    access: 'anyone',
    summary: 'Log in',
    description:
      'An unknown address, a wrong password and a disabled user get one and the same answer.',
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
    async handle({ body: { email, password }, origin }) {
      const attempt = {
        find: () => findUserByEmail(db, email),
        address: foldEmail(email),
        password,
        origin,
      }
      return checkPassword({ db, hasher }, attempt, async (tx, id) => {
        const made = await insertKey(tx, {
          userId: id,
          kind: 'session',
          name: 'session',
          seconds: sessionSeconds,
        })
        await insertEvent(tx, {
          action: 'session.started',
          actor: id,
          subject: id,
          keyId: made.id,
          origin,
        })
        return { status: 201, body: { user: id, key: made.key, validUntil: made.validUntil } }
      })
    },
  }),
  route({
    method: 'DELETE',
    path: '/users/sessions',
    operationId: 'logOut',
    tag: 'sessions',
    access: 'key',
    summary: 'Log out: end the calling session',
    description: 'An API key is no session and stays as it is.',
    replies: { 204: { says: 'The session has ended' } },
    fails: ['key_not_found'],
    handle({ caller, origin }) {
      const { keyKind, keyId, userId: id } = caller
      if (keyKind === 'api') return { status: 204 }
      const call = { caller, origin, params: { id, keyId } }
      return audited(db, 'session.ended', 204, call, (tx) => deleteKey(tx, id, keyId))
    },
  }),
  route({
    method: 'DELETE',
    path: '/users/sessions/{id}',
    operationId: 'endSessions',
    tag: 'sessions',
    access: 'self',
    summary: 'Log out everywhere: end every session of the user',
    replies: { 204: { says: 'The sessions have ended' } },
    fails: ['user_not_found'],
    handle: (call) =>
      audited(db, 'sessions.ended', 204, call, async (tx) => {
        await lockUser(tx, call.params.id)
        await deleteSessions(tx, call.params.id, null)
      }),
  }),
]
