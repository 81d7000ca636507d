// The document and the service, held against each other: what one says, the other does, and back.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text as readText } from 'node:stream/consumers'
import { test } from 'node:test'

import type { Database } from '../src/database/pool.ts'
import type { Fault } from '../src/errors.ts'
import type { Route } from '../src/http/route.ts'
import { openApi } from '../src/operation/openapi.ts'
import { createSecret } from '../src/keys/format.ts'
import { insertKey } from '../src/keys/queries.ts'
import { insertToken } from '../src/tokens/queries.ts'
import { allRoutes, type Deps } from '../src/routes.ts'
import { check, type Schema } from '../src/schema.ts'
import { emailSchema } from '../src/users/rules.ts'
import { showCode } from './support/authenticator.ts'
import { resolve as resolveIn } from './support/documented.ts'
import {
  createTestDatabase,
  hashCheaply,
  password,
  later,
  signing,
  startTestApp,
  undo,
  type TestApp,
} from './support/helpers.ts'
import { createSchemaCheck } from './support/json-schema.ts'
import { startReceiver } from './support/receiver.ts'

hashCheaply()
const origin = 'https://console.example.org'
const receiver = await startReceiver()
const env = { RATE_LIMIT: '100000', CORS_ORIGINS: origin, ...receiver.env, ...signing }
const app = await startTestApp(env)
const admin = await app.admin()
const document: any = JSON.parse((await app.request('GET', '/openapi.json')).text)
const routes: Route[] = allRoutes({
  signup: 'open',
  basePath: '/v1',
  passwordMinLength: 8,
  hasWebhook: true,
  signer: {},
  hasAdminPage: true,
} as Deps)
const unknownId = '0190b8a0-6f1c-7cc3-98c4-dc0c0c07398f'

const operations: { name: string; method: string; path: string; operation: any }[] =
  Object.entries<any>(document.paths).flatMap(([path, item]) =>
    Object.entries<any>(item)
      .filter(([, { operationId }]) => operationId)
      .map(([method, operation]) => ({
        name: `${method} ${path}`,
        method,
        path,
        operation,
      })),
  )

/** What the document has at the place that a reference names. */
const resolve = (value: unknown) => resolveIn(value, document)

const findFaults = createSchemaCheck(document)

test('every route is in the document, forward-auth once as get, and nothing else is', () => {
  const wanted = routes
    .filter(({ undocumented }) => !undocumented)
    .map(({ method, path }) => `${method === 'ANY' ? 'get' : method.toLowerCase()} ${path}`)
    .filter((each) => each !== 'get /users/auth/*')
  assert.deepEqual(operations.map(({ name }) => name).sort(), wanted.sort())
})

test('every reference of the document resolves, and every component is used', () => {
  const made = openApi(routes, { basePath: '/v1', version: '1.0.0' })
  assert.deepEqual(made, JSON.parse(JSON.stringify(made)))
  assert.deepEqual(made, document)

  const text = JSON.stringify(document)
  assert.ok(text.length < 200_000, `${text.length} characters`)
  const used = new Set([...text.matchAll(/"\$ref":"(.*?)"/g)].map(([, $ref]) => $ref!))
  for (const $ref of used) assert.ok(resolve({ $ref }), $ref)
  const { securitySchemes, ...components } = document.components
  assert.deepEqual(Object.keys(securitySchemes), ['apiKey', 'bearer'])
  const present = Object.entries<any>(components).flatMap(([kind, each]) =>
    Object.keys(each).map((name) => `#/components/${kind}/${name}`),
  )
  assert.deepEqual(present.sort(), [...used].sort())

  const ids = operations.map(({ operation }) => operation.operationId)
  assert.equal(new Set(ids).size, ids.length)
})

test('no name of a schema is one that generators make of another or of an operation', () => {
  const names = Object.keys(document.components.schemas)
  const ids = operations.map(({ operation }) => operation.operationId)
  const taken = [
    ...names.map((name) => `new${name}`),
    ...ids.flatMap((id) => ['', 'request', 'response', 'params'].map((end) => `${id}${end}`)),
    ...ids.map((id) => `api${id}request`),
  ].map((name) => name.toLowerCase())
  assert.deepEqual(
    names.filter((name) => taken.includes(name.toLowerCase())),
    [],
  )
  assert.equal(new Set(names.map((name) => name.toLowerCase())).size, names.length)
})

test('bodies, envelopes and what they hold are named; answers hold no sets', () => {
  const unnamed: string[] = []
  const sets: string[] = []
  function visit(place: string, value: any) {
    if (typeof value !== 'object' || value === null) return
    if (value.properties && place.includes('/')) unnamed.push(place)
    if (value.uniqueItems) sets.push(place)
    for (const [name, member] of Object.entries(value)) visit(`${place}/${name}`, member)
  }
  visit('paths', document.paths)
  visit('components/responses', document.components.responses)
  for (const [name, schema] of Object.entries<any>(document.components.schemas)) {
    if (!name.endsWith('Body')) visit(name, schema)
  }
  assert.deepEqual({ unnamed, sets }, { unnamed: [], sets: [] })
})

