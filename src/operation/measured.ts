// What is measured when metrics are read. The names of what is ours begin with user_service_;
// http_* and process_* are Prometheus' own conventions.
import { readdirSync, readFileSync } from 'node:fs'
import { monitorEventLoopDelay } from 'node:perf_hooks'

import type { Database } from '../database/pool.ts'
import type { Limiter } from '../http/limiter.ts'
import type { Metrics } from '../http/metrics.ts'
import type { Hasher } from '../passwords/hasher.ts'

/** What is measured, and the build that it is measured of. */
export interface MeasuredDeps {
  databases: Database[]
  hasher: Hasher
  limiter: Limiter | null
  metrics: Metrics
  version: string
  commit: string
}

const loopDelay = monitorEventLoopDelay({ resolution: 20 })
loopDelay.enable()

/** All metrics, in Prometheus' text format 0.0.4. */
export function measure({ databases, hasher, limiter, metrics, version, commit }: MeasuredDeps) {
  const hashes = hasher.load()
  const sum = (what: 'total' | 'idle' | 'waiting') =>
    databases.reduce((n, each) => n + each.connections()[what], 0)
  const delay = Math.max(0, loopDelay.percentile(99) / 1e9 - 0.02)
  loopDelay.reset()
  return metrics.text([
    [`build_info{version="${version}",commit="${commit}"}`, 'The build that runs.', 1],
    ['throttled_total', 'Requests refused by the throttle.', metrics.failures('throttled')],
    [
      'overloaded_total',
      'Requests refused because too many wait before them.',
      metrics.failures('overloaded'),
    ],
    [
      'failed_logins_total',
      'Wrong passwords and unknown addresses.',
      metrics.failures('invalid_credentials'),
    ],
    [
      'login_throttled_total',
      'Log-ins refused because of failed ones before.',
      metrics.failures('login_throttled'),
    ],
    ['password_hashes_in_flight', 'Passwords being hashed.', hashes.inFlight],
    ['password_hashes_queued', 'Passwords waiting to be hashed.', hashes.queued],
    ['database_connections', 'Connections to the database.', sum('total')],
    ['database_connections_idle', 'Connections that nobody uses now.', sum('idle')],
    ['database_waiting', 'Calls waiting for a connection.', sum('waiting')],
    ['throttle_clients', 'Clients whose buckets are remembered.', limiter?.size() ?? 0],
    [
      'event_loop_delay_seconds',
      'How late the event loop was since this was last read: 99th percentile.',
      delay,
    ],
    ...processMetrics(),
  ])
}

const startTime = Date.now() / 1000 - process.uptime()

/** What Prometheus' own clients tell of a process; files only where /proc has them. */
function processMetrics(): [string, string, number][] {
  const cpu = process.cpuUsage()
  const measured: [string, string, number][] = [
    ['process_resident_memory_bytes', 'Resident memory.', process.memoryUsage.rss()],
    ['process_cpu_seconds_total', 'CPU time used.', (cpu.user + cpu.system) / 1e6],
    ['process_start_time_seconds', 'When the process started, in Unix time.', startTime],
  ]
  const files = countFiles()
  if (files) {
    measured.push(['process_open_fds', 'Open files and sockets.', files.open])
    measured.push(['process_max_fds', 'How many may be open.', files.max])
  }
  return measured
}

function countFiles(): { open: number; max: number } | null {
  try {
    const limit = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))
    // One of them is the listing's own.
    return { open: readdirSync('/proc/self/fd').length - 1, max: Number(limit?.[1] ?? Infinity) }
  } catch {
    return null
  }
}
