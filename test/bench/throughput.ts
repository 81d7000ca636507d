// Requests a second, latency and CPU time: the server alone on one core, PostgreSQL and the
// generator on the others, all servers up, the load going from one to the next, in turn forwards
// and backwards. What counts are the ratios of one round.
import { randomBytes } from 'node:crypto'
import { chmodSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { startBouncer, versions } from '../support/pgbouncer.ts'
import type { Bench } from './bench.ts'
import type { KnownUser } from './database.ts'
import { flood, hasWrk, writeRequests } from './drive.ts'
import type { LoadResult } from './load.ts'
import { cpuMs, familyOf } from '../support/process.ts'
import {
  onAllCores,
  onOtherCores,
  onServerCore,
  pin,
  reference,
  startServer,
  startService,
  type Server,
} from './servers.ts'
import { printTable, ratio, short, spread } from './stats.ts'

interface Contestant {
  name: string
  server: Server
  requests(round: number): string
}
interface Measured extends LoadResult {
  cpuUs: number
  postgresUs: number
  rssMb: number
}

const connections = 32

const auth = ({ key }: KnownUser) => ({ path: '/v1/users/auth', headers: { 'X-Api-Key': key } })
const own = ({ id, key }: KnownUser) => ({ path: `/v1/users/${id}`, headers: { 'X-Api-Key': key } })

/** Measures contestants in turn, `rounds` times, and returns what each reached in each round. */
async function compete({ directory, postgres, rounds, seconds }: Bench, contestants: Contestant[]) {
  pin(familyOf(postgres.pid), onOtherCores)
  for (const { server } of contestants) pin([server.child.pid!], onServerCore)
  const postgresMs = () => familyOf(postgres.pid).reduce((sum, pid) => sum + cpuMs(pid), 0)
  const results = new Map<string, Measured[]>(contestants.map(({ name }) => [name, []]))
  for (let round = -1; round < rounds; round++) {
    for (const { name, server, requests } of round % 2 === 0
      ? contestants
      : [...contestants].reverse()) {
      const cpu = server.cpuMs()
      const database = postgresMs()
      const run = await flood(directory, {
        port: server.port,
        connections,
        seconds: round < 0 ? Math.min(2, seconds) : seconds,
        requests: requests(round + 1),
      })
      if (Object.keys(run.statuses).join() !== '200')
        throw new Error(`${name} answered ${JSON.stringify(run.statuses)}`)
      const perRequest = (ms: number) => (ms * 1000) / run.answered
      const measured = {
        ...run,
        cpuUs: perRequest(server.cpuMs() - cpu),
        postgresUs: perRequest(postgresMs() - database),
        rssMb: server.rssMb(),
      }
      // The first round warms up.
      if (round >= 0) results.get(name)!.push(measured)
    }
  }
  pin(familyOf(postgres.pid), onAllCores)
  return results
}

function print(title: string, results: Map<string, Measured[]>, against: Record<string, string[]>) {
  const each = (name: string, value: (run: Measured) => number) => results.get(name)!.map(value)
  const head = [
    '',
    'requests/s',
    'p50 ms',
    'p99 ms',
    'CPU µs',
    'PostgreSQL µs',
    'MB',
    'generator, of a core',
  ]
  printTable(
    title,
    head,
    [...results.keys()].map((name) => [
      name,
      spread(each(name, (run) => run.perSecond)),
      spread(each(name, (run) => run.p50)),
      spread(each(name, (run) => run.p99)),
      spread(each(name, (run) => run.cpuUs)),
      spread(each(name, (run) => run.postgresUs)),
      short(Math.max(...each(name, (run) => run.rssMb))),
      spread(each(name, (run) => run.generatorCpu)),
    ]),
  )
  const rows = Object.entries(against).flatMap(([name, bases]) =>
    bases.map((base) => [
      `${name} ÷ ${base}`,
      ratio(
        each(name, (run) => run.perSecond),
        each(base, (run) => run.perSecond),
      ),
      ratio(
        each(name, (run) => run.cpuUs),
        each(base, (run) => run.cpuUs),
      ),
    ]),
  )
  printTable(
    `Paired, median and range of ${results.values().next().value!.length} rounds`,
    ['', 'requests/s', 'CPU'],
    rows,
  )
}

/** Another service, to be compared: what the names of its requests end with, how it starts. */
interface Other {
  suffix: string
  options: Parameters<typeof startService>[2]
}

/** The three requests with everything switched on that can be, beside nothing. */
export async function everything(bench: Bench): Promise<void> {
  const receiver = await startServer((port) => [reference, 'bare', String(port)], '/')
  const secrets = `${bench.directory}/secrets`
  writeFileSync(secrets, `whsec_${randomBytes(32).toString('base64')}\n`)
  const env = {
    WEBHOOK_URL: `http://127.0.0.1:${receiver.port}/`,
    WEBHOOK_SECRET_FILE: secrets,
    WEBHOOK_EVENTS: 'user.*,key.*,session.*,sessions.*,token.*,tokens.*,password.*,email.*',
    SESSION_IDLE_SECONDS: '3600',
    EMAIL_CHANGE: 'confirmed',
    CORS_ORIGINS: 'https://app.example.org',
    TRUSTED_PROXIES: '10.0.0.0/8',
    REQUIRE_FACTOR: 'admins',
    ...signing(bench),
  }
  await throughput(bench, ['auth', 'user', 'first'], { suffix: ' (all on)', options: { env } })
  await receiver.stop()
}

/** What has a service sign who its callers are. */
function signing({ directory }: Bench) {
  const file = `${directory}/secrets-key`
  writeFileSync(file, `${randomBytes(32).toString('base64')}\n`, { mode: 0o600 })
  return {
    SECRETS_KEY_FILE: file,
    TOKEN_ISSUER: 'https://users.example.org/v1',
    TOKEN_AUDIENCES: 'orders',
  }
}

/** What a signed identity costs where it is reused, beside a service that signs nothing. */
export async function signed(bench: Bench): Promise<void> {
  const { directory, database } = bench
  const known = database.known.slice(0, 5000)
  const plain = writeRequests(`${directory}/auth`, known.map(auth))
  const forBackend = writeRequests(
    `${directory}/signed`,
    known.map((each) => ({ ...auth(each), path: '/v1/users/auth?token-audience=orders' })),
  )
  const off = await startService(database, directory)
  const on = await startService(database, directory, { env: signing(bench) })
  const results = await compete(bench, [
    { name: 'off', server: off, requests: () => plain },
    { name: 'on, not asked for', server: on, requests: () => plain },
    { name: 'signed', server: on, requests: () => forBackend },
  ])
  print('Signed identity', results, { 'on, not asked for': ['off'], signed: ['off'] })
  await Promise.all([off.stop(), on.stop()])
}

/** The three requests against a bare server and one with a look-up, and another service's. */
export async function throughput(bench: Bench, cases: string[], other?: Other): Promise<void> {
  const { directory, database, rounds } = bench
  const few = database.known.slice(0, 10_000)
  const rest = database.known.slice(10_000)
  const authFile = writeRequests(`${directory}/auth`, few.map(auth))
  const userFile = writeRequests(`${directory}/user`, few.map(own))
  const bare = await startServer((port) => [reference, 'bare', String(port)], '/')
  const lookup = await startServer((port) => [reference, 'lookup', String(port)], '/any', {
    env: database.env,
    status: 404,
  })
  const services = await Promise.all(
    [{ suffix: '', options: {} }, ...(other ? [other] : [])].map(async ({ suffix, options }) => ({
      suffix,
      server: await startService(database, directory, options),
    })),
  )
  const fresh = Math.floor(rest.length / (rounds + 1) / services.length)

  const contestants: Contestant[] = [
    { name: 'bare', server: bare, requests: () => authFile },
    { name: 'one look-up', server: lookup, requests: () => authFile },
  ]
  const pairs: Record<string, string[]> = {}
  for (const [number, { suffix, server }] of services.entries()) {
    const add = (name: string, bases: string[], requests: (round: number) => string) => {
      if (!cases.includes(name)) return
      contestants.push({ name: name + suffix, server, requests })
      pairs[name + suffix] = [...bases, ...(suffix ? [name] : [])]
    }
    add('auth', ['bare', 'one look-up'], () => authFile)
    add('user', ['bare', 'one look-up'], () => userFile)
    add('first', ['bare', 'one look-up'], (round) => {
      const from = (round * services.length + number) * fresh
      return writeRequests(`${directory}/first`, rest.slice(from, from + fresh).map(auth))
    })
  }
  const results = await compete(bench, contestants)
  const used = Math.max(
    0,
    ...[...results]
      .filter(([name]) => name.startsWith('first'))
      .flatMap(([, runs]) => runs.map((run) => run.answered)),
  )
  print(
    `Requests, ${connections} connections, ${hasWrk ? 'wrk' : 'our own generator'}`,
    results,
    pairs,
  )
  if (used > fresh) console.log(`\nfirst: only ${fresh} of up to ${used} keys of a run were new`)
  await Promise.all(
    [bare, lookup, ...services.map(({ server }) => server)].map((server) => server.stop()),
  )
}

/** What the access log costs. */
export async function accessLog(bench: Bench): Promise<void> {
  const { directory, database } = bench
  const file = writeRequests(`${directory}/auth`, database.known.slice(0, 10_000).map(auth))
  const on = await startService(database, directory)
  const off = await startService(database, directory, { env: { LOG_LEVEL: 'error' } })
  const results = await compete(bench, [
    { name: 'log on', server: on, requests: () => file },
    { name: 'log off', server: off, requests: () => file },
  ])
  print('Access log', results, { 'log on': ['log off'] })
  await Promise.all([on.stop(), off.stop()])
}

/**
 * One instance against two that share the connections, nothing pinned: what a second process on the
 * machine brings.
 */
export async function instances({ directory, database, rounds, seconds }: Bench): Promise<void> {
  const file = writeRequests(`${directory}/auth`, database.known.slice(0, 10_000).map(auth))
  const [one, other] = await Promise.all([
    startService(database, directory),
    startService(database, directory),
  ])
  const load = (server: Server, share: number) =>
    flood(directory, { port: server.port, connections: share, seconds, requests: file })
  const alone: number[] = []
  const both: number[] = []
  for (let round = -1; round < rounds; round++) {
    const single = await load(one, connections)
    const halves = await Promise.all([load(one, connections / 2), load(other, connections / 2)])
    if (round < 0) continue
    alone.push(single.perSecond)
    both.push(halves.reduce((sum, { perSecond }) => sum + perSecond, 0))
  }
  printTable(
    'Instances on one machine',
    ['', 'requests/s'],
    [
      ['one', spread(alone)],
      ['two', spread(both)],
      ['two ÷ one', ratio(both, alone)],
    ],
  )
  await Promise.all([one.stop(), other.stop()])
}

/** Requests through PgBouncer in transaction mode, with prepared statements and without. */
export async function poolers(bench: Bench): Promise<void> {
  const { directory, postgres, database } = bench
  const file = writeRequests(`${directory}/auth`, database.known.slice(0, 10_000).map(auth))
  // Its account needs a way to it.
  const folder = mkdtempSync(join(tmpdir(), 'user-service-poolers-'))
  chmodSync(folder, 0o755)
  const { uid, gid } = statSync(postgres.socketDirectory)
  const contestants: Contestant[] = [
    { name: 'direct', server: await startService(database, directory), requests: () => file },
  ]
  const bouncers = []
  for (const version of versions) {
    const host = postgres.socketDirectory
    const bouncer = await startBouncer(version, { directory: folder, host, uid, gid })
    bouncers.push(bouncer)
    pin([bouncer.pid], onOtherCores)
    const env = { ...database.env, ...bouncer.env }
    const server = await startService({ env }, directory)
    contestants.push({ name: `PgBouncer ${version}`, server, requests: () => file })
  }
  const results = await compete(bench, contestants)
  const against = Object.fromEntries(versions.map((each) => [`PgBouncer ${each}`, ['direct']]))
  print('/users/auth through PgBouncer', results, against)
  await Promise.all(contestants.map(({ server }) => server.stop()))
  await Promise.all(bouncers.map((bouncer) => bouncer.stop()))
  rmSync(folder, { recursive: true })
}

/** The first page of all users, and one deep in them. */
export async function pages(bench: Bench): Promise<void> {
  const { directory, database, users } = bench
  const { withDatabase } = await import('../../src/database/pool.ts')
  const admin = database.known[0]!
  const [deep] = await withDatabase(database.as('postgres'), async (db) => {
    await db.query(`update users set role = 'admin' where id = $1`, [admin.id])
    return db.query<{ id: string }>('select id from users order by id offset $1 limit 1', [
      users - 101,
    ])
  })
  const page = (search: string) => ({
    path: `/v1/users?limit=100${search}`,
    headers: { 'X-Api-Key': admin.key },
  })
  const first = writeRequests(`${directory}/page-first`, [page('')])
  const last = writeRequests(`${directory}/page-last`, [page(`&after=${deep!.id}`)])
  const server = await startService(database, directory)
  const results = await compete(bench, [
    { name: 'page 1', server, requests: () => first },
    { name: `page ${users / 100}`, server, requests: () => last },
  ])
  print('Pages of 100 users', results, { [`page ${users / 100}`]: ['page 1'] })
  await server.stop()
}
