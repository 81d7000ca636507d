import { AppError, type Code, type Fault } from './errors.ts'

/** A JSON Schema (2020-12), for the OpenAPI document. */
export interface JsonSchema {
  [keyword: string]: unknown
  examples?: unknown[]
  pattern?: string
  enum?: (string | null)[]
  properties?: Record<string, JsonSchema>
  required?: string[]
  items?: JsonSchema
  maxItems?: number
  oneOf?: JsonSchema[]
}

/** Describes what it accepts; `check` returns the value in normal form and adds every fault. */
export type Schema<T> = {
  json: JsonSchema
  check(value: unknown, field: string, faults: Fault[]): T
}

/** A schema for each member of T; and, of such a shape, what its members are. */
type Shape<T> = { [K in keyof T]: Schema<T[K]> }
export type Members<S> = { [K in keyof S]: S[K] extends Schema<infer T> ? T : never }

/** A schema of one rule: if `parse` returns undefined, the fault is `message`. */
export const rule = <T>(
  json: JsonSchema,
  message: string,
  parse: (value: unknown) => T | undefined,
): Schema<T> => ({
  json,
  check(value, field, faults) {
    const parsed = parse(value)
    if (parsed === undefined) faults.push({ field, message })
    return parsed as T
  },
})

/**
 * A schema with more rules: `refine` returns the value to use and calls `wrong` for each fault.
 * Those faults have `code`; `json` is added to what the document says.
 */
export const refined = <T>(
  base: Schema<T>,
  refine: (value: T, wrong: (message: string, member?: string) => void) => T,
  { json, code }: { json?: JsonSchema; code?: Code } = {},
): Schema<T> => ({
  json: { ...base.json, ...json },
  check(value, field, faults) {
    const checked = base.check(value, field, faults)
    function wrong(message: string, member = field) {
      faults.push({ field: member, message, code })
    }
    return checked === undefined ? checked : refine(checked, wrong)
  },
})

/** The same schema, with what the document says of it. */
export const documented = <T>(schema: Schema<T>, json: JsonSchema): Schema<T> => ({
  ...schema,
  json: { ...schema.json, ...json },
})

/** Normalising takes time by the square of the length: text of more UTF-16 units is refused. */
export const maxNormalizedLength = 1024

/** Any text. */
export const anyTextSchema = rule({ type: 'string' }, 'must be text', (value) =>
  typeof value === 'string' ? value : undefined,
)

interface TextRules {
  min?: number
  max: number
  pattern?: RegExp
  message?: string
  example?: string
}

/** Text of `min` to `max` code points; where there is a `pattern`, it is well-formed and fits. */
export function text({
  min = 0,
  max,
  pattern,
  message = `must be text of ${min} to ${max} characters`,
  example,
}: TextRules): Schema<string> {
  const json: JsonSchema = {
    type: 'string',
    minLength: min,
    maxLength: max,
    ...(pattern !== undefined && { pattern: pattern.source }),
    ...(example !== undefined && { examples: [example] }),
  }
  return rule(json, message, (value) => {
    if (typeof value !== 'string') return undefined
    if (pattern !== undefined && !(value.isWellFormed() && pattern.test(value))) return undefined
    const length = [...value].length
    return length >= min && length <= max ? value : undefined
  })
}

/** Whether this is a UUID, in whatever case. */
export const isUuid = (value: string) => /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/i.test(value)

/** The UUID before every other. */
export const nilUuid = '00000000-0000-0000-0000-000000000000'

/** A UUID, in lower case. */
export const uuidSchema = rule(
  { type: 'string', format: 'uuid', maxLength: 36 },
  'must be a UUID',
  (value) => (typeof value === 'string' && isUuid(value) ? value.toLowerCase() : undefined),
)

/** The address of a client. */
export const addressSchema = text({ max: 64, pattern: /^[0-9a-fA-F.:]*$/, example: '203.0.113.7' })

/** The id of a request, as a caller may give it. */
export const requestIdSchema = text({ min: 1, max: 64, pattern: /^[A-Za-z0-9._-]+$/ })

/** `true` or `false`. */
export const booleanSchema = rule({ type: 'boolean' }, 'must be true or false', (value) =>
  typeof value === 'boolean' ? value : undefined,
)

/** A whole number. */
export const integer = (min: number, max: number, json: JsonSchema = {}) =>
  rule(
    { type: 'integer', format: 'int32', minimum: min, maximum: max, ...json },
    `must be a whole number from ${min} to ${max}`,
    (value) => {
      const isWhole = typeof value === 'number' && Number.isInteger(value)
      return isWhole && value >= min && value <= max ? value : undefined
    },
  )

/** A whole number in a query, where all is text: its digits. */
export function digits(min: number, max: number, json: JsonSchema): Schema<number> {
  const number = integer(min, max, json)
  return {
    ...number,
    check: (value, ...rest) =>
      number.check(/^\d{1,9}$/.test(String(value)) ? Number(value) : value, ...rest),
  }
}

