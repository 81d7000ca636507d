// Every operation of the document and every method beside them, with values by their schema and
// against it. Whatever is sent: never a 5xx, never an answer that the document does not have, and
// what the document calls wrong is refused. FUZZ_CASES=100000 for more; FUZZ_SEED=n to repeat.
import assert from 'node:assert/strict'
import { randomInt } from 'node:crypto'
import http from 'node:http'
import { test } from 'node:test'

import { createKey } from '../src/keys/format.ts'
import { hashCheaply, startTestApp, undo } from './support/helpers.ts'
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

const resolve = (schema: Json): Json =>
  schema.$ref === undefined
    ? schema
    : schema.$ref
        .slice(2)
        .split('/')
        .reduce((at: Json, name: string) => at[name], document)

const known = new Set([
  'type',
  'items',
  'uniqueItems',
  'description',
  'minLength',
  'required',
  'enum',
  'maxLength',
  'format',
  'unevaluatedProperties',
  'properties',
  '$ref',
  'pattern',
  'oneOf',
  'maximum',
  'default',
  'maxItems',
  'minimum',
  'examples',
])
const formats: Record<string, (value: Json) => boolean> = {
  uuid: (value) => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(value),
  'date-time': (value) =>
    /^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$/.test(value) &&
    !Number.isNaN(Date.parse(value)),
  email: (value) => /^[^@\s]+@[^@\s]+$/.test(value),
  int32: (value) => value === (value | 0),
  password: () => true,
}

/** What is wrong with a value, by JSON Schema; fails on a word of it that this does not know. */
function findFaults(given: Json, value: Json, at = ''): string[] {
  const schema = resolve(given)
  for (const word of Object.keys(schema)) assert.ok(known.has(word), `${word} is not known here`)
  const wrong = (why: string) => [`${at || 'it'} ${why}: ${JSON.stringify(value)?.slice(0, 100)}`]
  if (schema.oneOf)
    return schema.oneOf.filter((each: Json) => findFaults(each, value).length === 0).length === 1
      ? []
      : wrong('fits none, or several')
  const type =
    value === null
      ? 'null'
      : Array.isArray(value)
        ? 'array'
        : Number.isInteger(value)
          ? 'integer'
          : typeof value
  const types = [schema.type ?? type].flat()
  if (!types.includes(type)) return wrong(`is not ${types}`)
  if (schema.enum && !schema.enum.includes(value)) return wrong(`is not one of ${schema.enum}`)
  if (
    schema.format &&
    value !== null &&
    !(formats[schema.format] ?? assert.fail(schema.format))(value)
  )
    return wrong(`is no ${schema.format}`)
  if (type === 'string') {
    const length = [...value].length
    if (length < (schema.minLength ?? 0) || length > (schema.maxLength ?? Infinity))
      return wrong(`has ${length} characters`)
    if (schema.pattern && !new RegExp(schema.pattern, 'u').test(value))
      return wrong(`is not ${schema.pattern}`)
  }
  if (
    type === 'integer' &&
    (value < (schema.minimum ?? -Infinity) || value > (schema.maximum ?? Infinity))
  )
    return wrong('is out of bounds')
  if (type === 'array') {
    if (value.length > (schema.maxItems ?? Infinity)) return wrong('has too many items')
    if (schema.uniqueItems && new Set(value).size < value.length) return wrong('repeats an item')
    return value.flatMap((each: Json, i: number) =>
      findFaults(schema.items ?? {}, each, `${at}[${i}]`),
    )
  }
  if (type !== 'object' || !schema.properties) return []
  return [
    ...(schema.required ?? [])
      .filter((name: string) => !Object.hasOwn(value, name))
      .map((name: string) => `${at}.${name} is missing`),
    ...Object.keys(value).flatMap((name) =>
      Object.hasOwn(schema.properties, name)
        ? findFaults(schema.properties[name], value[name], `${at}.${name}`)
        : schema.unevaluatedProperties === false
          ? [`${at}.${name} is not known`]
          : [],
    ),
  ]
}

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
let [begun, hashed] = [0, 0]
const mayHash = () => hashed * 200 < begun && ++hashed > 0
const waiting = (await app.user()).email
await app.db.query(
  `insert into login_failures (account, client, failures, wait_until)
  values (sha256(convert_to($1, 'UTF8')), '127.0.0.1', 9, now() + interval '1 day')`,
  [waiting],
)

