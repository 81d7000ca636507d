// What operators need: health for monitors and balancers, metrics for Prometheus, and the document
// of the API with the page that shows it.
import { hash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

import { causeOf } from '../database/codes.ts'
import { checkTables } from '../database/grants.ts'
import type { Database } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import { route, type Reply } from '../http/route.ts'
import { findCallers } from '../keys/queries.ts'
import { oneOf } from '../schema.ts'
import { measure, type MeasuredDeps } from './gauges.ts'

/** What health, metrics and the document need. */
export interface OperationDeps extends MeasuredDeps {
  db: Database
  isStopping(): boolean
  basePath: string
  /** Makes the document of all routes; called once. */
  document(): object
}

/** Health, metrics, the document and the page that shows it. */
export function operationRoutes(deps: OperationDeps) {
  const checkDatabase = createDatabaseCheck(deps)
  const { text, headers } = makePage('docs', ['elements', 'docs'])
  const ok = { body: 'OK' }
  const probe = {
    tag: 'operation',
    access: 'anyone',
    throttled: false,
    quiet: true,
    replies: { 200: { says: 'It works', body: oneOf('OK').json } },
  } as const
  const health = {
    ...probe,
    summary: 'Whether the service and its database work',
    fails: ['database_unavailable', 'stopping'],
    async handle() {
      await checkDatabase()
      return ok
    },
  } as const

  return [
    route('GET /healthcheck', { ...health, operationId: 'checkHealth' }),
    route('GET /users/healthcheck', { ...health, operationId: 'checkUsersHealth' }),
    route('GET /livez', {
      ...probe,
      operationId: 'checkLiveness',
      summary: 'Whether the process works',
      handle: () => ok,
    }),
    route('GET /metrics', {
      operationId: 'getMetrics',
      tag: 'operation',
      access: 'admin',
      scope: 'metrics',
      summary: 'Prometheus metrics',
      replies: { 200: { says: 'In the text format 0.0.4', raw: 'text/plain' } },
      async handle() {
        const text = await measure(deps)
        return { raw: { type: 'text/plain; version=0.0.4; charset=utf-8', text } }
      },
    }),
    fileRoute({
      path: '/openapi.json',
      operationId: 'getDocument',
      summary: 'This document',
      type: 'application/json',
      make: () => `${JSON.stringify(deps.document())}\n`,
    }),
    fileRoute({
      path: '/docs',
      operationId: 'getDocumentation',
      summary: 'A page that shows this document and tries calls',
      type: 'text/html; charset=utf-8',
      headers,
      make: () => text,
    }),
    ...landingRoutes(deps.basePath),
  ]
}

/** Leads a browser that opens the service to the page. */
function landingRoutes(basePath: string) {
  const page = `${basePath}/docs`
  const paths = ['/', '/docs', '/docs/', basePath, `${basePath}/`]
  return paths
    .filter((path) => path !== '' && path !== page)
    .map((path) =>
      route(`GET ${path}`, {
        operationId: 'land',
        tag: 'operation',
        access: 'anyone',
        atRoot: true,
        undocumented: true,
        summary: 'To the page',
        replies: { 302: { says: 'It is there', headers: ['Location'] } },
        handle() {
          // Relative, since a gateway may serve the service below a path of its own.
          const up = '../'.repeat(path.split('/').length - 2)
          return { headers: { Location: up + page.slice(1) } }
        },
      }),
    )
}

/** The digest of no key: looking it up finds nobody, and shows that looking up keys works. */
const digestOfNone = Buffer.alloc(32)

/**
 * Looks up a key, once for all checks at the same time, and whether all tables are as they must be,
 * which takes PostgreSQL a millisecond or two, once a second; fails within two seconds.
 */
function createDatabaseCheck({ db, isStopping }: OperationDeps) {
  let asking: Promise<void> | null = null
  let tablesCheckedAt = -Infinity

  async function lookUp() {
    await findCallers(db, [digestOfNone], 0)
    if (performance.now() - tablesCheckedAt < 1000) return
    await checkTables(db)
    tablesCheckedAt = performance.now()
  }

  async function ask() {
    const late = sleep(1800, 'late', { ref: false })
    let cause: unknown
    try {
      if ((await Promise.race([lookUp(), late])) !== 'late') return
    } catch (error) {
      // Any failure counts, a lost table or privilege too: requests fail likewise.
      cause = causeOf(error)
    } finally {
      asking = null
    }
    throw new AppError('database_unavailable', { retryAfterSeconds: 1, cause })
  }

  return async () => {
    if (isStopping()) throw new AppError('stopping', { retryAfterSeconds: 1 })
    asking ??= ask()
    await asking
  }
}

interface FileSpec {
  path: string
  operationId: string
  summary: string
  type: string
  headers?: Record<string, string>
  /** Makes the text; called at the first request. */
  make(): string
}

/** A text that is the same until the process ends, for anyone, with an ETag. */
export function fileRoute({ path, type, headers, make, ...spec }: FileSpec) {
  let reply: Reply | undefined
  function makeReply() {
    const text = make()
    const ETag = `"${hashOf(text).slice(0, 22)}"`
    const all = { 'Cache-Control': 'public, max-age=300', ETag, ...headers }
    return { headers: all, raw: { type, text } }
  }
  return route(`GET ${path}`, {
    ...spec,
    tag: 'operation',
    access: 'anyone',
    replies: {
      200: { says: spec.summary, raw: type.replace(/;.*/, ''), headers: ['ETag'] },
      304: { says: 'It is as `If-None-Match` has it', headers: ['ETag'] },
    },
    handle() {
      reply ??= makeReply()
      return reply
    },
  })
}

const hashOf = (text: string) => hash('sha256', text, 'base64')

/** A page in one file, with its scripts joined, and the headers that name script and style. */
export function makePage(name: string, scripts: string[]) {
  const read = (file: string) => readFileSync(new URL(file, import.meta.url), 'utf8')
  const style = read(`${name}.css`)
  const script = scripts.map((each) => read(`${each}.js`)).join('\n')
  const text = read(`${name}.html`)
    .replace('</style>', (end) => style + end)
    .replace('</script>', (end) => script + end)
  // The page runs its own script, asks this origin only, and makes no markup from text.
  const policy = [
    "default-src 'none'",
    `script-src 'sha256-${hashOf(script)}'`,
    `style-src 'sha256-${hashOf(style)}'`,
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join('; ')
  const headers = {
    'Content-Security-Policy': policy,
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Referrer-Policy': 'no-referrer',
  }
  return { text, headers }
}