test('what an answer created links to the operations that take it', () => {
  const linksOf = (path: string) =>
    Object.values<any>(document.paths[path].post.responses['201'].links)
  const about = linksOf('/users').map(({ operationId }) => operationId)
  for (const id of ['getUser', 'updateUser', 'deleteUser', 'createKey', 'endSessions']) {
    assert.ok(about.includes(id), id)
  }
  assert.deepEqual(document.paths['/users/{id}/keys'].post.responses['201'].links['rotateKey'], {
    operationId: 'rotateKey',
    parameters: { id: '$request.path.id', keyId: '$response.body#/details/id' },
  })
  assert.deepEqual(linksOf('/users/sessions')[0].parameters, {
    id: '$response.body#/details/user',
  })
})

test('every operation says what it is for, who may call it and what each parameter means', () => {
  const tags = document.tags.map(({ name }: any) => name)
  for (const { name, path, operation } of operations) {
    const { summary, description, parameters = [] } = operation
    assert.match(description, /[Ff]or (anyone|any key|the user itself|admins)/, name)
    assert.ok(summary && operation.tags.every((tag: string) => tags.includes(tag)), name)
    assert.ok(
      parameters.every((each: any) => each.description),
      name,
    )
    const inPath = parameters.filter((each: any) => each.in === 'path')
    assert.deepEqual(
      inPath.map((each: any) => `{${each.name}}`),
      path.match(/\{\w+\}/g) ?? [],
      name,
    )
    assert.ok(
      inPath.every(({ required }: any) => required),
      name,
    )
  }
})

test('every example fits its schema', () => {
  let count = 0
  for (const { name, operation } of operations) {
    for (const each of [operation.requestBody ?? {}, ...Object.values<any>(operation.responses)]) {
      const { content = {} } = resolve(each)
      for (const { schema, example, examples = {} } of Object.values<any>(content)) {
        const all = [
          ...(example === undefined ? [] : [example]),
          ...Object.values<any>(examples).map((each) => (each.$ref ? resolve(each) : each).value),
        ]
        for (const each of all)
          assert.deepEqual(findFaults(schema, each), [], `${name} ${JSON.stringify(each)}`)
        count += all.length
      }
    }
  }
  assert.ok(count > 150, `${count} examples`)
})

for (const route of routes.filter(({ body }) => body)) {
  test(`${route.method} ${route.path} takes of bodies what its schema describes`, () => {
    const { requestBody } = document.paths[route.path][route.method.toLowerCase()]
    const { schema: named, example } = requestBody.content['application/json']
    const schema = resolve(named)
    const members = Object.keys(schema.properties)
    const values = [
      null,
      0,
      1,
      -1,
      1.5,
      604_801,
      true,
      {},
      [],
      ['a'],
      ['a', 'a'],
      ['a b'],
      [...Array(33).keys()].map(String),
      '',
      'x',
      'x'.repeat(101),
      'x'.repeat(10_000),
      'a\u0007b',
      'a@b',
      '2999-01-31T12:00:00Z',
      '2999-02-31T12:00:00Z',
    ]
    const bodies = [
      example,
      { token: 'x', code: 'y' },
      { token: 'x', code: null },
      { token: 1, code: 'y' },
      { token: 'x', code: 'y', email: null, password: null },
      { token: 'x', code: 'y', email: 'a@b' },
      { token: 'x', code: 'y', unknown: null },
      { ...example, token: null },
      [],
      null,
      'text',
      { ...example, unknown: 1 },
      ...members.map((name) =>
        Object.fromEntries(Object.entries(example).filter(([each]) => each !== name)),
      ),
      ...members.flatMap((name) => values.map((value) => ({ ...example, [name]: value }))),
    ]
    for (const body of bodies) {
      assert.equal(
        isTaken(route.body!, body),
        findFaults(schema, body).length === 0,
        JSON.stringify(body).slice(0, 200),
      )
    }
  })
}

test('the pattern of an address refuses every character that the check refuses', () => {
  const { schema } = document.paths['/users'].post.requestBody.content['application/json']
  const pattern = new RegExp(resolve(schema).properties.email.pattern, 'u')
  const different: string[] = []
  for (let code = 0; code < 0x110000; code++) {
    // Half a character is none that JSON in UTF-8 could hold.
    if (code >= 0xd800 && code < 0xe000) continue
    const character = String.fromCodePoint(code)
    const email = `a${character}a@b`
    const faults: Fault[] = []
    emailSchema.check(email, '', faults)
    const isTaken = faults.length === 0
    const isBlank = /[\s\p{Cc}\p{Cf}\p{Zs}@]/u.test(character)
    if (pattern.test(email) !== isTaken || isBlank === isTaken) different.push(code.toString(16))
  }
  assert.deepEqual(different, [])
})

