// Token buckets, one for each client. A bucket refills continuously by the time that has passed,
// clock and tokens always moved together, so that steady clients get exactly their rate. A full
// bucket is the same as none and is forgotten. At most `maxClients` are kept; the one used longest
// ago makes place, which lets that client have a full bucket again, but bounds the memory whatever
// number of addresses calls.

export interface Verdict {
  allowed: boolean
  left: number
  /** Seconds until the bucket is full again. */
  resetSeconds: number
  /** Seconds until the next request is allowed; 0 when one is. */
  retryAfterSeconds: number
}

export interface Limiter {
  /** Takes one token of the client's bucket, if there is one. */
  take(client: string): Verdict
  size(): number
}

/** `rate` tokens a second up to `burst`; `now` in milliseconds, never going back. */
export function createLimiter(
  rate: number, burst: number, maxClients = 100_000, now: () => number = () => performance.now(),
): Limiter {
  // In the order of use: the first was used longest ago.
  const buckets = new Map<string, { tokens: number; at: number }>()
  const fullAfterMs = (burst / rate) * 1000

  function forget(time: number) {
    let checks = 2
    for (const [client, { at }] of buckets) {
      if (time - at < fullAfterMs && buckets.size <= maxClients) return
      buckets.delete(client)
      if (--checks === 0) return
    }
  }

  return {
    take(client) {
      const time = now()
      const bucket = buckets.get(client) ?? { tokens: burst, at: time }
      bucket.tokens = Math.min(burst, bucket.tokens + ((time - bucket.at) * rate) / 1000)
      bucket.at = time
      const allowed = bucket.tokens >= 1
      if (allowed) bucket.tokens--
      buckets.delete(client)
      buckets.set(client, bucket)
      forget(time)
      return {
        allowed,
        left: Math.floor(bucket.tokens),
        resetSeconds: Math.ceil((burst - bucket.tokens) / rate),
        retryAfterSeconds: allowed ? 0 : Math.max(1, Math.ceil((1 - bucket.tokens) / rate)),
      }
    },
    size: () => buckets.size,
  }
}
