// Second factors: how they are set up, proved, renewed and removed. A code is of the time (TOTP,
// RFC 6238), by a sealed secret, or a recovery code, of which the database holds a hash.
import { randomBytes } from 'node:crypto'

import { insertEvent } from '../audit/queries.ts'
import type { Database, Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import { requireFactors } from '../http/access.ts'
import { route, type Caller } from '../http/route.ts'
import { audited, requireStill } from '../keys/acting.ts'
import { deleteSessions, raiseKey } from '../keys/queries.ts'
import { instantSchema, integer, list, object, text, titled } from '../schema.ts'
import { seal } from '../secrets/keys.ts'
import { codeSchema } from '../sessions/routes.ts'
import { lockUser } from '../users/queries.ts'
import { createProveCode, placeOf } from './check.ts'
import { createRecoveryCode, digestCode, toBase32, uriOf } from './codes.ts'
import { getFactor, removeFactor, storeRecoveryCodes, storeSecret } from './queries.ts'

const path = '/users/{id}/factor'
const common = { tag: 'sessions', access: 'self', enrols: true } as const

const secretReply = titled('FactorSecret', {
  secret: text({ max: 32, example: 'JBSWY3DPEHPK3PXP' }),
  uri: text({ max: 4096, example: uriOf('ada@example.org', 'JBSWY3DPEHPK3PXP') }),
})
const factor = titled('Factor', {
  confirmedAt: instantSchema,
  recoveryCodesLeft: integer(0, 10),
})
const recoveryCode = text({ max: 27, example: 'ABCDEF-GHIJKL-MNOPQR-STUVWX' })
const codesReply = {
  says: 'Codes for when the authenticator is lost, shown this once',
  body: titled('RecoveryCodes', { recoveryCodes: list(recoveryCode, 10) }),
}

/** The routes of second factors, whose secrets these keys seal. */
export const factorRoutes = (db: Database, keys: Buffer[]) => [
  route(`POST ${path}`, {
    ...common,
    operationId: 'addFactor',
    fresh: true,
    summary: 'Begin to set up a second factor',
    description:
      'With a session of the user’s own. The secret is for an authenticator, and replaces one ' +
      'that was not confirmed; codes are asked for once one has confirmed it.',
    replies: { 201: { says: 'The secret, shown this once', body: secretReply } },
    fails: ['factor_exists'],
    handle: (call) =>
      audited(db, { action: 'factor.added', ...call }, async (tx) => {
        const { id } = call.params
        requireOwnSession(call.caller, id)
        const { email, secondFactor } = await lockUser(tx, id)
        if (secondFactor) throw new AppError('factor_exists')
        const bytes = randomBytes(20)
        const secret = toBase32(bytes)
        await storeSecret(tx, id, seal(keys, placeOf(id), bytes))
        // No event: it is told when it is confirmed.
        return { body: { secret, uri: uriOf(email, secret) }, changes: [] }
      }),
  }),
  route(`POST ${path}/confirm`, {
    ...common,
    operationId: 'confirmFactor',
    summary: 'Confirm a second factor by its first code',
    description:
      'With a session of the user’s own, which has two factors from now on; all others end.',
    body: object({ code: codeSchema }),
    replies: { 200: codesReply },
    fails: ['factor_not_found', 'invalid_credentials', 'login_throttled'],
    handle({ caller, params: { id: userId }, body: { code }, origin }) {
      requireOwnSession(caller, userId)
      const attempt = { userId, code, origin, isConfirmed: false }
      return createProveCode(db, keys)(attempt, async (tx) => {
        await requireStill(tx, caller)
        const body = await renewCodes(tx, userId)
        await raiseKey(tx, caller.keyId)
        await deleteSessions(tx, userId, caller.keyId)
        await insertEvent(tx, { action: 'factor.added', actor: userId, subject: userId, origin })
        return { body }
      })
    },
  }),
  route(`GET ${path}`, {
    ...common,
    operationId: 'getFactor',
    summary: 'Since when there is a second factor, and how many recovery codes are left',
    replies: { 200: { says: 'The factor', body: factor } },
    fails: ['factor_not_found'],
    handle: async ({ params }) => ({ body: await getFactor(db, params.id) }),
  }),
  route(`POST ${path}/recovery-codes`, {
    ...common,
    operationId: 'renewRecoveryCodes',
    fresh: true,
    summary: 'Make ten recovery codes in place of the old ones',
    description: 'With a key of the user’s own that has two factors.',
    replies: { 200: codesReply },
    fails: ['factor_not_found'],
    handle: (call) =>
      audited(db, { action: 'factor.codes_renewed', ...call }, async (tx) => {
        const { id } = call.params
        if (call.caller.userId !== id) throw new AppError('forbidden')
        const { secondFactor } = await lockUser(tx, id)
        if (!secondFactor) throw new AppError('factor_not_found')
        return { body: await renewCodes(tx, id) }
      }),
  }),
  route(`DELETE ${path}`, {
    ...common,
    operationId: 'removeFactor',
    fresh: true,
    summary: 'Remove a second factor',
    description:
      'With two factors: a session of the user’s own, or a key of an admin. One that was not ' +
      'confirmed: with any session of the user’s own. All sessions of the user end.',
    replies: { 204: { says: 'A password alone logs in' } },
    fails: ['user_not_found', 'factor_not_found'],
    handle: (call) =>
      audited(db, { action: 'factor.removed', ...call }, async (tx, maker) => {
        const { caller, params } = call
        if (caller.userId === params.id) requireOwnSession(caller, params.id)
        else requireFactors(maker)
        await lockUser(tx, params.id)
        await removeFactor(tx, params.id)
      }),
  }),
]

function requireOwnSession({ keyKind, userId }: Caller, id: string) {
  if (keyKind !== 'session' || userId !== id) throw new AppError('forbidden')
}

/** Makes and stores ten recovery codes, and confirms the factor if it was not. */
async function renewCodes(tx: Db, userId: string) {
  const recoveryCodes = Array.from({ length: 10 }, createRecoveryCode)
  await storeRecoveryCodes(tx, userId, recoveryCodes.map(digestCode))
  return { recoveryCodes }
}