test('what has more characters than the document allows is refused', async () => {
  for (const { name, operation } of operations) {
    const { schema: named, example } = operation.requestBody?.content['application/json'] ?? {}
    const ask = { key: admin.key, ...(example && { body: example }) }
    for (const [member, { type, maxLength }] of Object.entries<any>(
      resolve(named)?.properties ?? {},
    )) {
      if (![type].flat().includes('string')) continue
      const body = { ...example, [member]: 'a@b'.padEnd(maxLength + 1, 'c') }
      assert.equal((await call(name, { ...ask, body })).status, 400, `${name} ${member}`)
    }
    for (const parameter of operation.parameters) {
      const { maxLength = NaN } = parameter.schema
      if (parameter.in !== 'query' || Number.isNaN(maxLength)) continue
      const query = `?${parameter.name}=${'a@b'.padEnd(maxLength + 1, 'c')}`
      assert.equal((await call(name, { ...ask, query })).status, 400, `${name} ${query}`)
    }
  }
})

function isTaken(schema: Schema<unknown>, value: unknown): boolean {
  try {
    check(schema, value, 'invalid_body')
    return true
  } catch {
    return false
  }
}

interface Ask {
  id?: string
  keyId?: string
  query?: string
  key?: string | undefined
  body?: unknown
  headers?: Record<string, string>
  on?: TestApp
}

/** What of the document has been met: statuses of successes, codes of failures. */
const met = new Map<string, Set<string>>()

/** Calls an operation and holds the answer, with its headers, against the document. */
async function call(name: string, ask: Ask = {}) {
  const { id = admin.id, keyId = unknownId, query = '', key, body, headers, on = app } = ask
  const [method, path] = name.split(' ') as [string, string]
  const target = path.replace('{id}', id).replace('{keyId}', keyId) + query
  const answer = await send(on.base + target, method.toUpperCase(), {
    body,
    headers: { origin, ...(key !== undefined && { 'x-api-key': key }), ...headers },
  })
  const code = answer.body?.code
  const documented = resolve(document.paths[path][method].responses[answer.status])
  const what = `${name} ${answer.status} ${code ?? ''}`
  assert.ok(documented, `${what} is not in the document`)
  if (code) assert.ok(documented['x-codes'].includes(code), what)
  met.set(name, (met.get(name) ?? new Set()).add(code ?? String(answer.status)))

  // A malformed request is refused before it is counted; a page without a next one has no Link.
  const early = code === 'invalid_request' ? ['ratelimit', 'ratelimit-policy'] : []
  const named = Object.keys(documented.headers).map((each) => each.toLowerCase())
  const sent = Object.keys(answer.headers)
  assert.deepEqual(
    named.filter((each) => !sent.includes(each) && ![...early, 'link'].includes(each)),
    [],
    what,
  )
  assert.deepEqual(
    sent.filter((each) => !named.includes(each) && !general.includes(each)),
    [],
    what,
  )

  const [type, content] = Object.entries<any>(documented.content ?? {})[0] ?? []
  if (type === undefined) assert.equal(answer.text, '', what)
  else {
    assert.equal(answer.headers['content-type']!.split(';')[0], type, what)
    if (type === 'application/json')
      assert.deepEqual(findFaults(content.schema, answer.body), [], what)
  }
  return answer
}

const general = [
  'accept-patch',
  'accept-post',
  'access-control-expose-headers',
  'cache-control',
  'connection',
  'content-length',
  'content-security-policy',
  'content-type',
  'cross-origin-opener-policy',
  'date',
  'keep-alive',
  'referrer-policy',
  'vary',
  'x-content-type-options',
]

const agent = new http.Agent({ keepAlive: true })
undo.push(() => agent.destroy())

interface Got {
  status: number
  headers: Record<string, string>
  text: string
  body: any
}

/** By node:http, which sends what fetch refuses to: an Origin, a strange Host. */
async function send(
  url: string,
  method: string,
  { body, headers }: { body: unknown; headers: Record<string, string> },
): Promise<Got> {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  const request = http.request(url, { method, agent, headers })
  if (text !== undefined) {
    if (!request.hasHeader('content-type')) request.setHeader('content-type', 'application/json')
    request.setHeader('content-length', Buffer.byteLength(text))
  }
  request.end(text)
  const [response] = (await once(request, 'response')) as [http.IncomingMessage]
  const received = await readText(response)
  const isJson = response.headers['content-type'] === 'application/json' && received !== ''
  return {
    status: response.statusCode!,
    headers: response.headers as Record<string, string>,
    text: received,
    body: isJson ? JSON.parse(received) : undefined,
  }
}

