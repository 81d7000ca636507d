// What statements cost as the tables grow: the same work on three databases of one server, in turn.
// Times include the commit, with fsync.
import { randomBytes } from 'node:crypto'

import { digestKey } from '../../src/keys/format.ts'
import { insertEvent } from '../../src/audit/queries.ts'
import { type Database, openDatabase } from '../../src/database/pool.ts'
import { findCallers, insertKey, listKeys } from '../../src/keys/queries.ts'
import {
  deleteUser,
  findUserByEmail,
  insertUser,
  listUsers,
  lockUser,
} from '../../src/users/queries.ts'
import type { Bench } from './bench.ts'
import type { KnownUser } from './database.ts'
import { median, printTable, ratio, spread } from './stats.ts'

const origin = { address: '127.0.0.1', requestId: 'bench' }
type Work = (db: Database, known: KnownUser, deep: string) => Promise<unknown>
const changes = ['sign-up', 'delete']

/** Made by sign-up, taken by delete. */
const made = new Map<Database, string[]>()

const works: Record<string, Work> = {
  'sign-up': async (db) =>
    made.get(db)!.push(
      await db.transaction(async (tx) => {
        const email = `${randomBytes(8).toString('hex')}@example.org`
        const { id } = await insertUser(tx, { email, passwordHash: 'none' })
        const key = await insertKey(tx, { userId: id, kind: 'api', name: 'default' })
        await insertEvent(tx, {
          action: 'user.created',
          actor: id,
          subject: id,
          keyId: key.id,
          origin,
        })
        return id
      }),
    ),
  delete: (db) => {
    const id = made.get(db)!.pop()!
    return db.transaction(async (tx) => {
      await deleteUser(tx, await lockUser(tx, id))
      await insertEvent(tx, { action: 'user.deleted', actor: id, subject: id, origin })
    })
  },
  'key look-up': (db, { key }) => findCallers(db, [digestKey(key)], 0),
  'user by address': (db, { email }) => findUserByEmail(db, email),
  'keys of a user': (db, { id }) => listKeys(db, id, { limit: 101 }),
  'first page': (db) => listUsers(db, { limit: 101 }),
  'last page': (db, _, deep) => listUsers(db, { limit: 101, after: deep }),
}

/** The same statements with a hundredth and a tenth of the users, and with all. */
export async function growth({ database, fill, users, rounds, quick }: Bench): Promise<void> {
  const filled = [await fill(users / 100, 10_000), await fill(users / 10, 10_000), database]
  const sizes = await Promise.all(
    filled.map(async ({ as, known }) => {
      const db = openDatabase({ ...as('user_service_manager'), poolSize: 1 }, () => {})
      const [last] = await db.query<{ id: string }>(
        'select id from (select id from users order by id desc limit 101) as last ' +
          'order by id limit 1',
      )
      made.set(db, [])
      return { db, known, deep: last!.id }
    }),
  )
  const rows: string[][] = []
  for (const [name, work] of Object.entries(works)) {
    const times: number[][] = sizes.map(() => [])
    for (let round = -1; round < rounds; round++) {
      for (const [size, { db, known, deep }] of sizes.entries()) {
        const each: number[] = []
        // A new connection pays for each page that it meets the first time: the first round is
        // long, and not counted.
        const reads = round < 0 ? 10_000 : 1000
        const count = changes.includes(name) ? 150 : reads
        for (let i = 0; i < (quick ? 30 : count); i++) {
          const start = performance.now()
          await work(db, known[Math.floor(Math.random() * known.length)]!, deep)
          each.push((performance.now() - start) * 1000)
        }
        if (round >= 0) times[size]!.push(median(each))
      }
    }
    rows.push([name, ...times.map(spread), ratio(times[2]!, times[0]!)])
  }
  const head = [
    'µs',
    ...[100, 10, 1].map((part) => `${(users / part).toLocaleString('en')} users`),
    'largest ÷ smallest',
  ]
  printTable('Statements as the tables grow, the database’s part', head, rows)
  await Promise.all(sizes.map(({ db }) => db.stop()))
}
