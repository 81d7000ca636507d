// One way in, one way out. In this order, each step refusing before the next is paid for: request
// id, client, route, throttle, key, ids of the path, access, query, body, handler. Only this file
// writes answers, one log line and the metrics of each. An AppError that a handler throws may be
// shown in every part; anything else is a 500 with a fixed text and the reason in the log.
import { randomUUID } from 'node:crypto'
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http'

import { AppError, failures } from '../errors.ts'
import { describeError, type Log } from '../log.ts'
import { check, isUuid, object, type Schema } from '../schema.ts'
import { authorize, requireFresh } from './access.ts'
import type { Client } from './address.ts'
import { discardBody, hasBody, readBody } from './body.ts'
import type { Limiter } from './limiter.ts'
import type { Metrics } from './metrics.ts'
import { createRefusalLog } from './refusals.ts'
import type { Caller, Origin, Reply, Route } from './route.ts'
import type { Router } from './router.ts'

/** What the steps need. */
export interface PipelineOptions {
  router: Router
  /** Throws `key_missing`, `key_invalid` or `overloaded`: clients take turns. */
  identify(headers: IncomingHttpHeaders, client: string): Promise<Caller>
  readClient(req: IncomingMessage): Client
  /** `policy`: the RateLimit-Policy header. Null: nobody is throttled. */
  throttle: { limiter: Limiter; policy: string } | null
  /** How long ago the log-in of a session may be that changes who holds an account; 0: any time. */
  freshSeconds: number
  corsOrigins: string[]
  secure: boolean
  log: Log
  metrics: Metrics
}

/** Answers every request; `refusal`: of one that was already refused. Never rejects. */
export type Pipeline = (
  req: IncomingMessage,
  res: ServerResponse,
  refusal?: AppError,
) => Promise<void>

/** What is known of a request by the time it is answered. */
interface Exchange {
  req: IncomingMessage
  res: ServerResponse
  origin: Origin
  route: Route | undefined
  caller: Caller | null
  /** Those of the answer, whatever it is. */
  headers: Record<string, string>
}

/** Puts the steps together. */
export function createPipeline(options: PipelineOptions): Pipeline {
  const { readClient, log, metrics } = options
  const answer = createAnswer(options)
  const send = createSend(options)
  const logRefusal = createRefusalLog(log)

  function record(exchange: Exchange, outcome: { status: number; ms: number; failure: unknown }) {
    const { req, origin, caller, route } = exchange
    const { status, ms, failure } = outcome
    const path = route?.path ?? 'none'
    const method = methods.has(req.method!) ? req.method! : 'other'
    metrics.request({ method, route: path, status, seconds: ms / 1000 })
    const hidden = failure instanceof AppError ? failure.cause : failure
    const fields = {
      requestId: origin.requestId,
      method: req.method,
      route: path,
      status,
      ms: Math.round(ms * 100) / 100,
      address: origin.address,
      ...(caller !== null && { user: caller.userId, key: caller.keyId }),
      ...(failure instanceof AppError && { failure: failure.code }),
      ...(hidden !== undefined && describeError(hidden)),
    }
    const isRefused = hidden === undefined && (failure !== undefined || status === 499)
    if (isRefused) logRefusal(origin.client, 'request', fields)
    else log(levelOf({ status, hidden, route }), 'request', fields)
  }

  return async (req, res, refusal) => {
    const start = performance.now()
    const origin = { requestId: requestIdOf(req), ...readClient(req) }
    const exchange: Exchange = { req, res, origin, route: undefined, caller: null, headers: {} }
    let status = 0
    let failure: unknown
    try {
      if (refusal !== undefined) throw refusal
      status = send(exchange, await answer(exchange))
    } catch (error) {
      failure = error
      const refused = error instanceof AppError ? error : new AppError('internal')
      metrics.failure(refused.code)
      status = send(exchange, describeFailure(exchange, refused))
    }
    record(exchange, { status, ms: performance.now() - start, failure })
  }
}