test('every operation succeeds as the document says, in body and headers', async () => {
  const { key } = admin
  const expect = async (status: number, name: string, ask: Ask = {}) => {
    const answer = await call(name, { key, ...ask })
    assert.equal(answer.status, status, `${name}: ${answer.text}`)
    return answer
  }
  const details = async (...given: Parameters<typeof expect>) =>
    (await expect(...given)).body.details
  const { id } = await details(201, 'post /users', { body: { email: 'ada@example.org', password } })
  await expect(200, 'get /users')
  await expect(200, 'get /users', { query: '?view=full&limit=1' })
  await expect(200, 'get /users/{id}', { id })
  await expect(304, 'get /users/{id}', { id, headers: { 'if-none-match': '"1"' } })
  await expect(200, 'patch /users/{id}', { id, body: { permissions: ['orders:read'] } })
  const body = { name: 'laptop', validUntil: '2999-01-31T12:00:00Z' }
  const made = await details(201, 'post /users/{id}/keys', { id, body })
  await expect(200, 'get /users/{id}/keys', { id })
  await expect(200, 'patch /users/{id}/keys/{keyId}', {
    id,
    keyId: made.id,
    body: { validUntil: null },
  })
  const next = await details(201, 'post /users/{id}/keys/{keyId}/rotate', { id, keyId: made.id })
  await expect(204, 'delete /users/{id}/keys/{keyId}', { id, keyId: next.id })
  const session = await details(201, 'post /users/sessions', {
    body: { email: 'ada@example.org', password },
  })
  await expect(204, 'delete /users/sessions', { key: session.key })
  await expect(204, 'delete /users/sessions/{id}', { id })
  await expect(204, 'delete /users/{id}/tokens', { id })
  await expect(202, 'post /users/{id}/verifications', { id })
  await expect(202, 'post /users/password-resets', { body: { email: 'ada@example.org' } })
  for (const purpose of ['password-reset', 'email']) {
    const { token } = await details(201, 'post /users/{id}/tokens', { id, body: { purpose } })
    const isReset = purpose === 'password-reset'
    const body = isReset ? { token, password: `${password} 2` } : { token }
    await expect(204, isReset ? 'post /users/passwords' : 'post /users/verifications', { body })
  }
  const logIn = { body: { email: 'ada@example.org', password: `${password} 2` } }
  const own = { id, key: (await details(201, 'post /users/sessions', logIn)).key }
  const { secret } = await details(201, 'post /users/{id}/factor', own)
  const code = await showCode(app.db, secret)
  await expect(200, 'post /users/{id}/factor/confirm', { ...own, body: { code } })
  await expect(200, 'get /users/{id}/factor', own)
  const { recoveryCodes } = await details(200, 'post /users/{id}/factor/recovery-codes', own)
  const { token } = await details(202, 'post /users/sessions', logIn)
  const second = { token, code: recoveryCodes[0] }
  await expect(201, 'post /users/sessions', { body: second })
  await expect(201, 'post /users/jwt', { ...own, body: { audience: 'orders', seconds: 30 } })
  await expect(204, 'delete /users/{id}/factor', own)
  await expect(204, 'delete /users/{id}', { id })
  for (const { name, method, path } of operations) {
    if (path.startsWith('/users/auth') || (method === 'get' && !path.startsWith('/users'))) {
      const { headers } = await expect(200, name)
      if (!headers['etag']) continue
      await expect(304, name, { headers: { 'if-none-match': headers['etag'] } })
    }
  }
  await expect(200, 'get /users/healthcheck')

  const promised = operations.flatMap(({ name, operation }) =>
    Object.keys(operation.responses)
      .filter((status) => status < '400')
      .map((status) => `${name} ${status}`),
  )
  assert.deepEqual(
    promised.filter((each) => {
      const [method, path, status] = each.split(' ')
      return !met.get(`${method} ${path}`)?.has(status!)
    }),
    [],
  )
})

/** Calls that fail for a reason that many operations share. */
async function provoke(name: string, operation: any, stranger: { key: string }) {
  const { security, parameters = [], requestBody } = operation
  const { key } = admin
  const body = requestBody?.content['application/json'].example
  const any = /^\S+ \/users\/auth/.test(name)
  const forWhom = /For (\w+)/.exec(operation.description)![1]

  await call(name, { key, body, headers: { host: 'a/b' } })
  if (security.some((each: any) => each.apiKey)) {
    await call(name, { body, headers: { authorization: 'Bearer' } })
    await call(name, { body, key: 'usk_wrong' })
  }
  if (any) await call(name, { key: stranger.key, query: '?require-role=admin' })
  if (forWhom === 'admins' || forWhom === 'the') await call(name, { key: stranger.key, body })
  if (name.includes('{id}')) await call(name, { key, body, id: '17' })
  if (!any && parameters.some((each: any) => each.in === 'query'))
    await call(name, { key, query: '?nonsense=1' })
  if (body) {
    await call(name, { key, body: '{' })
    await call(name, { key, body: { padding: 'x'.repeat(20_000) } })
    await call(name, { key, body, headers: { 'content-type': 'text/plain' } })
  }
}

