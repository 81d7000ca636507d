import type { Code } from './errors.ts'

/** A number as it is now; its name may end in labels. */
export type Gauge = [name: string, help: string, value: number]

export type Metrics = ReturnType<typeof createMetrics>

const bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]
const duration = 'http_request_duration_seconds'
const watched: [code: Code, name: string, help: string][] = [
  ['throttled', 'throttled_total', 'Requests refused by the throttle.'],
  ['overloaded', 'overloaded_total', 'Requests refused because too many passwords wait to be hashed.'],
  ['invalid_credentials', 'failed_logins_total', 'Wrong passwords and unknown addresses.'],
  ['login_throttled', 'login_throttled_total', 'Log-ins refused because of failed ones before.'],
]

/** Numbers of the service, in Prometheus' text format 0.0.4. Labels come from the route table alone. */
export function createMetrics() {
  const requests = new Map<string, number>()
  const durations = new Map<string, { buckets: number[]; sum: number; count: number }>()
  const failures = new Map<string, number>()
  const add = (counts: Map<string, number>, name: string) => void counts.set(name, (counts.get(name) ?? 0) + 1)

  return {
    /** Counts one answered request. */
    request(method: string, route: string, status: number, seconds: number) {
      const labels = `method="${method}",route="${route}"`
      add(requests, `http_requests_total{${labels},status="${status}"}`)
      const { buckets, sum, count } = durations.get(labels) ?? { buckets: bounds.map(() => 0), sum: 0, count: 0 }
      const raised = buckets.map((n, i) => (seconds <= bounds[i]! ? n + 1 : n))
      durations.set(labels, { buckets: raised, sum: sum + seconds, count: count + 1 })
    },
    failure: (code: Code) => add(failures, code),
    text(gauges: Gauge[]): string {
      const family = (type: string, name: string, help: string, samples: string[]) =>
        [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...samples, ''].join('\n')
      const histogram = [...durations].flatMap(([labels, { buckets, sum, count }]) => [
        ...buckets.map((n, i) => `${duration}_bucket{${labels},le="${bounds[i]}"} ${n}`),
        `${duration}_bucket{${labels},le="+Inf"} ${count}`,
        `${duration}_sum{${labels}} ${sum}`, `${duration}_count{${labels}} ${count}`,
      ])
      return [
        family('counter', 'http_requests_total', 'Requests answered.', [...requests].map((each) => each.join(' '))),
        family('histogram', duration, 'Time from the first byte of a request to its answer.', histogram),
        ...watched.map(([code, name, help]) => family('counter', name, help, [`${name} ${failures.get(code) ?? 0}`])),
        ...gauges.map(([name, help, value]) =>
          family(name.endsWith('_total') ? 'counter' : 'gauge', name.replace(/\{.*/, ''), help, [`${name} ${value}`])),
      ].join('')
    },
  }
}
