// One way in, one way out. In this order, each step refusing before the next is paid for: request id,
// client, route, throttle, key, access, path and query, body, handler. Only this file writes answers,
// one log line and the metrics of each. What a handler throws is either an AppError, whose every part
// may be shown, or a 500 with a fixed text and the reason in the log.
import { randomUUID } from 'node:crypto'
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http'

import { AppError, failures, type Code } from '../errors.ts'
import type { Limiter } from '../limiter.ts'
import { describeError, type Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import { check, isUuid, object } from '../schema.ts'
import { discardBody, hasBody, readBody } from './body.ts'
import type { Client } from './client.ts'
import type { Caller, Reply, Route } from './route.ts'
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

export type Pipeline = (req: IncomingMessage, res: ServerResponse, refusal?: AppError) => Promise<void>

interface Exchange {
  req: IncomingMessage
  res: ServerResponse
  origin: Client & { requestId: string }
  route: Route | undefined
  caller: Caller | null
  headers: Record<string, string>
}

/** Answers every request; `refusal`: one that was already refused. Never rejects. */
export function createPipeline(options: PipelineOptions): Pipeline {
  const { basePath, router, identify, readClient, throttle, log, metrics } = options
  const common: Record<string, string> = {
    'Cache-Control': 'no-store',
    'X-Content-Type-Options': 'nosniff',
    ...(options.secure && {
      'Strict-Transport-Security': 'max-age=31536000',
      'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
      'X-Frame-Options': 'DENY',
      'Referrer-Policy': 'no-referrer',
    }),
    ...(options.corsOrigins.length > 0 && { Vary: 'Origin' }),
  }

  async function run(exchange: Exchange): Promise<Reply> {
    const { req, res, origin } = exchange
    const method = req.method ?? ''
    const [target, search] = splitTarget(req.url ?? '')
    const path = target.startsWith(`${basePath}/`) ? target.slice(basePath.length) : null
    const found = path === null ? null : router(method, path)
    if (found && 'route' in found) exchange.route = found.route
    if (exchange.route?.throttled !== false && throttle !== null) {
      const { allowed, left, resetSeconds, retryAfterSeconds } = throttle.limiter.take(origin.client)
      exchange.headers['RateLimit-Policy'] = throttle.policy
      exchange.headers['RateLimit'] = `"default";r=${left};t=${resetSeconds}`
      if (!allowed) throw new AppError('throttled', { retryAfterSeconds })
    }
    if (target === '*' && method === 'OPTIONS') return { status: 204, headers: { Allow: 'OPTIONS' } }
    if (found === null) throw new AppError('not_found')
    if ('allow' in found) {
      exchange.headers['Allow'] = found.allow
      const isPreflight = req.headers['access-control-request-method'] !== undefined
      if (isPreflight) exchange.headers['Access-Control-Allow-Methods'] = found.allow
      if (method === 'OPTIONS') return { status: 204, ...(isPreflight && { headers: preflight }) }
      throw new AppError('method_not_allowed')
    }

    const { route, params } = found
    const caller = (exchange.caller = await authenticate(route, req.headers))
    if (route.access === 'admin' && caller?.role !== 'admin') throw new AppError('forbidden')
    for (const name in params) {
      if (!isUuid(params[name]!)) throw new AppError('invalid_id')
      params[name] = params[name]!.toLowerCase()
    }
    if (route.access === 'self' && caller?.role !== 'admin' && caller?.userId !== params['id']) {
      throw new AppError('forbidden')
    }
    const query: object = route.query === undefined ? {} : parseQuery(route, search)
    const body = route.body === undefined ? undefined : await parseBody(route, req, res)
    return route.handle({ caller, origin, headers: req.headers, params, query, search, body })
  }

  function authenticate(route: Route, headers: IncomingHttpHeaders): Promise<Caller> | null {
    if (route.access === 'anyone') return null
    if (route.access === 'optional' && !headers['x-api-key'] && !headers.authorization) return null
    return identify(headers)
  }

  function fail(exchange: Exchange, error: unknown): Reply {
    const known = error instanceof AppError ? error : new AppError('internal')
    const { code, message, faults, retryAfterSeconds } = known
    const { status } = failures[code]
    const headers: Record<string, string> = {}
    if (retryAfterSeconds !== undefined) headers['Retry-After'] = String(retryAfterSeconds)
    if (status === 401) {
      const more = code === 'key_invalid' ? ', error="invalid_token"' : ''
      headers['WWW-Authenticate'] = `Bearer realm="user-service"${more}`
    }
    if (code in counted) metrics.count(counted[code]!)
    const text = JSON.stringify({
      requestId: exchange.origin.requestId, status: 'ERROR', details: message, code,
      ...(faults.length > 0 && {
        errors: faults.map(({ field, message }) => ({ field: field || 'body', message })),
      }),
    })
    return { status, headers, raw: { type: 'application/json', text } }
  }

  /** Writes the answer and returns its status, for the log: 499 when nobody is there to read it. */
  function send({ req, res, origin, headers }: Exchange, reply: Reply): number {
    const { status, body, raw } = reply
    const isGone = req.socket.destroyed
    const all: Record<string, string> = { 'X-Request-Id': origin.requestId, ...common, ...headers }
    if (options.corsOrigins.includes(req.headers.origin ?? '')) {
      all['Access-Control-Allow-Origin'] = req.headers.origin!
      all['Access-Control-Expose-Headers'] =
        'ETag, Link, Location, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id'
    }
    Object.assign(all, reply.headers)
    const text = body === undefined
      ? raw?.text
      : JSON.stringify({ requestId: origin.requestId, status: 'SUCCESS', details: body })
    if (text !== undefined) all['Content-Type'] = raw?.type ?? 'application/json'
    if (status !== 204 && status !== 304) all['Content-Length'] = String(Buffer.byteLength(text ?? ''))
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
      requestId, method: req.method, route: path, status, ms: Math.round(ms * 100) / 100,
      address: origin.address,
      ...(caller && { user: caller.userId, key: caller.keyId }),
      ...(failure instanceof AppError && { failure: failure.code }),
      ...(hidden !== undefined && describeError(hidden)),
    })
  }
}