type Refusal = [code: string, name: string, ask: Ask]
type TestUser = Awaited<ReturnType<TestApp['user']>>

interface Parties {
  /** A session of an admin that is no longer fresh. */
  stale: { key: string }
  /** A key that is switched off, and one that may only read. */
  off: { id: string }
  reader: { key: string }
  /** Tokens: one that nobody has, and one for an address that somebody got since. */
  tokens: { unknown: string; late: string }
  /** A service with no room for another key. */
  full: TestApp
  /** A session of a user with a factor, and a service that began without any. */
  double: { id: string; email: string; key: string }
  single: TestApp
  /** An admin's key of two factors. */
  strong: { key: string }
  stranger: TestUser
  own: TestApp
  boss: TestUser
  stopping: TestApp
}

/** Failures that one operation has for reasons of its own. */
function refusals(parties: Parties): Refusal[] {
  const { stranger, own, boss, stopping, full, tokens } = parties
  const { key } = admin
  const user = { id: stranger.id, key: stranger.key }
  const taken = { email: stranger.email, password }
  return [
    ['stopping', 'get /healthcheck', { on: stopping }],
    ['stopping', 'get /users/healthcheck', { on: stopping }],
    ['invalid_email', 'post /users', { body: { email: 'ada', password } }],
    ['invalid_password', 'post /users', { body: { email: 'a@b', password: 'short' } }],
    ['forbidden', 'post /users', { body: { email: 'a@b', password, role: 'admin' } }],
    ['email_in_use', 'post /users', { body: taken }],
    ['user_not_found', 'get /users/{id}', { key, id: unknownId }],
    ['invalid_email', 'patch /users/{id}', { ...user, body: { email: 'ada' } }],
    ['invalid_password', 'patch /users/{id}', { ...user, body: { password: 'short' } }],
    ['user_not_found', 'patch /users/{id}', { key, id: unknownId, body: { enabled: true } }],
    ['email_in_use', 'patch /users/{id}', { ...user, body: { email: admin.email } }],
    [
      'last_admin',
      'patch /users/{id}',
      { on: own, key: boss.key, id: boss.id, body: { role: 'user' } },
    ],
    ['stale_version', 'patch /users/{id}', { ...user, body: {}, headers: { 'if-match': '"7"' } }],
    ['user_not_found', 'delete /users/{id}', { key, id: unknownId }],
    ['last_admin', 'delete /users/{id}', { on: own, key: boss.key, id: boss.id }],
    ['stale_version', 'delete /users/{id}', { ...user, headers: { 'if-match': '"7"' } }],
    ['user_not_found', 'get /users/{id}/keys', { key, id: unknownId }],
    ['user_not_found', 'post /users/{id}/keys', { key, id: unknownId, body: { name: 'x' } }],
    ['key_not_found', 'patch /users/{id}/keys/{keyId}', { ...user, body: {} }],
    ['key_not_found', 'delete /users/{id}/keys/{keyId}', user],
    ['key_not_found', 'post /users/{id}/keys/{keyId}/rotate', user],
    ['user_not_found', 'delete /users/sessions/{id}', { key, id: unknownId }],
    ['too_many_keys', 'post /users/{id}/keys', { ...user, on: full, body: { name: 'x' } }],
    [
      'too_many_keys',
      'post /users/{id}/keys/{keyId}/rotate',
      { ...user, on: full, keyId: stranger.keyId, body: { overlapSeconds: 9 } },
    ],
    ['user_not_found', 'post /users/{id}/keys/{keyId}/rotate', { key, id: unknownId }],
    ['not_a_session', 'delete /users/sessions', user],
    ['forbidden', 'delete /users/sessions', parties.reader],
    ['forbidden', 'post /users/jwt', { key, body: { audience: 'other' } }],
    ['user_not_found', 'post /users/{id}/tokens', { key, id: unknownId, body: reset }],
    [
      'email_in_use',
      'post /users/{id}/tokens',
      { key, id: stranger.id, body: { purpose: 'email', email: admin.email } },
    ],
    ['user_not_found', 'delete /users/{id}/tokens', { key, id: unknownId }],
    ['email_in_use', 'post /users/verifications', { body: { token: tokens.late } }],
    ['invalid_email', 'post /users/password-resets', { body: { email: 'ada' } }],
    ['invalid_email', 'post /users/{id}/verifications', { ...user, body: { email: 'ada' } }],
    ['user_not_found', 'post /users/{id}/verifications', { key, id: unknownId }],
    ['token_invalid', 'post /users/passwords', { body: { token: tokens.unknown, password } }],
    ['token_invalid', 'post /users/verifications', { body: { token: tokens.unknown } }],
    ...ofFactors(parties),
    ...unfresh(parties),
  ]
}

