// Collects what many requests ask for at the same time into one statement: under load that takes
// most of the work off PostgreSQL, and a single request waits for nobody.
//
// The queue is bounded and fair: clients take turns, item by item. When it is full, the client with
// the most items loses its newest one, so that no client can keep another out.
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

/** Answers one item for a client. */
export type Batch<Item, Answer> = (item: Item, client: string) => Promise<Answer | undefined>

/**
 * Answers items by calls of `run`, each with all the items that wait when it starts. Throws
 * `overloaded` when too many wait, or what `run` throws.
 */
export function createBatch<Item, Answer>(
  limits: Limits,
  run: (items: Item[]) => Promise<(Answer | undefined)[]>,
): Batch<Item, Answer> {
  const queue = createQueue<Waiting<Item, Answer>>()
  let running = 0
  let scheduled = false

  function schedule() {
    if (scheduled || running >= limits.statements || queue.size() === 0) return
    scheduled = true
    // Not at once, so that other requests of this turn of the event loop join the statement.
    setImmediate(startNext)
  }

  async function startNext() {
    scheduled = false
    running++
    const batch = queue.take(limits.items)
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

  return (item, client) =>
    new Promise((resolve, reject) => {
      queue.add(client, { item, resolve, reject })
      if (queue.size() > limits.waiting) {
        const refused = queue.dropNewest()
        refused.reject(new AppError('overloaded', { retryAfterSeconds: 1 }))
      }
      schedule()
    })
}

/** What waits, by client; the clients are in the order of their turns. */
function createQueue<T>() {
  const byClient = new Map<string, T[]>()
  let size = 0

  return {
    size: () => size,
    add(client: string, item: T) {
      const items = byClient.get(client)
      if (items === undefined) byClient.set(client, [item])
      else items.push(item)
      size++
    },
    /** Removes and returns the next `count`, one of each client in turn. */
    take(count: number): T[] {
      const taken: T[] = []
      for (const [client, items] of byClient) {
        if (taken.length === count) break
        taken.push(items.shift()!)
        // Moves the client behind the others, where this loop reaches it again.
        byClient.delete(client)
        if (items.length > 0) byClient.set(client, items)
      }
      size -= taken.length
      return taken
    },
    /** Removes and returns the newest item of the client that has the most. */
    dropNewest(): T {
      let client = ''
      let most: T[] = []
      for (const [each, items] of byClient) {
        if (items.length < most.length) continue
        client = each
        most = items
      }
      if (most.length === 1) byClient.delete(client)
      size--
      return most.pop()!
    },
  }
}
