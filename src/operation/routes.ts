import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'

import type { Database } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import type { Hasher } from '../passwords/hasher.ts'
import { route, type Access, type Route } from '../http/route.ts'
import type { Limiter } from '../http/limiter.ts'
import type { Metrics } from '../http/metrics.ts'
import { oneOf } from '../schema.ts'

export type HealthDeps = {
  db: Database
  databases: Database[]
  hasher: Hasher
  limiter: Limiter | null
  metrics: Metrics
} & { version: string; commit: string; isStopping(): boolean }

const loopDelay = monitorEventLoopDelay({ resolution: 20 })
loopDelay.enable()

/** Health, metrics, the document and the page that shows it; `document` is asked for once. */
export function healthRoutes({
  document,
  ...deps
}: HealthDeps & { document: () => object }): Route[] {
  let json: string | undefined
  const page = readFileSync(new URL('docs.html', import.meta.url), 'utf8')
  const hash = (tag: string) =>
    createHash('sha256')
      .update(page.split(RegExp(`</?${tag}>`))[1]!)
      .digest('base64')
  const headers = {
    'Cache-Control': 'public, max-age=300',
    'Content-Security-Policy':
      `default-src 'none'; script-src 'sha256-${hash('script')}'; style-src 'sha256-${hash('style')}'; ` +
      "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'Referrer-Policy': 'no-referrer',
  }
  const late = new AppError('database_unavailable', { retryAfterSeconds: 1 })
  const giveUp = () => sleep(1800, null, { ref: false }).then(() => Promise.reject(late))
  let asking: Promise<unknown> | null = null
  /** Asks the database once for all who ask meanwhile; fails within two seconds. */
  const askDatabase = () => {
    if (deps.isStopping()) throw new AppError('stopping', { retryAfterSeconds: 1 })
    return (asking ??= Promise.race([deps.db.query('select'), giveUp()]).finally(() => {
      asking = null
    }))
  }

  const ok = { status: 200, body: 'OK' }
  const works = {
    throttled: false,
    replies: { 200: { says: 'It works', body: oneOf('OK').json } },
  } as const
  const file = (path: string, access: Access, summary: string, type: string, text: () => string) =>
    route({
      method: 'GET',
      path,
      operationId: fileIds[path]!,
      tag: 'operation',
      access,
      summary,
      replies: { 200: { says: summary, raw: type.replace(/;.*/, '') } },
      handle: () => ({
        status: 200,
        headers: access === 'anyone' ? headers : {},
        raw: { type, text: text() },
      }),
    })

  const fileIds: Record<string, string> = {
    '/metrics': 'getMetrics',
    '/openapi.json': 'getDocument',
    '/docs': 'getDocumentation',
  }

  return [
    ...['/healthcheck', '/users/healthcheck'].map((path) =>
      route({
        method: 'GET',
        path,
        operationId: path === '/healthcheck' ? 'checkHealth' : 'checkUsersHealth',
        tag: 'operation',
        access: 'anyone',
        summary: 'Whether the service and its database work',
        ...works,
        fails: ['database_unavailable', 'stopping'],
        handle: async () => (await askDatabase(), ok),
      }),
    ),
    route({
      method: 'GET',
      path: '/livez',
      operationId: 'checkLiveness',
      tag: 'operation',
      access: 'anyone',
      summary: 'Whether the process works',
      ...works,
      handle: () => ok,
    }),
    file(
      '/metrics',
      'admin',
      'Prometheus metrics',
      'text/plain; version=0.0.4; charset=utf-8',
      () => numbers(deps),
    ),
    file(
      '/openapi.json',
      'anyone',
      'This document',
      'application/json',
      () => (json ??= JSON.stringify(document())),
    ),
    file(
      '/docs',
      'anyone',
      'A page that shows this document and tries calls',
      'text/html; charset=utf-8',
      () => page,
    ),
  ]
}

function numbers({ databases, hasher, limiter, metrics, version, commit }: HealthDeps): string {
  const hashes = hasher.load()
  const sum = (what: 'total' | 'idle' | 'waiting') =>
    databases.reduce((n, each) => n + each.connections()[what], 0)
  const cpu = process.cpuUsage()
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
    ['process_resident_memory_bytes', 'Resident memory.', process.memoryUsage.rss()],
    ['process_cpu_seconds_total', 'CPU time used.', (cpu.user + cpu.system) / 1e6],
  ])
}
