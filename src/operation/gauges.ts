// Measures that are taken when metrics are read. Our own names begin with user_service_; http_* and
// process_* follow Prometheus' conventions.
import { readdirSync, readFileSync } from 'node:fs'

import type { Database } from '../database/pool.ts'
import type { Limiter } from '../http/token-bucket.ts'
import { createHistogram, family, observe, type Histogram, type Metrics } from '../http/metrics.ts'
import type { Hasher } from '../passwords/hasher.ts'
import type { Sender } from '../webhooks/sender.ts'

/** What is measured, and the running build. */
export interface MeasuredDeps {
  databases: Database[]
  hasher: Hasher
  limiter: Limiter | null
  metrics: Metrics
  /** Null: there is no webhook. */
  sender: Sender | null
  version: string
  commit: string
}

/** All metrics, in Prometheus' text format 0.0.4. */
export async function measure(deps: MeasuredDeps) {
  const { databases, hasher, limiter, metrics, sender, version, commit } = deps
  const hashes = hasher.load()
  const sum = (what: 'total' | 'idle' | 'waiting') =>
    databases.reduce((n, each) => n + each.connections()[what], 0)
  const build = `{version="${version}",commit="${commit}"}`
  return [
    metrics.text(),
    family('user_service_build_info', 'The build that runs.', new Map([[build, 1]])),
    gauge('user_service_password_hashes_in_flight', 'Passwords being hashed.', hashes.inFlight),
    gauge('user_service_password_hashes_queued', 'Passwords waiting to be hashed.', hashes.queued),
    gauge('user_service_database_connections', 'Connections to the database.', sum('total')),
    gauge(
      'user_service_database_connections_idle',
      'Connections that nobody uses now.',
      sum('idle'),
    ),
    gauge('user_service_database_waiting', 'Calls waiting for a connection.', sum('waiting')),
    gauge(
      'user_service_throttle_clients',
      'Clients whose buckets are remembered.',
      limiter?.size() ?? 0,
    ),
    gauge('user_service_event_loop_delay_seconds', 'How late timers of 20 ms were.', loopDelays),
    ...Object.entries((await sender?.measure()) ?? {}).map(([name, value]) =>
      gauge(name, webhookHelp[name]!, value),
    ),
    ...processMetrics(),
  ].join('')
}

const webhookHelp: Record<string, string> = {
  webhook_outbox: 'Events and requests that wait for the receiver.',
  webhook_outbox_oldest_seconds: 'For how long the oldest of them has.',
  webhook_given_up: 'Events that were given up.',
  webhook_delivered_total: 'Events that the receiver took.',
  webhook_failed_total: 'Attempts that it did not.',
}

const gauge = (name: string, help: string, value: number | Histogram) =>
  family(name, help, new Map([['', value]]))

// Counted since the start, so that any number of scrapers see the same.
const loopDelays = createHistogram([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5])
let due = performance.now() + 20
setInterval(() => {
  const now = performance.now()
  observe(loopDelays, Math.max(0, now - due) / 1000)
  due = now + 20
}, 20).unref()

const startTime = Date.now() / 1000 - process.uptime()

/** What Prometheus' own clients tell of a process. */
function processMetrics() {
  const cpu = process.cpuUsage()
  return [
    gauge('process_resident_memory_bytes', 'Resident memory.', process.memoryUsage.rss()),
    gauge('process_cpu_seconds_total', 'CPU time used.', (cpu.user + cpu.system) / 1e6),
    gauge('process_start_time_seconds', 'When the process started, in Unix time.', startTime),
    ...fileMetrics(),
  ]
}

function fileMetrics() {
  try {
    const limits = readFileSync('/proc/self/limits', 'utf8')
    const most = /^Max open files +(\d+)/m.exec(limits)?.[1] ?? Infinity
    // One of them is the listing's own.
    const open = readdirSync('/proc/self/fd').length - 1
    return [
      gauge('process_open_fds', 'Open files and sockets.', open),
      gauge('process_max_fds', 'How many may be open.', Number(most)),
    ]
  } catch {
    // Not on Linux.
    return []
  }
}
