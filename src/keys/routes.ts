import { audited } from './acting.ts'
import { insertEvent } from '../audit/queries.ts'
import type { Database } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import { paged, pageQuery } from '../http/pagination.ts'
import { route, type Route } from '../http/route.ts'
import {
  booleanSchema,
  digits,
  instantSchema,
  integer,
  nullable,
  object,
  refined,
} from '../schema.ts'
import {
  deleteKey,
  insertKey,
  keyText,
  listKeys,
  members,
  name,
  rotateKey,
  updateKey,
} from './queries.ts'

const past = { field: 'validUntil', message: 'must be in the future' }
/** What is past by any clock is told with all other faults; the rest is for the database's clock to say. */
const end = refined(instantSchema, (value, wrong) => {
  if (Date.parse(value) < Date.now() - 2 * 86_400_000) wrong(past.message)
  return value
})
const key = { title: 'Key', ...object(members).json }
const newKey = { title: 'CreatedKey', ...object({ ...members, key: keyText }).json }

export const keyRoutes = ({ db }: { db: Database }): Route[] => [
  route({
    method: 'GET',
    path: '/users/{id}/keys',
    operationId: 'listKeys',
    tag: 'keys',
    access: 'self',
    summary: 'The keys and sessions of a user, oldest first',
    query: {
      ...pageQuery,
      limit: digits(1, 1000, { default: 1000, description: 'At most so many' }),
    },
    replies: {
      200: { says: 'Keys', body: { type: 'array', maxItems: 1000, items: key }, headers: ['Link'] },
    },
    fails: ['user_not_found'],
    handle: ({ params: { id }, query }) =>
      paged({ limit: 1000, ...query }, (page) => listKeys(db, id, page)),
  }),
  route({
    method: 'POST',
    path: '/users/{id}/keys',
    operationId: 'createKey',
    tag: 'keys',
    access: 'self',
    summary: 'Make a further key',
    body: object({ name }, { validUntil: nullable(end) }),
    replies: { 201: { says: 'The key, shown this once', body: newKey, creates: { keyId: 'id' } } },
    fails: ['user_not_found'],
    handle: ({ body, ...call }) =>
      audited(db, 'key.created', 201, call, async (tx) => {
        const made = await insertKey(tx, { userId: call.params.id, kind: 'api', ...body })
        // By the database's clock, which will judge it; what is thrown here undoes it.
        if (made.validUntil && made.validUntil <= made.createdAt)
          throw new AppError('invalid_body', { faults: [past] })
        return made
      }),
  }),
  route({
    method: 'PATCH',
    path: '/users/{id}/keys/{keyId}',
    operationId: 'updateKey',
    tag: 'keys',
    access: 'self',
    summary: 'Rename a key, switch it off or on, change its end',
    description: 'The end of a session comes no later for it.',
    body: object({}, { name, enabled: booleanSchema, validUntil: nullable(instantSchema) }),
    replies: { 200: { says: 'The key', body: key } },
    fails: ['key_not_found'],
    handle: ({ body, ...call }) =>
      audited(
        db,
        'key.changed',
        200,
        call,
        (tx) => updateKey(tx, call.params.id, call.params.keyId, body),
        Object.keys(body),
      ),
  }),
  route({
    method: 'DELETE',
    path: '/users/{id}/keys/{keyId}',
    operationId: 'deleteKey',
    tag: 'keys',
    access: 'self',
    summary: 'End a key',
    replies: { 204: { says: 'It is refused from now on' } },
    fails: ['key_not_found'],
    handle: (call) =>
      audited(db, 'key.deleted', 204, call, (tx) =>
        deleteKey(tx, call.params.id, call.params.keyId),
      ),
  }),
  route({
    method: 'POST',
    path: '/users/{id}/keys/{keyId}/rotate',
    operationId: 'rotateKey',
    tag: 'keys',
    access: 'self',
    summary: 'Make a key in place of another',
    description:
      'The new key has the kind, name and end of the old one, which works for `overlapSeconds` more.',
    body: object({}, { overlapSeconds: integer(0, 604_800, { default: 0 }) }),
    bodyOptional: true,
    replies: {
      201: { says: 'The new key, shown this once', body: newKey, creates: { keyId: 'id' } },
    },
    fails: ['key_not_found'],
    handle: ({ body, ...call }) =>
      audited(db, 'key.rotated', 201, call, async (tx) => {
        const {
          caller: { userId: actor },
          origin,
          params: { id: subject, keyId },
        } = call
        const made = await rotateKey(tx, subject, keyId, body.overlapSeconds ?? 0)
        await insertEvent(tx, { action: 'key.created', actor, subject, keyId: made.id, origin })
        return made
      }),
  }),
]
