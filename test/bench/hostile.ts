// One hostile client, from 1 to 200 connections, and a victim that asks 100 times a second. Each
// attack is measured beside its own requests sent one at a time on as many connections: with as
// many a second on each, and without limit.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

import type { AttackOptions } from './attack.ts'
import type { Bench } from './bench.ts'
import { prepare, writeRequests } from './drive.ts'
import type { LoadResult } from './load.ts'
import { loader } from '../support/process.ts'
import { onOtherCores, pin, startService } from './servers.ts'
import { printTable, short } from './stats.ts'

type Kind = Omit<AttackOptions, 'port' | 'connections' | 'seconds' | 'perSecond'>

const plainly: Kind = { what: 'plain', burst: 1, then: 'keep' }
/** The attack, and the same requests sent one at a time. */
const kinds: Record<string, { hostile: Kind; single: Kind }> = {
  '950 pipelined': { hostile: { ...plainly, burst: 950 }, single: plainly },
  '20 pipelined': { hostile: { ...plainly, burst: 20 }, single: plainly },
  reset: { hostile: { ...plainly, then: 'reset' }, single: { ...plainly, then: 'close' } },
  slow: { hostile: { ...plainly, what: 'drip' }, single: plainly },
  '20 made-up keys': {
    hostile: { what: 'keys', burst: 20, then: 'keep' },
    single: { what: 'keys', burst: 1, then: 'keep' },
  },
  'log-ins': { hostile: { ...plainly, what: 'logins' }, single: plainly },
  '16 KiB headers': { hostile: { ...plainly, what: 'headers' }, single: plainly },
}

/** Measures the victim beside each attack and prints its latency and what that is of the other. */
export async function hostile({ directory, database, seconds, quick }: Bench): Promise<void> {
  const requests = writeRequests(
    `${directory}/victim`,
    database.known
      .slice(0, 10_000)
      .map(({ key }) => ({ path: '/v1/users/auth', headers: { 'X-Api-Key': key } })),
  )
  const service = await startService(database, directory)
  const victim = { port: service.port, connections: 8, requests, seconds, perSecond: 100 }

  async function beside(attack: Kind, connections: number, perSecond: number | null) {
    const { port } = service
    const child = fork(fileURLToPath(new URL('attack.ts', import.meta.url)), { execArgv: loader })
    pin([child.pid!], onOtherCores)
    child.send({ ...attack, port, connections, seconds: seconds + 1, perSecond })
    await once(child, 'message')
    const load = await prepare(victim, onOtherCores)
    // The victim may have its last answer after the attack is over.
    const attacked = once(child, 'message')
    child.send('go')
    const result = await load.go()
    await attacked
    return result
  }

  const failed: string[] = []
  async function compare(name: string, connections: number, perSecond: number | null) {
    const { hostile, single } = kinds[name]!
    const base = await beside(single, connections, perSecond)
    const result = await beside(hostile, connections, perSecond)
    const isServed = Object.keys(result.statuses).join() === '200' && result.max < 2000
    if (!isServed)
      failed.push(`${name}, ${connections}: ${JSON.stringify(result.statuses)}, ${result.max} ms`)
    return [latency(base), latency(result), times(result, base, 'p50'), times(result, base, 'p99')]
  }

  await beside(plainly, 1, 100)
  for (const [limit, title] of [
    [true, 'as many requests a second as one at a time'],
    [false, 'without limit'],
  ] as const) {
    const rows: string[][] = []
    for (const name of Object.keys(kinds)) {
      for (const connections of quick ? [12, 40] : [1, 12, 40, 200]) {
        const perSecond = limit ? Math.max(20, kinds[name]!.hostile.burst) : null
        rows.push([name, String(connections), ...(await compare(name, connections, perSecond))])
      }
    }
    printTable(
      `A victim beside one hostile client, ${title}: p50, p99, max in ms`,
      ['attack', 'connections', 'one at a time', 'hostile', 'p50 ÷', 'p99 ÷'],
      rows,
    )
  }
  if (failed.length > 0) console.log(`\nNot served within 2 s: ${failed.join('; ')}`)
  await service.stop()
}

const latency = ({ p50, p99, max }: LoadResult) => [p50, p99, max].map(short).join(', ')

const times = (one: LoadResult, other: LoadResult, what: 'p50' | 'p99') =>
  short(one[what] / other[what])
