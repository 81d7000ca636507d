// Sends what is in the outbox, beside the requests and never in their way. Each row is leased for
// twenty seconds, so that another instance sends it if this one dies.
import { setTimeout as sleep } from 'node:timers/promises'

import type { Webhook } from '../config.ts'
import { explain } from '../database/explain.ts'
import type { Database } from '../database/pool.ts'
import type { Log } from '../log.ts'
import { insertToken } from '../tokens/queries.ts'
import { post } from './post.ts'
import { deleteRow, lockAsked, readOutbox, settle, takeDue, type Taken } from './queries.ts'

/** What sends. */
export interface Sender {
  /** The database, whose transactions are followed by a look: they may have written events. */
  db: Database
  /** What is in the outbox, and what came of this process's attempts, by the names of metrics. */
  measure(): Promise<Record<string, number>>
  /** Resolves when nothing is under way, or after 3 s: the rest is sent again. */
  stop(): Promise<void>
}

interface SenderDeps {
  db: Database
  log: Log
  webhook: Webhook
  resetSeconds: number
  verificationSeconds: number
}

const maxInFlight = 8

/** Starts to send. */
export function startSender(deps: SenderDeps): Sender {
  const { db, webhook, log } = deps
  const inFlight = new Set<Promise<void>>()
  const counts = { webhook_delivered_total: 0, webhook_failed_total: 0 }
  let isStopping = false
  let looking = Promise.resolve()
  let willLook = false
  let isBlind = false
  const place = { lane: 'g' }

  /** Looks whether something is to be sent, after a look that is under way. */
  function wake() {
    if (willLook || isStopping) return
    willLook = true
    looking = looking.then(look)
  }

  async function look() {
    willLook = false
    try {
      for (const taken of await takeDue(db, maxInFlight - inFlight.size, place)) {
        const sending = send(taken).finally(() => {
          inFlight.delete(sending)
          wake()
        })
        inFlight.add(sending)
      }
      isBlind = false
    } catch (error) {
      // Once at level warn: looks are many.
      log(isBlind ? 'debug' : 'warn', 'webhook stands still', { reason: explain(error) })
      isBlind = true
    }
  }

  async function send(taken: Taken) {
    const { id, action: type, tries } = taken
    try {
      const token = taken.address === null ? {} : await makeToken(deps, taken)
      if (token === null) return
      const data = { ...taken.data, ...token, user: taken.user }
      const failure = await post(webhook, taken, { type, timestamp: taken.created_at, data })
      counts[failure === null ? 'webhook_delivered_total' : 'webhook_failed_total']++
      if (failure !== null) log('warn', 'webhook refused', { id, type, tries, ...failure })
      await settle(db, taken, failure)
    } catch (error) {
      // Its lease ends, and it is sent again.
      log('warn', 'webhook lost', { id, type, tries, reason: explain(error) })
    }
  }

  const polling = setInterval(wake, 1000)
  return {
    db: {
      ...db,
      async transaction(work) {
        const result = await db.transaction(work)
        wake()
        return result
      },
    },
    measure: async () => ({ ...counts, ...(await readOutbox(db)) }),
    async stop() {
      isStopping = true
      clearInterval(polling)
      await looking
      await Promise.race([Promise.all(inFlight), sleep(3000)])
    },
  }
}

/**
 * The token that was asked for, which nobody else has, with whose it is and where it goes. Null:
 * nobody is to get one, and the request is removed.
 */
const makeToken = (deps: SenderDeps, taken: Taken) =>
  deps.db.transaction(async (tx) => {
    const holder = await lockAsked(tx, taken.id)
    if (holder === null) {
      await deleteRow(tx, taken)
      return null
    }
    const isReset = taken.action === 'password.reset_requested'
    const made = await insertToken(tx, {
      userId: holder.subject,
      email: holder.email,
      purpose: isReset ? 'password-reset' : 'email',
      seconds: isReset ? deps.resetSeconds : deps.verificationSeconds,
    })
    return { ...holder, ...made }
  })
