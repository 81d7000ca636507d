// Needs nginx, caddy and haproxy. Each runs with the configuration in bin/gateways, but for the
// addresses, before a backend that tells what reached it; the service is a process of its own, with
// its usual throttle of 10 requests a second.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import http, { type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { startTestApp, undo } from '../support/helpers.ts'
import { freePort, root } from '../support/process.ts'

const folder = mkdtempSync(join(tmpdir(), 'gateways-'))
chmodSync(folder, 0o755)
undo.push(() => rmSync(folder, { recursive: true }))

/**
 * Starts a program and waits until its port answers; one that is not installed fails with its name.
 */
async function start(port: number, file: string, args: string[], env: NodeJS.ProcessEnv = {}) {
  const child = spawn(file, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let said = ''
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => (said += chunk.toString()))
  const ended = once(child, 'exit').catch(() =>
    assert.fail(`These tests need ${file}, which could not be started`),
  )
  undo.push(async () => {
    const late = setTimeout(() => child.kill('SIGKILL'), 5000)
    child.kill('SIGCONT')
    child.kill('SIGTERM')
    await ended.catch(() => {})
    clearTimeout(late)
  })
  for (const deadline = Date.now() + 20_000; ;) {
    const up = await Promise.race([
      ended,
      ask(port, { path: '/' }).then(
        () => true,
        () => sleep(50, false),
      ),
    ])
    if (up === true) return child
    assert.ok(up === false && Date.now() < deadline, `${file} did not start: ${said}`)
  }
}

interface Ask {
  method?: string
  path?: string
  /** Pairs, sent as they are. */
  headers?: [string, string][]
  body?: Buffer
  chunked?: boolean
  trailers?: [string, string][]
}

/** What came back; of an answer of the backend also what had reached it. */
interface Answer {
  status: number
  challenge: string | undefined
  reached: Seen | undefined
}

interface Seen {
  method: string
  url: string
  headers: [string, string][]
  trailers: [string, string][]
  body: string
}

const pairs = (raw: string[]) =>
  raw.flatMap((name, i) => (i % 2 === 0 ? [[name, raw[i + 1]!] as [string, string]] : []))
const digest = (body: Buffer) =>
  `${body.length} bytes ${createHash('sha256').update(body).digest('hex')}`

