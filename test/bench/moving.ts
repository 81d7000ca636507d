// An import beside requests: how long it takes, with how much memory, and what the requests notice.
import { join } from 'node:path'

import { cpuMs, peakMb, startCommand } from '../support/process.ts'
import { writeUsers } from '../support/lines.ts'
import type { Env } from '../../src/environment.ts'
import type { Bench } from './bench.ts'
import { passwordHash } from './database.ts'
import { prepare, writeRequests } from './drive.ts'
import type { LoadResult } from './load.ts'
import { startService } from './servers.ts'
import { printTable, short } from './stats.ts'

/** Imports a file while the service answers; the requests before and after are the measure. */
export async function importing({ directory, fill, quick, seconds }: Bench): Promise<void> {
  const lines = quick ? 100_000 : 1_000_000
  const path = join(directory, 'users.ndjson')
  await writeUsers(path, lines, passwordHash)
  const database = await fill(10_000, 10_000)
  const requests = writeRequests(
    `${directory}/beside-import`,
    database.known.map(({ key }) => ({ path: '/v1/users/auth', headers: { 'X-Api-Key': key } })),
  )
  const service = await startService(database, directory)
  const load = (forSeconds: number) =>
    prepare({
      port: service.port,
      connections: 32,
      requests,
      seconds: forSeconds,
      perSecond: 200,
    })
  const quietly = async () => (await load(10 * seconds)).go()

  // It warms up.
  await quietly()
  const before = await quietly()
  const beside = await load(3600)
  const measured = beside.go()
  const run = await runImport(path, database.env)
  beside.stop()
  const during = await measured
  const after = await quietly()

  const row = (name: string, { p50, p99, max, statuses }: LoadResult) => [
    name,
    ...[p50, p99, max].map(short),
    short(p99 / before.p99),
    Object.entries(statuses).join(' '),
  ]
  printTable(
    'GET /v1/users/auth, 200 a second, ms',
    ['', 'p50', 'p99', 'longest', 'p99 ÷ quiet before', 'statuses'],
    [row('quiet before', before), row('during the import', during), row('quiet after', after)],
  )
  const cpu = short(run.cpuSeconds)
  console.log(
    `\n${short(lines)} lines in ${short(run.seconds)} s, with ${short(run.peakMb)} MB and ` +
      `${cpu} s of a core; p50 ÷ quiet ${short(during.p50 / before.p50)}`,
  )
  await service.stop()
}

/** What importing the file takes. */
async function runImport(path: string, env: Env) {
  const start = performance.now()
  const { child, ended } = startCommand('import', [path], env)
  let peak = 0
  let cpu = 0
  const watch = setInterval(() => {
    peak = Math.max(peak, peakMb(child.pid!))
    cpu = Math.max(cpu, cpuMs(child.pid!))
  }, 50)
  const { status, stderr } = await ended
  clearInterval(watch)
  if (status !== 0) throw new Error(stderr)
  return { seconds: (performance.now() - start) / 1000, peakMb: peak, cpuSeconds: cpu / 1000 }
}
