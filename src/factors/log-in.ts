// Log-in where users may have a second factor: in one request, or in two, of which the first proves
// the password and the second a code.
import type { Db } from '../database/pool.ts'
import { AppError, type Fault } from '../errors.ts'
import { route, type Call } from '../http/route.ts'
import { isSecret, sampleOf, secretSchema } from '../keys/format.ts'
import { keyTextSchema } from '../keys/rules.ts'
import { accountOfCodes } from '../passwords/guessing.ts'
import { clearFailures } from '../passwords/queries.ts'
import {
  documented,
  instantSchema,
  isObject,
  object,
  omittable,
  text,
  uuidSchema,
  type Schema,
} from '../schema.ts'
import {
  codeSchema,
  credentials,
  logInSpec,
  provePassword,
  startSession,
  type SessionDeps,
} from '../sessions/routes.ts'
import { findHolder, insertToken, takeToken } from '../tokens/queries.ts'
import { findUser } from '../users/queries.ts'
import { createProveCode } from './check.ts'

const seconds = 300
const purpose = 'log-in'

/** One shape for both answers: many generated clients know one. */
const logInResult = {
  title: 'LogInResult',
  ...object(
    { user: uuidSchema, validUntil: instantSchema },
    {
      key: documented(keyTextSchema, { description: 'Of the session, with 201' }),
      keyId: documented(uuidSchema, { description: 'With 201' }),
      token: documented(secretSchema('ust'), { description: 'Of the first step, with 202' }),
    },
  ).json,
}

/** A member of the other form; null, as some clients send it, is none. */
const notWith = (other: string): Schema<undefined> => ({
  json: { type: 'null' },
  check(value, field, faults) {
    if (value !== null) faults.push({ field, message: `must not be sent with ${other}` })
    return undefined
  },
})

const token = text({ max: 200, example: sampleOf('ust') })
const byPassword = object(credentials, {
  code: omittable(codeSchema),
  token: notWith('an email'),
})
const byToken = object(
  { token, code: codeSchema },
  { email: notWith('a token'), password: notWith('a token') },
)
const { email, password } = credentials
/** One object with all members, and its two forms in keywords that generators of clients ignore. */
const logInBody = {
  json: {
    ...object(
      {},
      {
        email: omittable(email),
        password: omittable(password),
        code: omittable(codeSchema),
        token: omittable(token),
      },
    ).json,
    examples: [{ email: 'ada@example.org', password: 'correct horse battery staple' }],
    if: { properties: { token: { type: 'string' } }, required: ['token'] },
    then: byToken.json,
    else: byPassword.json,
  },
  check(value: unknown, field: string, faults: Fault[]) {
    const hasToken = isObject(value) && typeof value['token'] === 'string'
    return (hasToken ? byToken : byPassword).check(value, field, faults)
  },
}

type Request = Pick<Call<'anyone', '', unknown, unknown>, 'origin' | 'headers'>

/** A log-in that asks users who have a second factor for a code, too; the keys open its secret. */
export function createTwoStepLogIn(deps: SessionDeps, keys: Buffer[]) {
  const { db } = deps
  const proveCode = createProveCode(db, keys)

  /** The second step. A wrong code leaves the token good. */
  async function finish({ token, code }: { token: string; code: string }, call: Request) {
    const holder = isSecret(token, 'ust') ? await findHolder(db, token, purpose) : null
    if (holder === null) throw new AppError('token_invalid')
    const { id: userId } = holder
    const { origin } = call
    return proveCode({ userId, code, origin, isConfirmed: true }, async (tx) => {
      if ((await takeToken(tx, token, purpose)) === null) throw new AppError('token_invalid')
      await clearFailures(tx, { account: accountOfCodes(userId), client: origin.client })
      return startSession(deps, tx, { ...call, userId, factors: 2 })
    })
  }

  return route('POST /users/sessions', {
    ...logInSpec,
    description:
      `${logInSpec.description} ` +
      'A user who has a second factor sends a code, too, at once or with the token.',
    body: logInBody,
    replies: {
      ...logInSpec.replies,
      201: { ...logInSpec.replies[201], body: logInResult },
      202: {
        says: 'The password is right; the token is good for five minutes',
        body: logInResult,
      },
    },
    fails: [...logInSpec.fails, 'token_invalid'],
    async handle({ body, ...call }) {
      if (body.token !== undefined) return finish(body, call)
      const begin = async (tx: Db, userId: string) => {
        const user = await findUser(tx, userId)
        if (!user?.secondFactor) return startSession(deps, tx, { ...call, userId })
        const made = await insertToken(tx, { userId, purpose, email: null, seconds })
        return { status: 202, body: { user: userId, ...made } }
      }
      const reply = await provePassword(deps, { body, ...call }, begin)
      const { code } = body
      if (code === undefined || !('token' in reply.body)) return reply
      return finish({ token: reply.body.token, code }, call)
    },
  })
}
