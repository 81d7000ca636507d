// Every operation of the document and every method beside them, with values by their schema and
// against it. There is never a 5xx, never an answer that the document does not have, and a value
// that it calls wrong is refused. FUZZ_CASES=100000 for more; FUZZ_SEED=n to repeat.
import assert from 'node:assert/strict'
import { randomInt } from 'node:crypto'
import http from 'node:http'
import { test } from 'node:test'

import { accountOfUser } from '../src/passwords/guessing.ts'
import { createKey } from '../src/keys/format.ts'
import { resolve as resolveIn } from './support/documented.ts'
import { hashCheaply, startTestApp, undo } from './support/helpers.ts'
import { createSchemaCheck } from './support/json-schema.ts'
import { createRandom, type Random } from './support/random.ts'

hashCheaply()

type Json = any
const seed = Number(process.env['FUZZ_SEED'] ?? randomInt(2 ** 31))
const cases = Number(process.env['FUZZ_CASES'] ?? 2000)

const app = await startTestApp()
const document: Json = JSON.parse((await app.request('GET', '/openapi.json')).text)
const root = await app.admin()
const agent = new http.Agent({ keepAlive: true, maxSockets: 16 })
undo.push(() => agent.destroy())

const resolve = (value: Json): Json => resolveIn(value, document)
const findFaults = createSchemaCheck(document)

const pool = [
  '',
  'a',
  'Z9._:/*-',
  'user',
  'true',
  '0',
  'ä',
  'ﷺ',
  '😀',
  '\u0000',
  '\n',
  '\r\nX-Evil: 1',
  '\ud800',
  '\u202e',
  ' ',
  '@',
  'a@b',
  "'",
  '"',
  '\\',
  '%',
  '%00',
  '${x}',
  '--',
  '<',
  '__proto__',
  'null',
  'ǅ',
  'ß',
  'İ',
  '\u0301',
  '\ufeff',
  '\u2028',
  '🏳️‍🌈',
  'ﬃ',
]
const randomText = (r: Random, max = 12) =>
  Array.from({ length: r.below(max) }, () => r.pick(pool)).join('')
const nobody = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
const instants = [
  '2999-01-01T00:00:00Z',
  '2030-01-31T12:00:00.123456789+23:59',
  '9999-12-31T23:59:59-14:00',
  '2030-02-28t00:00:00z',
  '0001-01-01T00:00:00Z',
  '2024-02-29T00:00:00Z',
  '1969-12-31T23:59:59.999Z',
]

/** More names than faults are told. */
const many = Array.from({ length: 1500 }, (_, i) => i.toString(36))

/** Passwords cost time to hash: one in 200 cases may. */
let begun = 0
let hashed = 0
function mayHash(): boolean {
  if (hashed * 200 >= begun) return false
  hashed++
  return true
}
const { id: waitingId, email: waiting } = await app.user()
await app.db.query(
  `insert into login_failures (account, client, failures, wait_until)
  values ($1, '127.0.0.1', 9, now() + interval '1 day')`,
  [accountOfUser(waitingId)],
)

/** A value by its schema. */
function fitting(r: Random, given: Json, name = ''): Json {
  const schema = resolve(given)
  if (schema.enum) return r.pick(schema.enum)
  const type = r.pick([schema.type].flat())
  if (type === 'null') return null
  if (type === 'boolean') return r.chance(0.5)
  if (type === 'integer') {
    const { minimum, maximum } = schema
    return r.pick([minimum, maximum, minimum + r.below(maximum - minimum)])
  }
  if (type === 'array')
    return [...new Set(Array.from({ length: r.below(4) }, () => fitting(r, schema.items)))]
  return type === 'object' ? fittingObject(r, schema) : fittingText(r, schema, name)
}

function fittingObject(r: Random, { properties = {}, required = [] }: Json): Json {
  const value: Json = {}
  for (const name of Object.keys(properties)) {
    if (required.includes(name) || r.chance(0.4)) value[name] = fitting(r, properties[name], name)
  }
  return value
}

