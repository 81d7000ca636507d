import { failures } from './errors.ts'
import type { Code } from './errors.ts'
import type { ReplySpec, Route } from './http/route.ts'
import { integer, object, text } from './schema.ts'
import type { JsonSchema } from './schema.ts'

type Json = Record<string, unknown>

/** Every failure that a route can answer, from what it is and from what it names itself. */
export function routeFailures(route: Route): Code[] {
  const codes: Code[] = ['invalid_request', 'internal', 'database_unavailable', ...(route.fails ?? [])]
  if (route.throttled !== false) codes.push('throttled')
  if (route.access !== 'anyone') codes.push('key_missing', 'key_invalid')
  if (route.access === 'self' || route.access === 'admin') codes.push('forbidden')
  if (route.path.includes('{')) codes.push('invalid_id')
  if (route.query) codes.push('invalid_query')
  if (route.body) codes.push('invalid_body', 'body_too_large', 'unsupported_media_type')
  return [...new Set(codes)]
}

/** The OpenAPI 3.1 document of a route table. */
export function openApi(routes: Route[], { basePath, version }: { basePath: string; version: string }): Json {
  const paths: Record<string, Json> = {}
  for (const route of routes) {
    const path = route.path.replace('*', '{path}')
    const methods = route.method === 'ANY'
      ? ['get', 'put', 'post', 'delete', 'options', 'head', 'patch'] : [route.method.toLowerCase()]
    for (const method of methods) (paths[path] ??= {})[method] = operation(route, path, method)
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'user-service',
      version,
      summary: 'Users, API keys and sessions, and the answer a gateway needs',
      description: 'Every answer with a body is an envelope: `requestId`, `status` and `details`; a failure has a ' +
        '`code`, too, and `errors` where members of the body or query are at fault. `HEAD` works wherever ' +
        '`GET` does; `OPTIONS` answers 204 with `Allow`.',
      license: { name: 'MIT', identifier: 'MIT' },
      contact: { name: 'The operator of this service' },
    },
    servers: [{ url: basePath || '/', description: 'This instance, in production', 'x-internal': false }],
    tags: [...new Set(Object.keys(paths).map(tagOf))].map((name) => ({ name, description: tags[name] })),
    paths,
    components: {
      securitySchemes: {
        apiKey: { type: 'apiKey', in: 'header', name: 'X-Api-Key', description: 'A key or a session’s key' },
        bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'usk_', description: 'The same key' },
      },
      headers: headerComponents,
    },
  }
}

const tags: Record<string, string> = {
  users: 'Users', keys: 'Keys of a user', sessions: 'Log-in and log-out', auth: 'For gateways',
  audit: 'What happened', operation: 'For the operator',
}

function tagOf(path: string): string {
  const named = ['keys', 'sessions', 'auth', 'audit'].find((tag) => path.split('/').includes(tag))
  return named ?? (/^\/users(\/\{id\})?$/.test(path) ? 'users' : 'operation')
}