/** One of these texts. */
export const oneOf = <const T extends string>(...choices: T[]) =>
  rule({ type: 'string', enum: choices }, `must be ${choices.join(' or ')}`, (value) =>
    choices.find((choice) => choice === value),
  )

const instantPattern = /^(?!0000)(\d{4}-\d\d-\d\d)t\d\d:\d\d:\d\d(\.\d{1,9})?(z|[+-]\d\d:\d\d)$/i
/** An instant by RFC 3339, in UTC to the millisecond. */
export const instantSchema = rule(
  { type: 'string', format: 'date-time', maxLength: 35 },
  'must be an instant such as 2030-01-31T12:00:00Z',
  (value) => {
    const match = typeof value === 'string' ? instantPattern.exec(value) : null
    if (match === null) return undefined
    const day = match[1]!
    // To Date, February 31 is March 3.
    if (new Date(day).toJSON()?.startsWith(day) !== true) return undefined
    // In UTC it may be in the year 0 or 10000.
    const instant = new Date(match[0].toUpperCase()).toJSON()
    return /^(?!0000)\d/.test(instant) ? instant : undefined
  },
)

const withNull = <T, N>(inner: Schema<T>, none: N): Schema<T | N> => ({
  json: {
    ...inner.json,
    type: [inner.json['type'], 'null'],
    ...(inner.json.enum !== undefined && { enum: [...inner.json.enum, null] }),
  },
  check: (value, ...rest) => (value === null ? none : inner.check(value, ...rest)),
})

/** The same, or null. */
export const nullable = <T>(inner: Schema<T>): Schema<T | null> => withNull(inner, null)

/** An optional member for which null means that it was not given. */
export const omittable = <T>(inner: Schema<T>): Schema<T> => withNull(inner, undefined as T)

/** A list of at most `max` different items. */
export const list = <T>(item: Schema<T>, max: number): Schema<T[]> => ({
  json: { type: 'array', items: item.json, maxItems: max, uniqueItems: true },
  check(value, field, faults) {
    if (!Array.isArray(value) || value.length > max || new Set(value).size < value.length) {
      faults.push({ field, message: `must be a list of at most ${max} different items` })
      return []
    }
    return value.map((each, index) => item.check(each, `${field}[${index}]`, faults))
  },
})

/** Whether a JSON value is an object. */
export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** A whole body or query: an object with these members and no others. */
export function object<R, O = Record<never, never>>(
  required: Shape<R>,
  optional: Shape<O> = {} as Shape<O>,
): Schema<R & Partial<O>> {
  const shape: Shape<Record<string, unknown>> = { ...required, ...optional }
  const members = Object.entries(shape)
  const needed = Object.keys(required)
  return {
    json: {
      type: 'object',
      properties: Object.fromEntries(members.map(([name, { json }]) => [name, json])),
      ...(needed.length > 0 && { required: needed }),
      unevaluatedProperties: false,
    },
    check(value, field, faults) {
      const checked: Record<string, unknown> = {}
      if (isObject(value)) {
        for (const name of Object.keys(value)) {
          if (!Object.hasOwn(shape, name))
            faults.push({ field: shortened(name), message: 'is not known' })
        }
        for (const [name, member] of members) {
          if (Object.hasOwn(value, name)) {
            const parsed = member.check(value[name], name, faults)
            if (parsed !== undefined) checked[name] = parsed
          } else if (needed.includes(name)) {
            faults.push({ field: name, message: 'is missing' })
          }
        }
      } else {
        faults.push({ field, message: 'must be a JSON object' })
      }
      return checked as R & Partial<O>
    },
  }
}

/** The JSON Schema of an object with these members, under its name in the document. */
export const titled = <T>(title: string, members: Shape<T>): JsonSchema => ({
  title,
  ...object(members).json,
})

/** At most 64 characters, without half a surrogate pair, which some clients cannot read as JSON. */
const shortened = (name: string) => [...name.slice(0, 128)].slice(0, 64).join('').toWellFormed()

/**
 * Checks a value and returns it in normal form. Throws an AppError with its faults, at most 1,000,
 * and the code of the first one if every fault has one, else `code`.
 */
export function check<T>(schema: Schema<T>, value: unknown, code: Code) {
  const faults: Fault[] = []
  const checked = schema.check(value, '', faults)
  if (faults.length === 0) return checked
  const own = faults.every((fault) => fault.code !== undefined) ? faults[0]!.code : undefined
  throw new AppError(own ?? code, { faults: faults.slice(0, 1000) })
}

/** JSON to compare values by; the comparison of node:util overflows at 2,000 levels. */
const sortedJson = (value: unknown) => JSON.stringify(value, sortMembers)

function sortMembers(_name: string, value: unknown) {
  if (!isObject(value)) return value
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** The members of `given` that differ from those of `before`. */
export function differing<T extends object>(before: Partial<T>, given: T) {
  const different: Partial<T> = {}
  for (const [name, value] of Object.entries(given) as [keyof T, T[keyof T]][]) {
    if (sortedJson(value) !== sortedJson(before[name])) different[name] = value
  }
  return different
}