function fittingText(r: Random, schema: Json, name: string): string {
  if (schema.format === 'uuid') return r.pick([root.id, nobody, nobody.toUpperCase()])
  if (schema.format === 'date-time') return r.pick(instants)
  if (name === 'email') return fittingEmail(r, schema)
  if (name === 'currentPassword') return randomText(r)
  if (name === 'password')
    return mayHash() ? `${randomText(r)} long enough ${r.below(1e6)}` : 'password'
  for (let tries = 0; tries < 50; tries++) {
    const text = r.chance(0.1) ? 'x'.repeat(Math.min(schema.maxLength, 15_000)) : randomText(r)
    if (text.isWellFormed() && findFaults(schema, text).length === 0) return text
  }
  return 'x'.repeat(Math.max(1, schema.minLength ?? 1))
}

/** An address to log in with is of a user who must wait, so that no attempt is hashed. */
function fittingEmail(r: Random, { maxLength }: Json): string {
  if (maxLength > 254) return r.chance(0.9) ? waiting : randomText(r)
  return r.pick([
    `${r.below(1e9)}@example.org`,
    `É${r.below(1e9)}@ß`,
    `${'a'.repeat(200)}${r.below(1e9)}@b`,
    waiting.toUpperCase(),
  ])
}

const strangers = [
  null,
  true,
  0,
  -1,
  1.5,
  1e21,
  2 ** 53,
  '',
  [],
  [[]],
  {},
  { a: 1 },
  'x'.repeat(300),
  'x'.repeat(5000),
  ['a', 'a'],
  [null],
  '2030-02-30T00:00:00Z',
  '2030-01-01',
  '0000-01-01T00:00:00Z',
  '2030-01-01T25:00:00Z',
  'usk_',
  Array.from({ length: 33 }, (_, i) => `p${i}`),
]

/** A value that differs from a fitting one somewhere, and may be wrong by it. */
function twisted(r: Random, given: Json, name = ''): Json {
  const schema = resolve(given)
  if (schema.type !== 'object' || !schema.properties || r.chance(0.1))
    return r.chance(0.5) ? r.pick(strangers) : randomText(r, 20)
  const value = fitting(r, schema, name)
  const names = Object.keys(schema.properties)
  const changed = r.pick(names)
  if (r.chance(0.2)) delete value[changed]
  else if (r.chance(0.2))
    value[r.pick([...pool, 'id', 'version', 'apiKeys', 'createdAt', 'passwordHash', 'kind'])] =
      r.pick(strangers)
  else value[changed] = twisted(r, schema.properties[changed], changed)
  return value
}

interface Case {
  method: string
  path: string
  template: string
  headers: Record<string, string>
  body: Buffer | undefined
  json: Json
  admin: boolean
}

const methods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'PROPFIND']
const templates = [...Object.keys(document.paths), '/users/auth/{path}']
const operations = templates.flatMap((path) =>
  Object.keys(document.paths[path] ?? {}).map((method) => [method.toUpperCase(), path] as const),
)
const beside = templates.flatMap((path) => methods.map((method) => [method, path] as const))
const weighted = operations.filter(([, path]) => !path.includes('/auth'))

interface Known {
  id: string
  key: string
  keyId: string
}

function pickOperation(r: Random, index: number) {
  if (index < operations.length) return operations[index]!
  return index % 4 === 0 ? r.pick(beside) : r.pick(weighted)
}

function make(r: Random, index: number, users: Known[]): Case {
  const [method, template] = pickOperation(r, index)
  const operation = document.paths[template]?.[method.toLowerCase()] ?? {}
  const user = r.pick(users)
  const parameters = makeParameters(r, operation)
  const query = parameters.query
  if (r.chance(0.1)) query.push(r.pick(strangeQueries))
  const path = makePath(r, template, [user, ...users])
  const made = makeKey(r, user, users)
  // It would demote itself, and an admin's body then be refused.
  const key = made === root.key && path.endsWith('/me') ? user.key : made
  const credentials = makeCredentials(r, key)
  const { json, body, headers } = makeBody(r, operation, path)
  return {
    method,
    template,
    path: query.length > 0 ? `${path}?${query.join('&')}` : path,
    headers: { ...parameters.headers, ...credentials, ...headers },
    body,
    json,
    admin: Object.values(credentials).some((text) => text.endsWith(root.key)),
  }
}

