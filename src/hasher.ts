// Hashes passwords on threads of their own, one for each core, at a lower priority than the thread
// that answers requests. (On libuv's pool, hashes would starve file and DNS work for seconds.)
//
// The queue is bounded and fair. Clients take turns; each has at most 16 places, all together 32.
// When all are taken, a client with fewer places than the one with most gets that one's last. So
// no client, nor a few together, can keep another out; who finds no place is told at once.
import { randomBytes } from 'node:crypto'
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'

import { AppError } from './errors.ts'
import { cost, equalBytes, formatHash, isWeaker, parseHash } from './secrets.ts'

export interface Hasher {
  /** Hashes a password at today's cost; throws `overloaded` when the queue is full. */
  hash(password: string, client: string): Promise<string>
  /**
   * Compares a password with a stored one, with the work of today's cost where none is stored.
   * `renew` says that the right password should be stored anew.
   */
  verify(password: string, stored: string | null, client: string): Promise<{ right: boolean; renew: boolean }>
  load(): { inFlight: number; queued: number }
  stop(): Promise<void>
}

interface Job {
  work: { password: string; salt: Buffer; length: number; N: number; r: number; p: number }
  resolve(hash: Buffer): void
  reject(error: Error): void
}

const maxQueued = 32
const maxQueuedPerClient = 16

const program = `
const { parentPort } = require('node:worker_threads')
const { scryptSync } = require('node:crypto')
const os = require('node:os')
if (os.platform() === 'linux') os.setPriority(0, 10) // of this thread alone, there
parentPort.on('message', ({ password, salt, length, ...cost }) => {
  parentPort.postMessage(scryptSync(password, salt, length, { ...cost, maxmem: 2 ** 28 }))
})`

/** Starts as many threads as are needed, at most one for each core. */
export function createHasher(maxThreads = availableParallelism()): Hasher {
  const queues = new Map<string, Job[]>()
  const idle: Worker[] = []
  const threads = new Map<Worker, Job | null>()
  let queued = 0

  function startThread(): Worker {
    const worker = new Worker(program, { eval: true, execArgv: [], env: {} })
    worker.unref()
    worker.on('message', (hash: Uint8Array) => {
      const job = threads.get(worker)
      threads.set(worker, null)
      idle.push(worker)
      job?.resolve(Buffer.from(hash))
      next()
    })
    const lose = (error: Error) => {
      threads.get(worker)?.reject(error)
      threads.delete(worker)
      if (idle.includes(worker)) idle.splice(idle.indexOf(worker), 1)
      next()
    }
    worker.on('error', lose)
    worker.on('exit', () => lose(new Error('A hashing thread ended')))
    return worker
  }

  function next() {
    const [turn] = queues
    if (turn === undefined) return
    const worker = idle.pop() ?? (threads.size < maxThreads ? startThread() : null)
    if (worker === null) return
    const [client, jobs] = turn
    const job = jobs.shift()!
    queued--
    queues.delete(client)
    if (jobs.length > 0) queues.set(client, jobs)
    threads.set(worker, job)
    worker.postMessage(job.work)
  }

  function admit(client: string, job: Job) {
    const jobs = queues.get(client) ?? []
    const overloaded = new AppError('overloaded', { retryAfterSeconds: 3 })
    if (jobs.length >= maxQueuedPerClient) throw overloaded
    if (queued >= maxQueued) {
      const longest = [...queues.values()].reduce((a, b) => (b.length > a.length ? b : a))
      if (longest.length <= jobs.length + 1) throw overloaded
      longest.pop()!.reject(overloaded)
      queued--
    }
    jobs.push(job)
    queued++
    queues.set(client, jobs)
    next()
  }

  const scrypt = (password: string, client: string, salt: Buffer, length: number, { ln, r, p } = cost) =>
    new Promise<Buffer>((resolve, reject) => {
      admit(client, { work: { password, salt, length, N: 2 ** ln, r, p }, resolve, reject })
    })

  return {
    async hash(password, client) {
      const salt = randomBytes(16)
      return formatHash({ ...cost, salt, hash: await scrypt(password, client, salt, 32) })
    },
    async verify(password, stored, client) {
      const known = stored === null ? null : parseHash(stored)
      const { salt, hash, ...parameters } = known ?? { ...cost, salt: randomBytes(16), hash: randomBytes(32) }
      const equal = equalBytes(await scrypt(password, client, salt, hash.length, parameters), hash)
      return { right: equal && known !== null, renew: known !== null && isWeaker(known) }
    },
    load: () => ({ inFlight: threads.size - idle.length, queued }),
    async stop() {
      maxThreads = 0
      await Promise.all([...threads.keys()].map((worker) => worker.terminate()))
    },
  }
}
