// What many users take: space, the depth of indexes, vacuum, partitions, and a backup of all by the
// project's own commands to a real S3 server (swift and memcached, see test/system/backup.test.ts).
import { mkdirSync, mkdtempSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { join } from 'node:path'

import { digestKey } from '../../src/keys/format.ts'
import { findPostgresBin } from '../../src/database/programs.ts'
import { openDatabase, withDatabase } from '../../src/database/pool.ts'
import { familyOf, launch, startProgram, succeed } from '../support/process.ts'
import { startS3 } from '../support/s3.ts'
import type { Bench } from './bench.ts'
import type { Filled } from './database.ts'
import { median, printTable, short, spread } from './stats.ts'

interface Relation {
  name: string
  size: string
  depth: number | null
}

/** Tables and indexes with their size and, of an index, the levels above its leaves. */
const readRelations = ({ as }: Filled) =>
  withDatabase(as('postgres'), async (db) => {
    await db.query('create extension if not exists pageinspect schema public')
    return db.query<Relation>(
      `select relname as name, pg_size_pretty(pg_relation_size(oid)) as size,
         case when relkind = 'i' then (public.bt_metap(oid::regclass::text)).level end as depth
       from pg_class
       where relnamespace = 'user_service_schema'::regnamespace and relkind in ('r', 'i')
         and relname ~ '^(users|api_keys)' order by relkind desc, relname`,
    )
  })

/** In seconds. */
async function time(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now()
  await work()
  return (performance.now() - start) / 1000
}

/** Vacuum after one key in twenty was used, and what it had to be done for. */
const vacuum = ({ as }: Filled) =>
  withDatabase(as('postgres'), async (db) => {
    await db.query('set statement_timeout = 0')
    const used = await time(() =>
      db.query(
        `update api_keys set last_used_at = now()
         where ('x' || right(id::text, 4))::bit(16)::int % 20 = 0`,
      ),
    )
    return [used, await time(() => db.query('vacuum api_keys'))]
  })

/** Microseconds of a look-up by digest, in one table and in sixteen partitions of its hash. */
async function partition(filled: Filled, rounds: number) {
  const { as, known } = filled
  await withDatabase(as('postgres'), async (db) => {
    await db.query('set statement_timeout = 0')
    await db.query(
      `create table parted (like api_keys including defaults) partition by hash (digest)`,
    )
    for (let i = 0; i < 16; i++)
      await db.query(
        `create table parted_${i} partition of parted for values with (modulus 16, remainder ${i})`,
      )
    await db.query('insert into parted select * from api_keys')
    await db.query('create unique index on parted (digest)')
    await db.query('vacuum analyze parted')
  })
  const db = openDatabase({ ...as('postgres'), poolSize: 1 }, () => {})
  const times: Record<string, number[]> = { api_keys: [], parted: [] }
  for (let round = -1; round < rounds; round++) {
    for (const [table, each] of Object.entries(times)) {
      const took: number[] = []
      for (let i = 0; i < 2000; i++) {
        const { key } = known[Math.floor(Math.random() * known.length)]!
        const text = `select user_id from ${table} where digest = $1`
        took.push(1e6 * (await time(() => db.query(text, [digestKey(key)], true))))
      }
      if (round >= 0) each.push(median(took))
    }
  }
  await db.stop()
  await withDatabase(as('postgres'), (db) => db.query('drop table parted'))
  return times
}

/** Seconds that a command takes, and the most memory that it and its children had, in MB. */
async function measure(args: string[], env: NodeJS.ProcessEnv) {
  let most = 0
  let isOver = false
  const start = performance.now()
  const { child, ended } = startProgram(process.execPath, args, env)
  const watching = (async () => {
    while (!isOver) {
      const family = await readMemory(child.pid!)
      most = Math.max(most, family)
      await sleep(200)
    }
  })()
  const { status, stdout, stderr } = await ended
  isOver = true
  await watching
  if (status !== 0) throw new Error(stderr)
  return { seconds: (performance.now() - start) / 1000, megabytes: most, stdout }
}

/** Megabytes that a process and its children have now. */
async function readMemory(pid: number) {
  const pids = familyOf(pid).join(',')
  const { stdout } = await startProgram('ps', ['-o', 'rss=', '-p', pids], process.env).ended
  return stdout.split('\n').reduce((sum, line) => sum + Number(line) / 1024, 0)
}

/** Dumps all users to S3 and restores them over what is there. */
export async function dump({ directory, postgres, database }: Bench): Promise<void> {
  const s3 = await startS3(mkdtempSync(join(directory, 's3-')))
  try {
    const home = join(directory, 'home')
    mkdirSync(home, { recursive: true })
    const bin = findPostgresBin('pg_dump')
    const env = {
      ...s3.env,
      HOME: home,
      TMPDIR: directory,
      PATH: `${bin}:${process.env['PATH']}`,
      S3_BUCKET: 's3://size',
      DATABASE_HOST: postgres.socketDirectory,
      DATABASE_PORT: String(postgres.port),
      DATABASE_NAME: database.name,
    }
    await succeed('aws', ['s3', 'mb', 's3://size'], env)
    const limit = ['--timeout', '5h']
    const made = await measure([...launch('backup.js'), ...limit], env)
    const list = await startProgram('aws', ['s3', 'ls', 's3://size', '--recursive'], env).ended
    const lines = list.stdout.trim().split('\n')
    const bytes = Math.max(...lines.map((line) => Number(line.split(/\s+/)[2])))
    const restored = await measure([...launch('restore.js'), 'latest', '--yes'], env)
    const row = ({ seconds, megabytes }: typeof made) => [short(seconds), short(megabytes)]
    printTable(
      `A backup of ${short(bytes / 2 ** 20)} MB`,
      ['', 'seconds', 'MB of memory'],
      [
        ['bin/backup.js', ...row(made)],
        ['bin/restore.js', ...row(restored)],
      ],
    )
  } finally {
    await s3.stop()
  }
}

/** Space, vacuum and partitions, for a tenth of the users and for all. */
export async function size(bench: Bench): Promise<void> {
  const { database, fill, users, rounds } = bench
  const filled = [await fill(users / 10, 10_000), database]
  const head = ['', ...[10, 1].map((part) => `${(users / part).toLocaleString('en')} users`)]
  const relations = await Promise.all(filled.map(readRelations))
  const describe = ({ size, depth }: Relation) => (depth === null ? size : `${size}, ${depth}`)
  const rows = relations[0]!.map(({ name }) => [
    name,
    ...relations.map((each) => describe(each.find((relation) => relation.name === name)!)),
  ])
  printTable('Size of tables; size and depth of indexes', head, rows)
  const vacuums = [await vacuum(filled[0]!), await vacuum(filled[1]!)]
  const parted = [await partition(filled[0]!, rounds), await partition(filled[1]!, rounds)]
  printTable('Seconds; microseconds of a look-up', head, [
    ['one key in twenty is used', ...vacuums.map(([used]) => short(used!))],
    ['vacuum of api_keys after that', ...vacuums.map(([, cleaned]) => short(cleaned!))],
    ['look-up by digest', ...parted.map(({ api_keys }) => spread(api_keys!))],
    ['the same in 16 partitions', ...parted.map(({ parted }) => spread(parted!))],
  ])
}