const strangeQueries = [
  'a=b',
  '%zz',
  '=',
  '&&',
  'limit',
  'limit=1&limit=2',
  '__proto__=1',
  '%00=%ff',
  'require-role=x',
  '?',
  'a&'.repeat(5000),
  many.join('&'),
]

/** Parameters of a query and headers, by their schema and against it. */
function makeParameters(r: Random, { parameters = [] }: Json) {
  const query: string[] = []
  const headers: Record<string, string> = {}
  for (const { name, in: where, schema } of parameters) {
    if (where === 'path' || r.chance(0.5)) continue
    const value = r.chance(0.6) ? fitting(r, schema, name) : r.pick([...pool, ...strangers])
    const texts = [value].flat().map((each) => String(each).toWellFormed().slice(0, 500))
    if (where === 'query') {
      for (const text of texts)
        query.push(`${encodeURIComponent(name)}=${encodeURIComponent(text)}`)
    } else {
      const text = texts.join().replace(/[^ -~]/g, '')
      headers[name] = r.pick(['*', '"1"', '"2"', 'W/"1"', '', ',', '"', text])
    }
  }
  return { query, headers }
}

function makePath(r: Random, template: string, [user, ...users]: Known[]): string {
  const own = user!
  const ids = [own.id, own.id, own.id, r.pick(users).id, r.pick(users).id.toUpperCase(), nobody]
  const keyIds = [own.keyId, own.keyId, r.pick(users).keyId, own.id, 'x', "'"]
  const segments: Record<string, string[]> = {
    id: [...ids, 'me', '%00', '..', '1'],
    keyId: keyIds,
    path: ['x', 'a/b', '..', '%2e%2e/', '//', '%zz', 'é'].map(encodeURI),
  }
  return template.replace(/\{(\w+)\}/g, (_, name) => r.pick(segments[name]!))
}

function makeKey(r: Random, user: Known, users: Known[]): string | undefined {
  const strange = randomText(r).replace(/[^!-~]/g, '')
  const good = [root.key, root.key, root.key, user.key, user.key, r.pick(users).key]
  return r.pick([...good, undefined, createKey(), 'usk_', strange])
}

function makeCredentials(r: Random, key: string | undefined): Record<string, string> {
  const headers: Record<string, string> = {}
  if (key !== undefined && r.chance(0.7)) headers['X-Api-Key'] = key
  else if (key !== undefined) headers['Authorization'] = `Bearer ${key}`
  const others = ['Basic YTpi', 'Bearer', 'Bearer ', ',', `bearer ${root.key}`]
  if (r.chance(0.05)) headers['Authorization'] = r.pick(others)
  if (r.chance(0.1)) headers['X-Request-Id'] = randomText(r).replace(/[^ -~]/g, '')
  if (r.chance(0.1)) headers['Origin'] = r.pick(['null', 'https://evil.example', ' '])
  return headers
}

interface MadeBody {
  /** Undefined if the body is not this as JSON. */
  json: Json
  body: Buffer | undefined
  headers: Record<string, string>
}

function makeJson(r: Random, schema: Json, path: string): Json {
  if (!schema) return r.pick(strangers)
  const json = r.chance(0.6) ? fitting(r, schema) : twisted(r, schema)
  const isLogIn = path === '/users/sessions' && typeof json?.email === 'string'
  if (isLogIn && json.email !== waiting && !mayHash()) json.email = waiting
  return json
}

function makeBody(r: Random, operation: Json, path: string): MadeBody {
  const schema = operation.requestBody?.content['application/json'].schema
  if (!schema && !r.chance(0.1)) return { json: undefined, body: undefined, headers: {} }
  const json = makeJson(r, schema, path)
  const otherTypes = ['text/plain', 'application/json; charset=utf-16', 'application/jso', '']
  const type = r.chance(0.95) ? 'application/json' : r.pick(otherTypes)
  const whole = Buffer.from(JSON.stringify(json))
  const isSpoilt = r.chance(0.05)
  const body = isSpoilt ? r.pick(spoil(whole)) : whole
  const headers: Record<string, string> = { 'Content-Type': type }
  if (r.chance(0.1)) headers['Transfer-Encoding'] = 'chunked'
  else headers['Content-Length'] = String(body.length)
  const isSent = type === 'application/json' && !isSpoilt
  return { json: isSent ? json : undefined, body, headers }
}

