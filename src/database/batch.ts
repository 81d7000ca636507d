import { AppError } from '../errors.ts'

type Limits = { statements: number; items: number; waiting: number }

/**
 * Answers each item by a call that starts after it was asked for, shared with others that wait; at most
 * `statements` calls at once, of so many `items`. Throws `overloaded` when too many are `waiting`.
 */
export function createBatch<Item, Answer>(
  limits: Limits,
  run: (items: Item[]) => Promise<(Answer | undefined)[]>,
) {
  const waiting: {
    item: Item
    resolve(answer: Answer | undefined): void
    reject(error: unknown): void
  }[] = []
  let running = 0
  let scheduled = false

  function schedule() {
    if (scheduled || running >= limits.statements || waiting.length === 0) return
    scheduled = true
    // After what else has arrived by now.
    setImmediate(next)
  }

  async function next() {
    scheduled = false
    running++
    const batch = waiting.splice(0, limits.items)
    schedule()
    try {
      const answers = await run(batch.map(({ item }) => item))
      batch.forEach(({ resolve }, index) => resolve(answers[index]))
    } catch (error) {
      for (const { reject } of batch) reject(error)
    }
    running--
    schedule()
  }

  return (item: Item) =>
    new Promise<Answer | undefined>((resolve, reject) => {
      if (waiting.length >= limits.waiting)
        return reject(new AppError('overloaded', { retryAfterSeconds: 1 }))
      waiting.push({ item, resolve, reject })
      schedule()
    })
}
