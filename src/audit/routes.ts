import type { Db } from '../database/pool.ts'
import { route } from '../http/route.ts'
import type { Route } from '../http/route.ts'
import { paged, pageQuery } from '../http/page.ts'
import { uuid } from '../schema.ts'
import { listEvents } from './queries.ts'

const id = { type: ['string', 'null'], format: 'uuid', maxLength: 36 }
const event = {
  type: 'object',
  properties: {
    id: uuid.json,
    at: { type: 'string', format: 'date-time', maxLength: 35 },
    action: { type: 'string', maxLength: 32, pattern: '^[a-z.]+$' },
    actor: { ...id, description: 'Whose key acted; null: nobody’s, or a command of the operator' },
    subject: { ...id, description: 'The user acted upon; null: none that exists' },
    keyId: id,
    changes: { type: 'array', maxItems: 16, items: { type: 'string', maxLength: 32, pattern: '^[A-Za-z]+$' } },
    address: { type: ['string', 'null'], maxLength: 64, pattern: '^[0-9a-fA-F.:]*$' },
    requestId: { type: ['string', 'null'], maxLength: 64, pattern: '^[A-Za-z0-9._-]+$' },
  },
  unevaluatedProperties: false,
}

export const auditRoutes = ({ db, basePath }: { db: Db; basePath: string }): Route[] => [
  route({
    method: 'GET',
    path: '/audit',
    access: 'admin',
    summary: 'Who did what to whom, newest first',
    query: { ...pageQuery, user: uuid },
    replies: {
      200: { says: 'Events', body: { type: 'array', maxItems: 1000, items: event }, headers: ['Link'] },
    },
    handle: ({ query }) => paged(`${basePath}/audit`, query, (page) => listEvents(db, page)),
  }),
]
