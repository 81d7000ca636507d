import assert from 'node:assert/strict'
import { test } from 'node:test'

import { createLimiter } from '../src/http/token-bucket.ts'
import { startTestApp } from './support/helpers.ts'

test('past its burst a client is refused until tokens have come back', async () => {
  const app = await startTestApp({ RATE_LIMIT: '1', RATE_LIMIT_BURST: '10' })
  const { key } = await app.user()
  const start = performance.now()
  const all = await Promise.all(
    Array.from({ length: 25 }, () => app.request('GET', '/users', { key })),
  )
  const seconds = (performance.now() - start) / 1000
  const refused = all.filter(({ status }) => status === 429)
  assert.ok(refused.length <= 15 && refused.length >= 15 - Math.ceil(seconds), `${refused.length}`)
  const { headers, body } = refused.at(-1)!
  assert.deepEqual(
    [
      body.code,
      body.details,
      headers.get('retry-after'),
      headers.get('ratelimit-policy'),
      headers.get('ratelimit'),
    ],
    ['throttled', 'Too many requests', '1', '"default";q=1;w=1', '"default";r=0;t=10'],
  )
  assert.match(
    all.find(({ status }) => status === 403)!.headers.get('ratelimit')!,
    /^"default";r=\d;t=\d+$/,
  )
})

test('health checks and forward-auth are not throttled', async () => {
  const app = await startTestApp({ RATE_LIMIT: '1' })
  const { key } = await app.user()
  for (const path of [
    '/healthcheck',
    '/users/healthcheck',
    '/livez',
    '/users/auth',
    '/users/auth/below',
  ]) {
    const all = await Promise.all(
      Array.from({ length: 5 }, () => app.request('GET', path, { key })),
    )
    assert.deepEqual(
      all.map(({ status }) => status),
      Array(5).fill(200),
      path,
    )
    assert.equal(all[0]!.headers.get('ratelimit'), null)
  }
})

test('no other method on a health check is throttled', async () => {
  const app = await startTestApp({ RATE_LIMIT: '1' })
  await app.request('GET', '/users')
  for (const path of ['/healthcheck', '/users/healthcheck', '/livez']) {
    for (const [method, status] of [
      ['OPTIONS', 204],
      ['POST', 405],
    ] as const) {
      const answer = await app.request(method, path)
      assert.deepEqual(
        [answer.status, answer.headers.get('ratelimit')],
        [status, null],
        `${method} ${path}`,
      )
    }
  }
  assert.equal((await app.request('OPTIONS', '/users')).status, 429)
})

test('what does not exist is throttled as well, before any key is looked at', async () => {
  const app = await startTestApp({ RATE_LIMIT: '2' })
  const statuses = []
  for (const path of ['/nothing', '/nothing', '/users', '/nothing']) {
    statuses.push((await app.request('GET', path, { key: 'x' })).status)
  }
  assert.deepEqual(statuses, [404, 404, 429, 429])
})

test('RATE_LIMIT_BURST allows more at once than RATE_LIMIT a second', async () => {
  const app = await startTestApp({ RATE_LIMIT: '1', RATE_LIMIT_BURST: '4' })
  const all = await Promise.all(Array.from({ length: 6 }, () => app.request('GET', '/users')))
  assert.deepEqual(all.map(({ status }) => status).sort(), [401, 401, 401, 401, 429, 429])
})

const clients: [name: string, trusted: string | undefined, forwarded: string[], same: boolean][] = [
  ['without trusted proxies the header is ignored', undefined, ['192.0.2.1', '192.0.2.2'], true],
  [
    'behind a proxy each address has its own bucket',
    '127.0.0.1',
    ['192.0.2.1', '192.0.2.2'],
    false,
  ],
  [
    'what a client puts before its address is ignored',
    '127.0.0.1/32',
    ['9.9.9.9, 192.0.2.1', '8.8.8.8, 192.0.2.1'],
    true,
  ],
  [
    'trusted hops are skipped',
    '127.0.0.0/8, 10.0.0.0/8',
    ['192.0.2.1, 10.1.1.1', '192.0.2.2, 10.1.1.1'],
    false,
  ],
  [
    'an entry that is no address ends the search',
    '127.0.0.1',
    ['192.0.2.1, junk', '192.0.2.2, junk'],
    true,
  ],
  ['an empty entry does not end the search', '127.0.0.1', ['192.0.2.1,', '192.0.2.2, , '], false],
  [
    'IPv6 addresses of one /64 are one client',
    '127.0.0.1',
    ['2001:db8:1:2::1', '2001:DB8:1:2:ffff::'],
    true,
  ],
  ['IPv6 addresses of two /64 are two', '127.0.0.1', ['2001:db8:1:2::1', '2001:db8:1:3::1'], false],
  ['IPv4 in IPv6 is IPv4', '127.0.0.1', ['::ffff:192.0.2.1', '192.0.2.1'], true],
  ['a port is not part of an address', '127.0.0.1', ['192.0.2.1:1234', '192.0.2.1:99'], true],
]
for (const [name, trusted, forwarded, same] of clients) {
  test(name, async () => {
    const app = await startTestApp({
      RATE_LIMIT: '1',
      ...(trusted && { TRUSTED_PROXIES: trusted }),
    })
    const statuses = await Promise.all(
      forwarded.map(
        async (address) =>
          (await app.request('GET', '/users', { headers: { 'x-forwarded-for': address } })).status,
      ),
    )
    assert.deepEqual(statuses.sort(), same ? [401, 429] : [401, 401])
  })
}

