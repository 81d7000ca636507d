// Log-ins: how many a second, what they do to the cheap requests beside them, and whether their
// time tells anything. Nothing is pinned here.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import http from 'node:http'

import { withDatabase } from '../../src/database/pool.ts'
import type { Bench } from './bench.ts'
import { password } from './database.ts'
import { prepare, writeRequests } from './drive.ts'
import type { LoadResult } from './load.ts'
import { reference, startServer, startService } from './servers.ts'
import { median, printTable, quantile, ratio, short, spread } from './stats.ts'

/**
 * Runs in the service's process, which knows nothing of it: how long file and DNS work takes there.
 */
const probe = `data:text/javascript,${encodeURIComponent(`
  import { readFile } from 'node:fs/promises'
  import { lookup } from 'node:dns/promises'
  setInterval(async () => {
    const start = performance.now()
    await readFile('/etc/hosts')
    const read = performance.now()
    await lookup('localhost')
    process.send({ file: read - start, dns: performance.now() - read }, () => {})
  }, 50).unref()`)}`

const client = (i: number) => ({ 'X-Forwarded-For': `10.1.${(i >> 8) & 255}.${i & 255}` })

/** What was measured, by name, a value for each round. */
class Values {
  readonly #values = new Map<string, number[]>()

  note(name: string, value: number) {
    this.#values.set(name, [...this.of(name), value])
  }

  of(name: string): number[] {
    return this.#values.get(name) ?? []
  }
}

/** The loads of a round. */
interface Loads {
  /** 200 cheap requests a second, at the service or at another port. */
  cheap(port?: number): ReturnType<typeof prepare>
  /** So many log-ins in flight: each that is answered, or refused, is followed by another. */
  held(connections: number): ReturnType<typeof prepare>
  /** 300 log-ins at once. */
  burst(port?: number): ReturnType<typeof prepare>
}

function makeLoads({ directory, database }: Bench, port: number, seconds: number): Loads {
  const known = database.known.slice(0, 10_000)
  const logins = writeRequests(
    `${directory}/logins`,
    known.map(({ email }, i) => ({
      method: 'POST',
      path: '/v1/users/sessions',
      headers: client(i),
      body: { email, password },
    })),
  )
  const gets = writeRequests(
    `${directory}/gets`,
    known.map(({ key }) => ({ path: '/v1/users/auth', headers: { 'X-Api-Key': key } })),
  )
  return {
    cheap: (at = port) =>
      prepare({ port: at, connections: 32, requests: gets, seconds, perSecond: 200 }),
    held: (connections) => prepare({ port, connections, requests: logins, seconds }),
    burst: (at = port) =>
      prepare({ port: at, connections: 300, count: 300, requests: logins, seconds }),
  }
}

/**
 * Log-ins alone, beside cheap requests, and 300 at once, against the hashes the machine can make.
 */
export async function flood(bench: Bench): Promise<void> {
  const { directory, database, rounds } = bench
  const seconds = 2 * bench.seconds
  const service = await startService(database, directory, {
    env: { TRUSTED_PROXIES: '127.0.0.1' },
    nodeArgs: ['--import', probe],
  })
  const bare = await startServer((port) => [reference, 'bare', String(port)], '/')
  let probes: { file: number; dns: number }[] = []
  service.child.on('message', (sample) => probes.push(sample as never))
  const { cheap, held, burst } = makeLoads(bench, service.port, seconds)
  const values = new Values()
  const right = ({ statuses }: LoadResult) => (statuses['201'] ?? 0) / seconds

  async function together(...loads: ReturnType<typeof prepare>[]) {
    const ready = await Promise.all(loads)
    probes = []
    const results = await Promise.all(ready.map((load) => load.go()))
    return {
      results,
      file: median(probes.map(({ file }) => file)),
      dns: median(probes.map(({ dns }) => dns)),
    }
  }
  function noteCheap(at: string, { results, file, dns }: Awaited<ReturnType<typeof together>>) {
    values.note(`${at} p99`, results[0]!.p99)
    values.note(`${at} p50`, results[0]!.p50)
    values.note(`${at} file`, file)
    values.note(`${at} dns`, dns)
  }

  await together(cheap())
  for (let round = 0; round < rounds; round++) {
    values.note('limit', await hashLimit(seconds))
    values.note('alone', right((await together(held(16))).results[0]!))
    values.note('returning', right((await together(held(300))).results[0]!))
    noteCheap('quiet', await together(cheap()))
    const flooded = await together(cheap(), held(16), cheap(bare.port))
    noteCheap('16', flooded)
    values.note('16 bare p99', flooded.results[2]!.p99)
    values.note('beside', right(flooded.results[1]!))
    const burdened = await together(cheap(), burst())
    noteCheap('300', burdened)
    values.note('300 in', burdened.results[1]!.statuses['201'] ?? 0)
    values.note('300 refused', burdened.results[1]!.statuses['503'] ?? 0)
    values.note('bare p99', (await together(cheap(bare.port))).results[0]!.p99)
    const ofBare = await together(cheap(bare.port), burst(bare.port))
    values.note('bare 300 p99', ofBare.results[0]!.p99)
  }
  printFlood(values)
  await Promise.all([service.stop(), bare.stop()])
}