const counted: Partial<Record<Code, string>> = {
  throttled: 'throttled_total',
  overloaded: 'overloaded_total',
  invalid_credentials: 'failed_logins_total',
  login_throttled: 'login_throttled_total',
}
const preflight = {
  'Access-Control-Allow-Headers': 'Authorization, Content-Type, If-Match, If-None-Match, X-Api-Key, X-Request-Id',
  'Access-Control-Max-Age': '600',
}
const idPattern = /^[A-Za-z0-9._-]{1,64}$/
const methods = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])

/** Path and query of a request target, whose scheme and host, if it has them, are not looked at. */
function splitTarget(url: string): [path: string, search: string] {
  const target = url.startsWith('/') ? url : url.replace(/^https?:\/\/[^/?#]*/i, '')
  const mark = target.indexOf('?')
  return mark < 0 ? [target, ''] : [target.slice(0, mark), target.slice(mark + 1)]
}

function parseQuery(route: Route, search: string): object {
  const params = new URLSearchParams(search)
  const given: Record<string, unknown> = Object.create(null)
  // What comes twice is a list, whose items nobody asks for.
  for (const [name, value] of params) given[name] = name in given ? [] : value
  const checked = check(object({}, route.query!), given)
  if ('value' in checked) return checked.value
  throw new AppError('invalid_query', { faults: checked.faults })
}

async function parseBody(route: Route, req: IncomingMessage, res: ServerResponse): Promise<unknown> {
  const sentence = route.bodySentence ?? failures.invalid_body.sentence
  try {
    const value = route.bodyOptional && !hasBody(req) ? {} : await readBody(req, res)
    const checked = check(route.body!, value)
    if ('value' in checked) return checked.value
    const code = checked.code ?? 'invalid_body'
    throw new AppError(code, { faults: checked.faults, ...(code === 'invalid_body' && { sentence }) })
  } catch (error) {
    if (!(error instanceof AppError) || error.code !== 'invalid_body') throw error
    throw new AppError('invalid_body', { faults: error.faults, sentence })
  }
}
