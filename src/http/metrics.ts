import type { Code } from '../errors.ts'

export type Metrics = ReturnType<typeof createMetrics>

const bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, Infinity]
const duration = 'http_request_duration_seconds'

/** Numbers of the service, in Prometheus' text format 0.0.4. Labels come from the route table alone. */
export function createMetrics() {
  const requests = new Map<string, number>()
  const durations = new Map<string, { counts: number[]; sum: number }>()
  const failures = new Map<string, number>()
  const add = (counts: Map<string, number>, name: string) =>
    void counts.set(name, (counts.get(name) ?? 0) + 1)

  return {
    /** Counts one answered request. */
    request(method: string, route: string, status: number, seconds: number) {
      const labels = `method="${method}",route="${route}"`
      add(requests, `http_requests_total{${labels},status="${status}"}`)
      let spent = durations.get(labels)
      if (spent === undefined)
        durations.set(labels, (spent = { counts: bounds.map(() => 0), sum: 0 }))
      let bucket = 0
      while (seconds > bounds[bucket]!) bucket++
      spent.counts[bucket]!++
      spent.sum += seconds
    },
    failure: (code: Code) => add(failures, code),
    failures: (code: Code) => failures.get(code) ?? 0,
    /** What was counted, and what is measured now: names may end in labels. */
    text(measured: [name: string, help: string, value: number][]): string {
      const family = (type: string, name: string, help: string, samples: string[]) =>
        [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...samples, ''].join('\n')
      const histogram = [...durations].flatMap(([labels, { counts, sum }]) => {
        let count = 0
        const buckets = bounds.map(
          (bound, i) =>
            `${duration}_bucket{${labels},le="${bound === Infinity ? '+Inf' : bound}"} ${(count += counts[i]!)}`,
        )
        return [
          ...buckets,
          `${duration}_sum{${labels}} ${sum}`,
          `${duration}_count{${labels}} ${count}`,
        ]
      })
      return [
        family(
          'counter',
          'http_requests_total',
          'Requests answered.',
          [...requests].map((each) => each.join(' ')),
        ),
        family(
          'histogram',
          duration,
          'Time from the first byte of a request to its answer.',
          histogram,
        ),
        ...measured.map(([name, help, value]) =>
          family(name.endsWith('_total') ? 'counter' : 'gauge', name.replace(/\{.*/, ''), help, [
            `${name} ${value}`,
          ]),
        ),
      ].join('')
    },
  }
}
