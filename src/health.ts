import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

import type { Database } from './database/pool.ts'
import { AppError } from './errors.ts'
import type { Hasher } from './hasher.ts'
import { route, type Route } from './http/route.ts'
import type { Limiter } from './limiter.ts'
import type { Gauge, Metrics } from './metrics.ts'

export type HealthDeps =
  { db: Database; hasher: Hasher; limiter: Limiter | null; metrics: Metrics; version: string; commit: string }

/** Health, metrics, the document and the page that shows it; `document` is asked for once. */
export function healthRoutes({ document, ...deps }: HealthDeps & { document: () => object }): Route[] {
  let json: string | undefined
  const page = readFileSync(new URL('docs.html', import.meta.url), 'utf8')
  const hash = (element: string) =>
    createHash('sha256').update(page.split(RegExp(`</?${element}>`))[1]!).digest('base64')
  const headers = {
    'Cache-Control': 'public, max-age=300',
    'Content-Security-Policy':
      `default-src 'none'; script-src 'sha256-${hash('script')}'; style-src 'sha256-${hash('style')}'; ` +
      "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'Referrer-Policy': 'no-referrer',
  }
  const ok = { 200: { says: 'It works', body: { type: 'string', enum: ['OK'] } } }
  const isHealthy = createHealthCheck(deps.db)

  return [
    ...['/healthcheck', '/users/healthcheck'].map((path) =>
      route('GET', path, 'anyone', 'Whether the service and its database work', {
        throttled: false, replies: ok, fails: ['database_unavailable'],
        handle: () => isHealthy().then(() => ({ status: 200, body: 'OK' })),
      })),
    route('GET', '/livez', 'anyone', 'Whether the process works', {
      throttled: false, replies: ok, handle: () => ({ status: 200, body: 'OK' }),
    }),
    route('GET', '/metrics', 'admin', 'Metrics for Prometheus', {
      replies: { 200: { says: 'Text format 0.0.4', raw: 'text/plain' } },
      handle: () => {
        const text = deps.metrics.text(readGauges(deps))
        return { status: 200, raw: { type: 'text/plain; version=0.0.4; charset=utf-8', text } }
      },
    }),
    route('GET', '/openapi.json', 'anyone', 'This document', {
      replies: { 200: { says: 'OpenAPI 3.1', raw: 'application/json' } },
      handle: () =>
        ({ status: 200, headers, raw: { type: 'application/json', text: json ??= JSON.stringify(document()) } }),
    }),
    route('GET', '/docs', 'anyone', 'A page that shows this document and tries calls', {
      replies: { 200: { says: 'One page that loads nothing from elsewhere', raw: 'text/html' } },
      handle: () => ({ status: 200, headers, raw: { type: 'text/html; charset=utf-8', text: page } }),
    }),
  ]
}

/** Asks the database once for all who ask meanwhile; fails within two seconds. */
function createHealthCheck(db: Database): () => Promise<unknown> {
  let asking: Promise<unknown> | null = null
  async function giveUp() {
    await sleep(1800, null, { ref: false })
    throw new AppError('database_unavailable', { retryAfterSeconds: 1 })
  }
  return () => (asking ??= Promise.race([db.query('select'), giveUp()]).finally(() => { asking = null }))
}

function readGauges({ db, hasher, limiter, version, commit }: HealthDeps): Gauge[] {
  const [hashes, connections] = [hasher.load(), db.connections()]
  const [memory, cpu, loop] = [process.memoryUsage(), process.cpuUsage(), performance.eventLoopUtilization()]
  return [
    [`build_info{version="${version}",commit="${commit}"}`, 'The build that runs.', 1],
    ['password_hashes_in_flight', 'Passwords being hashed.', hashes.inFlight],
    ['password_hashes_queued', 'Passwords waiting to be hashed.', hashes.queued],
    ['database_connections', 'Connections to the database.', connections.total],
    ['database_connections_idle', 'Connections that nobody uses now.', connections.idle],
    ['database_waiting', 'Calls waiting for a connection.', connections.waiting],
    ['throttle_clients', 'Clients whose bucket is not full.', limiter?.size() ?? 0],
    ['event_loop_busy_seconds_total', 'Time that the event loop was busy.', loop.active / 1000],
    ['process_resident_memory_bytes', 'Resident memory.', memory.rss],
    ['process_heap_bytes', 'Heap in use.', memory.heapUsed],
    ['process_cpu_seconds_total', 'CPU time used.', (cpu.user + cpu.system) / 1e6],
    ['process_start_time_seconds', 'Start, as Unix time.', performance.timeOrigin / 1000],
  ]
}
