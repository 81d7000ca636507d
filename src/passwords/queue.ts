// The queue before the hashing threads is bounded and fair: clients take turns, each has at most 16
// places, and all together have 32. When it overflows, the client with the most places loses its
// newest one (on a tie, the newcomer), so that no small group of clients can lock others out.
import type { Worker } from 'node:worker_threads'

const maxPlaces = 32
const maxPlacesPerClient = 16

/** One job that waits for a thread. */
export interface Place {
  client: string
  /** Whether everything that precedes the hashing is done. */
  isReady: boolean
  start(thread: Worker): void
  refuse(error: Error): void
}

/** The places in the order of their turns. */
export interface Queue {
  /** Adds a place; returns the one that loses its turn, if the queue overflows. */
  enter(place: Place): Place | undefined
  leave(place: Place): void
  /** The next place that is ready, which stays in the queue. */
  nextReady(): Place | undefined
  /**
   * Removes a place whose turn has come; the other clients' turns come before its client's next.
   */
  take(place: Place): void
  length(): number
}

/** Returns an empty queue. */
export function createQueue(): Queue {
  let places: Place[] = []

  const countOf = (client: string) => places.filter((place) => place.client === client).length

  function leave(place: Place) {
    places = places.filter((each) => each !== place)
  }

  function clientWithMostPlaces(newcomer: string): string {
    let most = newcomer
    for (const { client } of places) {
      if (countOf(client) > countOf(most)) most = client
    }
    return most
  }

  return {
    enter(place) {
      places.push(place)
      if (places.length <= maxPlaces && countOf(place.client) <= maxPlacesPerClient)
        return undefined
      const client = clientWithMostPlaces(place.client)
      const loser = places.findLast((each) => each.client === client)!
      leave(loser)
      return loser
    },
    leave,
    nextReady: () => places.find(({ isReady }) => isReady),
    take(place) {
      leave(place)
      const others = places.filter(({ client }) => client !== place.client)
      const own = places.filter(({ client }) => client === place.client)
      places = [...others, ...own]
    },
    length: () => places.length,
  }
}