/** A value by its schema. */
function fitting(r: Random, given: Json, name = ''): Json {
  const schema = resolve(given)
  if (schema.enum) return r.pick(schema.enum)
  const type = r.pick([schema.type].flat())
  if (type === 'null') return null
  if (type === 'boolean') return r.chance(0.5)
  if (type === 'integer')
    return r.pick([
      schema.minimum,
      schema.maximum,
      schema.minimum + r.below(schema.maximum - schema.minimum),
    ])
  if (type === 'array')
    return [...new Set(Array.from({ length: r.below(4) }, () => fitting(r, schema.items)))]
  if (type === 'object') {
    const chosen = Object.keys(schema.properties).filter(
      (each) => schema.required?.includes(each) || r.chance(0.4),
    )
    return Object.fromEntries(
      chosen.map((each) => [each, fitting(r, schema.properties[each], each)]),
    )
  }
  if (schema.format === 'uuid')
    return r.pick([
      root.id,
      '00000000-0000-0000-0000-000000000000',
      'FFFFFFFF-ffff-ffff-ffff-ffffffffffff',
    ])
  if (schema.format === 'date-time') return r.pick(instants)
  if (name === 'email' && schema.maxLength > 254) return r.chance(0.9) ? waiting : randomText(r)
  if (name === 'email')
    return r.pick([
      `${r.below(1e9)}@example.org`,
      `É${r.below(1e9)}@ß`,
      `${'a'.repeat(200)}${r.below(1e9)}@b`,
      waiting.toUpperCase(),
    ])
  if (name === 'currentPassword') return randomText(r)
  if (name === 'password')
    return mayHash() ? `${randomText(r)} long enough ${r.below(1e6)}` : 'password'
  for (let tries = 0; tries < 50; tries++) {
    const text = r.chance(0.1) ? 'x'.repeat(Math.min(schema.maxLength, 15_000)) : randomText(r)
    if (text.isWellFormed() && findFaults(schema, text).length === 0) return text
  }
  return 'x'.repeat(Math.max(1, schema.minLength ?? 1))
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
  if (schema.type !== 'object' || r.chance(0.1))
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

function make(r: Random, index: number, users: { id: string; key: string; keyId: string }[]): Case {
  const [method, template] =
    index < operations.length
      ? operations[index]!
      : index % 4 === 0
        ? r.pick(beside)
        : r.pick(weighted)
  const operation = document.paths[template]?.[method.toLowerCase()] ?? {}
  const user = r.pick(users)
  const query: string[] = []
  const headers: Record<string, string> = {}
  for (const { name, in: where, schema } of operation.parameters ?? []) {
    if (where === 'path' || r.chance(0.5)) continue
    const value = r.chance(0.6) ? fitting(r, schema, name) : r.pick([...pool, ...strangers])
    const texts = (Array.isArray(value) ? value : [value]).map((each) =>
      String(each).toWellFormed().slice(0, 500),
    )
    if (where === 'query')
      query.push(...texts.map((text) => `${encodeURIComponent(name)}=${encodeURIComponent(text)}`))
    else
      headers[name] = r.pick([
        '*',
        '"1"',
        '"2"',
        'W/"1"',
        '',
        ',',
        '"',
        texts.join().replace(/[^ -~]/g, ''),
      ])
  }
  if (r.chance(0.1))
    query.push(
      r.pick([
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
      ]),
    )
  const segments: Record<string, () => string> = {
    id: () =>
      r.pick([
        user.id,
        user.id,
        user.id,
        r.pick(users).id,
        r.pick(users).id.toUpperCase(),
        '0190b8a0-6f1c-7cc3-98c4-dc0c0c07398f',
        'me',
        '%00',
        '..',
        '1',
      ]),
    keyId: () => r.pick([user.keyId, user.keyId, r.pick(users).keyId, user.id, 'x', "'"]),
    path: () => r.pick(['x', 'a/b', '..', '%2e%2e/', '//', '%zz', 'é'].map(encodeURI)),
  }
  const path = template.replace(/\{(\w+)\}/g, (_, name) => segments[name]!())
  const key = r.pick([
    root.key,
    root.key,
    root.key,
    user.key,
    user.key,
    r.pick(users).key,
    undefined,
    createKey(),
    'usk_',
    randomText(r).replace(/[^!-~]/g, ''),
  ])
  if (key !== undefined)
    Object.assign(
      headers,
      r.chance(0.7) ? { 'X-Api-Key': key } : { Authorization: `Bearer ${key}` },
    )
  if (r.chance(0.05))
    headers['Authorization'] = r.pick([
      'Basic YTpi',
      'Bearer',
      'Bearer ',
      ',',
      `bearer ${root.key}`,
    ])
  if (r.chance(0.1)) headers['X-Request-Id'] = randomText(r).replace(/[^ -~]/g, '')
  if (r.chance(0.1)) headers['Origin'] = r.pick(['null', 'https://evil.example', ' '])
  let json: Json
  let body: Buffer | undefined
  const schema = operation.requestBody?.content['application/json'].schema
  if (schema || r.chance(0.1)) {
    json = schema ? (r.chance(0.6) ? fitting(r, schema) : twisted(r, schema)) : r.pick(strangers)
    // Of one who waits, so that no attempt is hashed.
    if (
      path === '/users/sessions' &&
      typeof json?.email === 'string' &&
      json.email !== waiting &&
      !mayHash()
    )
      json.email = waiting
    body = Buffer.from(JSON.stringify(json))
    headers['Content-Type'] = r.chance(0.95)
      ? 'application/json'
      : r.pick(['text/plain', 'application/json; charset=utf-16', 'application/jso', ''])
    if (headers['Content-Type'] !== 'application/json') json = undefined
    if (r.chance(0.05)) {
      body = r.pick([
        body.subarray(0, body.length / 2),
        Buffer.concat([body, body]),
        Buffer.from([0xff, 0xfe]),
        Buffer.alloc(17_000, ' '),
        Buffer.from('{"a":'.repeat(2000)),
        Buffer.from(JSON.stringify(Object.fromEntries(many.map((name) => [name, 1])))),
        Buffer.from(String(body).replace('{', '{"email":"a@b","email":"c@d",')),
      ])
      json = undefined
    }
    if (r.chance(0.1)) headers['Transfer-Encoding'] = 'chunked'
    else headers['Content-Length'] = String(body.length)
  }
  return {
    method,
    template,
    path: `${path}${query.length > 0 ? `?${query.join('&')}` : ''}`,
    headers,
    body,
    json,
    admin: key === root.key,
  }
}

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
  'referrer-policy',
]

