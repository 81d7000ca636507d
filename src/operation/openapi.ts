import { failures, type Code } from '../errors.ts'
import type { Access, ReplySpec, Route, Tag } from '../http/route.ts'
import { integer, object, oneOf, text, uuidSchema, type JsonSchema } from '../schema.ts'

/** The OpenAPI 3.1 document of a route table. */
export function openApi(
  routes: Route[],
  { basePath, version }: { basePath: string; version: string },
) {
  const operations: Record<string, Record<string, object>> = {}
  for (const route of routes) {
    const path = route.path.replace('*', '{path}')
    const methods = route.method === 'ANY' ? anyMethod : [route.method.toLowerCase()]
    for (const method of methods) (operations[path] ??= {})[method] = operation(route, path, method)
  }
  // Schemas with a title become components, so that generated clients have names for them.
  const schemas: Record<string, object> = {}
  const { paths, ...parts } = JSON.parse(
    JSON.stringify({ paths: operations, headers }, (_, value) => {
      if (typeof value?.title !== 'string') return value
      const { title, ...schema } = value
      schemas[title] = schema
      return { $ref: `#/components/schemas/${title}` }
    }),
  )
  return {
    openapi: '3.1.0',
    info: {
      title: 'user-service',
      version,
      description,
      summary: 'Users, API keys, sessions, and the answer a gateway needs',
      license: { name: 'MIT', identifier: 'MIT' },
      contact: { name: 'The operator of this service' },
    },
    servers: [
      {
        url: basePath || '/',
        description: 'This instance: local, test or production',
        'x-internal': false,
      },
    ],
    tags: Object.entries(tags).map(([name, description]) => ({ name, description })),
    paths,
    components: { schemas, securitySchemes, ...parts },
  }
}

const description =
  'Every answer with a body is an envelope: `requestId`, `status` and `details`; a failure has `code`, and `errors` ' +
  'where members of the body or query are at fault. An `X-Request-Id` that is sent comes back.\n\n' +
  '`HEAD` works wherever `GET` does; `OPTIONS` answers 204 with `Allow`. An unknown path gets 404 `not_found`, ' +
  'another method 405 `method_not_allowed` with `Allow`; a request that takes too long 408, one that expects more ' +
  'than `100-continue` 417, one with too long headers 431. Nothing but the documentation may be cached.'
const securitySchemes = {
  apiKey: {
    type: 'apiKey',
    in: 'header',
    name: 'X-Api-Key',
    description: 'A key, be it of a session',
  },
  bearer: { type: 'http', scheme: 'bearer', description: 'The same key' },
}
const anyMethod = ['get', 'put', 'post', 'delete', 'options', 'head', 'patch', 'trace']
const tags: Record<Tag, string> = {
  users: 'Accounts',
  keys: 'Keys of a user',
  sessions: 'Log-in and log-out',
  auth: 'For gateways',
  audit: 'What happened',
  operation: 'For the operator',
}
const mayCall: Record<Access, string> = {
  anyone: 'For anyone; a key is not looked at.',
  optional: 'For anyone; a key that is sent must be good.',
  key: 'For any key.',
  self: 'For the user itself and admins.',
  admin: 'For admins.',
}

/** Every failure that a route can answer, from what it is and from what it names itself. */
function failuresOf({ access, path, query, body, throttled, fails = [] }: Route): Code[] {
  const codes: Code[] = ['invalid_request', 'internal', ...fails]
  if (throttled !== false) codes.push('throttled')
  if (access !== 'anyone')
    codes.push('key_missing', 'key_invalid', 'overloaded', 'database_unavailable')
  if (access === 'self' || access === 'admin') codes.push('forbidden')
  if (path.includes('{')) codes.push('invalid_id')
  if (query) codes.push('invalid_query')
  if (body) codes.push('invalid_body', 'body_too_large', 'unsupported_media_type')
  return [...new Set(codes)]
}

function operation(route: Route, path: string, method: string) {
  const {
    access,
    summary,
    body,
    replies,
    fails,
    query = route.method === 'ANY' ? requirements : {},
  } = route
  const parameters = [
    ...(path.match(/\w+(?=\})/g) ?? []).map((name) =>
      parameter('path', name, name === 'path' ? ascii : uuidSchema.json),
    ),
    ...Object.entries(query).map(([name, { json }]) => parameter('query', name, json)),
    ...(fails?.includes('stale_version') ? [parameter('header', 'If-Match', ascii)] : []),
    ...(replies[304] ? [parameter('header', 'If-None-Match', ascii)] : []),
  ]
  const keys = [{ apiKey: [] }, { bearer: [] }]
  const responses: Record<string, object> = {}
  for (const [status, spec] of Object.entries(replies)) responses[status] = success(route, spec)
  for (const code of failuresOf(route))
    responses[failures[code].status] ??= failure(route, failures[code].status)
  return {
    operationId: [method, ...path.match(/\w+/g)!].join('_'),
    tags: [route.tag],
    summary,
    parameters,
    responses,
    description: [route.description, mayCall[access]].filter(Boolean).join(' '),
    security: access === 'anyone' ? [{}] : access === 'optional' ? [{}, ...keys] : keys,
    requestBody: body && { required: !route.bodyOptional, content: content(body.json) },
  }
}

