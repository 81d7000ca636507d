import { insertEvent } from '../audit/queries.ts'
import type { Database, Db } from '../database/pool.ts'
import { AppError, faultIn } from '../errors.ts'
import { requireFresh } from '../http/access.ts'
import { paged, pageOf, pageQuery } from '../http/pagination.ts'
import { route } from '../http/route.ts'
import {
  booleanSchema,
  differing,
  digits,
  documented,
  instantSchema,
  integer,
  nullable,
  object,
  omittable,
  refined,
  titled,
} from '../schema.ts'
import { audited } from './acting.ts'
import {
  countKeys,
  deleteKey,
  deleteSurplusSessions,
  endKeyIn,
  insertKey,
  listKeys,
  lockOwner,
  lockStoredKey,
  updateKey,
  type KeyChanges,
  type MadeKey,
} from './queries.ts'
import {
  isLater,
  keyMembers,
  keyNameSchema,
  keyTextSchema,
  kindSchema,
  permissionsSchema,
  limitsOf,
  mayRevive,
  powersOfNew,
  powersOfRotated,
  scopeSchema,
  type Key,
} from './rules.ts'

const dayMs = 86_400_000
const past = 'must be in the future'

/** The end of a new key; refused here if past by any clock. The database decides the rest. */
const endSchema = refined(instantSchema, (value, wrong) => {
  if (Date.parse(value) < Date.now() - 2 * dayMs) wrong(past)
  return value
})
const key = titled('Key', keyMembers)
const createdKey = titled('CreatedKey', { ...keyMembers, key: keyTextSchema })

/** What the routes of keys need; limits: 0 is none. */
export interface KeyDeps {
  db: Database
  keysPerUser: number
  sessionsPerUser: number
  freshSeconds: number
}

