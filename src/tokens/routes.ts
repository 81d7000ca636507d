// Tokens, which are sent to a user: whoever shows one has received it. A token opens one act, once,
// for a limited time; it is no key. A back end makes and sends it, or the webhook does.
import { insertEvent } from '../audit/queries.ts'
import type { Database, Db } from '../database/pool.ts'
import { AppError, faultIn } from '../errors.ts'
import { requireFresh } from '../http/access.ts'
import { absent, route } from '../http/route.ts'
import { audited } from '../keys/acting.ts'
import { isSecret, sampleOf, secretSchema } from '../keys/format.ts'
import type { createIdentify } from '../keys/identify.ts'
import { deleteApiKeys, deleteSessions } from '../keys/queries.ts'
import { countReset, forgetFailures } from '../passwords/guessing.ts'
import type { Hasher } from '../passwords/hasher.ts'
import { newPassword } from '../passwords/rules.ts'
import {
  booleanSchema,
  instantSchema,
  integer,
  object,
  omittable,
  oneOf,
  text,
  titled,
} from '../schema.ts'
import { findUserByEmail, lockUser, updateUser } from '../users/queries.ts'
import { emailSchema, foldEmail, refuseEmailAsPassword } from '../users/rules.ts'
import { deleteTokens, findHolder, insertToken, takeToken, type Purpose } from './queries.ts'

/** Any text: a malformed token is answered like an unknown one. */
const tokenSchema = text({ max: 200, example: sampleOf('ust') })
const createdToken = titled('CreatedToken', {
  token: secretSchema('ust'),
  validUntil: instantSchema,
})

/** What the routes of tokens need. */
export interface TokenDeps {
  db: Database
  hasher: Hasher
  passwordMinLength: number
  /** How long a token is good: the settings RESET_SECONDS and VERIFICATION_SECONDS. */
  resetSeconds: number
  verificationSeconds: number
  freshSeconds: number
  identify: ReturnType<typeof createIdentify>
  /** Without one nobody can ask for a token. */
  hasWebhook: boolean
}

/** The routes of tokens. */
export const tokenRoutes = (deps: TokenDeps) => [
  ...(deps.hasWebhook ? requestRoutes(deps) : [absent('/users/password-resets')]),
  route('POST /users/{id}/tokens', {
    operationId: 'createToken',
    tag: 'tokens',
    access: 'admin',
    fresh: true,
    summary: 'Make a token, to be sent to a user',
    description:
      'A `password-reset` lets the user set a password: without one before, it is an ' +
      'invitation. An `email` proves the present address or, with `email`, changes it to that one.',
    body: object(
      { purpose: oneOf('password-reset', 'email') },
      { email: omittable(emailSchema), seconds: omittable(integer(60, 604_800)) },
    ),
    replies: { 201: { says: 'The token, shown this once', body: createdToken } },
    fails: ['user_not_found', 'email_in_use', 'invalid_email'],
    handle({ body: { purpose, email, seconds }, ...call }) {
      const isReset = purpose === 'password-reset'
      if (isReset && email !== undefined) {
        throw faultIn('invalid_body', 'email', 'is for the purpose email alone')
      }
      return audited(deps.db, { action: 'token.created', ...call }, async (tx) => {
        const user = await lockUser(tx, call.params.id)
        const other = email === undefined ? null : await findUserByEmail(tx, email)
        if (other !== null && other.id !== user.id) throw new AppError('email_in_use')
        const made = await insertToken(tx, {
          userId: user.id,
          purpose,
          email: isReset ? null : (email ?? user.email),
          seconds: seconds ?? (isReset ? deps.resetSeconds : deps.verificationSeconds),
        })
        return { body: made }
      })
    },
  }),
  route('DELETE /users/{id}/tokens', {
    operationId: 'endTokens',
    tag: 'tokens',
    access: 'self',
    summary: 'End all tokens of a user, such as one that was sent to the wrong person',
    replies: { 204: { says: 'The tokens have ended' } },
    fails: ['user_not_found'],
    handle: (call) =>
      audited(deps.db, { action: 'tokens.ended', ...call }, async (tx) => {
        await lockUser(tx, call.params.id)
        await deleteTokens(tx, call.params.id)
      }),
  }),
  route('POST /users/passwords', {
    operationId: 'resetPassword',
    tag: 'tokens',
    access: 'anyone',
    summary: 'Set a password with a token',
    description:
      'All sessions and tokens of the user end and, with `endKeys`, its API keys. Left out, it ' +
      'is true of a user who had a password and an unverified address: that of a stranger, maybe.',
    body: object(
      { token: tokenSchema, password: newPassword(deps.passwordMinLength) },
      { endKeys: omittable(booleanSchema) },
    ),
    replies: { 204: { says: 'The password is set: log in with it' } },
    fails: ['token_invalid', 'invalid_password', 'overloaded', 'database_unavailable'],
    async handle({ body: { token, password, endKeys }, origin }) {
      // Only the holder of a live token is worth a hash.
      const holder = isSecret(token, 'ust')
        ? await findHolder(deps.db, token, 'password-reset')
        : null
      if (holder === null) throw new AppError('token_invalid')
      refuseEmailAsPassword(password, holder.email)
      const passwordHash = await deps.hasher.hash(password, origin.client)
      return deps.db.transaction(async (tx) => {
        const { user, isPresent } = await useToken(tx, token, 'password-reset')
        const { id, emailVerified } = user
        const mayBeAStrangers = user.passwordHash !== null && !emailVerified
        await updateUser(tx, user, { passwordHash, emailVerified: emailVerified || isPresent })
        await deleteSessions(tx, id)
        if (endKeys ?? mayBeAStrangers) await deleteApiKeys(tx, id)
        await deleteTokens(tx, id)
        await forgetFailures(tx, id)
        const event = { actor: id, subject: id, origin }
        await insertEvent(tx, { action: 'user.changed', changes: ['password'], ...event })
        if (isPresent && !emailVerified) {
          await insertEvent(tx, { action: 'email.verified', ...event })
        }
        return {}
      })
    },
  }),
  route('POST /users/verifications', {
    operationId: 'verifyEmail',
    tag: 'tokens',
    access: 'anyone',
    summary: 'Prove an address, or change to it, with a token',
    body: object({ token: tokenSchema }),
    replies: { 204: { says: 'The address is the user’s, and verified' } },
    fails: ['token_invalid', 'email_in_use', 'database_unavailable'],
    async handle({ body: { token }, origin }) {
      if (!isSecret(token, 'ust')) throw new AppError('token_invalid')
      return deps.db.transaction(async (tx) => {
        const { user, email, isPresent } = await useToken(tx, token, 'email')
        const { id, emailVerified } = user
        const event = { actor: id, subject: id, origin }
        if (!isPresent && email !== null) {
          await deleteTokens(tx, id)
          await updateUser(tx, user, { email, emailVerified: true })
          // Of the address after it, too.
          await deleteTokens(tx, id)
          const told = { previousEmail: user.email }
          await insertEvent(tx, { action: 'user.changed', changes: ['email'], told, ...event })
        } else if (!emailVerified) {
          await updateUser(tx, user, { emailVerified: true })
        }
        await insertEvent(tx, { action: 'email.verified', ...event })
        return {}
      })
    },
  }),
]

