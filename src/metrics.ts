/** Numbers of the service, in Prometheus' text format 0.0.4. Labels come from the route table alone. */
export interface Metrics {
  /** Counts one answered request. */
  request(method: string, route: string, status: number, seconds: number): void
  /** Counts one event of a kind that was named when the metrics were made. */
  count(name: string): void
  /** Adds a number that is read when the metrics are. */
  gauge(name: string, help: string, read: () => number, labels?: string): void
  text(): string
}

const bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]

/** `counters`: name to help, each counted by `count`. */
export function createMetrics(counters: Record<string, string>): Metrics {
  const requests = new Map<string, number>()
  const latencies = new Map<string, { buckets: number[]; sum: number; count: number }>()
  const counts = new Map(Object.keys(counters).map((name) => [name, 0]))
  const gauges: { name: string; help: string; read: () => number; labels: string }[] = []

  return {
    request(method, route, status, seconds) {
      const labels = `method="${method}",route="${route}"`
      const counted = `${labels},status="${status}"`
      requests.set(counted, (requests.get(counted) ?? 0) + 1)
      let latency = latencies.get(labels)
      if (!latency) latencies.set(labels, (latency = { buckets: bounds.map(() => 0), sum: 0, count: 0 }))
      latency.sum += seconds
      latency.count++
      for (let i = bounds.length - 1; i >= 0 && seconds <= bounds[i]!; i--) latency.buckets[i]!++
    },
    count: (name) => void counts.set(name, (counts.get(name) ?? 0) + 1),
    gauge: (name, help, read, labels = '') => void gauges.push({ name, help, read, labels: labels && `{${labels}}` }),
    text() {
      const lines: string[] = []
      const head = (name: string, type: string, help: string) =>
        lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`)
      head('http_requests_total', 'counter', 'Requests answered.')
      for (const [labels, value] of requests) lines.push(`http_requests_total{${labels}} ${value}`)
      const name = 'http_request_duration_seconds'
      head(name, 'histogram', 'Time from the first byte of a request to its answer.')
      for (const [labels, { buckets, sum, count }] of latencies) {
        bounds.forEach((le, i) => lines.push(`${name}_bucket{${labels},le="${le}"} ${buckets[i]}`))
        lines.push(`${name}_bucket{${labels},le="+Inf"} ${count}`)
        lines.push(`${name}_sum{${labels}} ${sum}`, `${name}_count{${labels}} ${count}`)
      }
      for (const [counter, value] of counts) {
        head(counter, 'counter', counters[counter]!)
        lines.push(`${counter} ${value}`)
      }
      for (const { name, help, read, labels } of gauges) {
        head(name, name.endsWith('_total') ? 'counter' : 'gauge', help)
        lines.push(`${name}${labels} ${read()}`)
      }
      return lines.join('\n') + '\n'
    },
  }
}
