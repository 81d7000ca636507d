import type { Db } from '../database/pool.ts'
import { route, type Route } from '../http/route.ts'
import { paged, pageQuery } from '../http/pagination.ts'
import { documented, instantSchema, list, nullable, object, text, uuidSchema } from '../schema.ts'
import { listEvents } from './queries.ts'

const event = {
  title: 'AuditEvent',
  ...object({
    id: uuidSchema,
    at: instantSchema,
    action: text({ min: 1, max: 32, pattern: /^[a-z.]+$/, example: 'user.changed' }),
    actor: nullable(uuidSchema),
    subject: nullable(uuidSchema),
    keyId: nullable(uuidSchema),
    changes: list(text({ min: 1, max: 32, pattern: /^[A-Za-z]+$/, example: 'email' }), 16),
    address: nullable(
      text({ min: 0, max: 64, pattern: /^[0-9a-fA-F.:]*$/, example: '203.0.113.7' }),
    ),
    requestId: nullable(text({ min: 1, max: 64, pattern: /^[A-Za-z0-9._-]+$/ })),
  }).json,
  description:
    'Actor: whose key acted, null for nobody’s; subject: the user acted upon; changes: names, never values.',
}

export const auditRoutes = ({ db }: { db: Db }): Route[] => [
  route({
    method: 'GET',
    path: '/audit',
    operationId: 'listEvents',
    tag: 'audit',
    access: 'admin',
    summary: 'Who did what to whom, newest first',
    query: {
      ...pageQuery,
      user: documented(uuidSchema, {
        description: 'Only what this user did, or what was done to it',
      }),
    },
    replies: {
      200: {
        says: 'Events',
        body: { type: 'array', maxItems: 1000, items: event },
        headers: ['Link'],
      },
    },
    handle: ({ query }) => paged(query, (page) => listEvents(db, page)),
  }),
]
