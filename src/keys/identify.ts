// Looks up the key of every request in the database. Nothing about a key is ever remembered, so a
// change of a key or user, made here, elsewhere or by hand in SQL, holds for every later request.
// To make that cheap, keys that arrive while a statement runs are looked up together by the next.
import type { IncomingHttpHeaders } from 'node:http'

import { createBatch } from '../database/batch.ts'
import type { Database } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import type { Caller } from '../http/route.ts'
import { isUuid } from '../schema.ts'
import { digestKey, isSecret } from './format.ts'
import { findCallers, markUsed } from './queries.ts'

/**
 * Small batches keep PostgreSQL and the service busy at the same time; 64 gave a sixth less
 * throughput.
 */
export const maxKeysPerStatement = 16
const finding = { statements: 4, items: maxKeysPerStatement, waiting: 5000 }
const marking = { statements: 1, items: 1000, waiting: 5000 }

/**
 * Looks up keys in `db`. A session that was not used for `idleSeconds` has ended; 0: no such limit.
 * With `takesUuids` a key may be a UUID, as those of the Go service are.
 */
export function createIdentify(db: Database, idleSeconds: number, takesUuids: boolean) {
  const mark = createBatch(marking, async (keyIds: string[]) => {
    await markUsed(db, keyIds)
    return []
  })
  const find = createBatch(finding, async (digests: Buffer[]) => {
    const callers: (Caller | undefined)[] = []
    for (const caller of await findCallers(db, digests, idleSeconds)) {
      callers[caller.asked] = narrowed(caller)
      // A use that cannot be noted is still allowed; the next one will be noted.
      if (caller.isUnmarked) mark(caller.keyId, caller.userId).catch(() => {})
    }
    return callers
  })

  /**
   * Returns who presents a key; throws `key_missing`, `key_invalid`, `overloaded` or
   * `database_unavailable`. Clients take turns, so `client` names the one that asks.
   */
  return async (headers: IncomingHttpHeaders, client: string) => {
    const key = readKey(headers)
    const isOfGo = takesUuids && isUuid(key)
    if (!isOfGo && !isSecret(key, 'usk')) throw new AppError('key_invalid')
    const caller = await find(digestKey(isOfGo ? key.toLowerCase() : key), client)
    if (caller === undefined) throw new AppError('key_invalid')
    return caller
  }
}

/** A key with a list of its own acts as a `user`, with what is both in the list and its user's. */
function narrowed(caller: Caller): Caller {
  const { keyPermissions } = caller
  if (keyPermissions === null) return caller
  const permissions = caller.permissions.filter((name) => keyPermissions.includes(name))
  return { ...caller, role: 'user', isAdmins: caller.role === 'admin', permissions }
}

function readKey({ 'x-api-key': direct, authorization }: IncomingHttpHeaders) {
  const bearer = /^Bearer\s+(.+)$/i.exec(authorization ?? '')?.[1]
  const key = (direct as string | undefined)?.trim() || bearer
  if (key === undefined) throw new AppError('key_missing')
  if (bearer !== undefined && bearer !== key) throw new AppError('key_invalid')
  return key
}
