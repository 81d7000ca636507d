import type { Db } from '../database/pool.ts'
import type { Origin } from '../http/route.ts'

/** `actor`: whose key acted, null for nobody's; `changes`: names, never values; `origin`: null for a command. */
export interface NewEvent {
  action:
    | 'user.created'
    | 'user.changed'
    | 'user.deleted'
    | 'key.created'
    | 'key.changed'
    | 'key.rotated'
    | 'key.deleted'
    | 'session.started'
    | 'session.failed'
    | 'session.ended'
    | 'sessions.ended'
  actor: string | null
  subject: string | null
  keyId?: string | undefined
  changes?: string[] | undefined
  origin: Pick<Origin, 'address' | 'requestId'> | null
}

/** Writes one event; call it in the transaction of what it tells. */
export const insertEvent = (
  tx: Db,
  { action, actor, subject, keyId, changes = [], origin }: NewEvent,
) =>
  tx.query(
    `insert into audit_events (action, actor, subject, key_id, changes, address, request_id)
   values ($1, $2::uuid, $3::uuid, $4::uuid, $5::text[], $6, $7)`,
    [action, actor, subject, keyId, changes, origin?.address, origin?.requestId],
  )

const columns =
  'id, at, action, actor, subject, key_id as "keyId", changes, address, request_id as "requestId"'

/** Events, newest first, those before the event `after`; of one user as actor or subject. */
export function listEvents(
  db: Db,
  page: { user?: string; after?: string; limit: number },
): Promise<{ id: string }[]> {
  const { user, after = 'ffffffff-ffff-ffff-ffff-ffffffffffff', limit } = page
  const part = (where: string) =>
    `(select ${columns} from audit_events where ${where} id < $1::uuid order by id desc limit $2::int)`
  if (user === undefined) return db.query(part(''), [after, limit])
  return db.query(
    `${part('subject = $3::uuid and')} union ${part('actor = $3::uuid and')} order by id desc limit $2::int`,
    [after, limit, user],
  )
}