const meanings: Record<string, string> = {
  id: 'The user’s',
  keyId: 'The key’s',
  path: 'Whatever the gateway appends, slashes too',
  limit: 'At most so many',
  after: 'Those after this one, the last of the page before; `Link` has it',
  email: 'Only who has this address, whatever its case',
  view: '`full`: users instead of ids',
  user: 'Only what this user did, or was done to it',
  'require-role': 'Must hold; may be repeated',
  'require-permission': 'Must hold; may be repeated',
  'If-Match': 'Only if the `ETag` is still this one',
  'If-None-Match': 'The `ETag` that is known',
}
const parameter = (where: string, name: string, schema: JsonSchema) => ({
  name,
  in: where,
  description: meanings[name],
  schema,
  required: where === 'path',
})

const content = (schema: JsonSchema) => ({
  'application/json': { schema, example: example(schema) },
})

function envelope(status: string, members: Record<string, JsonSchema>) {
  const properties = { requestId, status: oneOf(status).json, ...members }
  const required = Object.keys(properties).filter((name) => name !== 'errors')
  return content({ type: 'object', properties, required, unevaluatedProperties: false })
}
const success = (route: Route, { says, body, raw, headers }: ReplySpec) => ({
  description: says,
  headers: headersOf(route, headers),
  content: body
    ? envelope('SUCCESS', { details: body })
    : raw && { [raw]: { schema: raw === 'application/json' ? { type: 'object' } : anyText.json } },
})
function failure(route: Route, status: number) {
  const codes = failuresOf(route).filter((code) => failures[code].status === status)
  const sentences = codes.map(
    (code) => (code === 'invalid_body' && route.bodySentence) || failures[code].sentence,
  )
  const more =
    status === 401 ? ['WWW-Authenticate'] : status === 429 || status === 503 ? ['Retry-After'] : []
  const [details, code] = [oneOf(...sentences).json, oneOf(...codes).json]
  return {
    description: codes.map((code, i) => `\`${code}\`: ${sentences[i]}`).join('; '),
    headers: headersOf(route, more),
    content: envelope('ERROR', {
      details,
      code,
      ...(status === 400 && (route.body || route.query) && { errors }),
    }),
  }
}

const anyText = text({ min: 0, max: 1_048_576, pattern: /^[\s\S]*$/ })
const requestId = {
  title: 'RequestId',
  ...text({ min: 1, max: 64, pattern: /^[A-Za-z0-9._-]+$/ }).json,
}
const fault = { title: 'Fault', ...object({ field: anyText, message: anyText }).json }
const errors = { type: 'array', maxItems: 1000, items: fault }
const ascii = text({ min: 0, max: 8192, pattern: /^[ -~]*$/ }).json
const repeated = { json: { type: 'array', maxItems: 32, items: ascii } }
const requirements = { 'require-role': repeated, 'require-permission': repeated }

const header = (description: string, schema: JsonSchema = ascii) => ({ description, schema })
const headers = {
  'X-Request-Id': header('The caller’s, or a new one', requestId),
  'Access-Control-Allow-Origin': header('The caller’s origin, if `CORS_ORIGINS` names it'),
  'RateLimit-Policy': header('`"default";q=10;w=1`: so many a second'),
  RateLimit: header('`"default";r=9;t=1`: so many left, all of them again in so many seconds'),
  'Retry-After': header('Seconds to wait', integer(0, 86_400).json),
  'WWW-Authenticate': header('How to authenticate'),
  ETag: header('The version'),
  Location: header('The path of what was made'),
  Link: header('`rel="next"`: the next page, when there is one'),
  'X-Auth-User-Id': header('Who asks', uuidSchema.json),
  'X-Auth-Key-Id': header('The key', uuidSchema.json),
  'X-Auth-User-Email': header('The address; what is not ASCII, and `%`, in percent-encoding'),
  'X-Auth-Role': header('The role', oneOf('user', 'admin').json),
  'X-Auth-Permissions': header('The permissions, separated by commas'),
  'X-Auth-Key-Kind': header('What kind of key', oneOf('api', 'session').json),
}
function headersOf({ throttled }: Route, more: string[] = []) {
  const limits = throttled === false ? [] : ['RateLimit-Policy', 'RateLimit']
  const names = ['X-Request-Id', 'Access-Control-Allow-Origin', ...limits, ...more]
  return Object.fromEntries(names.map((name) => [name, { $ref: `#/components/headers/${name}` }]))
}

const key = `usk_${'0'.repeat(49)}`
const samples: Record<string, string> = {
  email: 'ada@example.org',
  password: 'correct horse battery staple',
  permissions: 'orders:read',
  name: 'laptop',
  key,
  apiKeys: key,
  action: 'user.changed',
  changes: 'email',
  address: '203.0.113.7',
}
/** A value that fits a schema; of an object the required members, or the first; `name`: of the member it is of. */
function example(schema: JsonSchema, name = ''): unknown {
  const { type, format, minimum, enum: choices, anyOf, items, maxItems, properties = {} } = schema
  const { required = Object.keys(properties).slice(0, 1) } = schema
  if (anyOf) return example(anyOf[0]!)
  if (items) return [example(items, name)].slice(0, maxItems)
  if (type === 'object')
    return Object.fromEntries(required.map((each) => [each, example(properties[each]!, each)]))
  if (format === 'date-time') return '2030-01-31T12:00:00.000Z'
  if (type === 'boolean') return true
  return samples[name] ?? choices?.[0] ?? minimum ?? '0190b8a0-6f1c-7cc3-98c4-dc0c0c07398f'
}
