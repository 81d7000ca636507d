// `npm run bench`: starts its own PostgreSQL with a million users, the references and the service,
// and measures. What it prints is only as good as the machine is quiet; ratios within a round are
// the least sensitive to that.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { cpus, loadavg, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

import { findPostgresBin } from '../../src/database/programs.ts'
import { misuse, readOptions } from '../support/usage.ts'
import type { Bench } from './bench.ts'
import { fillDatabase, startPostgres } from './database.ts'
import { flood, loginTiming } from './flood.ts'
import { growth } from './growth.ts'
import { hostile } from './hostile.ts'
import { importing } from './moving.ts'
import { page } from './page.ts'
import { memory, startTime } from './process.ts'
import { revocation } from './revocation.ts'
import { dump, size } from './size.ts'
import { stopServers } from './servers.ts'
import {
  accessLog,
  everything,
  instances,
  pages,
  poolers,
  signed,
  throughput,
} from './throughput.ts'
import { webhook } from './webhook.ts'

const usage = `npm run bench -- [--quick] [--users N] [--rounds N] [--seconds N] [--only CASE,…]
  [--against CHECKOUT] [--memory-seconds N]
Cases: auth user first everything signed log pages page instances growth flood hostile timing memory
  start revocation webhook import; by name alone, as they need more: size dump poolers
`
const requests = ['auth', 'user', 'first']
/** They need much room, an S3 server or PgBouncer. */
const byName = ['size', 'dump', 'poolers']
const cases: Record<string, (bench: Bench) => Promise<void>> = {
  everything,
  signed,
  log: accessLog,
  page,
  pages,
  instances,
  growth,
  flood,
  hostile,
  timing: loginTiming,
  memory,
  start: startTime,
  revocation,
  webhook,
  import: importing,
  size,
  dump,
  poolers,
}

const { values } = readOptions(usage, {
  options: {
    quick: { type: 'boolean', default: false },
    users: { type: 'string' },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    only: { type: 'string' },
    against: { type: 'string' },
    'memory-seconds': { type: 'string' },
  },
})
const { quick } = values
const only = values.only?.split(',') ?? [
  ...requests,
  ...Object.keys(cases).filter((name) => !byName.includes(name)),
]
const unknown = only.find((name) => !requests.includes(name) && !(name in cases))
if (unknown !== undefined) misuse(`There is no case ${unknown}`, usage)
const users = Number(values.users ?? (quick ? 100_000 : 1_000_000))

const readLinux = (path: string) => (existsSync(path) ? readFileSync(path, 'utf8').trim() : '')

const directory = mkdtempSync(join(tmpdir(), 'user-service-bench-'))
const postgres = await startPostgres(directory)
try {
  const version = /\d+[\d.]*/.exec(
    execFileSync(`${findPostgresBin('initdb')}/postgres`, ['--version'], { encoding: 'utf8' }),
  )![0]
  console.log(
    `Node ${process.version}, PostgreSQL ${version}, ${cpus().length} cores, ` +
      `load average ${loadavg()[0]!.toFixed(1)}`,
  )
  if (readLinux('/proc/sys/kernel/sched_autogroup_enabled') === '1') {
    console.log(
      'Autogroup is on, as in the figures of test/README.md: ' +
        'each session of PostgreSQL is weighed against all the rest as one',
    )
  }
  const start = performance.now()
  const database = await fillDatabase(postgres, users, quick ? 40_000 : 400_000)
  console.log(`${users} users and keys made in ${Math.round((performance.now() - start) / 1000)} s`)
  const filled = new Map([[users, Promise.resolve(database)]])
  /** Several cases may ask for the same. */
  function fill(users: number, known: number) {
    const filling = filled.get(users) ?? fillDatabase(postgres, users, known)
    filled.set(users, filling)
    return filling
  }
  const bench: Bench = {
    directory,
    postgres,
    database,
    users,
    quick,
    fill,
    rounds: Number(values.rounds ?? (quick ? 2 : 6)),
    seconds: Number(values.seconds ?? (quick ? 1 : 3)),
    memorySeconds: Number(values['memory-seconds'] ?? (quick ? 4 : 600)),
    against: values.against && resolve(values.against),
  }
  const asked = requests.filter((name) => only.includes(name))
  const tree = bench.against
  const other = tree === undefined ? undefined : { suffix: ' (other)', options: { tree } }
  if (asked.length > 0) await throughput(bench, asked, other)
  for (const name of Object.keys(cases).filter((each) => only.includes(each)))
    await cases[name]!(bench)
  console.log(
    `\nLoad average at the end ${loadavg()[0]!.toFixed(1)}; ` +
      `${Math.round((performance.now() - start) / 1000)} s in all`,
  )
} finally {
  await stopServers()
  await postgres.stop()
  rmSync(directory, { recursive: true, force: true })
}
