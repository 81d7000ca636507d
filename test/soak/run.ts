// `npm run soak`: two instances of the service on one PostgreSQL that
// syncs to disk, one of them behind a proxy. Clients work with both while faults are switched on
// and off; every change that was acknowledged is written down, and looked for at the end.
import { randomInt } from 'node:crypto'
import { readdirSync, readlinkSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'

import { createKey } from '../../src/keys/format.ts'
import type { Env } from '../../src/environment.ts'
import { rssMb, until } from '../support/process.ts'
import { printTable, short } from '../bench/stats.ts'
import { startOwnPostgres, type OwnPostgres } from '../support/postgres.ts'
import { startProxy } from '../support/proxy.ts'
import { createRandom } from '../support/random.ts'
import { startReceiver, type Receiver } from '../support/receiver.ts'
import { startService } from '../support/service.ts'
import { undo, undoAll } from '../support/undo.ts'
import { misuse, readOptions } from '../support/usage.ts'
import { createClient, type Client, type Slot } from './client.ts'
import { databaseFaults, receiverFaults, type Fault } from './faults.ts'
import { createLoad } from './load.ts'
import { verify } from './verify.ts'

const usage = `npm run soak -- [--minutes N] [--seed N]
`
const { values } = readOptions(usage, {
  options: { minutes: { type: 'string', default: '30' }, seed: { type: 'string' } },
})
const minutes = Number(values.minutes)
const seed = Number(values.seed ?? randomInt(2 ** 31))
if (!(minutes > 0) || !Number.isInteger(seed)) misuse('N is a number', usage)
const clients = 12
const backWithinMs = 5000

let interrupted = false
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.on(signal, () => {
    interrupted = true
  })
// Nothing that was started is left behind.
const giveUp = async (error: unknown) => {
  console.log('The soak itself failed:', error)
  await undoAll()
  process.exit(1)
}
process.on('uncaughtException', giveUp)
process.stdout.on('error', () => {})
const isWell = await soak().catch(giveUp)
await undoAll()
process.exitCode = isWell ? 0 : 1

async function startInstance(env: Env) {
  const service = await startService({
    ...env,
    RATE_LIMIT: '20',
    SHUTDOWN_SECONDS: '30', // hashes wait for a busy machine
    TRUSTED_PROXIES: '127.0.0.1',
    BOOTSTRAP_ADMIN_EMAIL: 'admin@example.org',
  })
  return { service, agent: new http.Agent({ keepAlive: true }), killed: false }
}

function slot(name: string, instance: Slot['instance']): Slot {
  return { name, instance, isUp: true, troubles: 0, troubled: 0 }
}

/** How many sockets and other things a process holds open. */
function countOpen(pid: number) {
  const fds = `/proc/${pid}/fd`
  const targets = readdirSync(fds).flatMap((fd) => {
    try {
      return readlinkSync(`${fds}/${fd}`)
    } catch {
      return []
    }
  })
  const sockets = targets.filter((target) => target.startsWith('socket')).length
  return { sockets, others: targets.length - sockets }
}

/** Asks for health, and looks into the log, of each instance. */
function inspect({ ask, fail }: Client, slots: Slot[]) {
  for (const at of slots) {
    const { name, instance, isUp } = at
    if (isUp) void ask('GET', '/healthcheck', { at })
    for (const line of instance.service.log.splice(0))
      if (line.includes('"level":"error"')) fail(`${name} logs ${line}`)
  }
}

/** Two instances on one PostgreSQL, one of them behind a proxy, and clients for both. */
async function setUp() {
  const postgres = await startOwnPostgres()
  const proxy = await startProxy(postgres.socket)
  const admin = createKey()
  const keyFile = `${postgres.directory}/admin-key`
  writeFileSync(keyFile, admin, { mode: 0o600 })
  const receiver = await startReceiver()
  const start = (database: Env) =>
    startInstance({ ...database, ...receiver.env, BOOTSTRAP_ADMIN_KEY_FILE: keyFile })
  const [one, two] = await Promise.all([
    start(postgres.env),
    start({ DATABASE_HOST: '127.0.0.1', DATABASE_PORT: String(proxy.port) }),
  ])
  const direct = slot('the direct instance', one)
  const proxied = slot('the proxied instance', two)
  const slots = [direct, proxied]
  const client = createClient(slots)
  const load = createLoad(client, admin)
  return { postgres, proxy, receiver, admin, start, direct, proxied, slots, client, load }
}

async function soak(): Promise<boolean> {
  console.log(`${minutes} minutes, seed ${seed}, Node ${process.version}`)
  const { postgres, proxy, receiver, admin, start, ...parties } = await setUp()
  const { direct, proxied, slots, client, load } = parties
  const { fail, insist } = client
  // Each at an address of its own: who guesses at one for half an hour is told to wait, from
  // wherever it comes.
  let nobodies = 0
  const nobodyLogsIn = (at: Slot) =>
    load.change('POST', '/users/sessions', {
      actions: ['session.failed'],
      at,
      status: 401,
      body: { email: `nobody${++nobodies}@example.org`, password: 'guess' },
    })

  /** What an instance to which nobody is connected holds open. */
  async function measure(at: Slot) {
    await Promise.all([1, 2, 3, 4].map(() => nobodyLogsIn(at)))
    at.instance.agent.destroy()
    await sleep(500)
    const { details } = await insist('GET', '/metrics', { key: admin, at })
    const connections = Number(/^user_service_database_connections (\d+)/m.exec(details)![1])
    const { sockets, others } = countOpen(at.instance.service.child.pid!)
    return { connections, sockets: sockets - connections, others }
  }
  const before = new Map([
    [direct, await measure(direct)],
    [proxied, await measure(proxied)],
  ])

  const replace = async () => {
    const { instance: old } = direct
    const next = await start(postgres.env)
    before.set(direct, await measure(slot('the next instance', next)))
    // With requests in flight that take their time; what comes later goes to the next one.
    const inFlight = [1, 2, 3, 4].map(() => nobodyLogsIn(direct))
    direct.instance = next
    await sleep(30)
    const status = await old.service.kill('SIGTERM')
    await Promise.all(inFlight)
    old.agent.destroy()
    if (status !== 0)
      fail(`an instance that was to stop ended with ${status}: ${old.service.said()}`)
  }
  const kill = async () => {
    direct.isUp = false
    direct.instance.killed = true
    await direct.instance.service.kill('SIGKILL')
    direct.instance = await start(postgres.env)
    before.set(direct, await measure(direct))
    direct.isUp = true
  }
  const r = createRandom(seed)
  const faults: Record<string, Fault> = {
    ...databaseFaults({
      postgres,
      proxy,
      slots,
      behind: [proxied],
      wait: () => sleep(1000 + r.below(2500)),
    }),
    'instance stopped under load, and replaced': [[], replace],
    'instance killed, and started': [[], kill],
    ...receiverFaults(receiver, r),
  }
  const counts: Record<string, number> = {}
  let slowestBackMs = 0
  async function bringAbout(name: string) {
    const [troubled, run] = faults[name]!
    for (const each of troubled) each.troubles = ++each.troubled && each.troubles + 1
    await run()
    const over = performance.now()
    for (const at of troubled) await insist('GET', '/healthcheck', { at })
    const backMs = performance.now() - over
    slowestBackMs = Math.max(slowestBackMs, backMs)
    if (backMs > backWithinMs) fail(`${name}: well only after ${Math.round(backMs)} ms`)
    await sleep(500)
    for (const each of troubled) each.troubles--
    counts[name] = (counts[name] ?? 0) + 1
  }

  const startedAt = performance.now()
  const elapsed = () => (performance.now() - startedAt) / (minutes * 60_000)
  const isOver = () => interrupted || elapsed() >= 1
  const memory: Sample[] = []
  const watching = setInterval(() => {
    memory.push({ at: elapsed(), mb: rssMb(proxied.instance.service.child.pid!) })
    inspect(client, slots)
  }, 500)
  undo.push(() => clearInterval(watching))
  const living = Array.from({ length: clients }, (_, i) => load.live(seed + i + 1, isOver))
  let left: string[] = []
  while (!isOver()) {
    await sleep(1000 + r.below(2000))
    if (left.length === 0) left = Object.keys(faults)
    await bringAbout(left.splice(r.below(left.length), 1)[0]!)
  }
  await Promise.all(living)
  clearInterval(watching)
  const { early, late } = checkMemory(memory, fail)
  const checked = await verify({ client, slots, load, admin })
  const events = await checkTold(postgres, receiver, fail)
  const open: string[] = []
  let connections = 0
  for (const [at, was] of before) {
    const is = await measure(at)
    connections += is.connections
    open.push(`${is.sockets} + ${is.others}`)
    checkOpen(at, { is, was }, fail)
  }
  const { held, admins } = await count(postgres)
  if (held !== connections)
    fail(`PostgreSQL holds ${held} connections, the instances ${connections}`)
  if (admins !== 1) fail('two instances made more than one admin')
  for (const { instance } of slots) {
    const { service } = instance
    if ((await service.kill()) !== 0) fail(`did not stop well: ${service.said()}`)
  }

  report(client, {
    counts,
    checked,
    slowestBackMs,
    others: [
      ['memory of the proxied instance early and late, MB', `${short(early)}, ${short(late)}`],
      ['sockets + other descriptors of each instance', open.join(', ')],
      ['connections to PostgreSQL', String(held)],
      ['events that the webhook was to be told; came again', events],
    ],
  })
  return client.wrong.length === 0 && !interrupted
}

interface Sample {
  /** When, as a part of the whole time. */
  at: number
  mb: number
}

/** Fails if the memory grew; returns what it was early and late. */
function checkMemory(samples: Sample[], fail: Client['fail']) {
  const largest = (from: number, to: number) =>
    Math.max(...samples.filter(({ at }) => at >= from && at < to).map(({ mb }) => mb))
  const early = largest(0.2, 0.4)
  const late = largest(0.8, Infinity)
  if (late > early * 1.25 + 16) fail(`memory grew from ${short(early)} to ${short(late)} MB`)
  return { early, late }
}

/** Fails unless the receiver was told each event of a user, at least once and in order. */
async function checkTold({ sql }: OwnPostgres, receiver: Receiver, fail: Client['fail']) {
  const outbox = 'user_service_schema.outbox'
  await sql(`update ${outbox} set next_at = now() where last_failure is not null`)
  const left = () => sql<{ id: string }>(`select id from ${outbox}`)
  await until('the outbox is empty', async () => (await left()).length === 0, 120)
  const events = await sql<{ id: string; subject: string }>(
    `select id, subject from user_service_schema.audit_events
     where action like 'user.%' order by id`,
  )
  const told = receiver.told.filter(({ type }) => type.startsWith('user.'))
  const firsts = new Map(told.map(({ id, data }) => [id, data.subject as string]))
  const inOrder = (ids: string[]) => ids.join(' ')
  for (const subject of new Set(events.map((each) => each.subject))) {
    const are = [...firsts].filter(([, each]) => each === subject).map(([id]) => id)
    const must = events.filter((each) => each.subject === subject).map(({ id }) => id)
    if (inOrder(are) !== inOrder(must)) fail(`user ${subject}: told ${are}, in the audit ${must}`)
  }
  if (firsts.size !== events.length) fail(`${firsts.size} events told, ${events.length} happened`)
  return `${events.length}; ${told.length - events.length}`
}

type Open = ReturnType<typeof countOpen>

/** Fails if an instance holds more open than at first. */
function checkOpen({ name }: Slot, { is, was }: { is: Open; was: Open }, fail: Client['fail']) {
  if (is.sockets > was.sockets || is.others > was.others)
    fail(`${name} holds open ${JSON.stringify(is)}, at first ${JSON.stringify(was)}`)
}

/** The connections of the service, and the admins. */
async function count({ sql }: OwnPostgres) {
  const [row] = await sql<{ held: number; admins: number }>(`
    select
      (select count(*)::int from pg_stat_activity where usename = 'user_service_manager') as held,
      (select count(*)::int from user_service_schema.users where role = 'admin') as admins`)
  return row!
}

interface Found {
  /** How often each fault was on. */
  counts: Record<string, number>
  checked: Awaited<ReturnType<typeof verify>>
  slowestBackMs: number
  others: string[][]
}

function report(client: Client, { counts, checked, slowestBackMs, others }: Found) {
  const { figures, slowest, statuses, wrong } = client
  printTable(
    'Load',
    ['', ''],
    [
      ['requests', short(figures.requests)],
      ...Object.entries(statuses).map(([status, n]) => [`… answered ${status}`, short(n)]),
      ['… lost to a fault: 503, or none', short(figures.lost)],
      ...Object.entries(slowest).map(([kind, ms]) => [`slowest ${kind}, ms`, short(ms)]),
      ['slowest return from a fault, ms', short(slowestBackMs)],
    ],
  )
  printTable(
    'Faults',
    ['', ''],
    Object.entries(counts).map(([name, n]) => [name, String(n)]),
  )
  printTable(
    'Checks',
    ['', ''],
    [
      ['changes acknowledged, all in the audit', short(checked.changes)],
      [
        'changes whose answer was lost; that had happened, wholly',
        `${short(checked.lost)}; ${short(checked.happened)}`,
      ],
      ['users as they must be, on both instances', short(checked.users)],
      [
        'keys asked for on both instances; revoked ones, refused',
        `${short(checked.keys)}; ${short(checked.revoked)}`,
      ],
      ...others,
    ],
  )
  console.log(
    wrong.length === 0
      ? '\nnothing was wrong'
      : `\n${wrong.length} things were wrong, first:\n${wrong.slice(0, 20).join('\n')}`,
  )
}
