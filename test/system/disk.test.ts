// A disk that is full under PostgreSQL: first its tables cannot grow, then it cannot write its log
// and stops.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  rmSync,
  rmdirSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { password, undo } from '../support/helpers.ts'
import { startOwnPostgres } from '../support/postgres.ts'
import { until } from '../support/process.ts'
import { startService } from '../support/service.ts'

const disk = mkdtempSync(join(tmpdir(), 'user-service-disk-'))
undo.push(() => rmdirSync(disk))
const asRoot = (...command: string[]) =>
  execFileSync(process.getuid!() === 0 ? 'env' : 'sudo', command)
/** Whether nothing used it any more. */
function tryUnmount(): boolean {
  try {
    asRoot('umount', disk)
    return true
  } catch {
    return false
  }
}
const options = `size=160m,mode=755,uid=${process.getuid!()},gid=${process.getgid!()}`
asRoot('mount', '-t', 'tmpfs', '-o', options, 'tmpfs', disk)
// Its last processes may still be ending.
undo.push(() => until('the disk is free', tryUnmount))
const postgres = await startOwnPostgres({ checkpoint_timeout: '1h' }, disk)
const ballast = join(disk, 'ballast')
const makeRoom = () => rmSync(ballast, { force: true })
undo.push(makeRoom)
/** Leaves so many bytes. */
function fill(room: number) {
  const file = openSync(ballast, 'w')
  for (const size of [1 << 20, 4096]) {
    assert.throws(
      () => {
        for (;;) writeSync(file, Buffer.alloc(size))
      },
      { code: 'ENOSPC' },
    )
  }
  ftruncateSync(file, fstatSync(file).size - room)
  closeSync(file)
}

// Without room to note that a key was used.
await postgres.sql('alter table user_service_schema.api_keys set (fillfactor = 100)')
const service = await startService({
  ...postgres.env,
  SIGNUP: 'open',
  KEYS_PER_USER: '1000000',
})
interface Ask {
  key?: string | undefined
  body?: object
}
interface Told {
  code?: string
  details: { id: string; key: string; apiKeys: string[] }
}
/**
 * Holds each answer to two seconds, and what a busy machine adds; what fails is a 503 that says
 * when to come again.
 */
async function ask(method: string, path: string, { key, body }: Ask) {
  const start = performance.now()
  const response = await fetch(service.url + path, {
    method,
    ...(body && { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(10_000),
    headers: { 'content-type': 'application/json', ...(key && { 'x-api-key': key }) },
  })
  const told = JSON.parse((await response.text()) || '{}') as Told
  const ms = performance.now() - start
  const failure = [response.status, told.code, response.headers.get('retry-after')]
  if (response.status >= 400)
    assert.deepEqual(failure, [503, 'database_unavailable', '1'], `${method} ${path}`)
  // A sign-up is hashed first, at a low priority.
  assert.ok(path === '/users' || ms < 2500, `${method} ${path}: ${ms} ms`)
  return { ...told, status: response.status }
}

let n = 0
const signUp = () => ask('POST', '/users', { body: { email: `user${++n}@example.org`, password } })
const {
  details: {
    id,
    apiKeys: [key],
  },
} = await signUp()
const passes = async (each = key) => (await ask('GET', '/users/auth', { key: each })).status
const read = async () => (await ask('GET', `/users/${id}`, { key })).status
const makeKey = () => ask('POST', `/users/${id}/keys`, { key, body: { name: 'x'.repeat(100) } })

/**
 * Every key that was given out, by a sign-up or as a further one; and how the last changes went.
 */
const given: string[] = []
let last: number[] = []
let isOver = false
async function keep(work: () => ReturnType<typeof ask>) {
  while (!isOver) {
    const { status, details } = await work()
    last = [...last, status].slice(-50)
    if (status === 201) given.push(details.key ?? details.apiKeys[0])
    else await sleep(20)
  }
}
const load = Promise.all([keep(signUp), ...Array.from({ length: 8 }, () => keep(makeKey))])
load.catch(() => {}) // `untilServing` reports it.
/** Waits as long as the load and the service hold. */
const untilServing = (what: string, isSo: () => unknown, seconds = 15) =>
  Promise.race([
    load.then(() => assert.fail('the load has ended')),
    until(
      what,
      () => {
        if (service.child.exitCode !== null) assert.fail('the service has ended')
        return isSo()
      },
      seconds,
    ),
  ])

test('while its tables cannot grow keys pass and changes get 503', async () => {
  await untilServing('under load', () => given.length > 200)
  fill(0)
  await untilServing('full', () => last.every((status) => status === 503))
  assert.ok(service.log.some((line) => line.includes('No space left on device')))
  for (let i = 0; i < 20; i++)
    assert.deepEqual([await passes(), await passes(given[i]), await read()], [200, 200, 200])
  const [keys] = await postgres.sql<{ noted: number }>(
    'select count(last_used_at)::int as noted from user_service_schema.api_keys',
  )
  assert.ok(keys!.noted < 20, 'there was room to note each use')
  makeRoom()
  await untilServing('back', () => last.every((status) => status === 201), 3)
})

test('when PostgreSQL cannot write its log and stops, answers are 503', async () => {
  // For tables, not for the 16 MB of the next segment of the log: changes are acknowledged to the
  // last moment.
  fill(4 << 20)
  await untilServing('stopped', async () => {
    await postgres.sql('select pg_switch_wal()').catch(() => {})
    return !postgres.isAlive()
  })
  last = []
  assert.deepEqual([await passes(), await read(), (await makeKey()).status], [503, 503, 503])
  await untilServing('all refused', () => last.length === 50)
  assert.deepEqual(last, Array(50).fill(503))
  makeRoom()
  await postgres.start()
  await untilServing('back', () => last.every((status) => status === 201), 3)
})

test('nothing that was acknowledged is lost', async () => {
  isOver = true
  await load
  for (const each of given) assert.equal(await passes(each), 200)
  assert.equal(await service.kill(), 0)
})
