import { resolve } from './documented.ts'

const annotations = ['description', 'title', 'default', 'examples']

const formats: Record<string, (value: any) => boolean> = {
  uuid: (value) =>
    typeof value !== 'string' || /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i.test(value),
  'date-time': (value) =>
    typeof value !== 'string' ||
    (/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/i.test(value) &&
      new Date(`${value.slice(0, 10)}T00:00:00Z`).getUTCDate() === Number(value.slice(8, 10))),
  int32: (value) => typeof value !== 'number' || value === (value | 0),
  password: () => true,
}

function typeOf(value: unknown): string {
  if (value === null) return 'null'
  return Array.isArray(value) ? 'array' : typeof value
}

/** What is wrong with a value by a JSON Schema. */
export type FindFaults = (schema: any, value: any, place?: string) => string[]

/**
 * Checks values by the schemas of a document, to which references point; a keyword that is not
 * known here is a fault, too.
 */
export function createSchemaCheck(document: any): FindFaults {
  return function findFaults(given, value, place = '') {
    const schema = resolve(given, document)
    const actual = typeOf(value)
    const type = Number.isInteger(value) ? 'integer' : actual
    const of = (type: string, holds: (wanted: any) => boolean) => (wanted: any) =>
      actual !== type || holds(wanted)
    const length = actual === 'string' ? [...value].length : 0
    const rules: Record<string, (wanted: any) => boolean> = {
      type: (wanted) => [wanted].flat().includes(type),
      enum: (wanted) => wanted.includes(value),
      oneOf: (wanted) =>
        wanted.filter((each: any) => findFaults(each, value).length === 0).length === 1,
      if: (condition) => {
        const { then, else: otherwise } = schema
        return (
          findFaults(findFaults(condition, value).length > 0 ? otherwise : then, value).length === 0
        )
      },
      then: () => true,
      else: () => true,
      minLength: of('string', (wanted) => length >= wanted),
      maxLength: of('string', (wanted) => length <= wanted),
      pattern: of(
        'string',
        (wanted) => new RegExp(wanted, 'u').test(value) && new RegExp(wanted).test(value),
      ),
      format: (wanted) => formats[wanted]!(value),
      minimum: of('number', (wanted) => value >= wanted),
      maximum: of('number', (wanted) => value <= wanted),
      maxItems: of('array', (wanted) => value.length <= wanted),
      uniqueItems: of('array', () => new Set(value).size === value.length),
      items: () => true,
      properties: () => true,
      required: of('object', (wanted) =>
        wanted.every((name: string) => Object.hasOwn(value, name)),
      ),
      unevaluatedProperties: of('object', () =>
        Object.keys(value).every((name) => Object.hasOwn(schema.properties, name)),
      ),
    }
    const faults = Object.entries(schema)
      .filter(([name]) => !annotations.includes(name))
      .filter(([name, wanted]) => !rules[name]?.(wanted))
      .map(([name]) => `${place}: ${name}`)
    if (actual === 'array') {
      for (const [index, each] of value.entries())
        faults.push(...findFaults(schema.items ?? {}, each, `${place}/${index}`))
    }
    if (actual === 'object') {
      for (const [name, each] of Object.entries(schema.properties ?? {}))
        if (Object.hasOwn(value, name))
          faults.push(...findFaults(each, value[name], `${place}/${name}`))
    }
    return faults
  }
}
