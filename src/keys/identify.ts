// Finds whose a presented key is, for every request, in the database: nothing about a key is ever
// remembered, so a key or user that was revoked, changed or deleted, here, elsewhere or by hand in
// SQL, is so for every request that comes afterwards. What makes that cheap: keys that arrive while
// a statement is under way are asked for together by the next one.
import type { IncomingHttpHeaders } from 'node:http'

import { createBatch } from '../database/batch.ts'
import type { Database } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import type { Caller } from '../http/route.ts'
import { digestKey, isKey } from './format.ts'
import { findCallers, markUsed } from './queries.ts'

/**
 * Small batches keep PostgreSQL and the service busy at the same time; 64 gave a sixth less
 * throughput.
 */
export const maxKeysPerStatement = 16
const finding = { statements: 4, items: maxKeysPerStatement, waiting: 5000 }
const marking = { statements: 1, items: 1000, waiting: 5000 }

/**
 * Returns who presents a key; throws `key_missing`, `key_invalid`, `overloaded` or
 * `database_unavailable`. `client` is whose turn the look-up takes.
 */
export type Identify = (headers: IncomingHttpHeaders, client: string) => Promise<Caller>

/**
 * Identifies by `db`; a session that was not used for `idleSeconds` has ended, 0: no such limit.
 */
export function createIdentify(db: Database, idleSeconds: number): Identify {
  const mark = createBatch(marking, async (keyIds: string[]) => {
    await markUsed(db, keyIds)
    return []
  })
  const find = createBatch(finding, async (digests: Buffer[]) => {
    const callers: (Caller | undefined)[] = []
    for (const caller of await findCallers(db, digests, idleSeconds)) {
      callers[caller.asked] = narrowed(caller)
      // A use that cannot be noted is no reason to refuse it, and the next one is noted.
      if (caller.isUnmarked) mark(caller.keyId, caller.userId).catch(() => {})
    }
    return callers
  })

  return async (headers, client) => {
    const key = readKey(headers)
    if (!isKey(key)) throw new AppError('key_invalid')
    const caller = await find(digestKey(key), client)
    if (caller === undefined) throw new AppError('key_invalid')
    return caller
  }
}

/** A key with a list of its own: a mere user's, with those of the permissions its user has. */
function narrowed(caller: Caller): Caller {
  const { keyPermissions } = caller
  if (keyPermissions === null) return caller
  const permissions = caller.permissions.filter((name) => keyPermissions.includes(name))
  return { ...caller, role: 'user', permissions }
}

function readKey({ 'x-api-key': direct, authorization }: IncomingHttpHeaders): string {
  const bearer = /^Bearer\s+(.+)$/i.exec(authorization ?? '')?.[1]
  const key = (direct as string | undefined)?.trim() || bearer
  if (key === undefined) throw new AppError('key_missing')
  if (bearer !== undefined && bearer !== key) throw new AppError('key_invalid')
  return key
}