const spoil = (body: Buffer): Buffer[] => [
  body.subarray(0, body.length / 2),
  Buffer.concat([body, body]),
  Buffer.from([0xff, 0xfe]),
  Buffer.alloc(17_000, ' '),
  Buffer.from('{"a":'.repeat(2000)),
  Buffer.from(JSON.stringify(Object.fromEntries(many.map((name) => [name, 1])))),
  Buffer.from(String(body).replace('{', '{"email":"a@b","email":"c@d",')),
]

interface Got {
  status: number
  headers: Record<string, string>
  text: string
  ms: number
}

function send({ method, path, headers, body }: Case): Promise<Got> {
  const start = performance.now()
  return new Promise((done, fail) => {
    const req = http.request(
      `${app.url}/`,
      { agent, method, path: `/v1${path}`, headers },
      (res) => {
        const chunks: Buffer[] = []
        res.on('data', (chunk: Buffer) => chunks.push(chunk))
        res.on('end', () =>
          done({
            status: res.statusCode!,
            headers: res.headers as Record<string, string>,
            text: Buffer.concat(chunks).toString(),
            ms: performance.now() - start,
          }),
        )
        res.on('error', fail)
      },
    )
    req.on('error', fail)
    req.setTimeout(20_000, () => req.destroy(new Error('no answer within 20 seconds')))
    req.end(body)
  })
}

const general = [
  'date',
  'connection',
  'keep-alive',
  'content-length',
  'content-type',
  'cache-control',
  'x-content-type-options',
  'content-security-policy',
  'cross-origin-opener-policy',
  'referrer-policy',
]

