import { one, type Database, type Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import type { Caller, Origin, Reply } from '../http/route.ts'

/** `actor`: whose key acted, null for nobody's; `changes`: names, never values; `origin`: null for a command. */
export interface NewEvent {
  action: 'user.created' | 'user.changed' | 'user.deleted' | 'key.created' | 'key.changed' | 'key.rotated'
    | 'key.deleted' | 'session.started' | 'session.failed' | 'session.ended' | 'sessions.ended'
  actor: string | null
  subject: string | null
  keyId?: string | undefined
  changes?: string[] | undefined
  origin: Pick<Origin, 'address' | 'requestId'> | null
}

/** Writes one event; call it in the transaction of what it tells. */
export const insertEvent = (tx: Db, { action, actor, subject, keyId, changes = [], origin }: NewEvent) => tx.query(
  `insert into audit_events (action, actor, subject, key_id, changes, address, request_id)
   values ($1, $2::uuid, $3::uuid, $4::uuid, $5::text[], $6, $7)`,
  [action, actor, subject, keyId, changes, origin?.address, origin?.requestId])

/** Throws `key_invalid` or `forbidden` when the caller, whose body may have taken 15 s, may not act any more. */
export async function requireStill(tx: Db, { keyId, role: had }: Caller): Promise<void> {
  const { role } = await one<Caller>(tx,
    `select role from users join api_keys on user_id = users.id where api_keys.id = $1::uuid and users.enabled
       and api_keys.enabled and (valid_until is null or valid_until > clock_timestamp())`, [keyId], 'key_invalid')
  if (had === 'admin' && role !== had) throw new AppError('forbidden')
}

type Acting = { caller: Caller; origin: Origin; params: { id: string; keyId?: string } }

/** Does `work` and writes its event, unless `changes` is empty, in one transaction; answers with its key, if any. */
export const audited = (
  db: Database, action: NewEvent['action'], status: number, { caller, origin, params: { id: subject, keyId } }: Acting,
  work: (tx: Db) => Promise<{ id: string } | void>, changes?: string[],
): Promise<Reply> => db.transaction(async (tx) => {
  await requireStill(tx, caller)
  const body = await work(tx)
  const event = { action, actor: caller.userId, subject, keyId: keyId ?? body?.id, changes, origin }
  if (changes?.length !== 0) await insertEvent(tx, event)
  return { status, body }
})

const columns = 'id, at, action, actor, subject, key_id as "keyId", changes, address, request_id as "requestId"'

/** Events, newest first, those before the event `after`; of one user as actor or subject. */
export function listEvents(db: Db, page: { user?: string; after?: string; limit: number }): Promise<{ id: string }[]> {
  const { user, after = 'ffffffff-ffff-ffff-ffff-ffffffffffff', limit } = page
  const part = (where: string) =>
    `(select ${columns} from audit_events where ${where} id < $1::uuid order by id desc limit $2::int)`
  if (user === undefined) return db.query(part(''), [after, limit])
  return db.query(
    `${part('subject = $3::uuid and')} union ${part('actor = $3::uuid and')} order by id desc limit $2::int`,
    [after, limit, user])
}
