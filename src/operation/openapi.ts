// The OpenAPI 3.1 document of a route table. It is made of what the routes enforce, so that the two
// cannot drift; a route, a schema and a parameter are described where they are declared.

import { failures, type Code } from '../errors.ts'
import type { Access, ReplySpec, Route, Tag } from '../http/route.ts'
import { uuidSchema, type JsonSchema } from '../schema.ts'
import { components, envelope, example, extract, failureSchema } from './components.ts'

/** The document; a part that several operations have in common is under `components`. */
export function openApi(
  routes: Route[],
  { basePath, version }: { basePath: string; version: string },
) {
  // No parameter of OpenAPI holds a slash: what lies below a path cannot be described.
  const described = routes.filter(({ path, undocumented }) => !undocumented && !path.endsWith('/*'))
  const responses: Record<string, object> = {}
  const paths: Record<string, Record<string, unknown>> = {}
  for (const route of described) {
    const method = route.method === 'ANY' ? 'get' : route.method.toLowerCase()
    paths[route.path] = {
      ...paths[route.path],
      [method]: operation(route, described, responses),
    }
  }
  const schemas: Record<string, object> = {}
  const extracted = extract({ paths, components: { ...components, responses } }, schemas)
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
        description: 'This instance: local, test or production',
        'x-internal': false,
        url: basePath || '/',
      },
    ],
    tags: Object.entries(tags).map(([name, description]) => ({ name, description })),
    paths: extracted.paths,
    components: { schemas, ...extracted.components },
  }
}

const description = [
  'Every answer with a body is an envelope: `requestId`, `status` and `details`. A failure has a ' +
    '`code` to act on, and `errors` where members of the body or query are at fault; its ' +
    '`details` is a sentence for people. Later versions may add codes. An `X-Request-Id` that is ' +
    'sent is kept.',
  '`HEAD` works wherever `GET` does; `OPTIONS` answers 204 with `Allow`. An unknown path gets ' +
    '404 `not_found`, another method 405 `method_not_allowed` with `Allow`; a request that takes ' +
    'too long 408, one that expects more than `100-continue` 417, one with too long headers 431.',
  'Nothing but the documentation may be cached.',
].join('\n\n')

const tags: Record<Tag, string> = {
  users: 'Accounts',
  keys: 'Keys of a user',
  sessions: 'Log-in and log-out',
  tokens: 'What a user proves by having received it',
  auth: 'For gateways',
  audit: 'What happened',
  operation: 'For the operator',
}

const mayCall: Record<Access, string> = {
  anyone: 'For anyone; a key is ignored.',
  optional: 'For anyone; a key that is sent must be good.',
  key: 'For any key.',
  self: 'For the user itself and admins.',
  admin: 'For admins.',
}

const recent = 'A session must come from a log-in a short while ago.'

const keys = [{ apiKey: [] }, { bearer: [] }]

function securityOf(access: Access) {
  if (access === 'anyone') return [{}]
  return access === 'optional' ? [{}, ...keys] : keys
}

function operation(route: Route, all: Route[], shared: Record<string, object>) {
  const { access, body, operationId } = route
  const responses: Record<string, object> = {}
  for (const [status, spec] of Object.entries(route.replies)) {
    responses[status] = success(route, spec, all)
  }
  const failing = codesOf(route)
  for (const status of new Set(failing.map((code) => failures[code].status))) {
    const codes = failing.filter((code) => failures[code].status === status)
    const kind = status === 415 ? `-${route.method.toLowerCase()}` : ''
    const name = codes.join('-') + kind + (route.throttled === false ? '-unthrottled' : '')
    shared[name] = failure(route, status, codes)
    responses[status] = { $ref: `#/components/responses/${name}` }
  }
  return {
    operationId,
    tags: [route.tag],
    summary: route.summary,
    description: [route.description, mayCall[access], route.fresh && recent]
      .filter(Boolean)
      .join(' '),
    'x-access': access,
    security: securityOf(access),
    parameters: parametersOf(route),
    ...(body && {
      requestBody: {
        required: !route.bodyOptional,
        content: json({ title: `${capital(operationId)}Body`, ...body.json }),
      },
    }),
    responses,
  }
}

/**
 * Every failure that a route can answer, from what it is and what it names itself, in the order of
 * the table of failures: so equal groups have equal names.
 */
