// Finds whose a presented key is, for every request, in the database: nothing about a key is ever
// remembered, so a key or user that was revoked, changed or deleted, here, elsewhere or by hand in
// SQL, is so for every request that comes afterwards. What makes that cheap: keys that arrive while
// a statement is under way are asked for together by the next one.
import type { IncomingHttpHeaders } from 'node:http'

import type { Database } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import type { Caller } from '../http/route.ts'
import { findCallers, markUsed } from '../keys/queries.ts'
import { digestKey, isKey } from '../secrets.ts'

const maxStatements = 2
/** With more, a small table would be scanned instead: 20 ms instead of 1 at 20,000 keys. */
export const maxKeysPerStatement = 64
const maxWaiting = 5000

/** Returns who presents a key; throws `key_missing`, `key_invalid`, `overloaded` or `database_unavailable`. */
export function createIdentify(db: Database): (headers: IncomingHttpHeaders) => Promise<Caller> {
  const used = createMarker(db)
  const find = createBatch(async (digests: Buffer[]) => {
    const callers: (Caller | undefined)[] = []
    for (const { asked, unmarked, ...caller } of await findCallers(db, digests)) {
      callers[asked] = caller
      if (unmarked) used(caller.keyId)
    }
    return callers
  })

  return async (headers) => {
    const key = readKey(headers)
    if (!isKey(key)) throw new AppError('key_invalid')
    const caller = await find(digestKey(key))
    if (caller === undefined) throw new AppError('key_invalid')
    return caller
  }
}

function readKey({ 'x-api-key': direct, authorization }: IncomingHttpHeaders): string {
  const bearer = /^Bearer\s+(.+)$/i.exec(authorization ?? '')?.[1]
  const key = (direct as string | undefined)?.trim() || bearer
  if (key === undefined) throw new AppError('key_missing')
  if (bearer !== undefined && bearer !== key) throw new AppError('key_invalid')
  return key
}

/** Answers each item by a call that started after it was asked for, shared with others like it. */
function createBatch<Item, Answer>(
  run: (items: Item[]) => Promise<(Answer | undefined)[]>,
): (item: Item) => Promise<Answer | undefined> {
  interface Waiting { item: Item; resolve(answer: Answer | undefined): void; reject(error: unknown): void }
  let waiting: Waiting[] = []
  let running = 0
  let scheduled = false

  async function next() {
    scheduled = false
    if (running >= maxStatements || waiting.length === 0) return
    const batch = waiting.splice(0, maxKeysPerStatement)
    running++
    try {
      const answers = await run(batch.map(({ item }) => item))
      batch.forEach(({ resolve }, index) => resolve(answers[index]))
    } catch (error) {
      for (const { reject } of batch) reject(error)
    }
    running--
    void next()
  }

  return (item) =>
    new Promise((resolve, reject) => {
      if (waiting.length >= maxWaiting) return reject(new AppError('overloaded', { retryAfterSeconds: 1 }))
      waiting.push({ item, resolve, reject })
      if (scheduled || running >= maxStatements) return
      scheduled = true
      // After what else has arrived by now.
      setImmediate(next)
    })
}

/** Notes the use of keys without holding up a request: one statement at a time, for all meanwhile. */
function createMarker(db: Database): (keyId: string) => void {
  let pending = new Set<string>()
  let running = false

  async function run() {
    while (pending.size > 0) {
      const keyIds = [...pending]
      pending = new Set()
      // A use that cannot be noted is no reason to refuse it, and is noted within a minute.
      await markUsed(db, keyIds).catch(() => {})
    }
    running = false
  }

  return (keyId) => {
    pending.add(keyId)
    if (running) return
    running = true
    void run()
  }
}