function printFlood(values: Values) {
  const v = (name: string) => values.of(name)
  printTable(
    'Log-ins a second',
    ['', 'a second', 'of the limit'],
    [
      ['scrypt alone, every core: the limit', spread(v('limit')), ''],
      ['log-ins, 16 in flight', spread(v('alone')), ratio(v('alone'), v('limit'))],
      [
        'log-ins, 300 that come back at once after 503',
        spread(v('returning')),
        ratio(v('returning'), v('limit')),
      ],
      [
        'log-ins beside 200 GET/s (and 200/s on a bare server)',
        spread(v('beside')),
        ratio(v('beside'), v('limit')),
      ],
    ],
  )
  const row = (name: string, at: string) => [
    name,
    spread(v(`${at} p50`)),
    spread(v(`${at} p99`)),
    ratio(v(`${at} p99`), v('quiet p99')),
    spread(v(`${at} file`)),
    spread(v(`${at} dns`)),
  ]
  printTable(
    'GET /v1/users/auth, 200 a second, and other work in the process',
    ['', 'p50 ms', 'p99 ms', 'p99 ÷ quiet', 'file read p50 ms', 'DNS p50 ms'],
    [row('quiet', 'quiet'), row('16 log-ins in flight', '16'), row('300 log-ins at once', '300')],
  )
  const beside = ratio(v('16 bare p99'), v('bare p99'))
  const itself = ratio(v('bare 300 p99'), v('bare p99'))
  console.log(
    `\nOf 300 at once ${spread(v('300 in'))} got in and ${spread(v('300 refused'))} were refused.` +
      ` A bare server beside the 16, p99: ${spread(v('16 bare p99'))} ms, ${beside} of its own` +
      ` when quiet; that gets the 300 itself: ${spread(v('bare 300 p99'))} ms, ${itself}.`,
  )
}

async function hashLimit(seconds: number): Promise<number> {
  const child = spawn(process.execPath, [reference, 'scrypt', String(seconds * 1000)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let text = ''
  child.stdout.on('data', (chunk) => {
    text += chunk
  })
  await once(child, 'close')
  return Number(text) / seconds
}

/** Whether a refused log-in's time tells why it was refused. */
export async function loginTiming({ directory, database, quick }: Bench): Promise<void> {
  const tries = quick ? 10 : 50
  const service = await startService(database, directory, {
    env: { TRUSTED_PROXIES: '127.0.0.1' },
  })
  const wrong = database.known.slice(-tries)
  const disabled = database.known.slice(-2 * tries, -tries)
  await withDatabase(database.as('postgres'), (db) =>
    db.query('update users set enabled = false where id = any($1::uuid[])', [
      disabled.map(({ id }) => id),
    ]),
  )
  const kinds: [string, (i: number) => object][] = [
    ['unknown address', (i) => ({ email: `nobody${i}@example.org`, password })],
    ['wrong password', (i) => ({ email: wrong[i]!.email, password: 'not this one' })],
    ['disabled user', (i) => ({ email: disabled[i]!.email, password })],
  ]
  const times: number[][] = kinds.map(() => [])
  for (let i = 0; i < tries; i++) {
    for (let k = 0; k < kinds.length; k++) {
      // Each kind is as often first.
      const kind = (k + i) % kinds.length
      const start = performance.now()
      const status = await post(service.port, kinds[kind]![1](i), client(i * kinds.length + kind))
      times[kind]!.push(performance.now() - start)
      if (status !== 401) throw new Error(`A log-in that must fail was answered ${status}`)
    }
  }
  const medians = times.map(median)
  printTable(
    `Refused log-ins, ${tries} tries each`,
    ['', 'median ms', 'p90 ms', 'median ÷ smallest median'],
    kinds.map(([name], k) => [
      name,
      short(medians[k]!),
      short(quantile(times[k]!, 0.9)),
      short(medians[k]! / Math.min(...medians)),
    ]),
  )
  await service.stop()
}

const agent = new http.Agent({ keepAlive: true })

function post(port: number, body: object, headers: Record<string, string>): Promise<number> {
  return new Promise((resolve, reject) => {
    const req = http.request(
      {
        port,
        host: '127.0.0.1',
        method: 'POST',
        path: '/v1/users/sessions',
        agent,
        headers: { ...headers, 'Content-Type': 'application/json' },
      },
      (res) => res.resume().on('end', () => resolve(res.statusCode!)),
    )
    req.on('error', reject)
    req.end(JSON.stringify(body))
  })
}
