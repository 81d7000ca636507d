// Needs patroni, etcd-server, haproxy, iptables, and root for network namespaces and a tmpfs. What
// befalls a cluster of three machines under two instances of the service, one of which is told the
// three addresses and the other HAProxy's. PATRONI_ROUNDS=N is the long form: all faults in turn,
// then N at random.
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'

import type { DatabaseConfig } from '../../src/config.ts'
import { migrate } from '../../src/database/migrate.ts'
import { withDatabase } from '../../src/database/pool.ts'
import { createDatabase } from '../../src/database/setup.ts'
import { createKey } from '../../src/keys/format.ts'
import { undo } from '../support/helpers.ts'
import { type Answer, createLedger, type Instance } from '../support/ledger.ts'
import * as patroni from '../support/patroni.ts'
import { until } from '../support/process.ts'
import { startService } from '../support/service.ts'

const rounds = Number(process.env['PATRONI_ROUNDS'] ?? 0)
const cluster = await patroni.startCluster(
  {
    ttl: 20,
    loop_wait: 2,
    retry_timeout: 3,
    synchronous_mode: true,
    postgresql: { use_pg_rewind: true, parameters: { max_wal_size: '128MB' } },
  },
  700,
)
const { machines } = cluster
const addresses = machines.map(({ address }) => address)

const as = (user: string): DatabaseConfig => ({
  hosts: addresses,
  port: 5432,
  name: 'db_user_service',
  user,
  password: undefined,
  ssl: false,
  poolSize: 2,
})
await createDatabase(as('postgres'))
await withDatabase(as('user_service_admin'), (db) => migrate(db, 'up'))

const admin = createKey()
const keyFile = join(cluster.directory, 'admin-key')
writeFileSync(keyFile, admin)
const settings = {
  SIGNUP: 'open',
  KEYS_PER_USER: '1000000',
  BOOTSTRAP_ADMIN_EMAIL: 'admin@example.org',
  BOOTSTRAP_ADMIN_KEY_FILE: keyFile,
}
const hosts = { ...settings, DATABASE_HOST: addresses.join(',') }
const haproxyPort = String(await patroni.startHaproxy(cluster))
const balanced = { ...settings, DATABASE_HOST: '127.0.0.1', DATABASE_PORT: haproxyPort }

async function start(name: string, env: Record<string, string>): Promise<Instance> {
  const service = await startService(env)
  assert.notEqual(service.url, '', service.said())
  return { name, url: service.url }
}
const instances = [await start('three hosts', hosts), await start('HAProxy', balanced)]
const [first] = instances as [Instance, Instance]
const ledger = await createLedger(admin, first)
for (const instance of instances) undo.push(await ledger.join(instance))
await until('there are keys', () => ledger.off.length > 10, 60)

interface Row {
  fault: string
  instance: string
  kind: Answer['kind']
  seconds: number
}
const table: Row[] = []

/** From the first refused request to the last one, in seconds. */
function refusedFor(answers: Answer[]) {
  const refused = answers.filter(({ status }) => status === 503).map(({ at }) => at)
  return refused.length === 0 ? 0 : (Math.max(...refused) - Math.min(...refused)) / 1000
}
const answersOf = (name: string, kind: Answer['kind']) =>
  ledger.answers().filter((each) => each.instance === name && each.kind === kind)

/** A line for each fault, instance and kind of request. */
function summary() {
  const lines = new Map<string, number[]>()
  for (const { fault, instance, kind, seconds } of table) {
    const line = `${fault}, ${instance}, ${kind}s`
    lines.set(line, [...(lines.get(line) ?? []), seconds])
  }
  return [...lines].map(([line, list]) => {
    const sorted = list.sort((a, b) => a - b)
    const median = sorted[Math.floor(sorted.length / 2)]!
    const longest = sorted.at(-1)!.toFixed(1)
    return `${line}: 503 for ${median.toFixed(1)} s, at most ${longest} s, of ${sorted.length}`
  })
}

