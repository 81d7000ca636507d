import { failures, type Code } from './errors.ts'
import type { Access, ReplySpec, Route } from './http/route.ts'
import { integer, object, oneOf, text, uuid, type JsonSchema } from './schema.ts'

type Json = Record<string, unknown>

const unique = <T>(values: T[]) => [...new Set(values)]

/** The OpenAPI 3.1 document of a route table. */
export function openApi(routes: Route[], { basePath, version }: { basePath: string; version: string }): Json {
  const operations: Record<string, Json> = {}
  for (const route of routes) {
    const path = route.path.replace('*', '{path}')
    const methods = route.method === 'ANY' ? anyMethod : [route.method.toLowerCase()]
    for (const method of methods) (operations[path] ??= {})[method] = operation(route, path, method)
  }
  // Schemas with a title become components, so that generated clients have names for them.
  const schemas: Json = {}
  const { paths, ...parts } = JSON.parse(JSON.stringify({ paths: operations, headers }, (_, value) => {
    if (typeof value?.title !== 'string') return value
    const { title, ...schema } = value
    schemas[title] = schema
    return { $ref: `#/components/schemas/${title}` }
  }))
  return {
    openapi: '3.1.0',
    info: { title: 'user-service', version, ...info },
    servers: [{ url: basePath || '/', description: 'This instance: local, test or production', 'x-internal': false }],
    tags: unique(Object.keys(paths).map(tagOf)).map((name) => ({ name, description: tags[name] })),
    paths,
    components: { schemas, securitySchemes, ...parts },
  }
}

const info = {
  summary: 'Users, API keys and sessions, and the answer a gateway needs',
  description: 'Every answer with a body is an envelope: `requestId`, `status` and `details`; a failure has a ' +
    '`code`, too, and `errors` where members of the body or query are at fault.\n\n' +
    '`HEAD` works wherever `GET` does; `OPTIONS` answers 204 with `Allow`. An unknown path gets 404 `not_found`, ' +
    'another method 405 `method_not_allowed` with `Allow`; a request that takes too long 408, one that expects ' +
    'more than `100-continue` 417, one with too long headers 431.\n\n' +
    'Nothing but the documentation may be cached. An `X-Request-Id` that is sent comes back, and is in the log ' +
    'and the audit.',
  license: { name: 'MIT', identifier: 'MIT' },
  contact: { name: 'The operator of this service' },
}
const securitySchemes = {
  apiKey: { type: 'apiKey', in: 'header', name: 'X-Api-Key', description: 'A key, be it of a session' },
  bearer: { type: 'http', scheme: 'bearer', description: 'The same key' },
}
const anyMethod = ['get', 'put', 'post', 'delete', 'options', 'head', 'patch', 'trace']

const tags: Record<string, string> = {
  users: 'Accounts', keys: 'Keys of a user', sessions: 'Log-in and log-out', auth: 'For gateways',
  audit: 'What happened', operation: 'For the operator',
}
const tagOf = (path: string) => path.endsWith('/healthcheck') ? 'operation'
  : path.split('/').findLast((part) => part in tags) ?? 'operation'

const mayCall: Record<Access, string> = {
  anyone: 'For anyone; a key is not looked at.', optional: 'For anyone; a key that is sent must be good.',
  key: 'For any key.', self: 'For the user itself and admins.', admin: 'For admins.',
}

/** Every failure that a route can answer, from what it is and from what it names itself. */
function failuresOf({ access, path, query, body, throttled, fails = [] }: Route): Code[] {
  const codes: Code[] = ['invalid_request', 'internal', ...fails]
  if (throttled !== false) codes.push('throttled')
  if (access !== 'anyone') codes.push('key_missing', 'key_invalid', 'overloaded', 'database_unavailable')
  if (access === 'self' || access === 'admin') codes.push('forbidden')
  if (path.includes('{')) codes.push('invalid_id')
  if (query) codes.push('invalid_query')
  if (body) codes.push('invalid_body', 'body_too_large', 'unsupported_media_type')
  return unique(codes)
}

function operation(route: Route, path: string, method: string): Json {
  const { access, summary, query = {}, body, replies, fails } = route
  const parameters = [
    ...(path.match(/\w+(?=\})/g) ?? []).map((name) => parameter('path', name, name === 'path' ? ascii : uuid.json)),
    ...Object.entries(query).map(([name, { json }]) => parameter('query', name, json)),
    ...(route.method === 'ANY' ? ['require-role', 'require-permission'] : []).map((name) =>
      parameter('query', name, { type: 'array', maxItems: 32, items: ascii })),
    ...(fails?.includes('stale_version') ? [parameter('header', 'If-Match', ascii)] : []),
    ...(replies[304] ? [parameter('header', 'If-None-Match', ascii)] : []),
  ]
  const keys = [{ apiKey: [] }, { bearer: [] }]
  const responses: Record<string, Json> = {}
  for (const [status, spec] of Object.entries(replies)) responses[status] = success(route, spec)
  for (const code of failuresOf(route)) responses[failures[code].status] ??= failure(route, failures[code].status)
  return {
    operationId: [method, ...path.match(/\w+/g)!].join('_'),
    summary,
    description: [route.description, mayCall[access]].filter(Boolean).join(' '),
    tags: [tagOf(path)],
    security: access === 'anyone' ? [{}] : access === 'optional' ? [{}, ...keys] : keys,
    parameters,
    requestBody: body && { required: !route.bodyOptional, content: content(body.json) },
    responses,
  }
}

