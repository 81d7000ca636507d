import { insertEvent, type NewEvent } from '../audit/queries.ts'
import { one, type Database, type Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import type { Caller, Origin, Reply } from '../http/route.ts'

/** Throws `key_invalid` or `forbidden` when the caller, whose body may have taken 15 s, may not act any more. */
export async function requireStill(tx: Db, { keyId, role: had }: Caller): Promise<void> {
  const { role } = await one<Caller>(
    tx,
    `select role from users join api_keys on user_id = users.id where api_keys.id = $1::uuid and users.enabled
       and api_keys.enabled and (valid_until is null or valid_until > clock_timestamp())`,
    [keyId],
    'key_invalid',
  )
  if (had === 'admin' && role !== had) throw new AppError('forbidden')
}

type Acting = { caller: Caller; origin: Origin; params: { id: string; keyId?: string } }

/** Does `work` and writes its event, unless `changes` is empty, in one transaction; answers with its key, if any. */
export const audited = (
  db: Database,
  action: NewEvent['action'],
  status: number,
  { caller, origin, params: { id: subject, keyId } }: Acting,
  work: (tx: Db) => Promise<{ id: string } | void>,
  changes?: string[],
): Promise<Reply> =>
  db.transaction(async (tx) => {
    await requireStill(tx, caller)
    const body = await work(tx)
    const event = {
      action,
      actor: caller.userId,
      subject,
      keyId: keyId ?? body?.id,
      changes,
      origin,
    }
    if (changes?.length !== 0) await insertEvent(tx, event)
    return { status, body }
  })