/** Waits until each instance has answered so many requests of each kind in a row. */
const served = () =>
  until(
    () => `served: ${JSON.stringify(ledger.answers().slice(-20))}`,
    () =>
      instances.every(({ name }) =>
        (['read', 'change'] as const).every((kind) => {
          const last = answersOf(name, kind).slice(-15)
          return last.length === 15 && last.every(({ status }) => status < 500)
        }),
      ),
    90,
  )

/**
 * Does harm and waits until requests are answered again; then heals, waits until the cluster is
 * whole, and looks for everything that was acknowledged.
 */
async function suffer(t: TestContext, fault: string, harm: () => Promise<() => unknown>) {
  const end = ledger.begin()
  const heal = await harm()
  await served()
  await heal()
  await cluster.whole()
  await served()
  for (const { name } of instances)
    for (const kind of ['read', 'change'] as const) {
      const answers = answersOf(name, kind)
      const row = { fault, instance: name, kind, seconds: refusedFor(answers) }
      table.push(row)
      const count = answers.filter(({ status }) => status === 503).length
      const longest = Math.round(Math.max(...answers.map(({ ms }) => ms)))
      t.diagnostic(
        `${fault}, ${name}, ${kind}s: 503 for ${row.seconds.toFixed(1)} s (${count} of ` +
          `${answers.length}), longest answer ${longest} ms`,
      )
    }
  end()
  await ledger.verify(instances)
  assert.deepEqual(ledger.wrong.splice(0), [])
}

const others = (machine: patroni.Machine) => machines.filter((each) => each !== machine)

async function switchOver() {
  const leader = await cluster.leader()
  const members = await cluster.members()
  const candidate = members.find(({ role }) => role === 'sync_standby')!.name
  const body = { leader: leader.name, candidate }
  const { ok, text } = await cluster.rest(leader, '/switchover', { method: 'POST', body })
  assert.ok(ok, text)
  return () => {}
}

async function killLeader() {
  const leader = await cluster.leader()
  await patroni.kill(leader, patroni.database)
  await cluster.leader(others(leader))
  return () => cluster.patroni(leader)
}

/** An instance on a machine, which reaches its database even when it is cut off. */
async function startBeside(machine: patroni.Machine) {
  const env = { ...hosts, RATE_LIMIT: '0', SERVER_HOST: '0.0.0.0', SERVER_PORT: '8080' }
  const self = { uid: process.getuid!(), gid: process.getgid!() }
  const words = Object.entries(env).map(([name, value]) => `${name}=${value}`)
  const service = await startService({}, { before: [...patroni.enter(machine, self), ...words] })
  assert.notEqual(service.url, '', service.said())
  const instance = { name: 'behind the cut', url: `http://${machine.address}:8080/v1` }
  return { instance, stop: () => patroni.kill(machine, /start\.js/) }
}

/** Cuts off the leader's machine, and with it an instance under load. */
async function cutLeader(t: TestContext) {
  const leader = await cluster.leader()
  const { instance, stop } = await startBeside(leader)
  const leave = await ledger.join(instance)
  undo.push(leave)
  await until('it is asked', () => answersOf(instance.name, 'read').length > 5)
  const size = patroni.saidBy(leader).length
  const from = performance.now()
  patroni.cut(leader)
  await cluster.leader(others(leader))
  await served()
  const passed = (name: string) =>
    answersOf(name, 'read').filter(({ at, status }) => at > from && status === 200)
  const seconds = (answer: Answer) => `${((answer.at - from) / 1000).toFixed(1)} s`
  // A request that was answered while the cut was made.
  const again = passed(first.name).find(({ at }) => at > from + 2000)!
  t.diagnostic(`behind the cut keys passed for ${seconds(passed(instance.name).at(-1)!)}`)
  t.diagnostic(`with the other two, they passed again after ${seconds(again)}`)
  return async () => {
    await leave()
    await stop()
    patroni.mend(leader)
    // It has written what was not confirmed.
    const isRewound = () => patroni.saidBy(leader).slice(size).includes('pg_rewind exit code=0')
    await until(() => `rewound: ${patroni.saidBy(leader).slice(size)}`, isRewound, 60)
  }
}

