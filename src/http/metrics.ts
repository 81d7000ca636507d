import { failures as knownFailures, type Code } from '../errors.ts'

/** One answered request. */
export interface Answered {
  method: string
  route: string
  status: number
  seconds: number
}

/** How many values were above one bound and at most the next; the last bound is infinite. */
export interface Histogram {
  bounds: readonly number[]
  counts: number[]
  sum: number
}

/** What is measured elsewhere; a name that ends in labels keeps them. */
export interface Measured {
  name: string
  help: string
  value: number | Histogram
}

/** Numbers of the service; labels come from the route table alone. */
export interface Metrics {
  /** Counts an answered request. */
  request(answered: Answered): void
  /** Counts a failed one by its code. */
  failure(code: Code): void
  /** All that was counted, and what is measured now, in Prometheus' text format 0.0.4. */
  text(measured: Measured[]): string
}

const durationBounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]
const duration = 'http_request_duration_seconds'
const failed = 'user_service_failures_total'

/** Starts counting at zero. */
export function createMetrics(): Metrics {
  const requests = new Map<string, number>()
  const durations = new Map<string, Histogram>()
  // From zero on: what appears with its first value shows no increase.
  const failures = new Map((Object.keys(knownFailures) as Code[]).map((code) => [code, 0]))

  function durationsOf(labels: string): Histogram {
    const known = durations.get(labels)
    if (known !== undefined) return known
    const histogram = createHistogram(durationBounds)
    durations.set(labels, histogram)
    return histogram
  }

  return {
    request({ method, route, status, seconds }) {
      const labels = `method="${method}",route="${route}"`
      count(requests, `http_requests_total{${labels},status="${status}"}`)
      observe(durationsOf(labels), seconds)
    },
    failure: (code) => count(failures, code),
    text(measured) {
      const answered = [...requests].map(([name, value]) => `${name} ${value}`)
      const failing = [...failures].map(([code, value]) => `${failed}{code="${code}"} ${value}`)
      const times = [...durations].flatMap(([labels, times]) => samples(duration, times, labels))
      const families = [
        family('counter', { name: 'http_requests_total', help: 'Requests answered.' }, answered),
        family('histogram', { name: duration, help: durationHelp }, times),
        family('counter', { name: failed, help: 'Requests that failed, by code.' }, failing),
      ]
      return [...families, ...measured.map(familyOf)].join('')
    },
  }
}

const durationHelp = 'Time from the first byte of a request to its answer.'

function count<Name>(counts: Map<Name, number>, name: Name) {
  counts.set(name, (counts.get(name) ?? 0) + 1)
}

/** A histogram without values, of bounds in rising order. */
export function createHistogram(bounds: readonly number[]): Histogram {
  const all = [...bounds, Infinity]
  return { bounds: all, counts: all.map(() => 0), sum: 0 }
}

/** Counts a value. */
export function observe(histogram: Histogram, value: number): void {
  let bucket = 0
  while (value > histogram.bounds[bucket]!) bucket++
  histogram.counts[bucket]!++
  histogram.sum += value
}

/** The lines of a histogram; `labels`: those of each, or none. */
function samples(name: string, { bounds, counts, sum }: Histogram, labels = ''): string[] {
  const lines: string[] = []
  let total = 0
  for (const [index, bound] of bounds.entries()) {
    total += counts[index]!
    const limit = `le="${bound === Infinity ? '+Inf' : bound}"`
    lines.push(`${name}_bucket{${labels === '' ? limit : `${labels},${limit}`}} ${total}`)
  }
  const braces = labels === '' ? '' : `{${labels}}`
  lines.push(`${name}_sum${braces} ${sum}`, `${name}_count${braces} ${total}`)
  return lines
}

function familyOf({ name, help, value }: Measured): string {
  if (typeof value !== 'number') return family('histogram', { name, help }, samples(name, value))
  const type = name.endsWith('_total') ? 'counter' : 'gauge'
  return family(type, { name: name.replace(/\{.*/, ''), help }, [`${name} ${value}`])
}

function family(
  type: 'counter' | 'gauge' | 'histogram',
  { name, help }: { name: string; help: string },
  samples: string[],
): string {
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...samples, ''].join('\n')
}
