// One way in, one way out. In this order, each step refusing before the next is paid for: request id,
// client, route, throttle, key, access, path and query, body, handler. Only this file writes answers,
// one log line and the metrics of each. What a handler throws is either an AppError, whose every part
// may be shown, or a 500 with a fixed text and the reason in the log.
import { randomUUID } from 'node:crypto'
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http'

import { AppError, failures } from '../errors.ts'
import type { Limiter } from './limiter.ts'
import { describeError, type Log } from '../log.ts'
import type { Metrics } from './metrics.ts'
import { check, isUuid, object } from '../schema.ts'
import { discardBody, hasBody, readBody } from './body.ts'
import type { Client } from './address.ts'
import type { Caller, Origin, Reply, Route } from './route.ts'
import type { createRouter } from './router.ts'

export interface PipelineOptions {
  basePath: string
  router: ReturnType<typeof createRouter>
  /** Throws `key_missing` or `key_invalid`. */
  identify(headers: IncomingHttpHeaders): Promise<Caller>
  readClient(req: IncomingMessage): Client
  /** `policy`: the RateLimit-Policy header. Null: nobody is throttled. */
  throttle: { limiter: Limiter; policy: string } | null
  corsOrigins: string[]
  secure: boolean
  log: Log
  metrics: Metrics
}

export type Pipeline = (
  req: IncomingMessage,
  res: ServerResponse,
  refusal?: AppError,
) => Promise<void>

/** What is known of a request by the time it is answered; `headers` go with whatever the answer is. */
interface Exchange {
  req: IncomingMessage
  res: ServerResponse
  origin: Origin
  route: Route | undefined
  caller: Caller | null
  headers: Record<string, string>
}

