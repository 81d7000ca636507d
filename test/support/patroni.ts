// Three machines, each a network namespace with an address of its own on a bridge, and in each
// etcd, Patroni and PostgreSQL; HAProxy before them. All of it is gone at the end.
import assert from 'node:assert/strict'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { once } from 'node:events'
import {
  appendFileSync,
  chmodSync,
  chownSync,
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'

import { findPostgresBin } from '../../src/database/programs.ts'
import { freePort, listProcesses, makeFolder, until } from './process.ts'
import { undo } from './undo.ts'

export interface Machine {
  name: string
  address: string
  namespace: string
  directory: string
}

interface Member {
  name: string
  role: 'leader' | 'sync_standby' | 'replica'
  state: string
  lag?: number | 'unknown'
  pending_restart?: boolean
}

const isRoot = process.getuid!() === 0
const sudo = isRoot ? [] : ['sudo']

/** Runs a command that needs root, to its end. */
export function asRoot(...command: string[]): string {
  return execFileSync('env', [...sudo, ...command], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  })
}

/** PostgreSQL does not run as root. */
const account = isRoot
  ? { uid: idOf('-u'), gid: idOf('-g') }
  : { uid: process.getuid!(), gid: process.getgid!() }

function idOf(flag: string) {
  return Number(execFileSync('id', [flag, 'postgres'], { encoding: 'utf8' }))
}

/** What leads a command into a machine, as the account `uid` and `gid`, without an environment. */
export const enter = ({ namespace }: Machine, { uid, gid } = account) => [
  ...[...sudo, 'ip', 'netns', 'exec', namespace],
  ...['setpriv', `--reuid=${uid}`, `--regid=${gid}`, '--clear-groups'],
  ...['env', '-i', `PATH=${process.env['PATH']}`, 'LC_ALL=C.UTF-8', 'ETCD_UNSUPPORTED_ARCH=arm64'],
]

export type Cluster = Awaited<ReturnType<typeof startCluster>>

/**
 * Starts the cluster and waits until it is whole. The last machine's disk has `diskMb`. `dcs` are
 * Patroni's settings for all members.
 */
export async function startCluster(dcs: object, diskMb: number) {
  const directory = makeFolder('patroni')
  chmodSync(directory, 0o755)
  const { machines } = connectMachines(directory)
  mountDisk(machines.at(-1)!.directory, diskMb)
  for (const machine of machines) {
    mkdirSync(join(machine.directory, 'socket'))
    chownSync(machine.directory, account.uid, account.gid)
    chownSync(join(machine.directory, 'socket'), account.uid, account.gid)
    writeFileSync(configOf(machine), JSON.stringify(patroniConfig(machine, machines, dcs)))
  }
  const programs = {
    etcd: (machine: Machine) => launch(machine, 'etcd', etcdCommand(machine, machines)),
    patroni: (machine: Machine) => launch(machine, 'patroni', ['patroni', configOf(machine)]),
  }
  for (const machine of machines) programs.etcd(machine)
  await until('etcd serves', () => isServed(`http://${machines[0]!.address}:2379/health`), 60)
  for (const machine of machines) programs.patroni(machine)
  const cluster = { directory, machines, ...programs, ...watch(machines) }
  await cluster.whole()
  return cluster
}

/** How the cluster is seen, and spoken to, through Patroni's REST interface. */
function watch(machines: Machine[]) {
  async function rest(
    machine: Machine,
    path: string,
    init: { method?: string; body?: object } = {},
  ) {
    const response = await fetch(`http://${machine.address}:8008${path}`, {
      method: init.method ?? 'GET',
      ...(init.body && { body: JSON.stringify(init.body) }),
      signal: AbortSignal.timeout(init.method ? 60_000 : 1000),
    })
    return { ok: response.ok, text: await response.text() }
  }

  /** The members, as the first of the machines that answers has them. */
  async function members(asked = machines): Promise<Member[]> {
    for (const machine of asked) {
      try {
        const { ok, text } = await rest(machine, '/cluster')
        if (ok) return JSON.parse(text).members as Member[]
      } catch {
        // Another one may.
      }
    }
    return []
  }

  /** The machine whose PostgreSQL is writable, once there is one, of those that are asked. */
  async function leader(asked = machines): Promise<Machine> {
    const find = async () => {
      for (const machine of asked)
        if (await isServed(`http://${machine.address}:8008/primary`)) return machine
      return undefined
    }
    return (await until(() => `there is a leader${tailOf(machines)}`, find, 90))!
  }

  let last: Member[] = []
  const isWhole = async () => {
    last = await members()
    const isUp = ({ state, role, lag }: Member) =>
      /^(running|streaming)$/.test(state) && (role === 'leader' || Number(lag) < 1 << 20)
    return (
      last.length === machines.length &&
      last.every(isUp) &&
      ['leader', 'sync_standby'].every((role) => last.some((member) => member.role === role))
    )
  }
  /** Waits until there are a leader, a synchronous standby and another one, all up to date. */
  const whole = () => until(() => `whole: ${JSON.stringify(last)}${tailOf(machines)}`, isWhole, 120)

  return { rest, members, leader, whole }
}

