import type { Db } from '../database/pool.ts'
import type { Origin } from '../http/route.ts'

/** Every kind of event. */
export type Action =
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
  | 'token.created'
  | 'tokens.ended'
  | 'email.verified'

/** An event to write. */
export interface NewEvent {
  action: Action
  /** Whose key acted; null: nobody's, or a command of the operator. */
  actor: string | null
  /** The user acted upon; null: none that exists. */
  subject: string | null
  keyId?: string | undefined
  /** Names of members, never values. */
  changes?: string[] | undefined
  /** Null for a command. */
  origin: Pick<Origin, 'address' | 'requestId'> | null
}

/** Writes one event; call it in the transaction of the change. */
export const insertEvent = (tx: Db, event: NewEvent): Promise<unknown> =>
  tx.query(
    `insert into audit_events (action, actor, subject, key_id, changes, address, request_id)
     values ($1, $2::uuid, $3::uuid, $4::uuid, $5::text[], $6, $7)`,
    [
      event.action,
      event.actor,
      event.subject,
      event.keyId,
      event.changes ?? [],
      event.origin?.address,
      event.origin?.requestId,
    ],
  )

/** An event as it is stored. */
export interface StoredEvent {
  id: string
  actor: string | null
  address: string | null
}

/** Which events to list: those before the event `after`, of one user or action, newest first. */
export interface EventPage {
  /** The actor or subject. */
  user?: string
  action?: string
  after?: string
  limit: number
}

const columns =
  'id, at, action, actor, subject, key_id as "keyId", changes, address, request_id as "requestId"'
const maxUuid = 'ffffffff-ffff-ffff-ffff-ffffffffffff'

/** The events of a page. */
export function listEvents(db: Db, page: EventPage): Promise<StoredEvent[]> {
  const { user, action, after = maxUuid, limit } = page
  // For each condition there is an index in the order of the ids.
  const newest = (condition: string) =>
    `(select ${columns} from audit_events where id < $1::uuid and ${condition}
      order by id desc limit $2::int)`
  if (user !== undefined) {
    return db.query(
      `${newest('subject = $3::uuid and action = coalesce($4, action)')}
       union ${newest('actor = $3::uuid and action = coalesce($4, action)')}
       order by id desc limit $2::int`,
      [after, limit, user, action],
    )
  }
  if (action !== undefined) return db.query(newest('action = $3'), [after, limit, action])
  return db.query(newest('true'), [after, limit])
}
