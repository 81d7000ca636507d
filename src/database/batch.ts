// Collects what many requests ask for at the same time into one statement: under load that takes
// most of the work off PostgreSQL, and a single request waits for nobody.
import { AppError } from '../errors.ts'
import { createQueue } from '../queue.ts'

interface Limits {
  /** How many statements run at once. */
  statements: number
  /** How many items one statement answers. */
  items: number
  /** How many items may wait for a statement. */
  waiting: number
}

interface Waiting<Item, Answer> {
  item: Item
  resolve(answer: Answer | undefined): void
  reject(error: unknown): void
}

/**
 * Answers items by calls of `run`, each with all the items that wait when it starts. Throws
 * `overloaded` when too many wait, or what `run` throws.
 */
export function createBatch<Item, Answer>(
  limits: Limits,
  run: (items: Item[]) => Promise<(Answer | undefined)[]>,
) {
  const queue = createQueue<Waiting<Item, Answer>>()
  let running = 0
  let scheduled = false

  function schedule() {
    if (scheduled || running >= limits.statements || queue.length() === 0) return
    scheduled = true
    // Not at once, so that other requests of this turn of the event loop join the statement.
    setImmediate(startNext)
  }

  async function startNext() {
    scheduled = false
    running++
    const batch: Waiting<Item, Answer>[] = []
    while (batch.length < limits.items && queue.length() > 0) batch.push(queue.take()!)
    schedule()
    const start = performance.now()
    try {
      const answers = await run(batch.map(({ item }) => item))
      for (const [index, { resolve }] of batch.entries()) resolve(answers[index])
    } catch (error) {
      // Those that wait have no time left to fail like this once more.
      const isSlow = performance.now() - start > 1000
      while (isSlow && queue.length() > 0) batch.push(queue.take()!)
      for (const { reject } of batch) reject(error)
    }
    running--
    // At once, unless the place that is free is that of one that starts at the next turn.
    if (!scheduled && queue.length() > 0) void startNext()
  }

  /** Answers one item for a client. */
  return (item: Item, client: string) =>
    new Promise<Answer | undefined>((resolve, reject) => {
      queue.add(client, { item, resolve, reject })
      if (queue.length() > limits.waiting) {
        const refused = queue.dropNewest(client)
        refused.reject(new AppError('overloaded', { retryAfterSeconds: 1 }))
      }
      schedule()
    })
}
