// How long a key still works on one instance after it was revoked on another. The other asks with
// the key without a pause; the lag is from the revocation's answer to the first refusal's. Requests
// that started after the revocation was answered and still passed are counted: there must be none.
import http from 'node:http'

import { withDatabase } from '../../src/database/pool.ts'
import type { Bench } from './bench.ts'
import { type Server, startService } from './servers.ts'
import { median, printTable, quantile, short } from './stats.ts'

interface Answer {
  status: number
  details: { id: string; key: string } & Record<string, unknown>
}

const agent = new http.Agent({ keepAlive: true })

const ways = [
  'key deleted',
  'key disabled',
  'key rotated',
  'user disabled',
  'user deleted',
] as const
type Way = (typeof ways)[number]

/** A user whose key is revoked, and what may do that. */
interface Subject {
  id: string
  key: string
  adminKey: string
}

type Revoked = Subject & { keyId: string }

/** Revokes a key of a user in one of the ways. */
function revoke(at: Server, way: Way, { id, key, adminKey, keyId }: Revoked) {
  const user = `/v1/users/${id}`
  const path = `${user}/keys/${keyId}`
  const body = { enabled: false }
  if (way === 'key deleted') return ask(at, { method: 'DELETE', path, key })
  if (way === 'key disabled') return ask(at, { method: 'PATCH', path, key, body })
  if (way === 'key rotated') return ask(at, { method: 'POST', path: `${path}/rotate`, key })
  if (way === 'user disabled') return ask(at, { method: 'PATCH', path: user, key: adminKey, body })
  return ask(at, { method: 'DELETE', path: user, key })
}

interface Instances {
  one: Server
  other: Server
}

/** How long after the revocation on `one` the `other` still let the key pass, and how often. */
async function measure({ one, other }: Instances, way: Way, subject: Subject) {
  const path = `/v1/users/${subject.id}/keys`
  const body = { name: 'bench' }
  const { details } = await ask(one, { method: 'POST', path, key: subject.key, body })
  const probe = { method: 'GET', path: '/v1/users/auth', key: details.key }
  const before = await ask(other, probe)
  if (before.status !== 200) throw new Error(`A new key was answered ${before.status}`)
  let revokedAt = Infinity
  const revoking = revoke(one, way, { ...subject, keyId: details.id }).then(({ status }) => {
    if (status >= 300) throw new Error(`${way}: ${status}`)
    revokedAt = performance.now()
  })
  for (let late = 0; ;) {
    const start = performance.now()
    const { status } = await ask(other, probe)
    const end = performance.now()
    if (status === 401) {
      await revoking
      return { lag: end - revokedAt, late }
    }
    if (start > revokedAt) late++
    if (end > revokedAt + 5000) throw new Error(`${way}: still answered ${status} after 5 s`)
  }
}

/** Revokes in five ways on one instance and looks for the first refusal on the other. */
export async function revocation({ directory, database, quick }: Bench): Promise<void> {
  const [one, other] = await Promise.all([
    startService(database, directory),
    startService(database, directory),
  ])
  const admin = database.known.at(-1)!
  await withDatabase(database.as('postgres'), (db) =>
    db.query(`update users set role = 'admin' where id = $1`, [admin.id]),
  )
  const lags = new Map<Way, number[]>(ways.map((way) => [way, []]))
  let late = 0
  const total = quick ? 50 : 1000
  for (let i = 0; i < total; i++) {
    const way = ways[i % ways.length]!
    const { id, key } = database.known[i]!
    const measured = await measure({ one, other }, way, { id, key, adminKey: admin.key })
    lags.get(way)!.push(measured.lag)
    late += measured.late
  }
  const row = (name: string, values: number[]) => [
    name,
    String(values.length),
    short(Math.min(...values)),
    short(median(values)),
    short(quantile(values, 0.99)),
    short(Math.max(...values)),
  ]
  printTable(
    'From a revocation’s answer on one instance to the refusal on another, ms (negative: before)',
    ['', 'revocations', 'min', 'median', 'p99', 'max'],
    [...[...lags].map(([way, values]) => row(way, values)), row('all', [...lags.values()].flat())],
  )
  console.log(`\n${late} requests that started after a revocation was answered still passed`)
  await Promise.all([one.stop(), other.stop()])
}

interface Request {
  method: string
  path: string
  key: string
  body?: object
}

function ask({ port }: Server, { method, path, key, body }: Request): Promise<Answer> {
  const headers = { 'X-Api-Key': key, ...(body && { 'Content-Type': 'application/json' }) }
  return new Promise((resolve, reject) => {
    const target = { port, host: '127.0.0.1', method, path, agent, headers }
    const req = http.request(target, (res) => {
      let text = ''
      res.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk
      })
      res.on('end', () => {
        const details = text === '' ? {} : JSON.parse(text).details
        resolve({ status: res.statusCode!, details })
      })
    })
    req.on('error', reject)
    req.end(body && JSON.stringify(body))
  })
}
