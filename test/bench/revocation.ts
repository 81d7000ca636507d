// How long a key still works on one instance after it was revoked on another. The other asks with
// the key without a pause; the lag is from the revocation's answer to the first refusal's. Requests
// that started after the revocation was answered and still passed are counted: there must be none.
import http from 'node:http'

import type { Bench } from './bench.ts'
import { type Server, startService } from './servers.ts'
import { median, printTable, quantile, short } from './stats.ts'

interface Answer {
  status: number
  details: { id: string; key: string } & Record<string, unknown>
}

const agent = new http.Agent({ keepAlive: true })

/** Revokes in five ways on one instance and looks for the first refusal on the other. */
export async function revocation({ directory, database, quick }: Bench): Promise<void> {
  const [one, other] = await Promise.all([
    startService(database, directory),
    startService(database, directory),
  ])
  const users = database.known.slice(-1)
  const { withDatabase } = await import('../../src/database/pool.ts')
  await withDatabase(database.as('postgres'), (db) =>
    db.query(`update users set role = 'admin' where id = $1`, [users[0]!.id]),
  )
  const admin = users[0]!.key
  const ways = [
    'key deleted',
    'key disabled',
    'key rotated',
    'user disabled',
    'user deleted',
  ] as const
  const lags: Record<string, number[]> = {}
  let late = 0
  const total = quick ? 50 : 1000
  for (let i = 0; i < total; i++) {
    const way = ways[i % ways.length]!
    const user = database.known[i]!
    const of = `/v1/users/${user.id}`
    const made = await ask(one, 'POST', `${of}/keys`, user.key, { name: 'bench' })
    const { id, key } = made.details
    const revoke = {
      'key deleted': () => ask(one, 'DELETE', `${of}/keys/${id}`, user.key),
      'key disabled': () => ask(one, 'PATCH', `${of}/keys/${id}`, user.key, { enabled: false }),
      'key rotated': () => ask(one, 'POST', `${of}/keys/${id}/rotate`, user.key),
      'user disabled': () => ask(one, 'PATCH', of, admin, { enabled: false }),
      'user deleted': () => ask(one, 'DELETE', of, user.key),
    }[way]
    const before = await ask(other, 'GET', '/v1/users/auth', key)
    if (before.status !== 200) throw new Error(`A new key was answered ${before.status}`)
    let revokedAt = Infinity
    const revoking = revoke().then(({ status }) => {
      if (status >= 300) throw new Error(`${way}: ${status}`)
      revokedAt = performance.now()
    })
    for (;;) {
      const start = performance.now()
      const { status } = await ask(other, 'GET', '/v1/users/auth', key)
      const end = performance.now()
      if (status === 401) {
        await revoking
        ;(lags[way] ??= []).push(end - revokedAt)
        break
      }
      if (start > revokedAt) late++
      if (end > revokedAt + 5000) throw new Error(`${way}: still answered ${status} after 5 s`)
    }
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
    'Revocation on one instance to refusal on another, ms after the revocation’s answer (negative: before it)',
    ['', 'revocations', 'min', 'median', 'p99', 'max'],
    [
      ...Object.entries(lags).map(([way, values]) => row(way, values)),
      row('all', Object.values(lags).flat()),
    ],
  )
  console.log(`\n${late} requests that started after a revocation was answered still passed`)
  await Promise.all([one.stop(), other.stop()])
}

function ask(
  { port }: Server,
  method: string,
  path: string,
  key: string,
  body?: object,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const req = http.request(
      {
        port,
        host: '127.0.0.1',
        method,
        path,
        agent,
        headers: { 'X-Api-Key': key, ...(body && { 'Content-Type': 'application/json' }) },
      },
      (res) => {
        let text = ''
        res.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
        res.on('end', () =>
          resolve({
            status: res.statusCode!,
            details: text === '' ? {} : JSON.parse(text).details,
          }),
        )
      },
    )
    req.on('error', reject)
    req.end(body && JSON.stringify(body))
  })
}
