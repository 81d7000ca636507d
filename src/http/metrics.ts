import type { Code } from '../errors.ts'

/** One answered request. */
export interface Answered {
  method: string
  route: string
  status: number
  seconds: number
}

/** A value that is measured when it is read; a name that ends in labels keeps them. */
export type Measured = [name: string, help: string, value: number]

/** Numbers of the service; labels come from the route table alone. */
export interface Metrics {
  /** Counts an answered request. */
  request(answered: Answered): void
  /** Counts a failed one by its code. */
  failure(code: Code): void
  /** How many failed with this code. */
  failures(code: Code): number
  /** All that was counted, and what is measured now, in Prometheus' text format 0.0.4. */
  text(measured: Measured[]): string
}

interface Spent {
  /** For each bound, the requests that took no longer, but longer than the bound before. */
  counts: number[]
  sum: number
}

const bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, Infinity]
const duration = 'http_request_duration_seconds'
const failed = 'user_service_failures_total'

/** Starts counting at zero. */
export function createMetrics(): Metrics {
  const requests = new Map<string, number>()
  const durations = new Map<string, Spent>()
  const failures = new Map<Code, number>()

  function spentFor(labels: string): Spent {
    const known = durations.get(labels)
    if (known !== undefined) return known
    const spent = { counts: bounds.map(() => 0), sum: 0 }
    durations.set(labels, spent)
    return spent
  }

  return {
    request({ method, route, status, seconds }) {
      const labels = `method="${method}",route="${route}"`
      count(requests, `http_requests_total{${labels},status="${status}"}`)
      const spent = spentFor(labels)
      let bucket = 0
      while (seconds > bounds[bucket]!) bucket++
      spent.counts[bucket]!++
      spent.sum += seconds
    },
    failure: (code) => count(failures, code),
    failures: (code) => failures.get(code) ?? 0,
    text(measured) {
      const answered = [...requests].map(([name, value]) => `${name} ${value}`)
      const failing = [...failures].map(([code, value]) => `${failed}{code="${code}"} ${value}`)
      const times = [...durations].flatMap(([labels, spent]) => histogram(labels, spent))
      const families = [
        family('counter', { name: 'http_requests_total', help: 'Requests answered.' }, answered),
        family('histogram', { name: duration, help: durationHelp }, times),
        family('counter', { name: failed, help: 'Requests that failed, by code.' }, failing),
      ]
      for (const [name, help, value] of measured) {
        const type = name.endsWith('_total') ? 'counter' : 'gauge'
        families.push(family(type, { name: name.replace(/\{.*/, ''), help }, [`${name} ${value}`]))
      }
      return families.join('')
    },
  }
}

const durationHelp = 'Time from the first byte of a request to its answer.'

function count<Name>(counts: Map<Name, number>, name: Name) {
  counts.set(name, (counts.get(name) ?? 0) + 1)
}

function histogram(labels: string, { counts, sum }: Spent): string[] {
  const lines: string[] = []
  let total = 0
  for (const [index, bound] of bounds.entries()) {
    total += counts[index]!
    const limit = bound === Infinity ? '+Inf' : bound
    lines.push(`${duration}_bucket{${labels},le="${limit}"} ${total}`)
  }
  lines.push(`${duration}_sum{${labels}} ${sum}`, `${duration}_count{${labels}} ${total}`)
  return lines
}

function family(
  type: 'counter' | 'gauge' | 'histogram',
  { name, help }: { name: string; help: string },
  samples: string[],
): string {
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...samples, ''].join('\n')
}