/** Answers every request; `refusal`: one that was already refused. Never rejects. */
export function createPipeline(options: PipelineOptions): Pipeline {
  const { basePath, router, identify, readClient, throttle, corsOrigins, log, metrics } = options
  const common: Record<string, string> = {
    'Cache-Control': 'no-store',
    'X-Content-Type-Options': 'nosniff',
    ...(options.secure && {
      'Strict-Transport-Security': 'max-age=31536000',
      'Referrer-Policy': 'no-referrer',
      'X-Frame-Options': 'DENY',
      'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
    }),
    ...(corsOrigins.length > 0 && { Vary: 'Origin' }),
  }

  async function run(exchange: Exchange): Promise<Reply> {
    const { req, res, origin, headers } = exchange
    const method = req.method!
    const [target, search] = splitTarget(req.url!)
    const found = target.startsWith(`${basePath}/`)
      ? router(method, target.slice(basePath.length))
      : null
    if (found && 'route' in found) exchange.route = found.route
    const isThrottled =
      found === null || ('route' in found ? found.route : found).throttled !== false
    if (isThrottled && throttle !== null) {
      const { allowed, left, resetSeconds, retryAfterSeconds } = throttle.limiter.take(
        origin.client,
      )
      headers['RateLimit-Policy'] = throttle.policy
      headers['RateLimit'] = `"default";r=${left};t=${resetSeconds}`
      if (!allowed) throw new AppError('throttled', { retryAfterSeconds })
    }
    if (target === '*' && method === 'OPTIONS')
      return { status: 204, headers: { Allow: 'OPTIONS' } }
    if (found === null) throw new AppError('not_found')
    if ('allow' in found) {
      headers['Allow'] = found.allow
      if (method !== 'OPTIONS') throw new AppError('method_not_allowed')
      const isPreflight = req.headers['access-control-request-method'] !== undefined
      return {
        status: 204,
        headers: isPreflight ? { ...preflight, 'Access-Control-Allow-Methods': found.allow } : {},
      }
    }

    const { route, params } = found
    const isKeyless =
      route.access === 'anyone' ||
      (route.access === 'optional' && !req.headers['x-api-key'] && !req.headers.authorization)
    const caller = (exchange.caller = isKeyless ? null : await identify(req.headers))
    const isAdmin = caller?.role === 'admin'
    if (route.access === 'admin' && !isAdmin) throw new AppError('forbidden')
    for (const name in params) {
      if (!isUuid(params[name]!)) throw new AppError('invalid_id')
      params[name] = params[name]!.toLowerCase()
    }
    if (route.access === 'self' && !isAdmin && caller?.userId !== params['id'])
      throw new AppError('forbidden')
    const query =
      route.query === undefined
        ? {}
        : check(object({}, route.query), readQuery(search), 'invalid_query')
    const body =
      route.body === undefined
        ? undefined
        : check(
            route.body,
            route.bodyOptional && !hasBody(req) ? {} : await readBody(req, res),
            'invalid_body',
          )
    return route.handle({ caller, origin, headers: req.headers, params, query, search, body })
  }

  function fail({ origin: { requestId }, route }: Exchange, error: unknown): Reply {
    const { code, message, faults, retryAfterSeconds } =
      error instanceof AppError ? error : new AppError('internal')
    const { status } = failures[code]
    const headers: Record<string, string> = {}
    if (retryAfterSeconds !== undefined) headers['Retry-After'] = String(retryAfterSeconds)
    if (status === 401) {
      const reason = code === 'key_invalid' ? ', error="invalid_token"' : ''
      headers['WWW-Authenticate'] = `Bearer realm="user-service"${reason}`
    }
    metrics.failure(code)
    const details = code === 'invalid_body' ? (route?.bodySentence ?? message) : message
    const errors = faults.map(({ field, message }) => ({ field: field || 'body', message }))
    const envelope = {
      requestId,
      status: 'ERROR',
      details,
      code,
      ...(errors.length > 0 && { errors }),
    }
    return { status, headers, raw: { type: 'application/json', text: JSON.stringify(envelope) } }
  }

  /** Writes the answer and returns its status, for the log: 499 when nobody is there to read it. */
  function send({ req, res, origin: { requestId }, headers }: Exchange, reply: Reply): number {
    const { status, body, raw } = reply
    const isGone = req.socket.destroyed
    const all: Record<string, string> = { 'X-Request-Id': requestId, ...common, ...headers }
    if (corsOrigins.includes(req.headers.origin ?? '')) {
      all['Access-Control-Allow-Origin'] = req.headers.origin!
      all['Access-Control-Expose-Headers'] = exposed
    }
    Object.assign(all, reply.headers)
    const text =
      body === undefined
        ? raw?.text
        : JSON.stringify({ requestId, status: 'SUCCESS', details: body })
    if (text !== undefined) all['Content-Type'] = raw?.type ?? 'application/json'
    if (status !== 204 && status !== 304)
      all['Content-Length'] = String(Buffer.byteLength(text ?? ''))
    if (!req.complete && hasBody(req)) discardBody(req)
    res.writeHead(status, all)
    res.end(text)
    return isGone ? 499 : status
  }

  return async (req, res, refusal) => {
    const start = performance.now()
    const sent = req.headers['x-request-id']
    const requestId = typeof sent === 'string' && idPattern.test(sent) ? sent : randomUUID()
    const origin = { requestId, ...readClient(req) }
    const exchange: Exchange = { req, res, origin, route: undefined, caller: null, headers: {} }
    let status = 0
    let failure: unknown
    try {
      if (refusal !== undefined) throw refusal
      status = send(exchange, await run(exchange))
    } catch (error) {
      failure = error
      status = send(exchange, fail(exchange, error))
    }

    const ms = performance.now() - start
    const { caller, route } = exchange
    const path = route?.path ?? 'none'
    metrics.request(methods.has(req.method!) ? req.method! : 'other', path, status, ms / 1000)
    const hidden = failure instanceof AppError ? failure.cause : failure
    log(status === 500 ? 'error' : hidden === undefined ? 'info' : 'warn', 'request', {
      requestId,
      method: req.method,
      route: path,
      status,
      ms: Math.round(ms * 100) / 100,
      address: origin.address,
      ...(caller && { user: caller.userId, key: caller.keyId }),
      ...(failure instanceof AppError && { failure: failure.code }),
      ...(hidden !== undefined && describeError(hidden)),
    })
  }
}

const preflight = {
  'Access-Control-Allow-Headers':
    'Authorization, Content-Type, If-Match, If-None-Match, X-Api-Key, X-Request-Id',
  'Access-Control-Max-Age': '600',
}
const exposed = 'ETag, Link, Location, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id'
const idPattern = /^[A-Za-z0-9._-]{1,64}$/
const methods = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])

/** Path and query of a request target, whose scheme and host, if it has them, are not looked at. */
function splitTarget(url: string): [path: string, search: string] {
  const target = url.startsWith('/') ? url : url.replace(/^https?:\/\/[^/?#]*/i, '')
  const mark = target.indexOf('?')
  return mark < 0 ? [target, ''] : [target.slice(0, mark), target.slice(mark + 1)]
}

/** The members of a query; one that is repeated is no text, and so is refused. */
function readQuery(search: string): object {
  const given: Record<string, unknown> = Object.create(null)
  for (const [name, value] of new URLSearchParams(search)) given[name] = name in given ? [] : value
  return given
}
