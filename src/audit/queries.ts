import type { Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import type { Action } from '../events.ts'
import type { Origin } from '../http/route.ts'

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
  /** What the webhook alone is told besides. */
  told?: Record<string, string> | undefined
  /** The folded address to which the webhook sends a token. */
  recipient?: string | undefined
  /** Null for a command. */
  origin: Pick<Origin, 'address' | 'requestId'> | null
}

/**
 * Writes one event, into the outbox too if the webhook is told of it; call it in the transaction of
 * the change. Throws `overloaded` if it is one more than 10,000 requests for a token.
 */
export async function insertEvent(tx: Db, event: NewEvent) {
  const { recipient, told = {}, origin, changes = [], ...rest } = event
  const written = await tx.query(
    `with given as (
       select * from jsonb_to_record($1) as given (action text, actor uuid, subject uuid,
         "keyId" uuid, changes text[], address text, "requestId" text)),
     noted as (
       insert into audit_events (action, actor, subject, key_id, changes, address, request_id)
       select * from given where $2::text is null or actor is not null returning id)
     insert into outbox (id, action, subject, address, lane, data, give_up_at, next_at)
     select coalesce(id, uuid_v7()), action, subject, $2,
       coalesce('token: ' || action || ' ' || $2, subject::text, id::text),
       to_jsonb(given) - 'action' || $3,
       now() + case when $2 is null then interval '3 days' else interval '1 hour' end,
       -- At no time that tells, by what comes after a request, whether anything is sent for it.
       now() + case when $2 is null then interval '0' else random() * interval '2 s' end
     from given left join noted on true
     join webhook on case when $2 is null then action = any(events) else not exists (
       select from outbox where address is not null and sent_at is null offset 9999) end
     returning id`,
    [{ ...rest, changes, ...origin }, recipient, told],
  )
  // For any address alike, so that nobody learns by it whether anybody has this one.
  if (recipient !== undefined && written.length === 0) {
    throw new AppError('overloaded', { retryAfterSeconds: 60 })
  }
}

/** An event as it is stored. */
export interface StoredEvent {
  id: string
  actor: string | null
  address: string | null
}

/** Which events to list: those before the event `after`, of one user or action, newest first. */
interface EventPage {
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
  const isAction = 'action = coalesce($3, action)'
  if (user === undefined) return db.query(newest(isAction), [after, limit, action])
  return db.query(
    `${newest(`subject = $4::uuid and ${isAction}`)} union
     ${newest(`actor = $4::uuid and ${isAction}`)} order by id desc limit $2::int`,
    [after, limit, action, user],
  )
}