function codesOf({ throttled, access, enrols, path, query, body, fails = [] }: Route) {
  const codes: Code[] = ['invalid_request', 'internal', ...fails]
  if (throttled !== false) codes.push('throttled')
  if (access !== 'anyone') {
    codes.push('key_missing', 'key_invalid', 'overloaded', 'database_unavailable')
    // A key may have a narrower scope than the route asks for.
    codes.push('forbidden')
    // A second factor may be required of all, or the log-in may be too long ago.
    if (!enrols || path.includes('{id}')) codes.push('authentication_needed')
  }
  if (path.includes('{')) codes.push('invalid_id')
  if (query) codes.push('invalid_query')
  if (body) codes.push('invalid_body', 'body_too_large', 'unsupported_media_type')
  return (Object.keys(failures) as Code[]).filter((code) => codes.includes(code))
}

function success(route: Route, { says, body, raw, headers, creates }: ReplySpec, all: Route[]) {
  const type = raw === 'application/json' ? 'object' : 'string'
  return {
    description: says,
    headers: headersOf(route, 200, headers),
    ...(body && { content: json(envelope(body, capital(route.operationId))) }),
    ...(raw && { content: { [raw]: { schema: { type } } } }),
    ...(creates && { links: linksTo(route, creates, all) }),
  }
}

/** The response shared by all operations that fail with these codes. */
function failure(route: Route, status: number, codes: Code[]) {
  const first = codes[0]!
  const sample = {
    ...(example(failureSchema) as object),
    details: failures[first].sentence,
    code: first,
  }
  return {
    description: codes.map((code) => `\`${code}\`: ${failures[code].sentence}`).join('; '),
    'x-codes': codes,
    headers: headersOf(route, status),
    content: { 'application/json': { schema: failureSchema, example: sample } },
  }
}

function headersOf({ method, throttled }: Route, status: number, more: string[] = []) {
  const names = ['X-Request-Id', 'Access-Control-Allow-Origin', ...more]
  if (throttled !== false) names.push('RateLimit-Policy', 'RateLimit')
  if (status === 401) names.push('WWW-Authenticate')
  if (status === 415) names.push(`Accept-${capital(method.toLowerCase())}`)
  if (status === 429 || status === 503) names.push('Retry-After')
  return Object.fromEntries(names.map((name) => [name, { $ref: `#/components/headers/${name}` }]))
}

/** The operations that can be called with what an answer created. */
function linksTo({ path }: Route, creates: Record<string, string>, all: Route[]) {
  const known: Record<string, string> = {}
  for (const name of namesIn(path)) known[name] = `$request.path.${name}`
  for (const [name, member] of Object.entries(creates)) {
    known[name] = `$response.body#/details/${member}`
  }
  const links: Record<string, object> = {}
  for (const { path, operationId } of all) {
    const names = namesIn(path)
    const isAbout = Object.keys(creates).every((name) => names.includes(name))
    if (!isAbout || !names.every((name) => name in known)) continue
    const parameters = Object.fromEntries(names.map((name) => [name, known[name]]))
    links[operationId] = { operationId, parameters }
  }
  return links
}

/** Members of a path, wherever they occur. */
const pathParameters: Record<string, JsonSchema> = {
  id: {
    type: 'string',
    minLength: 2,
    maxLength: 36,
    pattern: '^(me|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})$',
    examples: ['me'],
    description: 'The user’s id; `me` is the caller’s',
  },
  keyId: { ...uuidSchema.json, description: 'The key’s id' },
}

function parametersOf({ path, query, looseQuery = {}, fails, replies }: Route) {
  const parameters: object[] = []
  function add(place: string, name: string, given: JsonSchema) {
    const { description, ...schema } = given
    if (description === undefined) throw new Error(`what does ${name} mean?`)
    parameters.push({ name, in: place, description, required: place === 'path', schema })
  }
  for (const name of namesIn(path)) add('path', name, pathParameters[name]!)
  for (const [name, schema] of Object.entries({ ...query?.json.properties, ...looseQuery })) {
    add('query', name, schema)
  }
  if (fails?.includes('stale_version')) add('header', 'If-Match', ifMatch)
  if (replies[304]) add('header', 'If-None-Match', ifNoneMatch)
  return parameters
}

const ifMatch = {
  type: 'string',
  description: 'Only if this is the `ETag` still: the version in quotes, such as `"3"`',
}
const ifNoneMatch = {
  type: 'string',
  description: 'The `ETag` that is known; if it is still the same, the answer is 304',
}

const json = (schema: JsonSchema) => ({
  'application/json': { schema, example: example(schema) },
})

const namesIn = (path: string): string[] => path.match(/\w+(?=\})/g) ?? []

const capital = (word: string) => word.charAt(0).toUpperCase() + word.slice(1)