/** The steps from the route to the handler's reply; each throws an AppError to refuse. */
function createAnswer(options: PipelineOptions) {
  const { router, identify, throttle, freshSeconds } = options

  function takeToken({ origin, headers }: Exchange) {
    if (throttle === null) return
    const verdict = throttle.limiter.take(origin.client)
    headers['RateLimit-Policy'] = throttle.policy
    headers['RateLimit'] = `"default";r=${verdict.left};t=${verdict.resetSeconds}`
    if (verdict.allowed) return
    throw new AppError('throttled', { retryAfterSeconds: verdict.retryAfterSeconds })
  }

  function authenticate({ access }: Route, { req: { headers }, origin }: Exchange) {
    const isKeyless = access === 'anyone' || (access === 'optional' && !presentsKey(headers))
    return isKeyless ? null : identify(headers, origin.client)
  }

  return async (exchange: Exchange): Promise<Reply> => {
    const { req, res, origin } = exchange
    const { headers } = req
    const { path, search } = splitTarget(req.url!)
    const match = router(req.method!, path)
    if (match.kind === 'route') exchange.route = match.route
    if (match.throttled) takeToken(exchange)
    if (match.kind === 'nothing') return answerNothing(req.method!, path)
    if (match.kind === 'otherMethod') return answerOtherMethod(exchange, match.allow)

    const { route } = match
    const caller = await authenticate(route, exchange)
    exchange.caller = caller
    const params = parseIds(match.params, caller)
    authorize({ route, caller, method: req.method!, params, freshSeconds })
    const query = parseQuery(route, search)
    const schema = route.bodyFor?.(caller!) ?? route.body
    const body = await parseBody(schema, route.bodyOptional === true, { req, res })
    return route.handle({
      caller,
      origin,
      headers,
      params,
      query,
      search,
      body,
      requireFresh() {
        if (caller !== null) requireFresh(caller, freshSeconds)
      },
    })
  }
}

/** `Authorization: Basic` is no key: gateways and browsers send it for others. */
const presentsKey = (headers: IncomingHttpHeaders) =>
  Boolean(headers['x-api-key']) || /^Bearer\b/i.test(headers.authorization ?? '')

function answerNothing(method: string, path: string): Reply {
  if (method !== 'OPTIONS' || path !== '*') throw new AppError('not_found')
  return { status: 204, headers: { Allow: 'OPTIONS' } }
}

function answerOtherMethod({ req, headers }: Exchange, allow: string): Reply {
  headers['Allow'] = allow
  if (req.method !== 'OPTIONS') throw new AppError('method_not_allowed')
  if (req.headers['access-control-request-method'] === undefined) return { status: 204 }
  return { status: 204, headers: { ...preflight, 'Access-Control-Allow-Methods': allow } }
}

/** The ids in a path, in lower case; `me` is the caller's. */
function parseIds(given: Record<string, string>, caller: Caller | null): Record<string, string> {
  const params: Record<string, string> = {}
  for (const name in given) {
    const isMe = name === 'id' && given[name] === 'me'
    if (isMe && caller === null) throw new AppError('key_missing')
    const id = isMe ? caller!.userId : given[name]!
    if (!isUuid(id)) throw new AppError('invalid_id')
    params[name] = id.toLowerCase()
  }
  return params
}

function parseQuery(route: Route, search: string): Record<string, unknown> {
  if (route.query === undefined) return {}
  const given: Record<string, unknown> = Object.create(null)
  for (const [name, value] of new URLSearchParams(search)) {
    // A member that is repeated is no text, and so is refused.
    given[name] = name in given ? [] : value
  }
  return check(object({}, route.query), given, 'invalid_query')
}

async function parseBody(
  schema: Schema<unknown> | undefined,
  isOptional: boolean,
  { req, res }: Pick<Exchange, 'req' | 'res'>,
) {
  if (schema === undefined) return undefined
  if (!isOptional) return check(schema, await readBody(req, res), 'invalid_body')
  // Null is what many clients send for none.
  const given = hasBody(req) ? await readBody(req, res) : null
  return check(schema, given ?? {}, 'invalid_body')
}

/** How to authenticate: RFC 6750 3.1 and, for a caller that must log in again, RFC 9470. */
function challengeOf({ code, challenge }: AppError): string {
  const bearer = 'Bearer realm="user-service"'
  if (code === 'key_invalid') return `${bearer}, error="invalid_token"`
  if (code !== 'authentication_needed') return bearer
  return `${bearer}, error="insufficient_user_authentication", ${challenge}`
}

