import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'

import type { Database } from './database/pool.ts'
import { AppError } from './errors.ts'
import type { Hasher } from './hasher.ts'
import { route, type Route } from './http/route.ts'
import type { Limiter } from './limiter.ts'
import type { Metrics } from './metrics.ts'

const answerWithinMs = 1800
const ok = { says: 'It works', body: { type: 'string', enum: ['OK'] } }

type Deps = { db: Database; metrics: Metrics; document: () => object }

/** Health, metrics, the document and the page that shows it; `document` is asked for once. */
export function healthRoutes({ db, metrics, document }: Deps): Route[] {
  const isHealthy = createHealthCheck(db)
  let json: string | undefined
  const page = readFileSync(new URL('docs.html', import.meta.url), 'utf8')
  const hash = (element: string) =>
    createHash('sha256').update(page.split(RegExp(`</?${element}>`))[1]!).digest('base64')
  const policy = `default-src 'none'; script-src 'sha256-${hash('script')}'; style-src 'sha256-${hash('style')}'; ` +
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
  const cacheable = { 'Cache-Control': 'public, max-age=300' }

  return [
    ...['/healthcheck', '/users/healthcheck'].map((path) =>
      route('GET', path, 'anyone', 'Whether the service and its database work', {
      throttled: false, replies: { 200: ok }, fails: ['database_unavailable'],
      handle: () => isHealthy().then(() => ({ status: 200, body: 'OK' })),
    })),
    route('GET', '/livez', 'anyone', 'Whether the process works', {
      throttled: false, replies: { 200: ok },
      handle: () => ({ status: 200, body: 'OK' }),
    }),
    route('GET', '/metrics', 'admin', 'Metrics for Prometheus', {
      replies: { 200: { says: 'Text format 0.0.4', raw: 'text/plain' } },
      handle: () => ({ status: 200, raw: { type: 'text/plain; version=0.0.4; charset=utf-8', text: metrics.text() } }),
    }),
    route('GET', '/openapi.json', 'anyone', 'This document', {
      replies: { 200: { says: 'OpenAPI 3.1', raw: 'application/json' } },
      handle: () => {
        json ??= JSON.stringify(document())
        return { status: 200, headers: cacheable, raw: { type: 'application/json', text: json } }
      },
    }),
    route('GET', '/docs', 'anyone', 'A page that shows this document and tries calls', {
      replies: { 200: { says: 'One page that loads nothing from elsewhere', raw: 'text/html' } },
      handle: () => ({
        status: 200,
        headers: { ...cacheable, 'Content-Security-Policy': policy, 'Referrer-Policy': 'no-referrer' },
        raw: { type: 'text/html; charset=utf-8', text: page },
      }),
    }),
  ]
}

/** Asks the database once for all who ask meanwhile; fails within two seconds. */
function createHealthCheck(db: Database): () => Promise<unknown> {
  let asking: Promise<unknown> | null = null
  const giveUp = () => Promise.reject(new AppError('database_unavailable', { retryAfterSeconds: 1 }))
  const ask = () => Promise.race([db.query('select'), sleep(answerWithinMs, null, { ref: false }).then(giveUp)])
  return () => (asking ??= ask().finally(() => void (asking = null)))
}

/** Registers what is read when the metrics are. */
export function registerGauges(
  metrics: Metrics, { db, hasher, limiter }: { db: Database; hasher: Hasher; limiter: Limiter | null },
): void {
  const delay = monitorEventLoopDelay({ resolution: 20 })
  delay.enable()
  const gauges: [string, string, () => number][] = [
    ['password_hashes_in_flight', 'Passwords being hashed.', () => hasher.load().inFlight],
    ['password_hashes_queued', 'Passwords waiting to be hashed.', () => hasher.load().queued],
    ['database_connections', 'Connections to the database.', () => db.connections().total],
    ['database_connections_idle', 'Connections that nobody uses now.', () => db.connections().idle],
    ['database_waiting', 'Calls waiting for a connection.', () => db.connections().waiting],
    ['throttle_clients', 'Clients whose bucket is not full.', () => limiter?.size() ?? 0],
    ['event_loop_delay_seconds', '99th percentile of the event loop’s delay since it was last read.', () => {
      const p99 = delay.percentile(99) / 1e9
      delay.reset()
      return Number.isFinite(p99) ? p99 : 0
    }],
    ['process_resident_memory_bytes', 'Resident memory.', () => process.memoryUsage.rss()],
    ['process_heap_bytes', 'Heap in use.', () => process.memoryUsage().heapUsed],
    ['process_cpu_seconds_total', 'CPU time used.', () => (process.cpuUsage().user + process.cpuUsage().system) / 1e6],
    ['process_start_time_seconds', 'Start, as Unix time.', () => performance.timeOrigin / 1000],
  ]
  for (const [name, help, read] of gauges) metrics.gauge(name, help, read)
}