async function readAll(stream: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

async function ask(port: number, sent: Ask): Promise<Answer> {
  const { method = 'GET', path = '/', headers = [], body, chunked, trailers } = sent
  const length = chunked
    ? ['Transfer-Encoding', 'chunked']
    : ['Content-Length', String(body?.length)]
  const framing = body === undefined ? [] : length
  const request = http.request({
    host: '127.0.0.1',
    port,
    method,
    path,
    agent: false,
    timeout: 10_000,
    headers: ['Host', 'backend.example.org', ...framing, ...headers.flat()],
  })
  request.on('timeout', () => request.destroy(new Error('no answer in 10 s')))
  if (trailers) request.addTrailers(trailers)
  request.end(body)
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  const text = await readAll(response)
  return {
    status: response.statusCode!,
    challenge: response.headers['www-authenticate'],
    reached: response.headers['x-backend'] ? (JSON.parse(text.toString()) as Seen) : undefined,
  }
}

const backend = http
  .createServer(async (req, res) => {
    const body = digest(await readAll(req))
    const seen: Seen = {
      method: req.method!,
      url: req.url!,
      headers: pairs(req.rawHeaders),
      trailers: pairs(req.rawTrailers),
      body,
    }
    res.setHeader('X-Backend', 'yes').end(JSON.stringify(seen))
  })
  .listen(0, '127.0.0.1')
await once(backend, 'listening')
undo.push(() => backend.close().closeAllConnections())

const app = await startTestApp()
const servicePort = await freePort()
const service = await start(servicePort, process.execPath, ['bin/start.js'], {
  ...app.database.env,
  SERVER_HOST: '127.0.0.1',
  SERVER_PORT: String(servicePort),
})
const user = await app.user({
  email: `zoë-${randomBytes(4).toString('hex')}@example.org`,
  permissions: ['a', 'b:c'],
})
const reporter = await app.user({ permissions: ['reports:read'] })
const admin = await app.admin()
const as = ({ key }: { key: string }): [string, string][] => [['X-Api-Key', key]]

/** Where a configuration lies that has these ports in place of those of the file. */
function place(name: string, port: number, change = (text: string) => text): string {
  const text = readFileSync(new URL(`../../bin/gateways/${name}`, import.meta.url), 'utf8')
    .replaceAll('127.0.0.1:60001', `127.0.0.1:${servicePort}`)
    .replaceAll('127.0.0.1:3000', `127.0.0.1:${(backend.address() as AddressInfo).port}`)
    .replaceAll(':8080', `:${port}`)
  const path = join(folder, name)
  writeFileSync(path, change(text))
  return path
}

const gateways = {
  async nginx(port: number) {
    const included = place('nginx.conf', port)
    const path = join(folder, 'main.conf')
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    writeFileSync(
      path,
      `daemon off; pid ${folder}/nginx.pid; error_log ${folder}/error.log; worker_processes 1;
      events { worker_connections 2048; }
      http { access_log off; ${temporary.map((each) => `${each}_temp_path ${folder}/${each};`).join(' ')}
        include ${included}; }`,
    )
    await start(port, 'nginx', ['-p', folder, '-c', path, '-e', join(folder, 'error.log')])
  },
  async caddy(port: number) {
    const path = place('Caddyfile', port, (text) => `{\n\tadmin off\n}\n${text}`)
    await start(port, 'caddy', ['run', '--adapter', 'caddyfile', '--config', path], {
      HOME: folder,
      XDG_DATA_HOME: folder,
      XDG_CONFIG_HOME: folder,
    })
  },
  async haproxy(port: number) {
    const socket = `abns@${randomBytes(6).toString('hex')}`
    const own = (text: string) => text.replaceAll('abns@user-service', socket)
    place('forward-auth.lua', port, own)
    await start(port, 'haproxy', ['-db', '-f', place('haproxy.cfg', port, own)])
  },
}

const names = [
  'X-Auth-User-Id',
  'X-Auth-User-Email',
  'X-Auth-Role',
  'X-Auth-Permissions',
  'X-Auth-Key-Id',
  'X-Auth-Key-Kind',
]

/** The identity that reached the backend; a header that came twice is a list. */
const identity = ({ reached }: Answer) =>
  Object.fromEntries(
    names.map((name) => {
      const values = reached!.headers
        .filter(([key]) => key.toLowerCase() === name.toLowerCase())
        .map(([, value]) => value)
      return [name, values.length > 1 ? values : values[0]]
    }),
  )

const identityOfUser = {
  'X-Auth-User-Id': user.id,
  'X-Auth-User-Email': encodeURI(user.email),
  'X-Auth-Role': 'user',
  'X-Auth-Permissions': 'a,b:c',
  'X-Auth-Key-Id': user.keyId,
  'X-Auth-Key-Kind': 'api',
}

/** How the most lenient of backends may read a path. */
function readLeniently(url: string): string {
  let path = url.replace(/^https?:\/\/[^/]*/i, '')
  for (let i = 0; i < 4; i++) {
    path = path
      .replace(/[?#].*$/, '')
      .replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(parseInt(hex, 16)))
  }
  path = path
    .replace(/\0.*$/, '')
    .replaceAll('\\', '/')
    .replace(/;[^/]*/g, '')
    .replace(/\/{2,}/g, '/')
    .toLowerCase()
  return new URL(path.startsWith('/') ? path : `/${path}`, 'http://backend').pathname
}

const tricks = [
  '//admin',
  '///admin/x',
  '/./admin',
  '/x/../admin',
  '/x/..',
  '/..;/admin',
  '/x/..;/admin',
  '/x/..;a=b/admin',
  '/;/admin',
  '/admin;x',
  '/;x=y/admin',
  '/%61dmin',
  '/%2561dmin',
  '/ADMIN/',
  '/%2fadmin',
  '/x%2f..%2fadmin',
  '/x/%2e%2e/admin',
  '/x/.%2e/admin',
  '/x/%2e%2e%2fadmin',
  '/x%5c..%5cadmin',
  '/\\admin',
  '/x\\..\\admin',
  '/admin%00',
  '/%00/../admin',
  '/admin%20',
  '/admin/',
  '/admin/.',
  '/admin/..',
  '/admin%2f',
  '/admin%3fx',
  '/admin%23x',
  '/x/%252e%252e/admin',
  '/x/..%3b/admin',
  '/admin#x',
  '/x#/../admin',
  '/admin?',
  '/?/admin',
  '/x?/../admin',
  '/_auth',
  '/%5fauth',
  '/x/../_auth',
  'http://backend.example.org/admin',
  'http://backend.example.org//admin',
  'http://other@backend.example.org/admin',
  'HTTP://backend.example.org/%2e/admin',
  '/v1/users/auth',
  '/x/%c0%ae%c0%ae/admin',
  '/admin%u002f',
  '/admin/x%zz',
  '/admin%',
  '/admin/%2',
  '/admin/x%u0061',
  '/%',
  '/x/%%61',
]

for (const [name, startGateway] of Object.entries(gateways)) {
  const port = await freePort()
  await startGateway(port)
  Object.assign(gateways, { [name]: port })
  const get = (path: string, headers: [string, string][], more: Ask = {}) =>
    ask(port, { path, headers, ...more })

  test(`${name}: who asks reaches the backend, the key does not, wherever it was sent`, async () => {
    for (const sent of [
      ['X-Api-Key', user.key],
      ['x-aPI-kEY', user.key],
      ['Authorization', `Bearer ${user.key}`],
    ]) {
      const answer = await get('/some/path?q=1', [sent as [string, string]])
      assert.deepEqual([answer.status, answer.reached?.url], [200, '/some/path?q=1'])
      assert.deepEqual(identity(answer), identityOfUser)
      assert.equal(JSON.stringify(answer.reached).includes(user.key), false)
    }
    const answer = await get('/', as(admin))
    assert.equal(identity(answer)['X-Auth-Role'], 'admin')
    assert.equal(identity(answer)['X-Auth-Permissions'] ?? '', '')
  })

  test(`${name}: an identity that a client makes up does not reach the backend`, async () => {
    const variants = [
      (header: string) => header,
      (header: string) => header.toUpperCase(),
      (header: string) =>
        header.replace(/[a-z]/g, (letter, i: number) => (i % 2 ? letter.toUpperCase() : letter)),
      (header: string) => header.replace('-', '_'),
      (header: string) => header.replace(/-(?!.*-)/, '_'),
      ..."_.!#$%&'*+^`|~"
        .split('')
        .map((sign) => (header: string) => header.replaceAll('-', () => sign)),
    ]
    for (const vary of variants) {
      const forged = names.map((header) => [vary(header), 'forged'] as [string, string])
      for (const headers of [
        [...as(user), ...forged],
        [...forged, ...forged, ...as(user)],
      ]) {
        const answer = await get('/', headers)
        assert.deepEqual(identity(answer), identityOfUser, vary('X-Auth-Role'))
        const left = answer.reached!.headers.filter(([, value]) => value.includes('forged'))
        assert.deepEqual(left, [], vary('X-Auth-Role'))
      }
    }
  })

  test(`${name}: a client cannot have the identity dropped as belonging to its connection`, async () => {
    const answer = await get('/', [...as(user), ['Connection', `close, ${names.join(', ')}`]])
    assert.deepEqual(identity(answer), identityOfUser)
  })

  test(`${name}: the trailers of a body are no identity`, async () => {
    const trailers = names.map((header) => [header, 'forged'] as [string, string])
    const answer = await get('/', [...as(user), ['Trailer', names.join(', ')]], {
      method: 'POST',
      body: Buffer.from('body'),
      chunked: true,
      trailers,
    })
    assert.deepEqual(identity(answer), identityOfUser)
    if (name !== 'haproxy') assert.deepEqual(answer.reached?.trailers, []) // which passes them on, as trailers
  })

  test(`${name}: 401 comes with its challenge`, async () => {
    const challenge = 'Bearer realm="user-service"'
    const invalid = `${challenge}, error="invalid_token"`
    for (const [headers, expected] of [
      [[], challenge],
      [[['X-Api-Key', 'usk_wrong']], invalid],
      [[['Authorization', 'Basic dXNlcjpwYXNz']], challenge],
      [[['X_Api_Key', user.key]], challenge],
      [
        [
          ['X-Auth-User-Id', user.id],
          ['X-Auth-Role', 'admin'],
        ],
        challenge,
      ],
    ] as [[string, string][], string][]) {
      for (const more of [
        {},
        { method: 'POST', body: Buffer.alloc(100_000) },
        { method: 'OPTIONS' },
      ]) {
        assert.deepEqual(await get('/', headers, more), {
          status: 401,
          challenge: expected,
          reached: undefined,
        })
      }
    }
  })

  test(`${name}: an area asks for a role or a permission, and its 403 reaches the client`, async () => {
    const statuses = async (path: string) =>
      Promise.all([user, reporter, admin].map(async (each) => (await get(path, as(each))).status))
    assert.deepEqual(await statuses('/admin'), [403, 403, 200])
    assert.deepEqual(await statuses('/admin/x?y'), [403, 403, 200])
    assert.deepEqual(await statuses('/administrators'), [200, 200, 200])
    assert.deepEqual(await statuses('/reports/1'), [403, 200, 403])
    assert.deepEqual(
      await get('/admin', as(user), { method: 'POST', body: Buffer.alloc(100_000), chunked: true }),
      { status: 403, challenge: undefined, reached: undefined },
    )
  })

  test(`${name}: a client's own parameters loosen nothing`, async () => {
    for (const query of [
      'require-role=user',
      'require-role=',
      'require-role',
      'require-role=user&require-role=user',
      'require%2Drole=user',
      '',
      '?',
      '&',
      '?require-role=user',
      '/../auth',
      'require-permission=a',
      'x=%00',
      `x=${'y'.repeat(4000)}`,
    ]) {
      assert.equal((await get(`/admin?${query}`, as(user))).status, 403, query)
      assert.equal((await get(`/reports?${query}`, as(user))).status, 403, query)
    }
    const tightened = await get('/?require-role=admin', as(user))
    assert.ok(tightened.status === 403 || tightened.reached!.url === '/?require-role=admin')
    assert.equal(
      (await get('/?require-role=admin', as(admin))).reached?.url,
      '/?require-role=admin',
    )
  })

  test(`${name}: 200 requests at once from one address are not throttled`, async () => {
    const answers = await Promise.all(Array.from({ length: 200 }, (_, i) => get(`/${i}`, as(user))))
    const seen = answers.map(({ status, reached }) => [status, reached?.url])
    assert.deepEqual(
      seen,
      answers.map((_, i) => [200, `/${i}`]),
    )
  })

  test(`${name}: a body reaches the backend whole, with its length or in chunks`, async () => {
    const body = randomBytes(300_000)
    for (const chunked of [false, true]) {
      for (const method of ['POST', 'PUT', 'PATCH', 'DELETE']) {
        const { status, reached } = await get('/', as(user), { method, body, chunked })
        assert.deepEqual([status, reached?.method, reached?.body], [200, method, digest(body)])
      }
    }
  })

  test(`${name}: a revoked key is refused by the next request`, async () => {
    const leaver = await app.user()
    const before = await get('/', as(leaver))
    await app.request('DELETE', `/users/${leaver.id}/keys/${leaver.keyId}`, { key: admin.key })
    assert.deepEqual([before.status, (await get('/', as(leaver))).status], [200, 401])
  })

  test(`${name}: no way of writing a path passes without the key that it needs`, async () => {
    for (const path of tricks) {
      const { status, reached } = await get(path, [])
      assert.equal(reached, undefined, path)
      assert.ok(status >= 400 && status < 500, `${path}: ${status}`)
      const asUser = await get(path, as(user))
      if (asUser.reached) assert.doesNotMatch(readLeniently(asUser.reached.url), /^\/admin\b/, path)
      else assert.ok(asUser.status >= 400 && asUser.status < 500, `${path}: ${asUser.status}`)
    }
  })
}

test('when the service hangs or is down, each gateway says so within 3 seconds', async () => {
  const ports = Object.entries(gateways as unknown as Record<string, number>)
  const observe = async () =>
    Object.fromEntries(
      await Promise.all(
        ports.map(async ([name, port]) => {
          const startedAt = performance.now()
          const answers = await Promise.all(
            Array.from({ length: 10 }, () => ask(port, { headers: as(user) })),
          )
          const inTime = performance.now() - startedAt < 3000
          return [
            name,
            [...new Set(answers.map(({ status }) => status)), inTime ? 'in time' : 'late'],
          ]
        }),
      ),
    )
  const well = { nginx: [200, 'in time'], caddy: [200, 'in time'], haproxy: [200, 'in time'] }

  assert.deepEqual(await observe(), well)
  service.kill('SIGSTOP')
  const hanging = await observe()
  service.kill('SIGCONT')
  assert.deepEqual(hanging, {
    nginx: [503, 'in time'],
    caddy: [504, 'in time'],
    haproxy: [503, 'in time'],
  })
  await ask(servicePort, { path: '/v1/livez' })
  assert.deepEqual(await observe(), well)
  service.kill('SIGKILL')
  await once(service, 'exit')
  assert.deepEqual(await observe(), {
    nginx: [503, 'in time'],
    caddy: [502, 'in time'],
    haproxy: [503, 'in time'],
  })
})
