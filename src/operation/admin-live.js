// The view of the last ten minutes: /metrics, read every five seconds while it is seen. A balancer
// may lead each reading to another instance: they are told apart by when they started.

/** What every reading gave, the oldest first. */
let readings = []
/** The last counts of each instance. */
const counts = new Map()

function forgetReadings() {
  readings = []
  counts.clear()
}

/** The sum of the samples whose names and labels match. */
function sumOf(samples, pattern) {
  const found = [...samples].filter(([name]) => pattern.test(name))
  return found.length > 0 ? found.reduce((sum, [, value]) => sum + value, 0) : undefined
}

const gauge =
  (pattern, unit = 1) =>
  (now) =>
    sumOf(now.samples, pattern) / unit

/** By how much counters have grown a second. */
const rate = (pattern) => (now, before) => {
  const grown = (sumOf(now.samples, pattern) ?? 0) - (sumOf(before.samples, pattern) ?? 0)
  return grown / ((now.at - before.at) / 1000)
}

/**
 * The bound in milliseconds below which a share of what a histogram counted since then lies; the
 * last one and a sign if it lies above.
 */
const quantile = (name, share) => (now, before) => {
  // In an object, whole numbers would come first.
  const buckets = new Map()
  for (const [sample, value] of now.samples) {
    if (!sample.startsWith(name + '_bucket')) continue
    const bound = /le="(.*)"/.exec(sample)[1]
    const grown = value - (before.samples.get(sample) ?? 0)
    buckets.set(bound, (buckets.get(bound) ?? 0) + grown)
  }
  const wanted = share * buckets.get('+Inf')
  const [bound] = [...buckets].find(([, count]) => count > 0 && count >= wanted) ?? []
  return bound === '+Inf' ? [[...buckets.keys()].at(-2) * 1000, '> '] : bound * 1000
}

const http = 'http_request_duration_seconds'
const loop = 'user_service_event_loop_delay_seconds'

/** What is drawn: a title, and lines, each with its name and measure. */
const plots = {
  'Requests a second': { all: rate(/^http_requests_total/) },
  'Errors a second': {
    '5xx': rate(/^http_requests_total.*"5..".$/),
    '4xx': rate(/^http_requests_total.*"4..".$/),
  },
  'Latency, at most ms': {
    p50: quantile(http, 0.5),
    p95: quantile(http, 0.95),
    p99: quantile(http, 0.99),
  },
  'Log-ins a second': { all: rate(/^http_requests_total.*"POST".*users.sessions",status="201/) },
  'Passwords being hashed': { now: gauge(/hashes_in_flight/), queued: gauge(/hashes_queued/) },
  'Database connections': {
    all: gauge(/database_connections$/),
    idle: gauge(/connections_idle/),
    'calls waiting': gauge(/database_waiting/),
  },
  'Event loop delay, at most ms': { p50: quantile(loop, 0.5), p99: quantile(loop, 0.99) },
  'Outbox, events': { waiting: gauge(/^webhook_outbox$/), 'given up': gauge(/webhook_given_up/) },
  'Memory, MB': { resident: gauge(/resident_memory/, 1e6) },
}

function svg(name, attributes) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', name)
  for (const each of Object.entries(attributes)) node.setAttribute(...each)
  return node
}

const shortly = (value) => Number(value.toPrecision(3)).toLocaleString()

/** The plot of what has values. */
function drawPlot([title, lines]) {
  const names = Object.keys(lines)
  const valueOf = ({ values }, name) => values[title][name][0]
  const seen = readings.flatMap((each) => names.map((name) => valueOf(each, name)))
  const known = seen.filter(Number.isFinite)
  if (known.length === 0) return []
  const top = Math.max(1e-9, ...known)
  const spanMs = Math.max(60_000, Date.now() - readings[0].at)
  const picture = svg('svg', { viewBox: '0 0 600 100', preserveAspectRatio: 'none' })
  picture.ariaHidden = 'true'
  const legend = names.map((name, index) => {
    for (const start of counts.keys()) {
      const own = readings.filter((each) => each.start === start && valueOf(each, name) >= 0)
      const points = own.map((each) => {
        const age = (Date.now() - each.at) / spanMs
        return `${600 - 600 * age},${99 - (98 * valueOf(each, name)) / top}`
      })
      picture.append(svg('polyline', { points: points.join(' '), class: 'line' + index }))
    }
    const last = readings.findLast((each) => valueOf(each, name) >= 0)
    const [value, sign = ''] = last?.values[title][name] ?? []
    const text = last ? sign + shortly(value) : '–'
    return el('li', [name, ' ', el('b', text)], { className: 'line' + index })
  })
  const most = el('small', 'up to ' + shortly(top))
  return el('article', [el('h3', [title, ' ', most]), el('ul', legend), picture])
}

async function showLive() {
  const note = el('p', 'The first figures come in five seconds.')
  const area = el('div', [], { className: 'plots' })
  byId('view').append(el('h2', 'Live'), note, area)
  repeated = async () => {
    const { text } = await call('GET', '/metrics')
    const lines = [...text.matchAll(/^(\w.*) (\S+)$/gm)]
    const samples = new Map(lines.map(([, name, value]) => [name, Number(value)]))
    const now = { samples, at: Date.now() }
    const isRecent = ({ at }) => now.at - at < 600_000
    readings = readings.filter(isRecent)
    for (const [start, each] of counts) {
      if (!isRecent(each)) counts.delete(start)
    }
    const start = samples.get('process_start_time_seconds')
    const before = counts.get(start)
    counts.set(start, now)
    if (!before) return
    const values = {}
    for (const [title, measures] of Object.entries(plots)) {
      values[title] = {}
      for (const [name, measure] of Object.entries(measures)) {
        values[title][name] = [measure(now, before)].flat()
      }
    }
    readings.push({ start, at: now.at, values })
    note.textContent = `Instances that answered: ${counts.size}. The last ten minutes.`
    area.replaceChildren(...Object.entries(plots).flatMap(drawPlot))
  }
  await repeated()
}