/** Failures of second factors. */
function ofFactors({ double, single, strong, stranger, tokens }: Parties): Refusal[] {
  const { id, key, email } = double
  const user = { id: stranger.id, key: stranger.key }
  const body = { code: '000000' }
  return [
    ['factor_exists', 'post /users/{id}/factor', { id, key }],
    ['factor_not_found', 'post /users/{id}/factor/confirm', { id, key, body }],
    ['factor_not_found', 'get /users/{id}/factor', user],
    ['factor_not_found', 'post /users/{id}/factor/recovery-codes', user],
    ['factor_not_found', 'delete /users/{id}/factor', { id: admin.id, key: strong.key }],
    ['user_not_found', 'delete /users/{id}/factor', { id: unknownId, key: strong.key }],
    ['token_invalid', 'post /users/sessions', { body: { token: tokens.unknown, ...body } }],
    ['authentication_needed', 'post /users/sessions', { on: single, body: { email, password } }],
  ]
}

const reset = { purpose: 'password-reset' }

/** What a session that is no longer fresh may not. */
function unfresh({ stranger: { id, keyId }, stale: { key }, off }: Parties): Refusal[] {
  const code = 'authentication_needed'
  return [
    [code, 'post /users', { key, body: { email: 'a@b', password } }],
    [code, 'patch /users/{id}', { key, id, body: { role: 'admin' } }],
    [code, 'delete /users/{id}', { key, id }],
    [code, 'post /users/{id}/keys', { key, id, body: { name: 'x' } }],
    [code, 'patch /users/{id}/keys/{keyId}', { key, id, keyId: off.id, body: { enabled: true } }],
    [code, 'post /users/{id}/keys/{keyId}/rotate', { key, id, keyId }],
    [code, 'post /users/{id}/tokens', { key, id, body: reset }],
    [code, 'post /users/{id}/verifications', { key, id, body: { email: 'a@b' } }],
    [code, 'get /users/auth', { key, query: '?require-max-age=900' }],
  ]
}

/** What the failures of accounts, keys and tokens need. */
async function prepare(stranger: TestUser) {
  const { db, database } = app
  const session = { kind: 'session', name: 's', seconds: 600 } as const
  const stale = await insertKey(db, { ...session, userId: admin.id })
  await db.query(`update api_keys set authenticated_at = now() - interval '1 hour' where id = $1`, [
    stale.id,
  ])
  const off = await insertKey(db, { userId: stranger.id, kind: 'api', name: 'off' })
  await db.query('update api_keys set enabled = false where id = $1', [off.id])
  const reader = await insertKey(db, {
    userId: stranger.id,
    kind: 'api',
    name: 'reader',
    scope: 'read',
  })
  const { token: late } = await insertToken(db, {
    userId: stranger.id,
    purpose: 'email',
    email: admin.email,
    seconds: 600,
  })
  const full = await startTestApp({ ...env, KEYS_PER_USER: '1' }, database)
  const single = await startTestApp(
    { ...env, SECRETS_KEY_FILE: '', TOKEN_ISSUER: '', TOKEN_AUDIENCES: '' },
    database,
  )
  const user = await app.user()
  const double = await insertKey(db, { ...session, userId: user.id, factors: 2 })
  const protect = `update users set factor_confirmed_at = now(), factor_secret = '' where id = $1`
  await db.query(protect, [user.id])
  const strong = await insertKey(db, { ...session, userId: admin.id, factors: 2 })
  return {
    stale,
    off,
    reader,
    full,
    single,
    strong,
    double: { ...user, key: double.key },
    tokens: { unknown: createSecret('ust'), late },
  }
}

/** Failed log-ins and codes, until the next must wait. */
async function throttled({ id, key, email }: TestUser): Promise<Refusal[]> {
  const session = await app.request('POST', '/users/sessions', { body: { email, password } })
  const code = { id, key: session.details.key, body: { code: 'wrong' } }
  await app.request('POST', '/users/me/factor', { key: code.key })
  const wrong = { password: 'another fine password', currentPassword: 'wrong' }
  const change = { id, key, body: wrong }
  const logIn = { body: { email: 'nobody@example.org', password } }
  const failed: Refusal[] = []
  for (let i = 0; i < 5; i++) {
    failed.push(['invalid_credentials', 'patch /users/{id}', change])
    failed.push(['invalid_credentials', 'post /users/sessions', logIn])
    failed.push(['invalid_credentials', 'post /users/{id}/factor/confirm', code])
  }
  return [
    ...failed,
    ['login_throttled', 'patch /users/{id}', change],
    ['login_throttled', 'post /users/sessions', logIn],
    ['login_throttled', 'post /users/{id}/factor/confirm', code],
  ]
}