/** Holds an answer against the document. */
function check(made: Case, got: Got) {
  const { method, template } = made
  const { status, headers, text } = got
  assert.ok(status < 500, 'no 5xx')
  assert.ok(got.ms < 15_000, `${got.ms} ms`)
  assert.match(headers['x-request-id']!, /^[A-Za-z0-9._-]{1,64}$/)
  assert.equal(headers['x-content-type-options'], 'nosniff')
  const isPage = headers['content-type']?.startsWith('text/html')
  if (!isPage) assert.doesNotMatch(text, /scrypt\$|postgres|select |node:|\/src\//i)
  const operation = document.paths[template]?.[method === 'HEAD' ? 'get' : method.toLowerCase()]
  if (operation === undefined) {
    checkUndocumented(made, got)
    return
  }
  const spec = resolve(operation.responses[status] ?? assert.fail(`${status} is not documented`))
  checkHeaders(spec, got)
  checkText(spec, made, got)
  const schema = operation.requestBody?.content['application/json'].schema
  if (made.json !== undefined && schema !== undefined) checkVerdict(schema, made, got)
}

/** Forward-auth takes any method, of which the document has one. */
function checkUndocumented({ method, template }: Case, { status, headers }: Got) {
  const isAuth = template.includes('/auth')
  const others = method === 'OPTIONS' ? [204] : [405]
  const expected = isAuth ? [200, 400, 401, 403] : others
  assert.ok(expected.includes(status), `${status} for a method that is not documented`)
  assert.ok(isAuth || headers['allow'], 'Allow')
}

function checkHeaders(spec: Json, { status, headers }: Got) {
  const documented = Object.keys(spec.headers).map((name) => name.toLowerCase())
  assert.deepEqual(
    Object.keys(headers).filter((name) => !general.includes(name) && !documented.includes(name)),
    [],
    'headers',
  )
  for (const [name, header] of Object.entries<Json>(spec.headers)) {
    const text = headers[name.toLowerCase()]
    const isOptional =
      /^(Access-Control|RateLimit|Link$)/.test(name) || (name === 'Retry-After' && status !== 429)
    if (text === undefined) {
      assert.ok(isOptional, `${name} is missing`)
      continue
    }
    const { schema } = resolve(header)
    const value = resolve(schema).type === 'integer' ? Number(text) : text
    assert.deepEqual(findFaults(schema, value, name), [])
  }
}

function checkText(spec: Json, { method, template }: Case, { status, headers, text }: Got) {
  const [type, content] = Object.entries<Json>(spec.content ?? {})[0] ?? []
  if (type === undefined) {
    assert.equal(text, '')
    return
  }
  assert.equal(headers['content-type']?.split(';')[0], type)
  if (method === 'HEAD') {
    assert.equal(text, '')
    return
  }
  if (type === 'application/json')
    assert.deepEqual(findFaults(content.schema, JSON.parse(text)), [])
  if (status >= 400) {
    const { requestId, code } = JSON.parse(text)
    assert.equal(requestId, headers['x-request-id'])
    assert.ok(spec['x-codes'].includes(code), `${code} is not documented`)
  }
  if (status !== 201 && template.startsWith('/users'))
    assert.doesNotMatch(text, /usk_[0-9A-Za-z]{49}/)
}

/** A body with faults by the document is refused, and one without is not, but for its own rules. */
function checkVerdict(schema: Json, { json, admin }: Case, { status, text }: Got) {
  const faults = findFaults(schema, normal(json))
  if (faults.length > 0) {
    assert.ok(status >= 400, `${status} although ${faults}`)
    return
  }
  if (!admin || status !== 400) return
  const { code, errors = [] } = JSON.parse(text)
  const beyond = /future|well-formed|missing|common|email|white space|one @|characters|instant/
  assert.ok(
    code === 'invalid_id' || errors.every(({ message }: Json) => beyond.test(message)),
    `refused although it fits: ${text}`,
  )
}

/** Addresses are trimmed and passwords brought to NFKC before they are looked at. */
function normal(json: Json): Json {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) return json
  const { email, password } = json
  return {
    ...json,
    ...(typeof email === 'string' && { email: email.trim().normalize('NFC') }),
    ...(typeof password === 'string' && { password: password.normalize('NFKC') }),
  }
}

test(`${cases} requests from seed ${seed} get answers that the document has`, async () => {
  let users: Awaited<ReturnType<typeof app.user>>[] = []
  const statuses = new Map<string, number>()
  let next = 0
  async function work() {
    while (next < cases) {
      const index = next
      next++
      begun = next
      if (index % 50 === 0) {
        const more = await Promise.all([app.user(), app.user(), app.admin()])
        users = [...more, ...users.slice(0, 3)]
      }
      const made = make(createRandom(seed + index), index, users)
      const got = await send(made)
      try {
        check(made, got)
      } catch (error) {
        throw await explain(error as Error, index, { made, got })
      }
      const kind = `${Math.floor(got.status / 100)}xx`
      statuses.set(kind, (statuses.get(kind) ?? 0) + 1)
    }
  }
  users = await Promise.all([app.user(), app.user(), app.admin()])
  await Promise.all(Array.from({ length: 8 }, work))
  for (const line of app.log) assert.notEqual(JSON.parse(line).level, 'error', line)
  // Neither all refused nor all let through: the cases reach what is behind the checks.
  for (const kind of ['2xx', '4xx'])
    assert.ok(statuses.get(kind)! > cases / 10, JSON.stringify([...statuses]))
})

/** The same error, with all that is needed to see why. */
async function explain(error: Error, index: number, { made, got }: { made: Case; got: Got }) {
  const { body, ...rest } = made
  await new Promise(setImmediate)
  const record = app.log.find((line) => line.includes(got.headers['x-request-id']!))
  const lines = [
    `Case ${index} of seed ${seed}: ${JSON.stringify(rest).slice(0, 1500)}`,
    String(body).slice(0, 500),
    `got ${got.status} ${got.text.slice(0, 500)}`,
    JSON.stringify(got.headers),
    record,
    error.message,
  ]
  return new Error(lines.join('\n'), { cause: error })
}