const isServed = (url: string) =>
  fetch(url, { signal: AbortSignal.timeout(1000) }).then(
    ({ ok }) => ok,
    () => false,
  )

const configOf = ({ directory }: Machine) => join(directory, 'patroni.json')
/** Not on the machine's own disk, which may be full. */
const logOf = ({ directory }: Machine, program: string) => `${directory}-${program}.log`

/** What Patroni of a machine has said. */
export const saidBy = (machine: Machine) => readFileSync(logOf(machine, 'patroni'), 'utf8')

const tailOf = (machines: Machine[]) =>
  machines.map((machine) => `\n${machine.name}: ${saidBy(machine).slice(-1500)}`).join('')

/** A bridge in a namespace of its own, where no rule of this machine's firewall holds. */
function connectMachines(directory: string) {
  const prefix = `us${randomBytes(3).toString('hex')}`
  const subnet = `198.18.${randomInt(256)}`
  const bridge = `${prefix}-sw`
  addNamespace(bridge)
  asRoot('ip', '-n', bridge, 'link', 'add', 'bridge', 'type', 'bridge')
  asRoot('ip', '-n', bridge, 'link', 'set', 'bridge', 'up')
  const plug = (name: string, peer: string[]) => {
    const added = ['link', 'add', name, 'type', 'veth', 'peer', 'name', ...peer]
    asRoot('ip', '-n', bridge, ...added)
    asRoot('ip', '-n', bridge, 'link', 'set', 'dev', name, 'master', 'bridge', 'up')
  }
  // The link of this machine, on which the instances of the service run.
  const own = `${prefix}-up`
  plug('port-own', [own, 'netns', String(process.pid)])
  asRoot('ip', 'address', 'add', `${subnet}.1/24`, 'dev', own)
  asRoot('ip', 'link', 'set', own, 'up')

  const machines = ['a', 'b', 'c'].map((name, i): Machine => {
    const machine = {
      name,
      namespace: `${prefix}-${name}`,
      address: `${subnet}.${11 + i}`,
      directory: join(directory, name),
    }
    mkdirSync(machine.directory)
    addNamespace(machine.namespace)
    plug(`port-${name}`, ['eth0', 'netns', machine.namespace])
    asRoot('ip', '-n', machine.namespace, 'address', 'add', `${machine.address}/24`, 'dev', 'eth0')
    asRoot('ip', '-n', machine.namespace, 'link', 'set', 'eth0', 'up')
    undo.push(() => kill(machine))
    return machine
  })
  return { machines }
}

/** Where what `undo` holds is not run, as when the set-up fails; else it finds nothing to do. */
function atExit(script: string) {
  const end = () => {
    spawnSync('env', [...sudo, 'sh', '-c', script], { stdio: 'ignore' })
  }
  process.prependListener('exit', end)
  process.on('uncaughtExceptionMonitor', end)
}

for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => process.exit(1))

function addNamespace(name: string) {
  asRoot('ip', 'netns', 'add', name)
  undo.push(() => asRoot('ip', 'netns', 'delete', name))
  atExit(`for pid in $(ip netns pids ${name}); do kill -9 $pid; done; ip netns delete ${name}`)
  asRoot('ip', '-n', name, 'link', 'set', 'lo', 'up')
}

function mountDisk(directory: string, mb: number) {
  const { uid, gid } = account
  const options = `size=${mb}m,mode=755,uid=${uid},gid=${gid}`
  asRoot('mount', '-t', 'tmpfs', '-o', options, 'tmpfs', directory)
  atExit(`umount --lazy ${directory}; rm -rf ${dirname(directory)}`)
  // After the processes, which are ended before: `undo` runs last-first.
  undo.splice(0, 0, () => until('the disk is free', () => tryUnmount(directory)))
}

function tryUnmount(directory: string): boolean {
  try {
    asRoot('umount', directory)
    return true
  } catch {
    return false
  }
}

function launch(machine: Machine, program: string, command: string[]) {
  const log = openSync(logOf(machine, program), 'a')
  const child = spawn('env', [...enter(machine), ...command], {
    cwd: '/',
    stdio: ['ignore', log, log],
  })
  child.once('error', (error) => appendFileSync(logOf(machine, program), String(error)))
  closeSync(log)
}

function etcdCommand({ name, address, directory }: Machine, machines: Machine[]) {
  const peers = machines.map((each) => `${each.name}=http://${each.address}:2380`)
  return [
    'etcd',
    ...['--name', name, '--data-dir', join(directory, 'etcd')],
    ...['--listen-peer-urls', `http://${address}:2380`],
    ...['--initial-advertise-peer-urls', `http://${address}:2380`],
    ...['--listen-client-urls', `http://${address}:2379`],
    ...['--advertise-client-urls', `http://${address}:2379`],
    ...['--initial-cluster', peers.join(',')],
    // A busy machine is late.
    ...['--heartbeat-interval', '250', '--election-timeout', '2500'],
    '--enable-v2',
    // A member that comes back does not have the others vote.
    '--pre-vote',
  ]
}