/** Until both instances refuse. */
const refused = () =>
  until(
    'refused',
    () =>
      instances.every(({ name }) => {
        const last = answersOf(name, 'read').slice(-5)
        return last.length === 5 && last.every(({ status }) => status === 503)
      }),
    60,
  )

async function loseEtcd() {
  const two = others(await cluster.leader())
  for (const machine of two) await patroni.kill(machine, patroni.etcd)
  await refused()
  for (const machine of two) cluster.etcd(machine)
  return () => {}
}

/** The last machine's disk is small. */
async function fillReplica() {
  const small = machines.at(-1)!
  if ((await cluster.leader()) === small) {
    await switchOver()
    await cluster.whole()
  }
  const makeRoom = patroni.fill(small)
  undo.push(makeRoom)
  const size = patroni.saidBy(small).length
  await until(
    'it is full',
    async () => {
      await withDatabase(as('postgres'), (db) => db.query('select pg_switch_wal()')).catch(() => {})
      return patroni.saidBy(small).slice(size).includes('No space left')
    },
    60,
  )
  return () => {
    makeRoom()
    if (patroni.processesOf(small, patroni.etcd).length === 0) cluster.etcd(small)
  }
}

/** Each replica, then a switchover, then the former leader. */
async function restartInTurn() {
  const leader = await cluster.leader()
  const parameters = { shared_buffers: `${64 + Math.floor(Math.random() * 64)}MB` }
  const patch = { method: 'PATCH', body: { postgresql: { parameters } } }
  assert.ok((await cluster.rest(leader, '/config', patch)).ok)
  await until(
    'all know that they are to be restarted',
    async () => (await cluster.members()).every((member) => member.pending_restart),
    60,
  )
  const restart = async (machine: patroni.Machine) => {
    const { ok, text } = await cluster.rest(machine, '/restart', { method: 'POST', body: {} })
    assert.ok(ok, text)
    await cluster.whole()
  }
  for (const machine of others(leader)) await restart(machine)
  await switchOver()
  await cluster.whole()
  await restart(leader)
  return () => {}
}

test('a switchover loses nothing and lets no revoked key pass', (t) =>
  suffer(t, 'switchover', switchOver))

test('a leader that is killed loses nothing and lets no revoked key pass', (t) =>
  suffer(t, 'leader killed', killLeader))

test('a leader that is cut off loses nothing and lets no revoked key pass on either side', (t) =>
  suffer(t, 'leader cut off', () => cutLeader(t)))

if (rounds > 0) {
  test('etcd without a majority stops the service, which loses nothing', (t) =>
    suffer(t, 'etcd without a majority', loseEtcd))

  test('a replica whose disk is full loses nothing', (t) => suffer(t, 'replica full', fillReplica))

  test('a rolling restart loses nothing', (t) => suffer(t, 'rolling restart', restartInTurn))

  test('faults at random lose nothing and let no revoked key pass', async (t) => {
    const faults = {
      switchover: switchOver,
      'leader killed': killLeader,
      'leader cut off': () => cutLeader(t),
      'etcd without a majority': loseEtcd,
      'replica full': fillReplica,
      'rolling restart': restartInTurn,
    }
    for (let round = 0; round < rounds; round++) {
      const names = Object.keys(faults) as (keyof typeof faults)[]
      const fault = names[Math.floor(Math.random() * names.length)]!
      await suffer(t, fault, faults[fault])
    }
    for (const line of summary()) t.diagnostic(line)
  })

  test('without a watchdog, a leader whose Patroni hangs is believed behind a cut', async () => {
    const end = ledger.begin()
    const leader = await cluster.leader()
    const { instance, stop } = await startBeside(leader)
    const from = performance.now()
    patroni.signal(leader, 'SIGSTOP', /bin\/patroni /)
    patroni.cut(leader)
    await cluster.leader(others(leader))
    await served()
    const findOff = () => [ledger.lastOff()].find((key) => key && key.offAt > from)
    const key = (await until('a key is off', findOff))!
    const asked = await ledger.authenticate(instance, key)
    assert.equal(asked.status, 200)
    await stop()
    patroni.signal(leader, 'SIGCONT', /bin\/patroni /)
    patroni.mend(leader)
    await cluster.whole()
    end()
  })
}
