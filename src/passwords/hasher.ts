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
import { normalPassword } from './rules.ts'

/** A stored password: a PHC string, or null where there is none. */
interface Stored {
  passwordHash: string | null
}

/** Hashes and compares passwords. Both throw `overloaded` when the queue is full. */
export type Hasher = ReturnType<typeof createHasher>

/** What a thread does: hashes the candidates, and tries the last at the foreign hash, if any. */
interface Work {
  parameters: PasswordHash
  /** The forms of one password, as it was typed last. */
  candidates: string[]
  /** A stored hash that is not ours. */
  foreign: string | null
}

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
const { parentPort, workerData: verifier } = require('node:worker_threads')
const { scryptSync } = require('node:crypto')
// On Linux this sets the priority of the calling thread alone.
if (process.platform === 'linux') require('node:os').setPriority(0, 10)
parentPort.on('message', async ({ candidates, salt, length, foreign, ...cost }) => {
  const options = { ...cost, maxmem: 2 ** 28 }
  const computed = candidates.map((each) => scryptSync(each, salt, length, options))
  const typed = candidates.at(-1)
  const isForeign = foreign !== null && (await import(verifier)).verifyForeign(foreign, typed)
  parentPort.postMessage({ computed, isForeign })
})`

/**
 * Starts threads as they are needed, at most `maxThreads`. From the module `verifier` they import
 * `verifyForeign(stored, typed)`, which is asked about weaker hashes and others than ours.
 */
export function createHasher(maxThreads: number, verifier: URL) {
  const queue = createQueue<Place>()
  const threads = new Set<Worker>()
  const idle = new Set<Worker>()
  let lastRefusal: Promise<unknown> = Promise.resolve()

  function startThread() {
    const options = { eval: true, execArgv: [], env: {}, workerData: verifier.href }
    const thread = new Worker(program, options)
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
   * Does the work that `prepare` returns, which runs while the job waits for its turn. Throws
   * `overloaded` and what `prepare` throws.
   */
  async function compute<P extends Work>(client: string, prepare: () => Promise<P>) {
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
    const { parameters, candidates, foreign } = prepared
    const { ln, r, p, salt, hash } = parameters
    try {
      thread.ref() // Keep the process alive while hashing, but not for an idle thread.
      const length = hash.length
      thread.postMessage({ candidates, foreign, salt, length, N: 2 ** ln, r, p })
      const [outcome] = await once(thread, 'message')
      const { computed, isForeign } = outcome as { computed: Uint8Array[]; isForeign: boolean }
      return { ...prepared, computed, isForeign }
    } finally {
      release(thread)
    }
  }

  return {
    /** The password's PHC string, at today's cost. `client` names whose turn it takes. */
    async hash(password: string, client: string) {
      const parameters = newParameters()
      const work = { parameters, candidates: [password], foreign: null }
      const { computed } = await compute(client, async () => work)
      return formatHash({ ...parameters, hash: Buffer.from(computed[0]!) })
    },
    /**
     * Compares a password as it was typed with what `find` returns. Where none is stored, or one
     * that is not ours or weaker, does the work of today's cost, too. Throws what `find` throws,
     * which is not called when the queue is full.
     */
    async verify<F extends Stored>(typed: string, find: () => Promise<F>, client: string) {
      // Ours are of NFKC; others that look like ours may be of what was typed.
      const candidates = [...new Set([normalPassword(typed), typed])]
      const { found, parameters, computed, isForeign } = await compute(client, async () => {
        const found = await find()
        const known = parseHash(found.passwordHash ?? '')
        const isOurs = known !== null && !isWeaker(known)
        const foreign = isOurs ? null : found.passwordHash
        return { found, parameters: isOurs ? known : newParameters(), candidates, foreign }
      })
      const isHash = (each: Uint8Array) => timingSafeEqual(each, parameters.hash)
      const isRight = isForeign || computed.some(isHash)
      /** The right password should be stored as ours, at today's cost. */
      const renew = isRight && !isHash(computed[0]!)
      return { found, isRight, renew }
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