test('X-Forwarded-For of a peer that is not trusted is warned of once', async () => {
  const warnings = async (trusted: string) => {
    const app = await startTestApp({ TRUSTED_PROXIES: trusted })
    const headers = { 'x-forwarded-for': '192.0.2.1' }
    for (let i = 0; i < 3; i++) await app.request('GET', '/livez', { headers })
    return app.log.map((line) => JSON.parse(line)).filter(({ level }) => level === 'warn')
  }
  const [warning, ...others] = await warnings('10.0.0.1')
  assert.match(warning.message, /X-Forwarded-For .*TRUSTED_PROXIES/)
  assert.deepEqual({ address: warning.address, others }, { address: '127.0.0.1', others: [] })
  assert.deepEqual(await warnings('127.0.0.1'), [])
})

test('each instance has buckets of its own', async () => {
  const one = await startTestApp({ RATE_LIMIT: '1' })
  const two = await startTestApp({ RATE_LIMIT: '1' }, one.database)
  const statuses = []
  for (const app of [one, one, two, two]) statuses.push((await app.request('GET', '/users')).status)
  assert.deepEqual(statuses, [401, 429, 401, 429])
})

test('a bucket refills by the time that passes, so that a steady client gets its rate', () => {
  let now = 0
  const limiter = createLimiter({ rate: 1, burst: 2, maxClients: 10, now: () => now })
  let allowed = 0
  for (let i = 0; i < 200; i++) {
    if (limiter.take('steady').allowed) allowed++
    now += 600
  }
  assert.equal(allowed, 2 + Math.floor(199 * 0.6))
})

test('a whole burst fits, whatever fractions its rate and the clock have', () => {
  for (const rate of [3, 7, 10, 999]) {
    let now = 86_400_000.123457
    const limiter = createLimiter({ rate, burst: 50, maxClients: 10, now: () => now })
    const left = Array.from({ length: 51 }, () => {
      now += 1e-6
      const verdict = limiter.take('c')
      return verdict.allowed ? verdict.left : -1
    })
    assert.deepEqual(
      left,
      Array.from({ length: 51 }, (_, i) => 49 - i),
      `${rate} a second`,
    )
  }
})

test('a verdict says what is left and how long to wait', () => {
  let now = 0
  const limiter = createLimiter({ rate: 2, burst: 4, maxClients: 10, now: () => now })
  const steps: [advance: number, allowed: boolean, left: number, reset: number, retry: number][] = [
    [0, true, 3, 1, 0],
    [0, true, 2, 1, 0],
    [0, true, 1, 2, 0],
    [0, true, 0, 2, 0],
    [0, false, 0, 2, 1],
    [499, false, 0, 2, 1],
    [1, true, 0, 2, 0],
    [60_000, true, 3, 1, 0],
  ]
  for (const [advance, allowed, left, resetSeconds, retryAfterSeconds] of steps) {
    now += advance
    assert.deepEqual(limiter.take('c'), { allowed, left, resetSeconds, retryAfterSeconds })
  }
})

test('whatever number of addresses calls, memory is bounded', () => {
  let now = 0
  const limiter = createLimiter({ rate: 1, burst: 10, maxClients: 1000, now: () => now })
  for (let i = 0; i < 50_000; i++) limiter.take(`client ${i}`)
  assert.equal(limiter.size(), 1000)
  now += 60_000
  for (let i = 0; i < 1000; i++) limiter.take(`later ${i}`)
  assert.ok(limiter.size() <= 1000)
  now += 60_000
  for (let i = 0; i < 600; i++) limiter.take('one')
  assert.equal(limiter.size(), 1)
})

test('whatever number of addresses calls, a call costs the same', () => {
  const limiter = createLimiter({ rate: 10, burst: 10, maxClients: 100_000, now: () => 0 })
  const calls = 200_000
  const start = performance.now()
  for (let i = 0; i < calls; i++) limiter.take(`client ${i % 50_000}`)
  const microseconds = ((performance.now() - start) * 1000) / calls
  assert.ok(microseconds < 10, `${microseconds} µs a call`)
})
