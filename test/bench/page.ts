// The first paint of the page for admins: what the service takes, as its access log has it, for the
// page and for its list of users, at once after the start and once more.
import { mkdtempSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

import { withDatabase } from '../../src/database/pool.ts'
import { until } from '../support/process.ts'
import type { Bench } from './bench.ts'
import { startService } from './servers.ts'
import { printTable, spread } from './stats.ts'

const requests = ['/v1/admin', '/v1/users?view=full&limit=50']

export async function page({ directory, database, rounds, users }: Bench): Promise<void> {
  const { id, key } = database.known[0]!
  await withDatabase(database.as('postgres'), (db) =>
    db.query(`update users set role = 'admin' where id = $1`, [id]),
  )
  const first: number[] = []
  const again: number[] = []
  for (let round = 0; round < rounds; round++) {
    const folder = mkdtempSync(join(directory, 'page-'))
    const server = await startService(database, folder)
    for (const request of [...requests, ...requests]) {
      const url = `http://127.0.0.1:${server.port}${request}`
      const { status } = await fetch(url, { headers: { 'X-Api-Key': key } })
      if (status !== 200) throw new Error(`${request} answered ${status}`)
    }
    const read = () => readFileSync(join(folder, 'access.log'), 'utf8').match(/"ms":[\d.]+/g) ?? []
    await until('all are in the log', () => read().length === 4)
    const [a = NaN, b = NaN, c = NaN, d = NaN] = read().map((each) => Number(each.slice(5)))
    first.push(a + b)
    again.push(c + d)
    await server.stop()
  }
  printTable(
    `The page for admins and its first list, ${users.toLocaleString('en')} users`,
    ['', 'ms of the service'],
    [
      ['after the start', spread(first)],
      ['once more', spread(again)],
    ],
  )
}
