// Token buckets, one for each client, each kept as one number: when it will be full. So it refills continuously, and a
// steady client gets exactly its rate. A full bucket is the same as none: a hand goes round and forgets it. While there
// are more than `maxClients`, the hand forgets any, which lets that client have a full bucket again, but bounds the
// memory whatever number of addresses calls.

export type Limiter = ReturnType<typeof createLimiter>

/** `rate` tokens a second up to `burst`; `now` in milliseconds, never going back. */
export function createLimiter(
  rate: number,
  burst: number,
  maxClients = 100_000,
  now = () => performance.now(),
) {
  const fullAt = new Map<string, number>()
  let hand = fullAt.entries()

  return {
    size: () => fullAt.size,
    /** Takes one token of the client's bucket, if there is one. `reset` is when it is full, `retry` when it has one. */
    take(client: string) {
      const time = now()
      const full = Math.max(fullAt.get(client) ?? 0, time)
      // Rounded, so that fractions of a time cost nobody a whole token.
      const tokens = Math.round((burst - ((full - time) * rate) / 1000) * 1e6) / 1e6
      const allowed = tokens >= 1
      const left = allowed ? tokens - 1 : tokens
      fullAt.set(client, allowed ? full + 1000 / rate : full)
      // Two a call: more than a call adds, and no pause.
      for (let i = 0; i < 2; i++) {
        const { value, done } = hand.next()
        if (done) hand = fullAt.entries()
        else if (value[1] <= time || fullAt.size > maxClients) fullAt.delete(value[0])
      }
      return {
        allowed,
        left: Math.floor(left),
        resetSeconds: Math.ceil((burst - left) / rate),
        retryAfterSeconds: allowed ? 0 : Math.max(1, Math.ceil((1 - left) / rate)),
      }
    },
  }
}
