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

/** A schema of one more rule: `refine` returns the value to use, or reports. */
export function refined<T>(
  base: Schema<T>, json: JsonSchema, refine: (value: T, field: string, report: Report) => T,
): Schema<T> {
  return {
    json: { ...base.json, ...json },
    check(value, field, report) {
      let sound = true
      const checked = base.check(value, field, (...fault) => {
        sound = false
        report(...fault)
      })
      return sound ? refine(checked, field, report) : checked
    },
  }
}

/** Well-formed text whose length, in code points, is within the bounds. */
export function text(min: number, max: number, more: { pattern?: RegExp; says?: string } = {}): Schema<string> {
  const { pattern, says } = more
  return {
    json: { type: 'string', minLength: min, maxLength: max, ...(pattern && { pattern: pattern.source }) },
    check(value, field, report) {
      if (typeof value !== 'string' || !value.isWellFormed()) report(field, 'must be text')
      else if (value.length < min || [...value].length > max) {
        report(field, min === max ? `must have ${max} characters` : `must have ${min} to ${max} characters`)
      } else if (pattern && !pattern.test(value)) report(field, says ?? 'has a wrong form')
      return value as string
    },
  }
}

const uuidPattern = /^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$/

/** Whether `value` has the form of a UUID. */
export const isUuid = (value: string) => value.length === 36 && uuidPattern.test(value)

/** A UUID, in lower case. */
export const uuid: Schema<string> = {
  json: { type: 'string', format: 'uuid', maxLength: 36 },
  check(value, field, report) {
    if (typeof value === 'string' && isUuid(value)) return value.toLowerCase()
    report(field, 'must be a UUID')
    return ''
  },
}

export const boolean: Schema<boolean> = {
  json: { type: 'boolean' },
  check(value, field, report) {
    if (typeof value !== 'boolean') report(field, 'must be true or false')
    return value as boolean
  },
}

/** A whole number within the bounds. */
export function integer(min: number, max: number, more: JsonSchema = {}): Schema<number> {
  return {
    json: { type: 'integer', format: 'int32', minimum: min, maximum: max, ...more },
    check(value, field, report) {
      if (Number.isInteger(value) && (value as number) >= min && (value as number) <= max) {
        return value as number
      }
      report(field, `must be a whole number from ${min} to ${max}`)
      return min
    },
  }
}

/** A whole number in a query, where all is text: its digits. */
export function digits(min: number, max: number, more: JsonSchema = {}): Schema<number> {
  const number = integer(min, max, more)
  return {
    json: number.json,
    check: (value, field, report) =>
      number.check(typeof value === 'string' && /^\d{1,9}$/.test(value) ? Number(value) : NaN, field, report),
  }
}

export function oneOf<const T extends string>(...choices: T[]): Schema<T> {
  return {
    json: { type: 'string', enum: choices },
    check(value, field, report) {
      if (!choices.includes(value as T)) report(field, `must be ${choices.join(' or ')}`)
      return value as T
    },
  }
}

const instantPattern = /^(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)$/

/** An instant by RFC 3339. */
export const instant: Schema<Date> = {
  json: { type: 'string', format: 'date-time', maxLength: 35 },
  check(value, field, report) {
    const match = typeof value === 'string' ? instantPattern.exec(value) : null
    const [, year, month, day] = (match ?? []).map(Number)
    const date = new Date(match ? value as string : NaN)
    const lastDay = new Date(Date.UTC(year ?? 0, month ?? 0, 0)).getUTCDate()
    if (Number.isNaN(date.getTime()) || year === 0 || (day ?? 0) > lastDay) {
      report(field, 'must be an instant such as 2030-01-31T12:00:00Z')
    }
    return date
  },
}

export function nullable<T>(inner: Schema<T>): Schema<T | null> {
  return {
    json: { ...inner.json, type: [inner.json['type'], 'null'] },
    check: (value, field, report) => (value === null ? null : inner.check(value, field, report)),
  }
}

/** A list of at most `max` different items. */
export function list<T>(item: Schema<T>, max: number): Schema<T[]> {
  return {
    json: { type: 'array', items: item.json, maxItems: max, uniqueItems: true },
    check(value, field, report) {
      if (!Array.isArray(value) || value.length > max) {
        report(field, `must be a list of at most ${max}`)
        return []
      }
      if (new Set(value).size < value.length) report(field, 'must not repeat an item')
      return value.map((each, index) => item.check(each, `${field}[${index}]`, report))
    },
  }
}

/** An object with these members and no others. */
export function object<R extends Shape, O extends Shape = Record<never, never>>(
  required: R, optional: O = {} as O,
): Schema<Members<R, O>> {
  const shape: Shape = { ...required, ...optional }
  return {
    json: {
      type: 'object',
      properties: Object.fromEntries(Object.entries(shape).map(([name, { json }]) => [name, json])),
      ...(Object.keys(required).length > 0 && { required: Object.keys(required) }),
      unevaluatedProperties: false,
    },
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
  const faults: (Fault & { code: Code | undefined })[] = []
  const checked = schema.check(value, '', (field, message, code) => faults.push({ field, message, code }))
  if (faults.length === 0) return { value: checked }
  const plain = faults.some(({ code }) => code === undefined)
  return {
    faults: faults.map(({ field, message }) => ({ field, message })),
    code: plain ? undefined : faults[0]?.code,
  }
}