function operation(route: Route, path: string, method: string): Json {
  const { access, summary, description, query = {}, body, bodyOptional } = route
  const words = path.split('/').filter((word) => word !== '').map((word) => word.replace(/[{}]/g, ''))
  const parameters = [
    ...[...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
      name, in: 'path', required: true,
      schema: name === 'path' ? text(1, 8192, { pattern: /^[^?#]*$/ }).json : { type: 'string', format: 'uuid', maxLength: 36 },
    })),
    ...Object.entries(query).map(([name, { json }]) => ({ name, in: 'query', schema: json })),
    ...(route.method !== 'ANY' ? [] : ['require-role', 'require-permission'].map((name) => ({
      name, in: 'query', explode: true, description: 'Must hold; may be repeated',
      schema: { type: 'array', maxItems: 32, items: text(1, 64, { pattern: /^[A-Za-z0-9._:/*-]+$/ }).json },
    }))),
    ...(route.fails?.includes('stale_version') ? [conditional('If-Match', 'The `ETag` that is to be changed')] : []),
    ...(route.replies[304] ? [conditional('If-None-Match', 'The `ETag` that is known')] : []),
  ]
  const keys = [{ apiKey: [] }, { bearer: [] }]
  return {
    operationId: [method, ...words].join('_').replace(/[^A-Za-z0-9_]/g, '_'),
    summary,
    description: description ?? `${summary}.`,
    tags: [tagOf(path)],
    security: access === 'anyone' ? [{}] : access === 'optional' ? [{}, ...keys] : keys,
    ...(parameters.length > 0 && { parameters }),
    ...(body && {
      requestBody: {
        required: !bodyOptional,
        content: { 'application/json': { schema: body.json, example: example(body.json) } },
      },
    }),
    responses: {
      ...Object.fromEntries(Object.entries(route.replies).map(([status, spec]) =>
        [status, success(Number(status), spec, route)])),
      ...failed(route),
    },
  }
}

const conditional = (name: string, description: string) => ({
  name, in: 'header', description, schema: text(1, 256, { pattern: /^[ -~]+$/ }).json,
})

function success(status: number, { says, body, raw, headers = [] }: ReplySpec, route: Route): Json {
  const schema = body === undefined ? undefined
    : { ...object({ requestId, status: constant('SUCCESS') }).json, properties: { ...envelope('SUCCESS'), details: body } }
  const content = schema ? { 'application/json': { schema, example: example(schema) } }
    : raw ? { [raw]: { schema: raw === 'application/json' ? { type: 'object' } : text(0, 1_048_576, { pattern: /^[^]*$/ }).json } } : undefined
  return {
    description: says,
    headers: headersOf(route, status, headers),
    ...(content && { content }),
  }
}

function failed(route: Route): Json {
  const all = routeFailures(route)
  return Object.fromEntries([...new Set(all.map((code) => failures[code].status))].map((status) => {
    const codes = all.filter((code) => failures[code].status === status)
    const schema = {
      type: 'object',
      properties: {
        ...envelope('ERROR'),
        details: { type: 'string', enum: [...new Set(codes.map((code) => sentence(code, route)))] },
        code: { type: 'string', enum: codes },
        errors: { type: 'array', maxItems: 1000, items: object({ field: plain, message: plain }).json },
      },
      required: ['requestId', 'status', 'details', 'code'],
      unevaluatedProperties: false,
    }
    const examples = Object.fromEntries(codes.map((code) =>
      [code, { value: { requestId: sampleId, status: 'ERROR', details: sentence(code, route), code } }]))
    const extra = status === 401 ? ['WWW-Authenticate'] : status === 429 || status === 503 ? ['Retry-After'] : []
    return [status, {
      description: codes.map((code) => sentence(code, route)).join('; '),
      headers: headersOf(route, status, extra),
      content: { 'application/json': { schema, examples } },
    }]
  }))
}

const sentence = (code: Code, { bodySentence }: Route) =>
  code === 'invalid_body' && bodySentence ? bodySentence : failures[code].sentence

const sampleId = '0190b8a0-6f1c-7cc3-98c4-dc0c0c07398f'
const plain = text(0, 1000, { pattern: /^[^]*$/ })
const requestId = text(1, 64, { pattern: /^[A-Za-z0-9._-]{1,64}$/ })
const constant = (value: string) => ({ json: { type: 'string', enum: [value] }, check: () => value })
const envelope = (status: string) => ({ requestId: { ...requestId.json, examples: [sampleId] }, status: constant(status).json })

const header = (description: string, schema: JsonSchema) => ({ description, schema })
const ascii = text(1, 8192, { pattern: /^[ -~]*$/ }).json
const headerComponents: Record<string, Json> = {
  'X-Request-Id': header('The caller’s, or a new one; also in the log and the audit', requestId.json),
  'Access-Control-Allow-Origin': header('Only for origins that CORS_ORIGINS names', { ...ascii, maxLength: 256 }),
  'RateLimit-Policy': header('`"default";q=10;w=1`: so many a second', ascii),
  RateLimit: header('`"default";r=9;t=1`: so many left, full again in so many seconds', ascii),
  'Retry-After': header('Seconds to wait', integer(0, 86_400).json),
  'WWW-Authenticate': header('How to authenticate', ascii),
  ETag: header('The version', ascii),
  Location: header('The path of what was made', ascii),
  Link: header('`rel="next"`: the next page, when there is one', ascii),
}
for (const name of ['User-Id', 'User-Email', 'Role', 'Permissions', 'Key-Id', 'Key-Kind']) {
  headerComponents[`X-Auth-${name}`] = header('Of who asks', { ...ascii, minLength: 0 })
}

function headersOf(route: Route, status: number, more: string[]): Json {
  const limits = route.throttled !== false && status < 500 ? ['RateLimit-Policy', 'RateLimit'] : []
  return Object.fromEntries(['X-Request-Id', 'Access-Control-Allow-Origin', ...limits, ...more]
    .map((name) => [name, { $ref: `#/components/headers/${name}` }]))
}

/** A value that fits a schema, as an example. */
function example(schema: JsonSchema): unknown {
  const { type, format, enum: choices, examples, properties, items, minimum, anyOf } = schema as {
    type?: string | string[]; format?: string; enum?: unknown[]; examples?: unknown[]; minimum?: number
    properties?: Record<string, JsonSchema>; items?: JsonSchema; anyOf?: JsonSchema[]
  }
  if (examples) return examples[0]
  if (choices) return choices[0]
  if (anyOf) return example(anyOf[0]!)
  if (format === 'uuid') return sampleId
  if (format === 'date-time') return '2030-01-31T12:00:00.000Z'
  if (properties) return Object.fromEntries(Object.entries(properties).map(([name, each]) => [name, example(each)]))
  if (items) return [example(items)]
  if (type === 'boolean') return true
  if (type === 'integer') return minimum ?? 0
  return String((schema['pattern'] as string | undefined)?.startsWith('^usk_') ? `usk_${'0'.repeat(49)}` : 'example')
}
