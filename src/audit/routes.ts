import type { Db } from '../database/pool.ts'
import { route, type Route } from '../http/route.ts'
import { paged, pageQuery } from '../http/pagination.ts'
import { instant, list, nullable, object, text, uuid } from '../schema.ts'
import { listEvents } from './queries.ts'

const event = {
  title: 'Event',
  ...object({
    id: uuid,
    at: instant,
    action: text(1, 32, /^[a-z.]+$/),
    actor: nullable(uuid),
    subject: nullable(uuid),
    keyId: nullable(uuid),
    changes: list(text(1, 32, /^[A-Za-z]+$/), 16),
    address: nullable(text(0, 64, /^[0-9a-fA-F.:]*$/)),
    requestId: nullable(text(1, 64, /^[A-Za-z0-9._-]+$/)),
  }).json,
  description:
    'Actor: whose key acted, null for nobody’s; subject: the user acted upon; changes: names, never values.',
}

export const auditRoutes = ({ db, basePath }: { db: Db; basePath: string }): Route[] => [
  route({
    method: 'GET',
    path: '/audit',
    operationId: 'listEvents',
    tag: 'audit',
    access: 'admin',
    summary: 'Who did what to whom, newest first',
    query: { ...pageQuery, user: uuid },
    replies: {
      200: {
        says: 'Events',
        body: { type: 'array', maxItems: 1000, items: event },
        headers: ['Link'],
      },
    },
    handle: ({ query }) => paged(`${basePath}/audit`, query, (page) => listEvents(db, page)),
  }),
]
