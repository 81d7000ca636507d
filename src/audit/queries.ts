import type { Db } from '../database/pool.ts'

export type Action =
  | 'user.created' | 'user.changed' | 'user.deleted'
  | 'key.created' | 'key.changed' | 'key.rotated' | 'key.deleted'
  | 'session.started' | 'session.failed' | 'session.ended' | 'sessions.ended'

export interface NewEvent {
  action: Action
  /** The user whose key acted; null: nobody's, or a command of the operator. */
  actor: string | null
  subject: string | null
  keyId?: string | null
  /** Names of what was changed, never values. */
  changes?: string[]
  /** Where the request came from; null: a command. */
  origin: { address: string; requestId: string } | null
}

export interface AuditEvent {
  id: string
  at: Date
  action: Action
  actor: string | null
  subject: string | null
  keyId: string | null
  changes: string[]
  address: string | null
  requestId: string | null
}

/** Writes one event; call it in the transaction of what it tells. */
export async function insertEvent(tx: Db, event: NewEvent): Promise<void> {
  const { action, actor, subject, keyId = null, changes = [], origin } = event
  await tx.query(
    `insert into audit_events (action, actor, subject, key_id, changes, address, request_id)
     values ($1, $2::uuid, $3::uuid, $4::uuid, $5::text[], $6, $7)`,
    [action, actor, subject, keyId, changes, origin?.address ?? null, origin?.requestId ?? null],
  )
}

const columns = `id, at, action, actor, subject, key_id as "keyId", changes, address,
  request_id as "requestId"`
const last = 'ffffffff-ffff-ffff-ffff-ffffffffffff'

/** Events, newest first, those before the event `after`; of one user as actor or subject. */
export function listEvents(
  db: Db, { user, after = last, limit }: { user?: string; after?: string; limit: number },
): Promise<AuditEvent[]> {
  if (user === undefined) {
    return db.query(
      `select ${columns} from audit_events where id < $1::uuid order by id desc limit $2::int`,
      [after, limit],
    )
  }
  const part = (column: string) => `(select ${columns} from audit_events
    where ${column} = $3::uuid and id < $1::uuid order by id desc limit $2::int)`
  return db.query(
    `${part('subject')} union ${part('actor')} order by id desc limit $2::int`,
    [after, limit, user],
  )
}
