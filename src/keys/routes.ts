import { insertEvent, type Action } from '../audit/queries.ts'
import type { Database, Db } from '../database/pool.ts'
import { paged, pageQuery } from '../http/page.ts'
import { route, type Caller, type Origin, type Route } from '../http/route.ts'
import { boolean, digits, instant, integer, nullable, object, oneOf, refined, text, uuid } from '../schema.ts'
import { deleteKey, insertKey, listKeys, rotateKey, updateKey } from './queries.ts'

const name = text(1, 100, /^[^\u0000-\u001f\u007f-\u009f]*$/,
  'must have 1 to 100 characters, none of them a control character')
const future = refined(instant, {}, (value, field, report) => {
  if (value.getTime() <= Date.now()) report(field, 'must be in the future')
  return value
})

const members = {
  id: uuid, kind: oneOf('api', 'session'), name, enabled: boolean,
  validUntil: nullable(instant), lastUsedAt: nullable(instant), createdAt: instant,
}
const key = { title: 'Key', ...object(members).json }

/** The key itself: what only the answer that makes it holds. */
export const keyText = text(53, 53, /^usk_[0-9A-Za-z]{49}$/)
const newKey = { title: 'NewKey', ...object({ ...members, key: keyText }).json }

interface Changed {
  caller: Caller
  origin: Origin
  params: { id: string; keyId?: string }
}

export const keyRoutes = ({ db, basePath }: { db: Database; basePath: string }): Route[] => {
  /** Does `work` and writes its event in one transaction. */
  const audited = <T extends { id: string }>(
    action: Action, { caller, origin, params: { id: subject, keyId } }: Changed, changes: string[],
    work: (tx: Db) => Promise<T>,
  ): Promise<T> =>
    db.transaction(async (tx) => {
      const result = await work(tx)
      const event = { action, actor: caller.userId, subject, keyId: keyId ?? result.id, changes, origin }
      await insertEvent(tx, event)
      return result
    })

  return [
    route('GET', '/users/{id}/keys', 'self', 'The keys and sessions of a user, oldest first', {
      query: { ...pageQuery, limit: digits(1, 1000, { default: 1000 }) },
      replies: {
        200: { says: 'Keys', body: { type: 'array', maxItems: 1000, items: key }, headers: ['Link'] },
      },
      fails: ['user_not_found'],
      handle: ({ params: { id }, query }) =>
        paged(`${basePath}/users/${id}/keys`, { limit: 1000, ...query }, (page) => listKeys(db, id, page)),
    }),
    route('POST', '/users/{id}/keys', 'self', 'Make a further key', {
      body: object({ name }, { validUntil: nullable(future) }),
      replies: { 201: { says: 'The key, shown this once', body: newKey } },
      fails: ['user_not_found'],
      handle: async ({ body, ...call }) => ({
        status: 201,
        body: await audited('key.created', call, [], (tx) =>
          insertKey(tx, { userId: call.params.id, kind: 'api', ...body })),
      }),
    }),
    route('PATCH', '/users/{id}/keys/{keyId}', 'self', 'Rename a key, switch it off or on, change its end', {
      description: 'The end of a session comes no later for it.',
      body: object({}, { name, enabled: boolean, validUntil: nullable(instant) }),
      replies: { 200: { says: 'The key', body: key } },
      fails: ['key_not_found'],
      handle: async ({ body, ...call }) => ({
        status: 200,
        body: await audited('key.changed', call, Object.keys(body), (tx) =>
          updateKey(tx, call.params.id, call.params.keyId, body)),
      }),
    }),
    route('DELETE', '/users/{id}/keys/{keyId}', 'self', 'End a key', {
      replies: { 204: { says: 'It is refused from now on' } },
      fails: ['key_not_found'],
      async handle(call) {
        await audited('key.deleted', call, [], (tx) => deleteKey(tx, call.params.id, call.params.keyId))
        return { status: 204 }
      },
    }),
    route('POST', '/users/{id}/keys/{keyId}/rotate', 'self', 'Make a key in place of another', {
      description: 'The new key has the kind, name and end of the old one, which works for `overlapSeconds` more.',
      body: object({}, { overlapSeconds: integer(0, 604_800, { default: 0 }) }),
      bodyOptional: true,
      replies: { 201: { says: 'The new key, shown this once', body: newKey } },
      fails: ['key_not_found'],
      async handle({ body, ...call }) {
        const { id, keyId } = call.params
        const made = await audited('key.rotated', call, [], async (tx) => {
          const key = await rotateKey(tx, id, keyId, body.overlapSeconds ?? 0)
          const { caller: { userId: actor }, origin } = call
          await insertEvent(tx, { action: 'key.created', actor, subject: id, keyId: key.id, origin })
          return key
        })
        return { status: 201, body: made }
      },
    }),
  ]
}
