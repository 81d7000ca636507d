// Hashes passwords on threads of their own, one for each core, at a lower priority than the thread
// that answers requests. (On libuv's pool, hashes would starve file and DNS work for seconds.)
//
// A job's look-up runs while it waits for its turn, so that no thread is held by a slow database.
// A request that finds no place in the queue is refused before any look-up.
import { randomBytes, timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'

import { AppError } from '../errors.ts'
import { cost, formatHash, isWeaker, parseHash, type PasswordHash } from './hash.ts'
import { createQueue, type Place } from './queue.ts'

/** A stored password: a PHC string, or null where there is none. */
export interface Stored {
  passwordHash: string | null
}

/** The outcome of a comparison; `renew`: the right password should be stored at today's cost. */
export interface Verdict<F extends Stored> {
  found: F
  isRight: boolean
  renew: boolean
}

/** Hashes and compares passwords. Both throw `overloaded` when the queue is full. */
export interface Hasher {
  /** The password's PHC string, at today's cost. `client` is whose turn it takes. */
  hash(password: string, client: string): Promise<string>
  /**
   * Compares with what `find` returns, and does the work of today's cost where no password is
   * stored. Throws what `find` throws, which is not called when the queue is full.
   */
  verify<F extends Stored>(
    password: string,
    find: () => Promise<F>,
    client: string,
  ): Promise<Verdict<F>>
  load(): { inFlight: number; queued: number }
  stop(): Promise<unknown>
}

/** What a job does before its turn, and with its thread. */
interface Job<P, T> {
  client: string
  prepare(): Promise<P>
  work(thread: Worker, prepared: P): Promise<T>
}

const program = `
const { parentPort } = require('node:worker_threads')
const { scryptSync } = require('node:crypto')
// On Linux this sets the priority of the calling thread alone.
if (process.platform === 'linux') require('node:os').setPriority(0, 10)
parentPort.on('message', ({ password, salt, length, ...cost }) => {
  parentPort.postMessage(scryptSync(password, salt, length, { ...cost, maxmem: 2 ** 28 }))
})`

/** Starts threads as they are needed, at most `maxThreads`. */
export function createHasher(maxThreads = availableParallelism()): Hasher {
  const queue = createQueue()
  const isBusy = new Map<Worker, boolean>()
  let lastRefusal: Promise<unknown> = Promise.resolve()

  function startThread(): Worker {
    const thread = new Worker(program, { eval: true, execArgv: [], env: {} })
    // It may have run out of memory. The next job starts a replacement.
    thread.on('error', () => isBusy.delete(thread))
    return thread
  }

  function findIdleThread(): Worker | undefined {
    for (const [thread, busy] of isBusy) {
      if (!busy) return thread
    }
    return undefined
  }

  function startNext() {
    const place = queue.nextReady()
    const idle = findIdleThread()
    if (place === undefined) return
    if (idle === undefined && isBusy.size >= maxThreads) return
    queue.take(place)
    try {
      const thread = idle ?? startThread()
      isBusy.set(thread, true)
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

  async function waitUntilReady(place: Place, preparing: Promise<unknown>) {
    try {
      await preparing
      place.isReady = true
      startNext()
    } catch (error) {
      queue.leave(place)
      place.refuse(error as Error)
    }
  }

  function release(thread: Worker) {
    if (isBusy.has(thread)) isBusy.set(thread, false)
    thread.unref()
    startNext()
  }

  /** Runs `prepare` and then, in its turn, `work`; throws `overloaded` and what the two throw. */
  async function withThread<P, T>({ client, prepare, work }: Job<P, T>): Promise<T> {
    const turn = deferred<Worker>()
    const place = { client, isReady: false, start: turn.resolve, refuse: turn.reject }
    const loser = queue.enter(place)
    if (loser !== undefined) void refuseInTurn(loser)
    if (loser === place) await turn.promise
    const preparing = prepare()
    void waitUntilReady(place, preparing)
    const thread = await turn.promise
    try {
      return await work(thread, await preparing)
    } finally {
      release(thread)
    }
  }

  /** The scrypt hash of a password with these parameters, of the length that `hash` has. */
  async function scrypt(thread: Worker, password: string, parameters: PasswordHash) {
    const { ln, r, p, salt, hash } = parameters
    thread.ref() // Keep the process alive while hashing, but not for an idle thread.
    thread.postMessage({ password, salt, length: hash.length, N: 2 ** ln, r, p })
    const [computed] = (await once(thread, 'message')) as [Uint8Array]
    return Buffer.from(computed)
  }

  return {
    hash: (password, client) =>
      withThread({
        client,
        prepare: async () => newParameters(),
        async work(thread, parameters) {
          const hash = await scrypt(thread, password, parameters)
          return formatHash({ ...parameters, hash })
        },
      }),
    verify: (password, find, client) =>
      withThread({
        client,
        prepare: find,
        async work(thread, found) {
          const known = found.passwordHash === null ? null : parseHash(found.passwordHash)
          const expected = known ?? newParameters()
          const computed = await scrypt(thread, password, expected)
          const isEqual = timingSafeEqual(computed, expected.hash)
          return {
            found,
            isRight: isEqual && known !== null,
            renew: known !== null && isWeaker(known),
          }
        },
      }),
    load() {
      const inFlight = [...isBusy.values()].filter((busy) => busy).length
      return { inFlight, queued: queue.length() }
    },
    stop: () => Promise.all([...isBusy.keys()].map((thread) => thread.terminate())),
  }
}

/** Today's cost, a new salt and, in place of the hash, random bytes that no password has. */
const newParameters = (): PasswordHash => ({
  ...cost,
  salt: randomBytes(16),
  hash: randomBytes(32),
})

function deferred<T>() {
  let resolve!: (value: T) => void
  let reject!: (error: Error) => void
  const promise = new Promise<T>((fulfil, fail) => {
    resolve = fulfil
    reject = fail
  })
  return { promise, resolve, reject }
}
