// Log-in where users may have a second factor: in one request, or in two, of which the first proves
// the password and the second a code.
import type { Db } from '../database/pool.ts'
import { AppError, type Fault } from '../errors.ts'
import { route, type Call } from '../http/route.ts'
import { isSecret, sampleOf, secretSchema } from '../keys/format.ts'
import { accountOfCodes } from '../passwords/guessing.ts'
import { clearFailures } from '../passwords/queries.ts'
import { instantSchema, object, text, titled, uuidSchema } from '../schema.ts'
import {
  codeSchema,
  logInSpec,
  passwordBody,
  provePassword,
  startSession,
  type SessionDeps,
} from '../sessions/routes.ts'
import { findHolder, insertToken, takeToken } from '../tokens/queries.ts'
import { findUser } from '../users/queries.ts'
import { createProveCode } from './check.ts'

const seconds = 300
const purpose = 'log-in'

const firstStep = titled('FirstStep', {
  user: uuidSchema,
  token: secretSchema('ust'),
  validUntil: instantSchema,
})

const tokenBody = object({ token: text({ max: 200, example: sampleOf('ust') }), code: codeSchema })
const eitherBody = {
  json: { oneOf: [passwordBody.json, tokenBody.json] },
  check(value: unknown, field: string, faults: Fault[]) {
    const body = Object.hasOwn(Object(value), 'token') ? tokenBody : passwordBody
    return body.check(value, field, faults)
  },
}

type Request = Pick<Call<'anyone', '', unknown, unknown>, 'origin' | 'headers'>

/** A log-in that asks users who have a second factor for a code, too; the keys open its secret. */
export function createTwoStepLogIn(deps: SessionDeps, keys: Buffer[]) {
  const { db } = deps
  const proveCode = createProveCode(db, keys)

  /** A wrong code leaves the token good. */
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
    body: eitherBody,
    replies: {
      ...logInSpec.replies,
      202: { says: 'The password is right; the token is good for five minutes', body: firstStep },
    },
    fails: [...logInSpec.fails, 'token_invalid'],
    async handle({ body, ...call }) {
      if ('token' in body) return finish(body, call)
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