/** Read as YAML, of which JSON is a part. */
function patroniConfig({ name, address, directory }: Machine, machines: Machine[], dcs: object) {
  const access = `${address.replace(/\d+$/, '0')}/24`
  return {
    scope: 'user-service',
    name,
    restapi: { listen: `${address}:8008`, connect_address: `${address}:8008` },
    // By the API of version 2: with version 3, Patroni 3.0 takes the leader's lock from another
    // machine when it comes back from a cut, and what was acknowledged there is lost.
    etcd: { hosts: machines.map((each) => `${each.address}:2379`) },
    bootstrap: { dcs, initdb: [{ encoding: 'UTF8' }, { locale: 'C' }, 'data-checksums'] },
    postgresql: {
      listen: `${address}:5432`,
      connect_address: `${address}:5432`,
      data_dir: join(directory, 'data'),
      bin_dir: findPostgresBin('postgres')!,
      pgpass: join(directory, 'pgpass'),
      authentication: {
        superuser: { username: 'postgres' },
        replication: { username: 'replicator' },
      },
      basebackup: [{ checkpoint: 'fast' }],
      parameters: { unix_socket_directories: join(directory, 'socket') },
      pg_hba: [
        'local all all trust',
        `host all all ${access} trust`,
        `host replication all ${access} trust`,
      ],
    },
  }
}

/** The processes of a machine, by what their commands hold. */
export function processesOf({ namespace }: Machine, pattern = /(?:)/) {
  const pids = asRoot('ip', 'netns', 'pids', namespace).trim().split('\n').map(Number)
  return listProcesses().filter(({ pid, command }) => pids.includes(pid) && pattern.test(command))
}

/** Sends a signal to processes of a machine. */
export function signal(machine: Machine, name: NodeJS.Signals, pattern?: RegExp) {
  for (const { pid } of processesOf(machine, pattern)) {
    try {
      process.kill(pid, name)
    } catch {
      // It has ended.
    }
  }
}

/** Ends processes of a machine as a loss of power would; all of them, unless there is a pattern. */
export const kill = (machine: Machine, pattern?: RegExp) =>
  until(`${machine.name} is dead`, () => {
    signal(machine, 'SIGKILL', pattern)
    return processesOf(machine, pattern).length === 0
  })

/** The commands of etcd. */
export const etcd = /^etcd /

/** Those of Patroni and PostgreSQL. */
export const database = /^postgres:|bin\/(postgres|patroni) /

/** Drops a machine's packets both ways; not those to and from an instance of the service there. */
export function cut({ namespace }: Machine) {
  const rule = (...words: string[]) =>
    asRoot('ip', 'netns', 'exec', namespace, 'iptables', '-A', ...words)
  rule('INPUT', '-i', 'eth0', '-p', 'tcp', '--dport', '8080', '-j', 'ACCEPT')
  rule('OUTPUT', '-o', 'eth0', '-p', 'tcp', '--sport', '8080', '-j', 'ACCEPT')
  rule('INPUT', '-i', 'eth0', '-j', 'DROP')
  rule('OUTPUT', '-o', 'eth0', '-j', 'DROP')
}

/** Ends a cut. */
export const mend = ({ namespace }: Machine) =>
  asRoot('ip', 'netns', 'exec', namespace, 'iptables', '-F')

/** Fills the disk of a machine; returns what makes room again. */
export function fill({ directory }: Machine) {
  const path = join(directory, 'ballast')
  assert.throws(
    () => {
      for (;;) appendFileSync(path, Buffer.alloc(1 << 20))
    },
    { code: 'ENOSPC' },
  )
  return () => rmSync(path, { force: true })
}

/** HAProxy before the members, by Patroni's check; returns its port on loopback. */
export async function startHaproxy({ directory, machines }: Cluster) {
  const port = await freePort()
  const path = join(directory, 'haproxy.cfg')
  const servers = machines.map(
    ({ name, address }) => `  server ${name} ${address}:5432 check port 8008\n`,
  )
  writeFileSync(
    path,
    `listen primary
  bind 127.0.0.1:${port}
  mode tcp
  timeout connect 1s
  timeout check 1s
  timeout client 30m
  timeout server 30m
  option httpchk OPTIONS /primary
  http-check expect status 200
  default-server inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
${servers.join('')}`,
  )
  const haproxy = spawn('haproxy', ['-db', '-f', path], { stdio: 'ignore' })
  const ended = once(haproxy, 'exit').catch(() => assert.fail('These tests need haproxy'))
  undo.push(async () => haproxy.kill('SIGKILL') && (await ended))
  return port
}