/** The requests for a token. */
function requestRoutes(deps: TokenDeps) {
  const request = {
    tag: 'tokens',
    replies: { 202: { says: 'A token is sent, if it can be', body: oneOf('Accepted').json } },
  } as const
  return [
    route('POST /users/password-resets', {
      ...request,
      operationId: 'requestPasswordReset',
      access: 'anyone',
      summary: 'Have a token sent that sets a password',
      description:
        'The answer is the same whether anybody has the address or not. From the 21st in a row ' +
        'on, a client has to wait; an admin’s key, of scope `all`, does not.',
      body: object({ email: emailSchema }),
      fails: ['invalid_email', 'overloaded', 'database_unavailable'],
      async handle({ body: { email }, headers, origin }) {
        // Any other key than an admin’s, good or bad, counts for nothing.
        const caller = await deps.identify(headers, origin.client).catch(() => null)
        const isAdmins = caller?.role === 'admin' && caller.scope === 'all'
        await deps.db.transaction(async (tx) => {
          if (!isAdmins) await countReset(tx, origin.client)
          await insertEvent(tx, {
            action: 'password.reset_requested',
            actor: null,
            subject: null,
            recipient: foldEmail(email),
            origin,
          })
        })
        return { body: 'Accepted' }
      },
    }),
    route('POST /users/{id}/verifications', {
      ...request,
      operationId: 'requestVerification',
      access: 'self',
      summary: 'Have a token sent that proves an address',
      description:
        'Without `email`, the present one; with it, a change to that one, for which a session ' +
        'must come from a log-in a short while ago. The tokens for a change before it end.',
      body: object({}, { email: omittable(emailSchema) }),
      bodyOptional: true,
      fails: ['user_not_found', 'invalid_email'],
      handle({ body: { email }, ...call }) {
        if (email !== undefined) requireFresh(call.caller, deps.freshSeconds)
        return audited(deps.db, { action: 'email.verification_requested', ...call }, async (tx) => {
          const user = await lockUser(tx, call.params.id)
          const recipient = foldEmail(email ?? user.email)
          if (email !== undefined) await deleteTokens(tx, user.id, recipient)
          const told = email === undefined ? {} : { email, previousEmail: user.email }
          return { body: 'Accepted', recipient, told }
        })
      },
    }),
  ]
}

/** Uses a token up and locks its user; throws `token_invalid`, alike for all that can be wrong. */
async function useToken(tx: Db, token: string, purpose: Purpose) {
  const taken = await takeToken(tx, token, purpose)
  if (taken === null) throw new AppError('token_invalid')
  const user = await lockUser(tx, taken.userId)
  const isPresent = taken.email !== null && foldEmail(taken.email) === foldEmail(user.email)
  return { user, email: taken.email, isPresent }
}
