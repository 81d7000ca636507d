// A queue in which clients take turns, item by item, so that no client can keep another out. It is
// bounded by whoever adds to it: when it is full, the client with the most items loses its newest.

/** Returns an empty queue. */
export function createQueue<T>() {
  /** The clients are in the order of their turns. */
  const byClient = new Map<string, T[]>()
  let length = 0

  const itemsOf = (client: string) => byClient.get(client) ?? []

  function removeAt(client: string, index: number) {
    const items = itemsOf(client)
    const [item] = items.splice(index, 1)
    if (items.length === 0) byClient.delete(client)
    length--
    return item!
  }

  return {
    length: () => length,
    countOf: (client: string) => itemsOf(client).length,
    add(client: string, item: T) {
      const items = itemsOf(client)
      items.push(item)
      byClient.set(client, items)
      length++
    },
    /** Removes and returns the next item that is ready; its client then goes behind all others. */
    take(isReady = (_item: T) => true) {
      for (const [client, items] of byClient) {
        const index = items.findIndex(isReady)
        if (index === -1) continue
        const item = removeAt(client, index)
        // Moves the client behind the others, unless that was its last item.
        if (byClient.delete(client)) byClient.set(client, items)
        return item
      }
      return undefined
    },
    /** Removes an item, if it is still there. */
    remove(client: string, item: T) {
      const index = itemsOf(client).indexOf(item)
      if (index !== -1) removeAt(client, index)
    },
    /** Removes and returns the newest item of the client with most; on a tie, the newcomer's. */
    dropNewest(newcomer: string) {
      let most = newcomer
      for (const [client, items] of byClient) {
        if (items.length > itemsOf(most).length) most = client
      }
      return removeAt(most, itemsOf(most).length - 1)
    },
  }
}