function describeFailure({ req, origin, route }: Exchange, failure: AppError): Reply {
  const { code, message, faults, retryAfterSeconds } = failure
  const { status } = failures[code]
  const headers: Record<string, string> = {}
  if (retryAfterSeconds !== undefined) headers['Retry-After'] = String(retryAfterSeconds)
  if (status === 401) headers['WWW-Authenticate'] = challengeOf(failure)
  if (status === 415) {
    const name = req.method === 'PATCH' ? 'Accept-Patch' : 'Accept-Post'
    headers[name] = 'application/json'
  }
  const details = code === 'invalid_body' ? (route?.bodySentence ?? message) : message
  const errors = faults.map((fault) => ({ field: fault.field || 'body', message: fault.message }))
  const envelope = {
    requestId: origin.requestId,
    status: 'ERROR',
    details,
    code,
    ...(errors.length > 0 && { errors }),
  }
  return { status, headers, raw: { type: 'application/json', text: JSON.stringify(envelope) } }
}

/** Makes the one function that writes answers. */
function createSend({ secure, corsOrigins }: PipelineOptions) {
  const common = commonHeaders(secure, corsOrigins.length > 0)

  /** Returns the status, for the log: 499 if nobody is there to read the answer. */
  return ({ req, res, origin: { requestId }, headers }: Exchange, reply: Reply): number => {
    const { status } = reply
    const isGone = req.socket.destroyed
    const all: Record<string, string> = { 'X-Request-Id': requestId, ...common, ...headers }
    const from = req.headers.origin
    if (from !== undefined && corsOrigins.includes(from)) {
      all['Access-Control-Allow-Origin'] = from
      all['Access-Control-Expose-Headers'] = exposed
    }
    Object.assign(all, reply.headers)
    const text = textOf(requestId, reply)
    if (text !== undefined) all['Content-Type'] = reply.raw?.type ?? 'application/json'
    if (status !== 204 && status !== 304)
      all['Content-Length'] = String(Buffer.byteLength(text ?? ''))
    if (!req.complete && hasBody(req)) discardBody(req)
    res.writeHead(status, all)
    res.end(text)
    return isGone ? 499 : status
  }
}

function commonHeaders(isSecure: boolean, hasOrigins: boolean): Record<string, string> {
  const headers: Record<string, string> = {
    'Cache-Control': 'no-store',
    'X-Content-Type-Options': 'nosniff',
  }
  if (hasOrigins) headers['Vary'] = 'Origin'
  if (!isSecure) return headers
  return {
    ...headers,
    'Strict-Transport-Security': 'max-age=31536000',
    'Referrer-Policy': 'no-referrer',
    'X-Frame-Options': 'DENY',
    'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
  }
}

/** Every body ends with a newline, so that a shell's prompt does not stand behind it. */
function textOf(requestId: string, { body, raw }: Reply): string | undefined {
  if (body !== undefined)
    return `${JSON.stringify({ requestId, status: 'SUCCESS', details: body })}\n`
  if (raw === undefined || raw.text.endsWith('\n')) return raw?.text
  return `${raw.text}\n`
}

/** Besides ours, the headers that tracing and common HTTP clients add to every request. */
const preflight = {
  'Access-Control-Allow-Headers':
    'Authorization, Content-Type, If-Match, If-None-Match, X-Api-Key, X-Request-Id, ' +
    'traceparent, tracestate, baggage, sentry-trace, X-Requested-With',
  'Access-Control-Max-Age': '600',
}
const exposed =
  'ETag, Link, Location, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id'
const idPattern = /^[A-Za-z0-9._-]{1,64}$/
const methods = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])

function requestIdOf({ headers }: IncomingMessage): string {
  const given = headers['x-request-id']
  return typeof given === 'string' && idPattern.test(given) ? given : randomUUID()
}

interface Outcome {
  status: number
  /** Why it failed, if the answer does not say it. */
  hidden: unknown
  route: Route | undefined
}

/** Health checks and preflights say nothing, and could fill the log: they are not throttled. */
function levelOf({ status, hidden, route }: Outcome) {
  if (status === 500) return 'error'
  if (hidden !== undefined) return 'warn'
  return route === undefined || route.quiet === true ? 'debug' : 'info'
}

/** Path and query of a request target; its scheme and host, if it has them, are not looked at. */
function splitTarget(url: string): { path: string; search: string } {
  const target = url.startsWith('/') ? url : url.replace(/^https?:\/\/[^/?#]*/i, '')
  const mark = target.indexOf('?')
  if (mark < 0) return { path: target, search: '' }
  return { path: target.slice(0, mark), search: target.slice(mark + 1) }
}