/** The routes of a user's keys and sessions. */
export const keyRoutes = ({ db, keysPerUser, sessionsPerUser, freshSeconds }: KeyDeps) => [
  route('GET /users/{id}/keys', {
    operationId: 'listKeys',
    tag: 'keys',
    access: 'self',
    summary: 'The keys and sessions of a user, oldest first',
    query: object(
      {},
      {
        ...pageQuery,
        limit: digits(1, 1000, { default: 1000, description: 'The size of a page' }),
        kind: documented(kindSchema, { description: 'Only API keys, or only sessions' }),
      },
    ),
    replies: {
      200: pageOf('Keys', key),
    },
    fails: ['user_not_found'],
    handle({ params, query }) {
      return paged({ limit: 1000, ...query }, (page) => listKeys(db, params.id, page))
    },
  }),
  route('POST /users/{id}/keys', {
    operationId: 'createKey',
    tag: 'keys',
    access: 'self',
    fresh: true,
    changesKeys: true,
    summary: 'Make a further key',
    description:
      'A key that is made for the own user has at most the scope, the permissions and, where the ' +
      'calling key is an API key, the end of that one; left out, it has the same.',
    body: object(
      { name: keyNameSchema },
      {
        validUntil: nullable(endSchema),
        scope: omittable(scopeSchema),
        permissions: nullable(permissionsSchema),
      },
    ),
    replies: {
      201: { says: 'The key, shown this once', body: createdKey, creates: { keyId: 'id' } },
    },
    fails: ['user_not_found', 'too_many_keys'],
    handle: ({ body: { name, ...wish }, ...call }) =>
      audited(db, { action: 'key.created', ...call }, async (tx, maker) => {
        const userId = call.params.id
        const powers = powersOfNew(maker, userId, wish)
        await requireRoom(tx, userId, keysPerUser)
        const made = await insertKey(tx, { userId, kind: 'api', name, ...powers })
        requireFuture(made)
        return { body: made, keyId: made.id }
      }),
  }),
  route('PATCH /users/{id}/keys/{keyId}', {
    operationId: 'updateKey',
    tag: 'keys',
    access: 'self',
    changesKeys: true,
    summary: 'Rename a key, switch it off or on, change its end',
    description: 'The end of a session comes no later for it.',
    body: object(
      {},
      {
        name: omittable(keyNameSchema),
        enabled: omittable(booleanSchema),
        validUntil: nullable(instantSchema),
      },
    ),
    replies: { 200: { says: 'The key', body: key } },
    fails: ['key_not_found'],
    handle: ({ body, ...call }) =>
      audited(db, { action: 'key.changed', ...call }, async (tx, maker) => {
        const { id, keyId } = call.params
        const before = await lockStoredKey(tx, id, keyId)
        const changes = changesOf(before, body)
        const { enabled, validUntil } = changes
        const isRevived = enabled === true || isLater(validUntil, before.validUntil)
        if (isRevived) requireFresh(call.caller, freshSeconds)
        if (isRevived && !mayRevive(maker, id, before)) throw new AppError('forbidden')
        if (isLater(validUntil, limitsOf(maker, id).validUntil)) throw new AppError('forbidden')
        const after = await updateKey(tx, { ...before, ...changes })
        return { body: after, changes: Object.keys(changes) }
      }),
  }),
  route('DELETE /users/{id}/keys/{keyId}', {
    operationId: 'deleteKey',
    tag: 'keys',
    access: 'self',
    changesKeys: true,
    summary: 'End a key',
    replies: { 204: { says: 'It is refused from now on' } },
    fails: ['key_not_found'],
    handle: (call) =>
      audited(db, { action: 'key.deleted', ...call }, async (tx) => {
        await deleteKey(tx, call.params.id, call.params.keyId)
      }),
  }),
  route('POST /users/{id}/keys/{keyId}/rotate', {
    operationId: 'rotateKey',
    tag: 'keys',
    access: 'self',
    fresh: true,
    changesKeys: true,
    summary: 'Make a key in place of another',
    description:
      'The new key has the kind, name and end of the old one, which works for `overlapSeconds` ' +
      'more and is then gone at once. A session is rotated by itself alone.',
    body: object({}, { overlapSeconds: omittable(integer(0, 604_800, { default: 0 })) }),
    bodyOptional: true,
    replies: {
      201: { says: 'The new key, shown this once', body: createdKey, creates: { keyId: 'id' } },
    },
    fails: ['user_not_found', 'key_not_found', 'too_many_keys'],
    handle: ({ body: { overlapSeconds = 0 }, ...call }) =>
      audited(db, { action: 'key.rotated', ...call }, async (tx, maker) => {
        const { caller, origin, params } = call
        if ((await lockOwner(tx, params.id)) === null) throw new AppError('user_not_found')
        const old = await lockStoredKey(tx, params.id, params.keyId)
        if (old.hasEnded) throw new AppError('key_not_found')
        const isApi = old.kind === 'api'
        if (!isApi && old.id !== caller.keyId) throw new AppError('forbidden')
        if (overlapSeconds > 0 && isApi) await requireRoom(tx, params.id, keysPerUser)
        const powers = powersOfRotated(maker, params.id, old)
        const made = await insertKey(tx, { ...old, userId: params.id, ...powers })
        if (overlapSeconds > 0) await endKeyIn(tx, old.id, overlapSeconds)
        else await deleteKey(tx, params.id, old.id)
        if (!isApi && sessionsPerUser > 0) {
          await deleteSurplusSessions(tx, params.id, sessionsPerUser)
        }
        await insertEvent(tx, {
          action: 'key.created',
          actor: caller.userId,
          subject: params.id,
          keyId: made.id,
          origin,
        })
        return { body: made }
      }),
  }),
]

/** Throws `too_many_keys` if a user, who is locked, has as many API keys as it may. */
async function requireRoom(tx: Db, userId: string, limit: number) {
  if (limit > 0 && (await countKeys(tx, userId)) >= limit) throw new AppError('too_many_keys')
}

/** Throws `invalid_body`, which rolls back, if a new key has ended by the database's clock. */
function requireFuture({ validUntil, createdAt }: MadeKey) {
  if (validUntil !== null && validUntil <= createdAt) {
    throw faultIn('invalid_body', 'validUntil', past)
  }
}

/** What differs from the key as it is; a session is not prolonged. */
function changesOf(before: Key, given: KeyChanges) {
  const prolongsSession = before.kind === 'session' && isLater(given.validUntil, before.validUntil)
  return differing(before, prolongsSession ? { ...given, validUntil: before.validUntil } : given)
}
