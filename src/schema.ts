import { AppError, type Code, type Fault } from './errors.ts'

/** A JSON Schema (2020-12), for the OpenAPI document. */
export interface JsonSchema {
  [keyword: string]: unknown
  description?: string
  examples?: unknown[]
  enum?: string[]
  properties?: Record<string, JsonSchema>
  required?: string[]
  items?: JsonSchema
  maxItems?: number
  anyOf?: JsonSchema[]
}

/** Describes what it accepts; `check` returns the value, typed and in normal form, and adds every fault. */
export type Schema<T> = {
  json: JsonSchema
  check(value: unknown, field: string, faults: Fault[]): T
}

/** A schema for each member of T; and, of such a shape, what its members are. */
export type Shape<T> = { [K in keyof T]: Schema<T[K]> }
export type Members<S> = { [K in keyof S]: S[K] extends Schema<infer T> ? T : never }

/** A schema of one rule: what `parse` has no value for is reported with `message`. */
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

/** A `rule` with more rules: `refine` returns the value to use and says what is `wrong`, which is told as `code`. */
export const refined = <T>(
  base: Schema<T>,
  json: JsonSchema,
  refine: (value: T, wrong: (message: string, member?: string) => void) => T,
  code?: Code,
): Schema<T> => ({
  json: { ...base.json, ...json },
  check(value, field, faults) {
    const checked = base.check(value, field, faults)
    const wrong = (message: string, member = field) =>
      void faults.push({ field: member, message, code })
    return checked === undefined ? checked : refine(checked, wrong)
  },
})

/** The same schema, with what the document says of it. */
export const documented = <T>(
  schema: Schema<T>,
  { description, example }: { description?: string; example?: unknown },
): Schema<T> => ({
  ...schema,
  json: {
    ...schema.json,
    ...(description !== undefined && { description }),
    ...(example !== undefined && { examples: [example] }),
  },
})

/** Any text that may be an address: what a log-in or a search takes. */
export const anyText = rule(
  { type: 'string', maxLength: 16_384, pattern: '^[\\s\\S]*$' },
  'must be text',
  (value) => (typeof value === 'string' ? value : undefined),
)

/** Well-formed text whose length, in code points, is within the bounds. */
export const text = (
  min: number,
  max: number,
  pattern: RegExp,
  says = `must have ${min} to ${max} characters`,
) =>
  rule(
    { type: 'string', minLength: min, maxLength: max, pattern: pattern.source },
    says,
    (value) =>
      typeof value === 'string' &&
      value.isWellFormed() &&
      value.length >= min &&
      [...value].length <= max &&
      pattern.test(value)
        ? value
        : undefined,
  )

export const isUuid = (value: string) => /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/i.test(value)
/** Before every other. */
export const nilUuid = '00000000-0000-0000-0000-000000000000'
/** A UUID, in lower case. */
export const uuid = rule(
  { type: 'string', format: 'uuid', maxLength: 36 },
  'must be a UUID',
  (value) => (typeof value === 'string' && isUuid(value) ? value.toLowerCase() : undefined),
)

export const boolean = rule({ type: 'boolean' }, 'must be true or false', (value) =>
  typeof value === 'boolean' ? value : undefined,
)

const whole =
  (read: (value: unknown) => unknown) =>
  (min: number, max: number, more: JsonSchema = {}) =>
    rule(
      { type: 'integer', format: 'int32', minimum: min, maximum: max, ...more },
      `must be a whole number from ${min} to ${max}`,
      (given) => {
        const value = read(given) as number
        return Number.isInteger(value) && value >= min && value <= max ? value : undefined
      },
    )
export const integer = whole((value) => value)
/** A whole number in a query, where all is text: its digits. */
export const digits = whole((value) =>
  typeof value === 'string' && /^\d{1,9}$/.test(value) ? Number(value) : NaN,
)

export const oneOf = <const T extends string>(...choices: T[]) =>
  rule({ type: 'string', enum: choices }, `must be ${choices.join(' or ')}`, (value) =>
    choices.find((choice) => choice === value),
  )

const instantPattern = /^(?!0000)(\d{4}-\d\d-\d\d)t\d\d:\d\d:\d\d(\.\d{1,9})?(z|[+-]\d\d:\d\d)$/i
/** An instant by RFC 3339 and the calendar, in UTC to the millisecond: to Date, February 31 is March 3. */
export const instant = rule(
  { type: 'string', format: 'date-time', maxLength: 35 },
  'must be an instant such as 2030-01-31T12:00:00Z',
  (value) => {
    const [given, day = ''] = instantPattern.exec(typeof value === 'string' ? value : '') ?? []
    const date = new Date(given?.toUpperCase() ?? NaN)
    const year = date.getUTCFullYear()
    return year > 0 && year <= 9999 && new Date(day).toJSON()?.startsWith(day)
      ? date.toJSON()
      : undefined
  },
)

export const nullable = <T>(inner: Schema<T>): Schema<T | null> => ({
  json: { ...inner.json, type: [inner.json['type'], 'null'] },
  check: (value, field, faults) => (value === null ? null : inner.check(value, field, faults)),
})

/** A list of at most `max` different items. */
export const list = <T>(item: Schema<T>, max: number): Schema<T[]> => ({
  json: { type: 'array', items: item.json, maxItems: max, uniqueItems: true },
  check(value, field, faults) {
    const isList =
      Array.isArray(value) && value.length <= max && new Set(value).size === value.length
    if (!isList) faults.push({ field, message: `must be a list of at most ${max} different items` })
    return isList ? value.map((each, index) => item.check(each, `${field}[${index}]`, faults)) : []
  },
})

/** A whole body or query: an object with these members and no others. */
export function object<R, O = Record<never, never>>(
  required: Shape<R>,
  optional: Shape<O> = {} as Shape<O>,
): Schema<R & Partial<O>> {
  const shape: Shape<Record<string, unknown>> = { ...required, ...optional }
  const properties = Object.fromEntries(
    Object.entries(shape).map(([name, { json }]) => [name, json]),
  )
  const needed = Object.keys(required)
  return {
    json: {
      type: 'object',
      properties,
      ...(needed.length > 0 && { required: needed }),
      unevaluatedProperties: false,
    },
    check(value, field, faults) {
      const fault = (field: string, message: string) => void faults.push({ field, message })
      const isObject = typeof value === 'object' && value !== null && !Array.isArray(value)
      if (!isObject) fault(field, 'must be a JSON object')
      const given: Record<string, unknown> = isObject ? { ...value } : {}
      for (const name in given)
        if (!Object.hasOwn(shape, name)) fault(name.slice(0, 64), 'is not known')
      const checked: Record<string, unknown> = {}
      for (const [name, member] of Object.entries(shape)) {
        if (Object.hasOwn(given, name)) checked[name] = member.check(given[name], name, faults)
        else if (isObject && needed.includes(name)) fault(name, 'is missing')
      }
      return checked as R & Partial<O>
    },
  }
}

/** Checks a value; throws `code`, or the one that its faults have in common, with all of them. */
export function check<T>(schema: Schema<T>, value: unknown, code: Code): T {
  const faults: Fault[] = []
  const checked = schema.check(value, '', faults)
  if (faults.length === 0) return checked
  throw new AppError(faults.every((fault) => fault.code) ? faults[0]!.code! : code, {
    faults: faults.slice(0, 1000),
  })
}
