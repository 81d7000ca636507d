const levels = { error: 0, warn: 1, info: 2, debug: 3 } as const

type Level = keyof typeof levels

/** Writes one JSON line per record. Callers name what they log; nothing is logged whole. */
export interface Log {
  (level: Level, message: string, fields?: Record<string, unknown>): void
  /** Writes what is still buffered, at once. */
  flush(): void
}

/**
 * Returns a log that passes records up to `level` to `write`, all those of one turn of the event
 * loop together: a write for each would cost a fifth of the throughput.
 */
export function createLog(level: Level, write: (text: string) => void): Log {
  let buffered = ''
  let time = ''

  function flush() {
    const text = buffered
    buffered = ''
    if (text !== '') write(text)
  }

  function log(at: Level, message: string, fields?: Record<string, unknown>) {
    if (levels[at] > levels[level]) return
    if (buffered === '') {
      setImmediate(flush)
      // One for the turn: formatting the time for each line would cost a fifth of a record.
      time = new Date().toISOString()
    }
    buffered += `${JSON.stringify({ time, level: at, message, ...fields })}\n`
  }

  return Object.assign(log, { flush })
}

/**
 * Describes a thrown value for the log: its stack, those of its causes, and its code; never a
 * statement's parameters.
 */
export function describeError(error: unknown): { error: string; code: unknown } {
  // Object() lets a thrown null or text be read like an Error; having no stack, it shows its type.
  const { stack = typeof error, code, cause } = Object(error)
  const causes = cause === undefined ? '' : `\nCaused by ${describeError(cause).error}`
  return { error: stack + causes, code }
}
