// What operations of the document share: the envelope, failures, headers, ways to send a key; and
// how a schema becomes a component or an example.
import { integer, oneOf, requestIdSchema, uuidSchema, type JsonSchema } from '../schema.ts'

const requestId: JsonSchema = { title: 'RequestId', ...requestIdSchema.json }

/** A success: the schema of its payload in an envelope, which is named after the payload. */
export function envelope(details: JsonSchema, operation: string) {
  const title = `${details['title'] ?? operation}Answer`
  const status = oneOf('SUCCESS').json
  return closed(title, { requestId, status, details: asAnswered(details) })
}

/**
 * Leaves out the keywords that generated clients take too literally in answers: a list of unique
 * items becomes a set, which loses the order, and clients in Go refuse any text whose pattern has
 * an escape that RE2 does not know.
 */
function asAnswered(schema: JsonSchema) {
  return JSON.parse(JSON.stringify(schema), (keyword, value) => {
    const isExotic = keyword === 'pattern' && String(value).includes('\\u')
    return isExotic || keyword === 'uniqueItems' ? undefined : value
  })
}

/** An object with these members and no others. */
function closed(
  title: string,
  properties: Record<string, JsonSchema>,
  required = Object.keys(properties),
) {
  return { title, type: 'object', properties, required, unevaluatedProperties: false }
}

const sentence = { type: 'string', maxLength: 200, examples: ['is missing'] }
const field: JsonSchema = { type: 'string', maxLength: 100, examples: ['email'] }
const fault = closed('Fault', { field, message: sentence })
const code = {
  type: 'string',
  maxLength: 64,
  pattern: '^[a-z_]+$',
  description: 'What clients act on; `x-codes` of the response has those that it can be',
}

/** Every failure. `code` is no closed list: a client must survive one that it does not know. */
export const failureSchema = closed(
  'Failure',
  {
    requestId,
    status: oneOf('ERROR').json,
    details: { ...sentence, description: 'A sentence for people, which may be reworded' },
    code,
    errors: { type: 'array', maxItems: 1000, items: fault },
  },
  ['requestId', 'status', 'details', 'code'],
)

/** The same value with each titled schema replaced by a reference, and added to `schemas`. */
export function extract<T>(document: T, schemas: Record<string, object>): T {
  return JSON.parse(JSON.stringify(document), (_, value) => {
    const { title, ...schema } = value ?? {}
    if (typeof title !== 'string') return value
    const known = schemas[title]
    if (known && JSON.stringify(known) !== JSON.stringify(schema)) {
      throw new Error(`two schemas are called ${title}`)
    }
    schemas[title] = schema
    return { $ref: `#/components/schemas/${title}` }
  })
}

const ascii: JsonSchema = { type: 'string', maxLength: 8192 }
const header = (description: string, schema = ascii) => ({ description, schema })

/** Components that are the same whatever the routes are. */
export const components = {
  securitySchemes: {
    apiKey: {
      type: 'apiKey',
      in: 'header',
      name: 'X-Api-Key',
      description: 'A key, which may be that of a session or, with `UUID_KEYS=on`, a UUID',
    },
    bearer: { type: 'http', scheme: 'bearer', description: 'The same key' },
  },
  headers: {
    'X-Request-Id': header('The caller’s, or a new one', requestId),
    'Access-Control-Allow-Origin': header('The caller’s origin, if `CORS_ORIGINS` names it'),
    'RateLimit-Policy': header('`"default";q=10;w=1`: so many a second'),
    RateLimit: header('`"default";r=9;t=1`: so many left, all of them again in so many seconds'),
    'Retry-After': header('Seconds to wait', integer(0, 86_400).json),
    'WWW-Authenticate': header('How to authenticate'),
    'Accept-Patch': header('The media type that this path takes'),
    'Accept-Post': header('The media type that this path takes'),
    ETag: header('The version, in quotes'),
    Location: header('The address of what was made, relative to this path'),
    Link: header('`rel="next"`: the next page, when there is one'),
    'X-Auth-User-Id': header('Who asks', uuidSchema.json),
    'X-Auth-Key-Id': header('The key', uuidSchema.json),
    'X-Auth-User-Email': header('The address; what is not ASCII, and `%`, in percent-encoding'),
    'X-Auth-User-Email-Verified': header(
      'Whether the address is verified',
      oneOf('true', 'false').json,
    ),
    'X-Auth-Role': header('The role', oneOf('user', 'admin').json),
    'X-Auth-Permissions': header('The permissions, separated by commas'),
    'X-Auth-Factors': header('How many factors were proved', oneOf('1', '2').json),
    'X-Auth-Token': header('All of it, signed for `token-audience`; else empty'),
    'X-Auth-Key-Kind': header('What kind of key', oneOf('api', 'session').json),
  },
}

/** A value that fits a schema. An object has its required members or, without any, the first. */
export function example(schema: JsonSchema): unknown {
  const { type, format, minimum, enum: choices, oneOf: forms, items, properties = {} } = schema
  const { required = Object.keys(properties).slice(0, 1), examples } = schema
  if (examples) return examples[0]
  if (forms) return example(forms[0]!)
  if (items) return schema.maxItems === 0 ? [] : [example(items)]
  if (type === 'object') {
    return Object.fromEntries(required.map((name) => [name, example(properties[name]!)]))
  }
  if (format === 'date-time') return '2030-01-31T12:00:00.000Z'
  if (format === 'uuid') return '0190b8a0-6f1c-7cc3-98c4-dc0c0c07398f'
  if (type === 'boolean') return true
  return choices?.[0] ?? minimum ?? 'text'
}
