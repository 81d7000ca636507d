const levels = { error: 0, warn: 1, info: 2, debug: 3 } as const

type Level = keyof typeof levels
export type Log = ReturnType<typeof createLog>

/**
 * Returns a log that writes one JSON line per record up to `level` through `write`, all those of one turn of the event
 * loop together: a write for each would cost a fifth of the throughput. `flush` writes what is still buffered, at once.
 * Callers name what they log; nothing is logged whole.
 */
export function createLog(level: Level, write: (text: string) => void) {
  let buffered = ''
  let time = ''
  const flush = () => {
    const text = buffered
    buffered = ''
    if (text !== '') write(text)
  }
  const log = (at: Level, message: string, fields?: Record<string, unknown>) => {
    if (levels[at] > levels[level]) return
    if (buffered === '') {
      setImmediate(flush)
      time = new Date().toISOString() // of the turn: to make one for each line would cost a fifth of it
    }
    buffered += JSON.stringify({ time, level: at, message, ...fields }) + '\n'
  }
  return Object.assign(log, { flush })
}

/** What a log says of something thrown: its stack and code, never a statement's parameters. */
export function describeError(error: unknown) {
  if (!(error instanceof Error)) return { error: typeof error }
  const { code } = error as { code?: unknown }
  return { error: error.stack, ...(typeof code === 'string' && { code }) }
}