const meanings: Record<string, string> = {
  id: 'The user’s', keyId: 'The key’s', path: 'Whatever the gateway appends, slashes too',
  limit: 'At most so many', after: 'Those after this one, the last of the page before; `Link` has it',
  email: 'Only who has this address, whatever its case',
  view: '`full`: users instead of ids', user: 'Only what this user did, or was done to it',
  'require-role': 'Must hold; may be repeated', 'require-permission': 'Must hold; may be repeated',
  'If-Match': 'Only if the `ETag` is still this one', 'If-None-Match': 'The `ETag` that is known',
}
const parameter = (where: string, name: string, schema: JsonSchema): Json =>
  ({ name, in: where, description: meanings[name], schema, required: where === 'path' })

const content = (schema: JsonSchema): Json => ({ 'application/json': { schema, example: example(schema) } })

type Members = Record<string, JsonSchema>
const envelope = (status: string, required: Members, optional: Members = {}): JsonSchema => ({
  type: 'object',
  properties: { requestId, status: oneOf(status).json, ...required, ...optional },
  required: ['requestId', 'status', ...Object.keys(required)],
  unevaluatedProperties: false,
})

const success = (route: Route, { says, body, raw, headers }: ReplySpec): Json => ({
  description: says,
  headers: headersOf(route, headers),
  content: body ? content(envelope('SUCCESS', { details: body }))
    : raw && { [raw]: { schema: raw === 'application/json' ? { type: 'object' } : anyText.json } },
})

const failureHeaders: Record<number, string[]> =
  { 401: ['WWW-Authenticate'], 429: ['Retry-After'], 503: ['Retry-After'] }

function failure(route: Route, status: number): Json {
  const codes = failuresOf(route).filter((code) => failures[code].status === status)
  const sentences = codes.map((code) => code === 'invalid_body' && route.bodySentence || failures[code].sentence)
  const errors = { type: 'array', maxItems: 1000, items: fault }
  return {
    description: codes.map((code, i) => `\`${code}\`: ${sentences[i]}`).join('; '),
    headers: headersOf(route, failureHeaders[status]),
    content: content(envelope('ERROR', { details: oneOf(...sentences).json, code: oneOf(...codes).json },
      status === 400 && (route.body || route.query) ? { errors } : {})),
  }
}

const anyText = text(0, 1_048_576, /^[\s\S]*$/)
const requestId = { title: 'RequestId', ...text(1, 64, /^[A-Za-z0-9._-]+$/).json }
const fault = { title: 'Fault', ...object({ field: anyText, message: anyText }).json }
const ascii = text(0, 8192, /^[ -~]*$/).json

const header = (description: string, schema: JsonSchema = ascii) => ({ description, schema })
const headers: Record<string, Json> = {
  'X-Request-Id': header('The caller’s, or a new one', requestId),
  'Access-Control-Allow-Origin': header('The caller’s origin, if `CORS_ORIGINS` names it'),
  'RateLimit-Policy': header('`"default";q=10;w=1`: so many a second'),
  RateLimit: header('`"default";r=9;t=1`: so many left, all of them again in so many seconds'),
  'Retry-After': header('Seconds to wait', integer(0, 86_400).json),
  'WWW-Authenticate': header('How to authenticate'),
  ETag: header('The version'), Location: header('The path of what was made'),
  Link: header('`rel="next"`: the next page, when there is one'),
  'X-Auth-User-Id': header('Who asks', uuid.json), 'X-Auth-Key-Id': header('The key', uuid.json),
  'X-Auth-User-Email': header('The address; what is not ASCII, and `%`, in percent-encoding'),
  'X-Auth-Role': header('The role', oneOf('user', 'admin').json),
  'X-Auth-Permissions': header('The permissions, separated by commas'),
  'X-Auth-Key-Kind': header('What kind of key', oneOf('api', 'session').json),
}
function headersOf({ throttled }: Route, more: string[] = []): Json {
  const limits = throttled === false ? [] : ['RateLimit-Policy', 'RateLimit']
  const names = ['X-Request-Id', 'Access-Control-Allow-Origin', ...limits, ...more]
  return Object.fromEntries(names.map((name) => [name, { $ref: `#/components/headers/${name}` }]))
}

const sampleId = '0190b8a0-6f1c-7cc3-98c4-dc0c0c07398f'
const samples: Json = {
  email: 'ada@example.org', password: 'correct horse battery staple', permissions: ['orders:read'],
  name: 'laptop', key: `usk_${'0'.repeat(49)}`, action: 'user.changed', changes: ['email'], address: '203.0.113.7',
}

/** A value that fits a schema; of an object the required members, or the first; `name`: of the member it is of. */
function example(schema: JsonSchema, name = ''): unknown {
  const { type, format, minimum, enum: choices, anyOf, items, maxItems, properties = {}, required } = schema
  if (name in samples) return samples[name]
  if (choices) return choices[0]
  if (anyOf) return example(anyOf[0]!)
  const names = required ?? Object.keys(properties).slice(0, 1)
  if (type === 'object') return Object.fromEntries(names.map((each) => [each, example(properties[each]!, each)]))
  if (items) return [example(items, name === 'apiKeys' ? 'key' : '')].slice(0, maxItems)
  if (format === 'date-time') return '2030-01-31T12:00:00.000Z'
  return type === 'boolean' ? true : minimum ?? sampleId
}
