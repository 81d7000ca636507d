// Hashes passwords on threads of their own, one for each core, at a lower priority than the thread that answers
// requests. (On libuv's pool, hashes would starve file and DNS work for seconds.)
//
// The queue is bounded and fair. Clients take turns; each has at most 16 places, all together 32. When one too many
// comes, the client with most places loses its last, the one that comes where others have as many: so no client, nor
// a few together, can keep another out, and who loses its place is told at once.
import { randomBytes, timingSafeEqual } from 'node:crypto'
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'

import { AppError } from './errors.ts'
import { cost, formatHash, isWeaker, parseHash } from './secrets.ts'

export type Hasher = ReturnType<typeof createHasher>
type Job = { client: string; work: object; resolve: (hash: Buffer) => void; reject: (error: Error) => void }

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
  let queue: Job[] = [] // its first is the next; clients are in the order of their turns
  const threads = new Map<Worker, Job | null>()
  const placesOf = (client: string) => queue.filter((job) => job.client === client).length

  function startThread(): Worker {
    const worker = new Worker(program, { eval: true, execArgv: [], env: {} })
    worker.on('message', (hash: Uint8Array) => {
      threads.get(worker)?.resolve(Buffer.from(hash))
      threads.set(worker, null)
      worker.unref()
      next()
    })
    // Of memory, say; another thread takes its place.
    worker.on('error', (error) => {
      threads.get(worker)?.reject(error)
      threads.delete(worker)
      next()
    })
    return worker
  }

  function next() {
    const [job, ...others] = queue
    if (job === undefined) return
    const [idle] = [...threads].find(([, busy]) => busy === null) ?? []
    const worker = idle ?? (threads.size < maxThreads ? startThread() : null)
    if (worker === null) return
    // The other clients have their turns before the rest of this one's.
    queue = others.sort((a, b) => Number(a.client === job.client) - Number(b.client === job.client))
    threads.set(worker, job)
    worker.ref() // A hash under way holds the process, an idle thread does not.
    worker.postMessage(job.work)
  }

  const scrypt = (password: string, client: string, salt: Buffer, length: number, { ln, r, p } = cost) =>
    new Promise<Buffer>((resolve, reject) => {
      const job = { client, work: { password, salt, length, N: 2 ** ln, r, p }, resolve, reject }
      queue.push(job)
      if (queue.length > maxQueued || placesOf(client) > maxQueuedPerClient) {
        const longest = [job, ...queue].reduce((a, b) => (placesOf(b.client) > placesOf(a.client) ? b : a)).client
        const [last] = queue.splice(queue.findLastIndex((each) => each.client === longest), 1)
        last!.reject(new AppError('overloaded', { retryAfterSeconds: 3 }))
      }
      next()
    })

  return {
    /** Hashes a password at today's cost; throws `overloaded` when the queue is full. */
    async hash(password: string, client: string) {
      const salt = randomBytes(16)
      return formatHash({ ...cost, salt, hash: await scrypt(password, client, salt, 32) })
    },
    /** Compares with the work of today's cost where none is stored. `renew`: the right one should be stored anew. */
    async verify(password: string, stored: string | null, client: string) {
      const known = stored === null ? null : parseHash(stored)
      const { salt, hash, ...parameters } = known ?? { ...cost, salt: randomBytes(16), hash: randomBytes(32) }
      const isEqual = timingSafeEqual(await scrypt(password, client, salt, hash.length, parameters), hash)
      return { right: isEqual && known !== null, renew: known !== null && isWeaker(known) }
    },
    load: () => ({ inFlight: [...threads.values()].filter((job) => job !== null).length, queued: queue.length }),
    stop: () => Promise.all([...threads.keys()].map((worker) => worker.terminate())),
  }
}
