// What operations of the document share: the envelope, failures, headers, ways to send a key; and
// how a schema becomes a component or an example.
import { integer, oneOf, text, uuidSchema, type JsonSchema } from '../schema.ts'

/** Printable ASCII, which a header holds. */
const ascii = (description: string): JsonSchema => ({
  type: 'string',
  maxLength: 8192,
  description,
})

const requestId: JsonSchema = {
  title: 'RequestId',
  ...text({ min: 1, max: 64, pattern: /^[A-Za-z0-9._-]+$/ }).json,
}

/** A success: the schema of its payload in an envelope, which is named after the payload. */
export function envelope(details: JsonSchema, operation: string): JsonSchema {
  const title = `${details['title'] ?? operation}Answer`
  const members = { requestId, status: oneOf('SUCCESS').json, details: asAnswered(details) }
  return closed(title, members, Object.keys(members))
}

/**
 * What clients take too seriously is left out of answers: they make sets, which have no order, of
 * what is unique, and Go's refuse all text whose pattern has an escape that RE2 does not know.
 */
function asAnswered(schema: JsonSchema): JsonSchema {
  const { uniqueItems: _, pattern, items, oneOf: forms, properties, ...rest } = schema
  const answered: JsonSchema = rest
  if (pattern && !pattern.includes('\\u')) answered.pattern = pattern
  if (items) answered.items = asAnswered(items)
  if (forms) answered.oneOf = forms.map(asAnswered)
  if (properties) {
    answered.properties = {}
    for (const [name, member] of Object.entries(properties)) {
      answered.properties[name] = asAnswered(member)
    }
  }
  return answered
}

function closed(title: string, properties: Record<string, JsonSchema>, required: string[]) {
  return { title, type: 'object', properties, required, unevaluatedProperties: false }
}

const sentence: JsonSchema = { type: 'string', maxLength: 200, examples: ['is missing'] }
const field: JsonSchema = { type: 'string', maxLength: 100, examples: ['email'] }
const fault = closed('Fault', { field, message: sentence }, ['field', 'message'])
const code: JsonSchema = {
  type: 'string',
  maxLength: 64,
  pattern: '^[a-z_]+$',
  description: 'What clients act on; `x-codes` of the response has those that it can be',
}

/** Every failure. `code` is no closed list: a client must survive one that it does not know. */
export const failureSchema: JsonSchema = closed(
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

/** The same value, in which a reference stands for each schema that has a title; adds those. */
export function extract(value: unknown, schemas: Record<string, object>): unknown {
  if (Array.isArray(value)) return value.map((each) => extract(each, schemas))
  if (typeof value !== 'object' || value === null) return value
  const copy: Record<string, unknown> = {}
  for (const [name, member] of Object.entries(value)) copy[name] = extract(member, schemas)
  const { title, ...schema } = copy
  if (typeof title !== 'string') return copy
  const known = schemas[title]
  if (known && JSON.stringify(known) !== JSON.stringify(schema)) {
    throw new Error(`two schemas are called ${title}`)
  }
  schemas[title] = schema
  return { $ref: `#/components/schemas/${title}` }
}

const header = ({ description, ...schema }: JsonSchema) => ({ description, schema })
const described = (description: string, schema: JsonSchema) => header({ ...schema, description })

/** Components that are the same whatever the routes are. */
export const components = {
  securitySchemes: {
    apiKey: {
      type: 'apiKey',
      in: 'header',
      name: 'X-Api-Key',
      description: 'A key, which may be that of a session',
    },
    bearer: { type: 'http', scheme: 'bearer', description: 'The same key' },
  },
  headers: {
    'X-Request-Id': described('The caller’s, or a new one', requestId),
    'Access-Control-Allow-Origin': header(ascii('The caller’s origin, if `CORS_ORIGINS` names it')),
    'RateLimit-Policy': header(ascii('`"default";q=10;w=1`: so many a second')),
    RateLimit: header(
      ascii('`"default";r=9;t=1`: so many left, all of them again in so many seconds'),
    ),
    'Retry-After': described('Seconds to wait', integer(0, 86_400).json),
    'WWW-Authenticate': header(ascii('How to authenticate')),
    'Accept-Patch': header(ascii('What this takes')),
    'Accept-Post': header(ascii('What this takes')),
    ETag: header(ascii('The version, in quotes')),
    Location: header(ascii('Where what was made is, relative to this path')),
    Link: header(ascii('`rel="next"`: the next page, when there is one')),
    'X-Auth-User-Id': described('Who asks', uuidSchema.json),
    'X-Auth-Key-Id': described('The key', uuidSchema.json),
    'X-Auth-User-Email': header(
      ascii('The address; what is not ASCII, and `%`, in percent-encoding'),
    ),
    'X-Auth-User-Email-Verified': described(
      'Whether the address is verified',
      oneOf('true', 'false').json,
    ),
    'X-Auth-Role': described('The role', oneOf('user', 'admin').json),
    'X-Auth-Permissions': header(ascii('The permissions, separated by commas')),
    'X-Auth-Factors': described('How many factors were proved', oneOf('1', '2').json),
    'X-Auth-Key-Kind': described('What kind of key', oneOf('api', 'session').json),
  },
}

/** A value that fits a schema: of an object the required members, or the first. */
export function example(schema: JsonSchema): unknown {
  const { type, format, minimum, enum: choices, oneOf: forms, items, properties = {} } = schema
  const { required = Object.keys(properties).slice(0, 1), examples } = schema
  if (examples) return examples[0]
  if (forms) return example(forms[0]!)
  if (items) return [example(items)].slice(0, schema.maxItems)
  if (type === 'object') {
    return Object.fromEntries(required.map((name) => [name, example(properties[name]!)]))
  }
  if (format === 'date-time') return '2030-01-31T12:00:00.000Z'
  if (format === 'uuid') return '0190b8a0-6f1c-7cc3-98c4-dc0c0c07398f'
  if (type === 'boolean') return true
  return choices?.[0] ?? minimum ?? 'text'
}
