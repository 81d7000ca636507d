// The audit log: who did what to whom, from where. Events are written in the
// transaction of what they report, and never changed.
import type { Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import { paged, pageOf, pageQuery } from '../http/pagination.ts'
import { route } from '../http/route.ts'
import {
  addressSchema,
  documented,
  instantSchema,
  list,
  nullable,
  object,
  requestIdSchema,
  text,
  titled,
  uuidSchema,
} from '../schema.ts'
import { listEvents, type StoredEvent } from './queries.ts'

const actionSchema = text({ min: 1, max: 32, pattern: /^[a-z._]+$/, example: 'user.changed' })

const event = {
  ...titled('AuditEvent', {
    id: uuidSchema,
    at: instantSchema,
    action: actionSchema,
    actor: nullable(uuidSchema),
    subject: nullable(uuidSchema),
    keyId: nullable(uuidSchema),
    changes: list(text({ min: 1, max: 32, pattern: /^[A-Za-z]+$/, example: 'email' }), 16),
    address: nullable(addressSchema),
    requestId: nullable(requestIdSchema),
  }),
  description:
    'Actor: whose key acted, null if none did; subject: the user acted upon; ' +
    'changes: names, never values.',
}

/** The routes of the audit log. */
export const auditRoutes = ({ db }: { db: Db }) => [
  route('GET /audit', {
    operationId: 'listEvents',
    tag: 'audit',
    access: 'key',
    summary: 'Who did what to whom, newest first',
    description:
      'For admins; others must pass their own id as `user`. ' +
      'Only an admin sees from which address others acted.',
    query: object(
      {},
      {
        ...pageQuery,
        user: documented(uuidSchema, {
          description: 'Only what this user did, or what was done to it',
        }),
        action: documented(actionSchema, { description: 'Only events of this kind' }),
      },
    ),
    replies: {
      200: pageOf('Events', event),
    },
    handle({ caller, query }) {
      const isAdmin = caller.role === 'admin'
      if (!isAdmin && query.user !== caller.userId) throw new AppError('forbidden')
      const show = (row: StoredEvent) =>
        isAdmin || row.actor === caller.userId ? row : { ...row, address: null }
      return paged(query, (page) => listEvents(db, page), show)
    },
  }),
]
