// Token buckets, one for each client, each kept as one number: when it will be full. So it refills
// continuously, and a steady client gets exactly its rate. A full bucket carries no information, so
// a clock hand sweeps the map and drops full ones. Above `maxClients` it drops any, which gives
// that client a full bucket again but bounds the memory whatever number of addresses calls.

/** Who may go on, by client. */
export type Limiter = ReturnType<typeof createLimiter>

interface Limits {
  /** Tokens a second: of the API, the setting RATE_LIMIT. */
  rate: number
  /** Tokens of a full bucket: RATE_LIMIT_BURST. */
  burst: number
  maxClients?: number
  /** Milliseconds that never go back. */
  now?: () => number
}

/** Makes a limiter whose buckets are all full. */
export function createLimiter({
  rate,
  burst,
  maxClients = 100_000,
  now = () => performance.now(),
}: Limits) {
  const fullAt = new Map<string, number>()
  let hand = fullAt.entries()

  /** Looks at two buckets: a call adds at most one, so the hand keeps up, and no call is long. */
  function sweep(time: number) {
    for (let i = 0; i < 2; i++) {
      const { value, done } = hand.next()
      if (done) hand = fullAt.entries()
      else if (value[1] <= time || fullAt.size > maxClients) fullAt.delete(value[0])
    }
  }

  return {
    /** How many clients are remembered. */
    size: () => fullAt.size,
    /** Takes one token of the client's bucket, if it has one. */
    take(client: string) {
      const time = now()
      const full = Math.max(fullAt.get(client) ?? 0, time)
      const missing = ((full - time) * rate) / 1000
      // Rounded: an error in the last digit of a time must cost nobody a whole token.
      const tokens = Math.round((burst - missing) * 1e6) / 1e6
      const allowed = tokens >= 1
      const left = allowed ? tokens - 1 : tokens
      fullAt.set(client, allowed ? full + 1000 / rate : full)
      sweep(time)
      return {
        allowed,
        /** Whole tokens that are left. */
        left: Math.floor(left),
        /** Until the bucket is full. */
        resetSeconds: Math.ceil((burst - left) / rate),
        /** Until it has a token; 0 if one was taken. */
        retryAfterSeconds: allowed ? 0 : Math.ceil((1 - left) / rate),
      }
    },
  }
}