/** Holds an answer against the document. */
function check(made: Case, { status, headers, text, ms }: Got) {
  const { method, template, json, admin } = made
  assert.ok(status < 500, 'no 5xx')
  assert.ok(ms < 15_000, `${ms} ms`)
  assert.match(headers['x-request-id']!, /^[A-Za-z0-9._-]{1,64}$/)
  assert.equal(headers['x-content-type-options'], 'nosniff')
  assert.doesNotMatch(text, /scrypt\$|postgres|select |node:|\/src\//i)
  const operation = document.paths[template]?.[method === 'HEAD' ? 'get' : method.toLowerCase()]
  if (operation === undefined) {
    const expected = template.includes('/auth')
      ? [200, 400, 401, 403]
      : method === 'OPTIONS'
        ? [204]
        : [405]
    assert.ok(expected.includes(status), `${status} for a method that is not documented`)
    return assert.ok(template.includes('/auth') || headers['allow'], 'Allow')
  }
  const spec = resolve(operation.responses[status] ?? assert.fail(`${status} is not documented`))
  const documented = Object.keys(spec.headers).map((name) => name.toLowerCase())
  assert.deepEqual(
    Object.keys(headers).filter((name) => !general.includes(name) && !documented.includes(name)),
    [],
    'headers',
  )
  for (const [name, header] of Object.entries<Json>(spec.headers)) {
    const value = headers[name.toLowerCase()]
    const { schema } = resolve(header)
    if (value !== undefined)
      assert.deepEqual(
        findFaults(schema, resolve(schema).type === 'integer' ? Number(value) : value, name),
        [],
      )
    const optional =
      /^(Access-Control|RateLimit|Link$)/.test(name) || (name === 'Retry-After' && status !== 429)
    if (!optional) assert.ok(value !== undefined, `${name} is missing`)
  }
  const [type, content] = Object.entries<Json>(spec.content ?? {})[0] ?? []
  if (type === undefined) assert.equal(text, '')
  else assert.equal(headers['content-type']?.split(';')[0], type)
  if (method === 'HEAD' || type === undefined) return assert.equal(text, '')
  if (type === 'application/json')
    assert.deepEqual(findFaults(content.schema, JSON.parse(text)), [])
  if (status >= 400) {
    const { requestId, code } = JSON.parse(text)
    assert.equal(requestId, headers['x-request-id'])
    assert.ok(spec['x-codes'].includes(code), `${code} is not documented`)
  }
  if (status !== 201 && template.startsWith('/users'))
    assert.doesNotMatch(text, /usk_[0-9A-Za-z]{49}/)

  const schema = operation.requestBody?.content['application/json'].schema
  if (json === undefined || schema === undefined) return
  const faults = findFaults(schema, normal(json))
  if (faults.length > 0) assert.ok(status >= 400, `${status} although ${faults}`)
  else if (admin && status === 400) {
    const { code, errors = [] } = JSON.parse(text)
    const beyond = /future|well-formed|missing|common|email|white space|one @|characters|instant/
    assert.ok(
      code === 'invalid_id' || errors.every(({ message }: Json) => beyond.test(message)),
      `refused although it fits: ${text}`,
    )
  }
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

test(`${cases} requests by the document and against it, from seed ${seed}, get answers that it has`, async () => {
  let users: Awaited<ReturnType<typeof app.user>>[] = []
  const statuses = new Map<string, number>()
  let next = 0
  async function work() {
    while (next < cases) {
      const index = next++
      begun = next
      if (index % 50 === 0)
        users = [
          ...(await Promise.all([app.user(), app.user(), app.admin()])),
          ...users.slice(0, 3),
        ]
      const made = make(createRandom(seed + index), index, users)
      const got = await send(made)
      try {
        check(made, got)
      } catch (error) {
        const { body, ...rest } = made
        await new Promise(setImmediate)
        const record = app.log.find((line) => line.includes(got.headers['x-request-id']!))
        throw new Error(
          `Case ${index} of seed ${seed}: ${JSON.stringify(rest).slice(0, 1500)} ${String(body).slice(0, 500)}\n` +
            `got ${got.status} ${got.text.slice(0, 500)}\n${JSON.stringify(got.headers)}\n${record}\n${(error as Error).message}`,
        )
      }
      const class_ = `${Math.floor(got.status / 100)}xx`
      statuses.set(class_, (statuses.get(class_) ?? 0) + 1)
    }
  }
  users = await Promise.all([app.user(), app.user(), app.admin()])
  await Promise.all(Array.from({ length: 8 }, work))
  for (const line of app.log) assert.notEqual(JSON.parse(line).level, 'error', line)
  // Neither all refused nor all let through: the cases reach what is behind the checks.
  for (const class_ of ['2xx', '4xx'])
    assert.ok(statuses.get(class_)! > cases / 10, JSON.stringify([...statuses]))
})
