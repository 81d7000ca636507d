// Collects what many requests ask for at the same time into one statement: under load that takes
// most of the work off PostgreSQL, and a single request waits for nobody.
import { AppError } from '../errors.ts'

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
 * Answers each item by a call of `run` that starts after the item came, shared with others that
 * wait. Throws `overloaded` when too many wait, or what `run` throws.
 */
export function createBatch<Item, Answer>(
  limits: Limits,
  run: (items: Item[]) => Promise<(Answer | undefined)[]>,
): (item: Item) => Promise<Answer | undefined> {
  const waiting: Waiting<Item, Answer>[] = []
  let running = 0
  let scheduled = false

  function schedule() {
    if (scheduled || running >= limits.statements || waiting.length === 0) return
    scheduled = true
    // Not at once: other requests of this turn of the event loop join the statement.
    setImmediate(startNext)
  }

  async function startNext() {
    scheduled = false
    running++
    const batch = waiting.splice(0, limits.items)
    schedule()
    await answer(batch)
    running--
    schedule()
  }

  async function answer(batch: Waiting<Item, Answer>[]) {
    try {
      const answers = await run(batch.map(({ item }) => item))
      for (const [index, { resolve }] of batch.entries()) resolve(answers[index])
    } catch (error) {
      for (const { reject } of batch) reject(error)
    }
  }

  return (item) =>
    new Promise((resolve, reject) => {
      if (waiting.length >= limits.waiting) {
        reject(new AppError('overloaded', { retryAfterSeconds: 1 }))
        return
      }
      waiting.push({ item, resolve, reject })
      schedule()
    })
}
