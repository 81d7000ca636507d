// Hashes passwords on threads of their own, one for each core, at a lower priority than the thread that answers
// requests. (On libuv's pool, hashes would starve file and DNS work for seconds.)
//
// The queue is bounded and fair. Clients take turns; each has at most 16 places, all together 32. When one too many
// comes, the client with most places loses its last, the one that comes where others have as many: so no client, nor
// a few together, can keep another out. Who gets no place is told at once, before anything is looked up.
import { randomBytes, timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'

import { AppError } from '../errors.ts'
import { cost, formatHash, isWeaker, parseHash } from './hash.ts'

export type Hasher = ReturnType<typeof createHasher>
type Place = {
  client: string
  ready: boolean
  start: (thread: Worker) => void
  refuse: (error: Error) => void
}

const maxQueued = 32
const maxQueuedPerClient = 16

const program = `
const { parentPort } = require('node:worker_threads')
const { scryptSync } = require('node:crypto')
if (process.platform === 'linux') require('node:os').setPriority(0, 10) // of this thread alone, there
parentPort.on('message', ({ password, salt, length, ...cost }) => {
  parentPort.postMessage(scryptSync(password, salt, length, { ...cost, maxmem: 2 ** 28 }))
})`

/** Starts as many threads as are needed, at most one for each core. */
export function createHasher(maxThreads = availableParallelism()) {
  let queue: Place[] = [] // its first is the next; clients are in the order of their turns
  const isBusy = new Map<Worker, boolean>()
  let lastRefusal: Promise<unknown> = Promise.resolve()
  const placesOf = (client: string) => queue.filter((place) => place.client === client).length

  function startThread(): Worker {
    const thread = new Worker(program, { eval: true, execArgv: [], env: {} })
    // Of memory, say; another thread takes its place.
    return thread.on('error', () => isBusy.delete(thread))
  }

  function next() {
    const place = queue.find(({ ready }) => ready)
    const [idle] = [...isBusy].find(([, busy]) => !busy) ?? []
    if (place === undefined || (idle === undefined && isBusy.size >= maxThreads)) return
    // The other clients have their turns before the rest of this one's.
    leave(place)
    queue.sort((a, b) => Number(a.client === place.client) - Number(b.client === place.client))
    try {
      const thread = idle ?? startThread()
      isBusy.set(thread, true)
      place.start(thread)
    } catch (error) {
      place.refuse(error as Error) // There may be no thread to be had.
      next()
    }
  }

  const leave = (place: Place) => {
    queue = queue.filter((each) => each !== place)
  }

  /** Has `prepare` done first, and then, in its turn, `work`; throws `overloaded`, or at once what `prepare` throws. */
  async function withThread<P, T>(
    client: string,
    prepare: () => Promise<P>,
    work: (thread: Worker, prepared: P) => Promise<T>,
  ): Promise<T> {
    let place!: Place
    let prepared!: P
    const turn = new Promise<Worker>((start, refuse) => {
      place = { client, ready: false, start, refuse }
    })
    queue.push(place)
    if (queue.length > maxQueued || placesOf(client) > maxQueuedPerClient) {
      const longest = [place, ...queue].reduce((a, b) =>
        placesOf(b.client) > placesOf(a.client) ? b : a,
      ).client
      const last = queue.findLast((each) => each.client === longest)!
      leave(last)
      // One a turn of the event loop: the answers to a flood must not hold up the requests beside it.
      lastRefusal = lastRefusal
        .then(() => nextTurn())
        .then(() => last.refuse(new AppError('overloaded', { retryAfterSeconds: 3 })))
    }
    if (queue.includes(place)) {
      prepare().then(
        (value) => {
          prepared = value
          place.ready = true
          next()
        },
        (error) => {
          leave(place)
          place.refuse(error)
        },
      )
    }
    const thread = await turn
    return work(thread, prepared).finally(() => {
      if (isBusy.has(thread)) isBusy.set(thread, false)
      thread.unref()
      next()
    })
  }

  async function scrypt(
    thread: Worker,
    password: string,
    salt: Buffer,
    length: number,
    { ln, r, p } = cost,
  ) {
    thread.ref() // A hash under way holds the process, an idle thread does not.
    thread.postMessage({ password, salt, length, N: 2 ** ln, r, p })
    const [hash] = (await once(thread, 'message')) as [Uint8Array]
    return Buffer.from(hash)
  }

  return {
    /** Hashes a password at today's cost; throws `overloaded` when the queue is full. */
    hash: (password: string, client: string) =>
      withThread(
        client,
        async () => randomBytes(16),
        async (thread, salt) =>
          formatHash({ ...cost, salt, hash: await scrypt(thread, password, salt, 32) }),
      ),
    /**
     * Compares with what `find` gives, and with the work of today's cost where that is null. `renew`: the right one
     * should be stored anew. Throws `overloaded` when the queue is full, without calling `find`; and what that throws.
     */
    verify: (password: string, find: () => Promise<string | null>, client: string) =>
      withThread(client, find, async (thread, stored) => {
        const known = stored === null ? null : parseHash(stored)
        const { salt, hash, ...parameters } = known ?? {
          ...cost,
          salt: randomBytes(16),
          hash: randomBytes(32),
        }
        const isEqual = timingSafeEqual(
          await scrypt(thread, password, salt, hash.length, parameters),
          hash,
        )
        return { right: isEqual && known !== null, renew: known !== null && isWeaker(known) }
      }),
    load: () => ({ inFlight: [...isBusy.values()].filter(Boolean).length, queued: queue.length }),
    stop: () => Promise.all([...isBusy.keys()].map((thread) => thread.terminate())),
  }
}
