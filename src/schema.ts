import type { Code, Fault } from './errors.ts'

/** A JSON Schema (2020-12), for the OpenAPI document. */
export type JsonSchema = Record<string, unknown>

/** Reports one fault; `code` where a more telling one exists than that of the whole body. */
export type Report = (field: string, message: string, code?: Code) => void

/** Checks an unknown value and describes what it accepts. */
export interface Schema<T> {
  json: JsonSchema
  /** Returns the value, typed and in normal form; reports every fault. */
  check(value: unknown, field: string, report: Report): T
}

export type Shape = Record<string, Schema<unknown>>
export type Of<S> = S extends Schema<infer T> ? T : never
export type Members<R extends Shape, O extends Shape> =
  { [K in keyof R]: Of<R[K]> } & { [K in keyof O]?: Of<O[K]> }

/** A schema of one rule: what `parse` has no value for is reported with `message`. */
export const rule = <T>(json: JsonSchema, message: string, parse: (value: unknown) => T | undefined): Schema<T> => ({
  json,
  check(value, field, report) {
    const parsed = parse(value)
    if (parsed === undefined) report(field, message)
    return parsed as T
  },
})

/** A schema of one more rule: `refine` returns the value to use, or reports. */
export const refined = <T>(
  base: Schema<T>, json: JsonSchema, refine: (value: T, field: string, report: Report) => T,
): Schema<T> => ({
  json: { ...base.json, ...json },
  check(value, field, report) {
    let sound = true
    const checked = base.check(value, field, (...fault) => {
      sound = false
      report(...fault)
    })
    return sound ? refine(checked, field, report) : checked
  },
})

/** Well-formed text whose length, in code points, is within the bounds. */
export const text = (min: number, max: number, pattern = /^[^]*$/, says = `must have ${min} to ${max} characters`) =>
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
  return { json, check: (value, field, report) => check(read(value), field, report) }
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
  check: (value, field, report) => (value === null ? null : inner.check(value, field, report)),
})

/** A list of at most `max` different items. */
export const list = <T>(item: Schema<T>, max: number): Schema<T[]> => ({
  json: { type: 'array', items: item.json, maxItems: max, uniqueItems: true },
  check(value, field, report) {
    if (!Array.isArray(value) || value.length > max) {
      report(field, `must be a list of at most ${max}`)
      return []
    }
    if (new Set(value).size < value.length) report(field, 'must not repeat an item')
    return value.map((each, index) => item.check(each, `${field}[${index}]`, report))
  },
})

/** An object with these members and no others. */
export function object<R extends Shape, O extends Shape = Record<never, never>>(
  required: R, optional: O = {} as O,
): Schema<Members<R, O>> {
  const shape: Shape = { ...required, ...optional }
  const properties = Object.fromEntries(Object.entries(shape).map(([name, { json }]) => [name, json]))
  const needed = Object.keys(required)
  return {
    json: { type: 'object', properties, ...(needed.length > 0 && { required: needed }), unevaluatedProperties: false },
    check(value, field, report) {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) {
        report(field, 'must be a JSON object')
        return {} as Members<R, O>
      }
      const given = value as Record<string, unknown>
      const within = (name: string) => (field === '' ? name : `${field}.${name}`)
      for (const name of Object.keys(given)) {
        if (!Object.hasOwn(shape, name)) report(within(name.slice(0, 64)), 'is not known')
      }
      const checked: Record<string, unknown> = {}
      for (const [name, member] of Object.entries(shape)) {
        if (Object.hasOwn(given, name)) checked[name] = member.check(given[name], within(name), report)
        else if (Object.hasOwn(required, name)) report(within(name), 'is missing')
      }
      return checked as Members<R, O>
    },
  }
}

/** Runs a check and returns the value, or all the faults and the most telling code. */
export function check<T>(schema: Schema<T>, value: unknown):
  { value: T } | { faults: Fault[]; code: Code | undefined } {
  const faults: Fault[] = []
  const codes: (Code | undefined)[] = []
  const checked = schema.check(value, '', (field, message, code) => {
    if (faults.length < 1000) faults.push({ field, message })
    codes.push(code)
  })
  if (faults.length === 0) return { value: checked }
  return { faults, code: codes.includes(undefined) ? undefined : codes[0] }
}