/** Has each look-up of a key and each change fail as our own mistakes do. */
async function breakTables(db: Database) {
  await db.query(`update api_keys set authenticated_at = '4000-01-01 BC'`)
  await db.query(`create function fail() returns trigger language plpgsql
    as $$ begin raise 'broken'; end $$`)
  const names = ['users', 'api_keys', 'login_failures', 'tokens', 'audit_events', 'outbox']
  for (const table of names)
    await db.query(`create trigger fail before insert or update or delete on ${table}
      for each statement execute function fail()`)
}

test('every operation fails as the document says, and in no way that it does not', async () => {
  const own = await startTestApp(env)
  const broken = await startTestApp(env)
  const slow = await startTestApp({ ...env, RATE_LIMIT: '1' }, app.database)
  const stopping = await startTestApp({ ...env, DRAIN_SECONDS: '1' }, app.database)
  const boss = await own.admin()
  const lost = await broken.admin()
  const reset = { userId: lost.id, purpose: 'password-reset', email: null, seconds: 999 } as const
  const { token } = await insertToken(broken.db, reset)
  await breakTables(broken.db)
  const { away, key: awayKey } = await startWithoutDatabase()
  const stranger = await app.user()
  const strict = await startTestApp({ ...env, REQUIRE_FACTOR: 'all' }, app.database)

  for (const { name, operation } of operations) {
    await provoke(name, operation, stranger)
    const body = operation.requestBody?.content['application/json'].example
    const likely = body?.token === undefined ? body : { ...body, token }
    await call(name, { on: away, key: awayKey, body: likely })
    await call(name, { on: broken, key: lost.key, id: lost.id, body: likely })
    await call(name, { on: strict, key: admin.key, id: stranger.id, body: likely })
    for (let i = 0; i < 3 && operation.responses[429]; i++)
      await call(name, { on: slow, key: admin.key, body })
  }

  const service = { stranger, own, boss, stopping, ...(await prepare(stranger)) }
  const stopped = stopping.stop()
  for (const [code, name, ask] of [...refusals(service), ...(await throttled(stranger))]) {
    assert.equal((await call(name, ask)).body.code, code, name)
  }
  await stopped
  await later(31_000, () => call('get /jwks.json', { on: away }))

  // What no caller can bring about at will: a full queue, a race, a fault of the program.
  const never = [
    /overloaded$/,
    /^delete \/users\/sessions key_not_found$/,
    /(healthcheck|livez|openapi.json|docs|admin|openid-configuration|jwks.json) internal$/,
  ]
  const claimed = operations.flatMap(({ name, operation }) =>
    Object.values<any>(operation.responses)
      .flatMap((response) => resolve(response)['x-codes'] ?? [])
      .map((code: string) => `${name} ${code}`),
  )
  assert.deepEqual(
    claimed.filter((each) => {
      const at = each.lastIndexOf(' ')
      return (
        !met.get(each.slice(0, at))?.has(each.slice(at + 1)) &&
        !never.some((form) => form.test(each))
      )
    }),
    [],
  )
})

/** A service whose database has gone away: the socket that it connects through is no more. */
async function startWithoutDatabase() {
  const database = await createTestDatabase()
  const directory = mkdtempSync(join(tmpdir(), 'user-service-'))
  undo.push(() => rmSync(directory, { recursive: true }))
  const socket = join(directory, 'socket')
  symlinkSync(database.env['DATABASE_HOST']!, socket)
  const away = await startTestApp({ ...env, DATABASE_HOST: socket }, database)
  const { key } = await away.admin()
  rmSync(socket)
  await database.db.query(`select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()`)
  return { away, key }
}

test('where sign-up is closed or the path another, the document says so', async () => {
  const closed = await startTestApp({ SIGNUP: 'admin', SERVER_BASE_PATH: '/api/v1' }, app.database)
  const { servers, paths } = JSON.parse((await closed.request('GET', '/openapi.json')).text)
  assert.equal(servers[0].url, '/api/v1')
  assert.deepEqual(paths['/users'].post.security, [{ apiKey: [] }, { bearer: [] }])
  assert.deepEqual(document.paths['/users'].post.security, [{}, { apiKey: [] }, { bearer: [] }])
  assert.ok(paths['/users'].post.responses[403])
})

