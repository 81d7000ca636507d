import { failures as knownFailures, type Code } from '../errors.ts'

/** How many values were above one bound and at most the next; the last bound is infinite. */
export interface Histogram {
  bounds: readonly number[]
  counts: number[]
  sum: number
}

interface Answered {
  method: string
  route: string
  status: number
  seconds: number
  /** Undefined: it did not fail. */
  code: Code | undefined
}

/** Numbers of the service; labels come from the route table alone. */
export type Metrics = ReturnType<typeof createMetrics>

/** In seconds. */
const bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]

/** The values of one name, by their labels in braces. */
type Values = Map<string, number | Histogram>

/** Starts counting at zero. */
export function createMetrics() {
  /** By the labels of a method and a route. */
  const answers = new Map<string, { byStatus: Map<number, number>; durations: Histogram }>()
  // Every code starts at zero: Prometheus sees no increase in a series that begins at one.
  const failures = new Map(Object.keys(knownFailures).map((code) => [`{code="${code}"}`, 0]))

  function answersOf(labels: string) {
    const known = answers.get(labels)
    if (known !== undefined) return known
    const added = { byStatus: new Map<number, number>(), durations: createHistogram(bounds) }
    answers.set(labels, added)
    return added
  }

  return {
    /** Counts an answered request. */
    request({ method, route, status, seconds, code }: Answered) {
      const { byStatus, durations } = answersOf(`method="${method}",route="${route}"`)
      count(byStatus, status)
      observe(durations, seconds)
      if (code !== undefined) count(failures, `{code="${code}"}`)
    },
    /** All that was counted, in Prometheus' text format 0.0.4. */
    text() {
      const requests: Values = new Map()
      const durations: Values = new Map()
      for (const [labels, answered] of answers) {
        durations.set(`{${labels}}`, answered.durations)
        for (const [status, number] of answered.byStatus) {
          requests.set(`{${labels},status="${status}"}`, number)
        }
      }
      return (
        family('http_requests_total', 'Requests answered.', requests) +
        family(
          'http_request_duration_seconds',
          'Time from the first byte of a request to its answer.',
          durations,
        ) +
        family('user_service_failures_total', 'Requests that failed, by code.', failures)
      )
    },
  }
}

function count<Key>(counts: Map<Key, number>, key: Key) {
  counts.set(key, (counts.get(key) ?? 0) + 1)
}

/** A histogram without values, of bounds in rising order. */
export function createHistogram(bounds: readonly number[]) {
  const all = [...bounds, Infinity]
  return { bounds: all, counts: all.map(() => 0), sum: 0 }
}

/** Counts a value. */
export function observe(histogram: Histogram, value: number) {
  let bucket = 0
  while (value > histogram.bounds[bucket]!) bucket++
  histogram.counts[bucket]!++
  histogram.sum += value
}

/**
 * Help, type and samples of one name in Prometheus' text format; nothing if it has no values yet.
 */
export function family(name: string, help: string, values: Values) {
  let type = name.endsWith('_total') ? 'counter' : 'gauge'
  const samples: string[] = []
  for (const [labels, value] of values) {
    if (typeof value === 'number') {
      samples.push(`${name}${labels} ${value}\n`)
      continue
    }
    type = 'histogram'
    const others = labels && `${labels.slice(1, -1)},`
    let total = 0
    for (const [index, bound] of value.bounds.entries()) {
      total += value.counts[index]!
      const limit = bound === Infinity ? '+Inf' : bound
      samples.push(`${name}_bucket{${others}le="${limit}"} ${total}\n`)
    }
    samples.push(`${name}_sum${labels} ${value.sum}\n`, `${name}_count${labels} ${total}\n`)
  }
  if (samples.length === 0) return ''
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${samples.join('')}`
}
