import { setTimeout as sleep } from 'node:timers/promises'

import type { Bench } from './bench.ts'
import { flood, writeRequests } from './drive.ts'
import { loader } from '../support/process.ts'
import { reference, startServer, startService, type Server } from './servers.ts'
import { printTable, short, spread } from './stats.ts'

const clients = 150_000

/** Memory under full load from more addresses than buckets are kept, which all stay half full. */
export async function memory({ directory, database, memorySeconds }: Bench): Promise<void> {
  const { known } = database
  const requests = writeRequests(
    `${directory}/clients`,
    Array.from({ length: clients }, (_, i) => {
      const { id, key } = known[i % Math.min(known.length, 100_000)]!
      const address = `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`
      return { path: `/v1/users/${id}`, headers: { 'X-Api-Key': key, 'X-Forwarded-For': address } }
    }),
  )
  const seconds = Math.ceil(memorySeconds / 6)
  const load = ({ port }: Server) => flood(directory, { port, connections: 32, seconds, requests })
  const bare = await startServer((port) => [reference, 'bare', String(port)], '/')
  await sleep(1000)
  const rows = [['a bare server, idle', short(bare.rssMb()), '', '']]
  await load(bare)
  rows.push([`a bare server, after ${seconds} s`, short(bare.rssMb()), '', ''])
  await bare.stop()
  const server = await startService(database, directory, {
    env: { RATE_LIMIT: '1', RATE_LIMIT_BURST: '1000000', TRUSTED_PROXIES: '127.0.0.1' },
  })
  await sleep(1000)
  const idle = server.rssMb()
  rows.push(['idle', short(idle), '', ''])
  let answered = 0
  for (let part = 1; part <= 6; part++) {
    const run = await load(server)
    answered += run.answered
    const rss = server.rssMb()
    rows.push([`after ${part * seconds} s`, short(rss), short(rss - idle), short(answered)])
  }
  await sleep(5000)
  rows.push(['5 s later', short(server.rssMb()), short(server.rssMb() - idle), ''])
  printTable(
    `Memory, ${clients} client addresses, full load`,
    ['', 'MB', 'more than idle', 'requests so far'],
    rows,
  )
  await server.stop()
}

/** From the start of the process to the first healthy answer, against a bare server's. */
export async function startTime({ directory, database, rounds }: Bench): Promise<void> {
  const times: { bare: number; service: number }[] = []
  // As `npm start` has it.
  const env = { NODE_COMPILE_CACHE: `${directory}/compiled` }
  for (let round = -1; round < rounds; round++) {
    const bare = await startServer((port) => [reference, 'bare', String(port)], '/')
    await bare.stop()
    const service = await startService(database, directory, { env })
    await service.stop()
    if (round >= 0) times.push({ bare: bare.startMs, service: service.startMs })
  }
  const more = times.map(({ bare, service }) => service - bare)
  printTable(
    'Start to first healthy answer, the database ready',
    ['', 'ms'],
    [
      ['bare', spread(times.map(({ bare }) => bare))],
      ['service', spread(times.map(({ service }) => service))],
      ['more, paired', spread(more)],
      ['of which a loader for TypeScript', loader.length === 0 ? 'none' : 'yes, on this Node'],
    ],
  )
}