test('what a browser opens first leads to the page, below any base path', async () => {
  const deep = await startTestApp({ SERVER_BASE_PATH: '/api/v1' }, app.database)
  const bare = await startTestApp({ SERVER_BASE_PATH: '/' }, app.database)
  const hops: Record<string, string> = {}
  for (const [{ url }, paths] of [
    [app, ['/', '/docs', '/docs/', '/v1', '/v1/']],
    [deep, ['/', '/docs', '/docs/', '/api/v1', '/api/v1/']],
    [bare, ['/', '/docs/']],
  ] as const) {
    for (const path of paths) {
      const { status, headers } = await fetch(url + path, { redirect: 'manual' })
      const place = new URL(headers.get('location')!, url + path)
      hops[`${url} ${path}`] = `${status} ${place.pathname}`
      assert.equal((await fetch(place)).headers.get('content-type'), 'text/html; charset=utf-8')
    }
  }
  const to = (base: { url: string }, page: string, ...paths: string[]) =>
    Object.fromEntries(paths.map((path) => [`${base.url} ${path}`, `302 ${page}`]))
  assert.deepEqual(hops, {
    ...to(app, '/v1/docs', '/', '/docs', '/docs/', '/v1', '/v1/'),
    ...to(deep, '/api/v1/docs', '/', '/docs', '/docs/', '/api/v1', '/api/v1/'),
    ...to(bare, '/docs', '/', '/docs/'),
  })
})

const cached = 'public, max-age=300'
for (const [path, caching] of [
  ['/docs', cached],
  ['/openapi.json', cached],
  ['/admin', 'no-store'],
] as const) {
  test(`${path} is ${caching}, and HEAD answers it without the body`, async () => {
    const get = await app.request('GET', path)
    const head = await app.request('HEAD', path)
    assert.deepEqual([get.status, head.status, head.text], [200, 200, ''])
    assert.equal(get.headers.get('cache-control'), caching)
    for (const name of [
      'cache-control',
      'content-type',
      'content-length',
      'content-security-policy',
      'etag',
    ]) {
      assert.equal(head.headers.get(name), get.headers.get(name), name)
    }
    assert.equal(Number(get.headers.get('content-length')), Buffer.byteLength(get.text))
    assert.ok(get.text.endsWith('\n'))

    const etag = get.headers.get('etag')!
    for (const known of [etag, `W/${etag}`, `"x", ${etag}`, '*']) {
      const again = await app.request('GET', path, { headers: { 'if-none-match': known } })
      assert.deepEqual(
        [again.status, again.text, again.headers.get('etag')],
        [304, '', etag],
        known,
      )
    }
    const other = await app.request('GET', path, { headers: { 'if-none-match': '"x"' } })
    assert.equal(other.status, 200)
  })
}

for (const path of ['/docs', '/admin']) {
  test(`${path} has one script and one style, and loads nothing from elsewhere`, async () => {
    const { text, headers } = await app.request('GET', path)
    const policy = Object.fromEntries(
      headers
        .get('content-security-policy')!
        .split('; ')
        .map((each) => {
          const [name, ...values] = each.split(' ')
          return [name, values.join(' ')]
        }),
    )
    const hashes = (element: string) =>
      [...text.matchAll(new RegExp(`<${element}[^>]*>([^]*?)</${element}>`, 'g'))].map(
        ([, inner]) => `'sha256-${createHash('sha256').update(inner!).digest('base64')}'`,
      )
    assert.deepEqual(policy, {
      'default-src': `'none'`,
      'script-src': hashes('script').join(' '),
      'style-src': hashes('style').join(' '),
      'connect-src': `'self'`,
      'base-uri': `'none'`,
      'form-action': `'none'`,
      'frame-ancestors': `'none'`,
      'require-trusted-types-for': `'script'`,
      'trusted-types': `'none'`,
    })
    assert.deepEqual([hashes('script').length, hashes('style').length], [1, 1])
    assert.equal(headers.get('referrer-policy'), 'no-referrer')
    assert.equal(headers.get('cross-origin-opener-policy'), 'same-origin')
    assert.equal(headers.get('content-type'), 'text/html; charset=utf-8')
    const markup = text.replace(/<(script|style)>[^]*?<\/\1>/g, '')
    assert.doesNotMatch(markup, /\son\w+=|\sstyle=|\ssrc=|href="(?!openapi\.json"|#)/)
    assert.doesNotMatch(
      text.replace('http://www.w3.org/2000/svg', ''),
      /\/\/\w|url\(|@import|innerHTML|insertAdjacent|document\.write|eval\(|Storage|cookie/,
    )
  })
}

test('where the page for admins is off, nobody finds it', async () => {
  const without = await startTestApp({ ...env, ADMIN_PAGE: 'off' }, app.database)
  const page = await fetch(`${without.base}/admin`)
  const { paths } = JSON.parse((await without.request('GET', '/openapi.json')).text)
  assert.deepEqual([page.status, ((await page.json()) as any).code], [404, 'not_found'])
  assert.deepEqual(
    Object.keys(document.paths).filter((path) => !(path in paths)),
    ['/admin'],
  )
})
