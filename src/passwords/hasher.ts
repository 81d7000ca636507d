// Hashes passwords on threads of their own, at a lower priority than the thread that answers
// requests. (On libuv's pool, hashes would starve file and DNS work for seconds.)
//
// A job's look-up runs while it waits for its turn, so that no thread is held by a slow database.
// A request that finds no place in the queue is refused before any look-up.
import { randomBytes, timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'

import { AppError } from '../errors.ts'
import { createQueue } from '../queue.ts'
import { cost, formatHash, isWeaker, parseHash, type PasswordHash } from './hash.ts'

/** A stored password: a PHC string, or null where there is none. */
interface Stored {
  passwordHash: string | null
}

/** Hashes and compares passwords. Both throw `overloaded` when the queue is full. */
export type Hasher = ReturnType<typeof createHasher>

/** One job that waits for a thread. */
interface Place {
  /** Whether everything that precedes the hashing is done. */
  isReady: boolean
  start(thread: Worker): void
  refuse(error: Error): void
}

const maxPlaces = 32
/** Half of them, so that one client alone never fills the queue. */
const maxPlacesPerClient = 16

const program = `
const { parentPort } = require('node:worker_threads')
const { scryptSync } = require('node:crypto')
// On Linux this sets the priority of the calling thread alone.
if (process.platform === 'linux') require('node:os').setPriority(0, 10)
parentPort.on('message', ({ password, salt, length, ...cost }) => {
  parentPort.postMessage(scryptSync(password, salt, length, { ...cost, maxmem: 2 ** 28 }))
})`

/** Starts threads as they are needed, at most `maxThreads`. */
export function createHasher(maxThreads: number) {
  const queue = createQueue<Place>()
  const threads = new Set<Worker>()
  const idle = new Set<Worker>()
  let lastRefusal: Promise<unknown> = Promise.resolve()

  function startThread() {
    const thread = new Worker(program, { eval: true, execArgv: [], env: {} })
    threads.add(thread)
    thread.on('error', () => {
      // It may have run out of memory. The next job starts a replacement.
      threads.delete(thread)
      idle.delete(thread)
    })
    return thread
  }

  function startNext() {
    if (idle.size === 0 && threads.size >= maxThreads) return
    const place = queue.take(({ isReady }) => isReady)
    if (place === undefined) return
    try {
      const thread = [...idle][0] ?? startThread()
      idle.delete(thread)
      place.start(thread)
    } catch (error) {
      // The system may refuse another thread.
      place.refuse(error as Error)
      startNext()
    }
  }

  /**
   * Refuses one place a turn of the event loop, so that a flood does not hold up other requests.
   */
  async function refuseInTurn(place: Place) {
    const turn = lastRefusal.then(() => nextTurn())
    lastRefusal = turn
    await turn
    place.refuse(new AppError('overloaded', { retryAfterSeconds: 3 }))
  }

  function release(thread: Worker) {
    if (threads.has(thread)) idle.add(thread)
    thread.unref()
    startNext()
  }

  /**
   * Hashes a password with the parameters that `prepare` returns, which runs while the job waits
   * for its turn. Throws `overloaded` and what `prepare` throws.
   */
  async function scrypt<P extends { parameters: PasswordHash }>(
    password: string,
    client: string,
    prepare: () => Promise<P>,
  ): Promise<P & { computed: Buffer }> {
    let place!: Place
    const turn = new Promise<Worker>((start, refuse) => {
      place = { isReady: false, start, refuse }
    })
    queue.add(client, place)
    if (queue.length() > maxPlaces || queue.countOf(client) > maxPlacesPerClient) {
      const loser = queue.dropNewest(client)
      void refuseInTurn(loser)
      if (loser === place) await turn // rejects, in its turn
    }
    // It may be refused before it is awaited.
    turn.catch(() => {})
    let prepared: P
    try {
      prepared = await prepare()
    } catch (error) {
      queue.remove(client, place)
      throw error
    }
    place.isReady = true
    startNext()
    const thread = await turn
    const { ln, r, p, salt, hash } = prepared.parameters
    try {
      thread.ref() // Keep the process alive while hashing, but not for an idle thread.
      thread.postMessage({ password, salt, length: hash.length, N: 2 ** ln, r, p })
      const [computed] = (await once(thread, 'message')) as [Uint8Array]
      return { ...prepared, computed: Buffer.from(computed) }
    } finally {
      release(thread)
    }
  }

  return {
    /** The password's PHC string, at today's cost. `client` names whose turn it takes. */
    async hash(password: string, client: string) {
      const prepare = async () => ({ parameters: newParameters() })
      const { parameters, computed } = await scrypt(password, client, prepare)
      return formatHash({ ...parameters, hash: computed })
    },
    /**
     * Compares with what `find` returns, and does the work of today's cost where no password is
     * stored. Throws what `find` throws, which is not called when the queue is full.
     */
    async verify<F extends Stored>(password: string, find: () => Promise<F>, client: string) {
      const { found, known, parameters, computed } = await scrypt(password, client, async () => {
        const found = await find()
        const known = parseHash(found.passwordHash ?? '')
        return { found, known, parameters: known ?? newParameters() }
      })
      const isEqual = timingSafeEqual(computed, parameters.hash)
      return {
        found,
        isRight: isEqual && known !== null,
        /** The right password should be stored at today's cost. */
        renew: isWeaker(parameters),
      }
    },
    load: () => ({ inFlight: threads.size - idle.size, queued: queue.length() }),
    stop: () => Promise.all([...threads].map((thread) => thread.terminate())),
  }
}

/** Today's cost, a new salt and, in place of the hash, random bytes that no password has. */
const newParameters = () => ({
  ...cost,
  salt: randomBytes(16),
  hash: randomBytes(32),
})
