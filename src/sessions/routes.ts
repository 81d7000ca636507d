// Sessions: log-in and log-out. A session is a key that a log-in makes; its row lies with those of
// the keys.
import { insertEvent } from '../audit/queries.ts'
import type { Database, Db } from '../database/pool.ts'
import { AppError, type Fault } from '../errors.ts'
import { route, type Origin } from '../http/route.ts'
import { audited } from '../keys/acting.ts'
import { isToken, sampleOf, secretSchema } from '../keys/format.ts'
import { deleteKey, deleteSessions, deleteSurplusSessions, insertKey } from '../keys/queries.ts'
import { keyTextSchema } from '../keys/rules.ts'
import { checkPassword } from '../passwords/check.ts'
import { accountOfCodes, clearFailures } from '../passwords/guessing.ts'
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
import { findHolder, insertToken, takeToken } from '../tokens/queries.ts'
import { findUser, findUserByEmail, lockUser } from '../users/queries.ts'
import { anyEmailSchema, foldEmail } from '../users/rules.ts'

const session = titled('Session', {
  user: uuidSchema,
  key: keyTextSchema,
  keyId: uuidSchema,
  validUntil: instantSchema,
})

const firstStep = titled('FirstStep', {
  user: uuidSchema,
  token: secretSchema('ust'),
  validUntil: instantSchema,
})

/** A code as it was typed: a malformed one is a wrong one. */
export const codeSchema = text({ max: 200, example: '123456' })
const passwordBody = object(
  { email: anyEmailSchema, password: anyPasswordSchema },
  { code: omittable(codeSchema) },
)
const tokenBody = object({ token: text({ max: 200, example: sampleOf('ust') }), code: codeSchema })
const eitherBody = {
  json: { oneOf: [passwordBody.json, tokenBody.json] },
  check(value: unknown, field: string, faults: Fault[]) {
    const body = Object.hasOwn(Object(value), 'token') ? tokenBody : passwordBody
    return body.check(value, field, faults)
  },
}

/** An attempt to prove a code of a factor that is confirmed, or is not yet. */
interface CodeAttempt {
  userId: string
  code: string
  origin: Origin
  isConfirmed: boolean
}

/**
 * Uses a code up and does `work` in one transaction, in which the user is locked. Throws
 * `invalid_credentials`, `login_throttled`, `token_invalid` or, unconfirmed, `factor_not_found`.
 */
export type ProveCode = (attempt: CodeAttempt, work: (tx: Db) => Promise<Reply>) => Promise<Reply>

/** What the routes of sessions need; `sessionsPerUser`: 0 is no limit. */
export interface SessionDeps {
  db: Database
  hasher: Hasher
  /** Null: there are no second factors. */
  proveCode: ProveCode | null
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
      'A user has a limited number of sessions: a new one ends the one that was used longest ' +
      'ago. A user who has a second factor sends a code, too, at once or with the token.',
    body: deps.proveCode === null ? passwordBody : eitherBody,
    bodySentence: 'Invalid user syntax',
    replies: {
      201: {
        says: 'A session and its key, shown this once',
        body: session,
        creates: { id: 'user' },
      },
      ...(deps.proveCode !== null && {
        202: { says: 'The password is right; the token is good for five minutes', body: firstStep },
      }),
    },
    fails: [
      'invalid_credentials',
      'token_invalid',
      'authentication_needed',
      'login_throttled',
      'overloaded',
      'database_unavailable',
    ],
    async handle({ body, origin, headers }) {
      const from = { origin, agent: readAgent(headers['user-agent']) }
      if ('token' in body) return logInByToken(deps, body, from)
      const { email, password, code } = body
      const attempt = {
        find: () => findUserByEmail(deps.db, email),
        address: foldEmail(email),
        password,
        origin,
      }
      const reply = await checkPassword(deps, attempt, async (tx, userId) => {
        const user = await findUser(tx, userId)
        if (deps.proveCode === null || !user?.secondFactor) {
          return startSession(tx, deps, { ...from, userId, factors: 1 })
        }
        const purpose = 'log-in'
        const made = await insertToken(tx, { userId, purpose, email: null, seconds: 300 })
        return { status: 202, body: { user: userId, ...made } }
      })
      if (code === undefined || !('token' in reply.body)) return reply
      return logInByToken(deps, { token: reply.body.token, code }, from)
    },
  }),
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

/** Where a session is started. */
interface From {
  origin: Origin
  agent: string | null
}

/** Logs in by a token that stands for a password, and a code, which leaves it good if wrong. */
async function logInByToken(
  deps: SessionDeps,
  { token, code }: { token: string; code: string },
  from: From,
): Promise<Reply> {
  const holder = isToken(token) ? await findHolder(deps.db, token, 'log-in') : null
  if (holder === null || deps.proveCode === null) throw new AppError('token_invalid')
  const { id: userId } = holder
  const { origin } = from
  return deps.proveCode({ userId, code, origin, isConfirmed: true }, async (tx) => {
    if ((await takeToken(tx, token, 'log-in')) === null) throw new AppError('token_invalid')
    await clearFailures(tx, { account: accountOfCodes(userId), client: origin.client })
    return startSession(tx, deps, { ...from, userId, factors: 2 })
  })
}

/** Starts a session of a user, which is locked, so that simultaneous log-ins are counted. */
async function startSession(
  tx: Db,
  { sessionSeconds, sessionsPerUser }: SessionDeps,
  { userId, factors, origin, agent }: From & { userId: string; factors: number },
) {
  if (sessionsPerUser > 0) await deleteSurplusSessions(tx, userId, sessionsPerUser - 1)
  const { id, key, validUntil } = await insertKey(tx, {
    userId,
    kind: 'session',
    name: 'session',
    factors,
    seconds: sessionSeconds,
    address: origin.address,
    agent,
  })
  const event = { actor: userId, subject: userId, keyId: id, origin }
  await insertEvent(tx, { action: 'session.started', ...event })
  return { status: 201, body: { user: userId, key, validUntil } }
}

/** What a client calls itself, without control characters, at most 200 characters of it. */
function readAgent(given: string | undefined) {
  if (given === undefined) return null
  const printable = given.replace(/[\u0000-\u001f\u007f-\u009f]/g, '')
  return [...printable].slice(0, 200).join('')
}
