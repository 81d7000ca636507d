// Requests beside a webhook: while its receiver takes everything, and while it refuses everything
// and 10,000 events wait. The same service answers both, in turn.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

import { privateDatabase } from '../../src/config.ts'
import { withDatabase } from '../../src/database/pool.ts'
import type { Bench } from './bench.ts'
import { prepare, writeRequests } from './drive.ts'
import type { LoadResult } from './load.ts'
import { onOtherCores, startService } from './servers.ts'
import { printTable, ratio, spread } from './stats.ts'

/** A receiver that answers with `status`. */
async function startReceiver() {
  const state = { status: 204, count: 0 }
  const server = createServer((req, res) => {
    state.count++
    req.resume()
    res.writeHead(state.status).end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return { state, url: `http://127.0.0.1:${port}/`, close: () => server.close() }
}

const events = `insert into outbox (id, action, lane, data, give_up_at)
  select uuid_v7(), 'user.changed', i % 1000, '{}', now() + interval '1 day'
  from generate_series(1, 10000) as i`

/** Measures reads and changes of users, quiet and with the receiver down. */
export async function webhook(bench: Bench): Promise<void> {
  const { directory, database, seconds, rounds, postgres } = bench
  const known = database.known.slice(0, 2000)
  const requests = writeRequests(
    `${directory}/webhook`,
    known.flatMap(({ key }, index) => [
      { path: '/v1/users/auth', headers: { 'X-Api-Key': key } },
      ...(index % 10 === 0
        ? [{ method: 'DELETE', path: '/v1/users/me/tokens', headers: { 'X-Api-Key': key } }]
        : []),
    ]),
  )
  const receiver = await startReceiver()
  const secrets = `${directory}/webhook-secrets`
  writeFileSync(secrets, `whsec_${randomBytes(32).toString('base64')}\n`)
  const env = { WEBHOOK_URL: receiver.url, WEBHOOK_SECRET_FILE: secrets }
  const service = await startService(database, directory, { env })
  const options = { port: service.port, connections: 16, requests, seconds, perSecond: 200 }
  const found: Record<'quiet' | 'down', LoadResult[]> = { quiet: [], down: [] }
  const config = privateDatabase(postgres, 'user_service_manager', database.name)
  await withDatabase(config, async (db) => {
    for (let round = -1; round < rounds; round++) {
      for (const state of ['quiet', 'down'] as const) {
        receiver.state.status = state === 'quiet' ? 204 : 503
        await db.query('delete from outbox')
        if (state === 'down') await db.query(events)
        const load = await prepare(options, onOtherCores)
        const result = await load.go()
        // The first round warms up.
        if (round >= 0) found[state].push(result)
      }
    }
  })
  const statuses = [...found.quiet, ...found.down].map((each) => Object.keys(each.statuses).join())
  const values = (state: 'quiet' | 'down', what: 'p50' | 'p99') =>
    found[state].map((result) => result[what])
  printTable(
    'Requests, in ms: a quiet webhook, and a receiver that is down with 10,000 events behind it',
    ['', 'quiet', 'down', 'down ÷ quiet'],
    (['p50', 'p99'] as const).map((what) => {
      const quiet = values('quiet', what)
      const down = values('down', what)
      return [what, spread(quiet), spread(down), ratio(down, quiet)]
    }),
  )
  console.log(`Statuses: ${[...new Set(statuses)].join('; ')}`)
  await service.stop()
  receiver.close()
}
