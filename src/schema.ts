import { AppError, type Code, type Fault } from './errors.ts'

/** A JSON Schema (2020-12), for the OpenAPI document. */
export interface JsonSchema {
  [keyword: string]: unknown
  enum?: string[]; properties?: Record<string, JsonSchema>; required?: string[]
  items?: JsonSchema; maxItems?: number; anyOf?: JsonSchema[]
}

/** A fault; with a code where a more telling one exists than that of the whole body. */
type Found = Fault & { code?: Code | undefined }

/** Checks an unknown value and describes what it accepts. */
export interface Schema<T> {
  json: JsonSchema
  /** Returns the value, typed and in normal form; adds every fault. */
  check(value: unknown, field: string, faults: Found[]): T
}

/** A schema for each member of T. */
export type Shape<T> = { [K in keyof T]: Schema<T[K]> }

/** What the members of a shape are. */
export type Members<S> = { [K in keyof S]: S[K] extends Schema<infer T> ? T : never }

/** A schema of one rule: what `parse` has no value for is reported with `message`. */
export const rule = <T>(json: JsonSchema, message: string, parse: (value: unknown) => T | undefined): Schema<T> => ({
  json,
  check(value, field, faults) {
    const parsed = parse(value)
    if (parsed === undefined) faults.push({ field, message })
    return parsed as T
  },
})

/** A schema of more rules: `refine` returns the value to use and says what is `wrong`, which is told as `code`. */
export const refined = <T>(
  base: Schema<T>, json: JsonSchema, refine: (value: T, wrong: (message: string) => void) => T, code?: Code,
): Schema<T> => ({
  json: { ...base.json, ...json },
  check(value, field, faults) {
    const before = faults.length
    const checked = base.check(value, field, faults)
    return faults.length > before ? checked : refine(checked, (message) => faults.push({ field, message, code }))
  },
})

/** Well-formed text whose length, in code points, is within the bounds. */
export const text = (min: number, max: number, pattern: RegExp, says = `must have ${min} to ${max} characters`) =>
  rule({ type: 'string', minLength: min, maxLength: max, pattern: pattern.source }, says, (value) =>
    typeof value === 'string' && value.isWellFormed() && value.length >= min && [...value].length <= max &&
      pattern.test(value) ? value : undefined)

/** Whether `value` has the form of a UUID. */
export const isUuid = (value: string) => /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/i.test(value)

/** Before every other. */
export const nilUuid = '00000000-0000-0000-0000-000000000000'

/** A UUID, in lower case. */
export const uuid = rule({ type: 'string', format: 'uuid', maxLength: 36 }, 'must be a UUID', (value) =>
  typeof value === 'string' && isUuid(value) ? value.toLowerCase() : undefined)

export const boolean = rule({ type: 'boolean' }, 'must be true or false', (value) =>
  typeof value === 'boolean' ? value : undefined)

/** A whole number within the bounds. */
export const integer = (min: number, max: number, more: JsonSchema = {}) =>
  rule({ type: 'integer', format: 'int32', minimum: min, maximum: max, ...more },
    `must be a whole number from ${min} to ${max}`, (value) =>
      typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max ? value : undefined)

/** A whole number in a query, where all is text: its digits. */
export function digits(min: number, max: number, more: JsonSchema = {}): Schema<number> {
  const { json, check } = integer(min, max, more)
  const read = (value: unknown) => (typeof value === 'string' && /^\d{1,9}$/.test(value) ? Number(value) : NaN)
  return { json, check: (value, field, faults) => check(read(value), field, faults) }
}

export const oneOf = <const T extends string>(...choices: T[]) =>
  rule({ type: 'string', enum: choices }, `must be ${choices.join(' or ')}`, (value) =>
    choices.find((choice) => choice === value))

const instantPattern = /^(\d{4})-(\d\d)-(\d\d)t\d\d:\d\d:\d\d(\.\d{1,9})?(z|[+-]\d\d:\d\d)$/i
/** An instant by RFC 3339. */
export const instant = rule({ type: 'string', format: 'date-time', maxLength: 35 },
  'must be an instant such as 2030-01-31T12:00:00Z', (value) => {
    const [given, year = 0, month = 0, day = 0] = instantPattern.exec(typeof value === 'string' ? value : '') ?? []
    const date = new Date(given?.toUpperCase() ?? NaN)
    const lastDay = new Date(Date.UTC(Number(year), Number(month), 0)).getUTCDate()
    return !(date.getUTCFullYear() <= 9999) || Number(year) === 0 || Number(day) > lastDay ? undefined : date
  })

export const nullable = <T>(inner: Schema<T>): Schema<T | null> => ({
  json: { ...inner.json, type: [inner.json['type'], 'null'] },
  check: (value, field, faults) => (value === null ? null : inner.check(value, field, faults)),
})

/** A list of at most `max` different items. */
export const list = <T>(item: Schema<T>, max: number): Schema<T[]> => ({
  json: { type: 'array', items: item.json, maxItems: max, uniqueItems: true },
  check(value, field, faults) {
    if (Array.isArray(value) && value.length <= max && new Set(value).size === value.length) {
      return value.map((each, index) => item.check(each, `${field}[${index}]`, faults))
    }
    faults.push({ field, message: `must be a list of at most ${max} different items` })
    return []
  },
})

/** A whole body or query: an object with these members and no others. */
export function object<R, O = Record<never, never>>(
  required: Shape<R>, optional: Shape<O> = {} as Shape<O>,
): Schema<R & Partial<O>> {
  const shape: Shape<Record<string, unknown>> = { ...required, ...optional }
  const properties = Object.fromEntries(Object.entries(shape).map(([name, { json }]) => [name, json]))
  const needed = Object.keys(required)
  return {
    json: { type: 'object', properties, ...(needed.length > 0 && { required: needed }), unevaluatedProperties: false },
    check(value, field, faults) {
      const isObject = typeof value === 'object' && value !== null && !Array.isArray(value)
      if (!isObject) faults.push({ field, message: 'must be a JSON object' })
      const given = new Map<string, unknown>(isObject ? Object.entries(value) : [])
      for (const name of given.keys()) {
        if (!Object.hasOwn(shape, name)) faults.push({ field: name.slice(0, 64), message: 'is not known' })
      }
      const checked: Record<string, unknown> = {}
      for (const [name, member] of Object.entries(shape)) {
        if (given.has(name)) checked[name] = member.check(given.get(name), name, faults)
        else if (isObject && needed.includes(name)) faults.push({ field: name, message: 'is missing' })
      }
      return checked as R & Partial<O>
    },
  }
}

/** Checks a value; throws `code`, or the one that its faults have in common, with all of them. */
export function check<T>(schema: Schema<T>, value: unknown, code: Code): T {
  const faults: Found[] = []
  const checked = schema.check(value, '', faults)
  if (faults.length === 0) return checked
  throw new AppError(faults.every((fault) => fault.code) ? faults[0]!.code! : code, { faults: faults.slice(0, 1000) })
}
