// Log lines about refused requests. Anybody can cause thousands of them a second at no cost, which
// must not drown the rest of the log: each client gets a few lines a second, and what is omitted is
// summed up once a second. Metrics count every refusal.
import type { Log } from '../log.ts'
import { createLimiter } from './token-bucket.ts'

/** Logs a refusal of a client, or counts it. */
export type RefusalLog = (client: string, message: string, fields: Record<string, unknown>) => void

/** Returns a log of which no client has used any line yet. */
export function createRefusalLog(log: Log): RefusalLog {
  const limiter = createLimiter({ rate: 5, burst: 20 })
  const omitted = new Map<string, number>()

  function sumUp() {
    const counts = [...omitted].sort((a, b) => b[1] - a[1])
    omitted.clear()
    const count = counts.reduce((sum, [, each]) => sum + each, 0)
    const most = counts.slice(0, 10).map((each) => each.join(' '))
    log('info', 'refusals not logged', { count, clients: counts.length, most })
  }

  return (client, message, fields) => {
    if (limiter.take(client).allowed) {
      // What has a reason is not the client's fault.
      log('reason' in fields ? 'warn' : 'info', message, fields)
      return
    }
    if (omitted.size === 0) setTimeout(sumUp, 1000).unref()
    omitted.set(client, (omitted.get(client) ?? 0) + 1)
  }
}
