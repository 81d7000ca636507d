// The server's edge: sockets, limits and strictness where Node's defaults are lenient.
//
// Slow clients: 5 s for the handshake of TLS, 5 s for the headers, 15 s for the whole request, 40 s
// until the answer is taken, 65 s idle (longer than gateways keep theirs); checked each second.
// At most 10,000 connections. Malformed requests get 400 and a close, but only after the answers
// to the valid ones before them.
import { X509Certificate, createPrivateKey, randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import https from 'node:https'
import { Server as NetServer, type AddressInfo, type Socket } from 'node:net'
import { createSecureContext } from 'node:tls'

import { AppError, ExitError, failures, type Code } from '../errors.ts'
import type { Log } from '../log.ts'
import { breakBody } from './body.ts'
import type { Pipeline } from './pipeline.ts'

type TlsFiles = { certFile: string; keyFile: string }
type Options = { host: string | undefined; port: number; tls: TlsFiles | null }
/** A connection that has sent a request: since when which answers are waited for, oldest first. */
type Peer = { waiting: Map<ServerResponse, number>; last?: ServerResponse }

const exchangeTimeoutMs = 40_000
const lingerMs = 250
/** A connection on which more requests wait is cut: pipelining must not fill the memory. */
const maxPipelined = 1000

/** Listens and hands each request to `pipeline`; throws an ExitError when it cannot. */
export async function listen(pipeline: Pipeline, { host, port, tls }: Options, log: Log) {
  // Kept by connection: an answer that is queued when the connection goes is never closed.
  const peers = new Map<Socket, Peer>()
  let stopping = false

  function take(req: IncomingMessage, res: ServerResponse) {
    const { socket } = req
    // Reset meanwhile: nobody waits for an answer, and what is done must have an address.
    if (socket.remoteAddress === undefined) return void socket.destroy()
    const fault = findFault(req)
    if (stopping || fault) res.shouldKeepAlive = false
    let peer = peers.get(socket)
    if (!peer)
      peers.set(
        socket.once('close', () => peers.delete(socket)),
        (peer = { waiting: new Map() }),
      )
    if (peer.waiting.size >= maxPipelined) return void socket.destroy()
    peer.last = res
    peer.waiting.set(res, performance.now())
    res.on('close', () => {
      peer.waiting.delete(res)
      if (peer.last === res && req.complete) delete peer.last
      if (peer.waiting.size === 0) socket.emit('answered')
    })
    void pipeline(req, res, fault)
  }

  const cutSlow = setInterval(() => {
    const oldest = performance.now() - exchangeTimeoutMs
    for (const [
      socket,
      {
        waiting: [first],
      },
    ] of peers)
      if (first && first[1] < oldest) socket.destroy()
  }, 1000).unref()

  const options = {
    headersTimeout: 5000,
    requestTimeout: 15_000,
    keepAliveTimeout: 65_000,
    connectionsCheckingInterval: 1000,
    maxHeaderSize: 16 * 1024,
    noDelay: true,
    requireHostHeader: false, // findFault answers that, as an envelope
  }
  const server =
    tls === null
      ? http.createServer(options, take)
      : https.createServer(
          { ...options, ...tlsSettings, ...readTls(tls), handshakeTimeout: 5000 },
          take,
        )
  // A client that says it sends no more still waits for its answers.
  Object.assign(server, { maxConnections: 10_000, httpAllowHalfOpen: true })
  server.on('checkContinue', take)
  server.on('checkExpectation', take)
  server.on('clientError', (error: Error & { code?: string }, socket: Socket) => {
    const { waiting, last } = peers.get(socket) ?? {}
    const isInBody = last?.req.complete === false
    if (isInBody && !last!.headersSent) {
      last!.shouldKeepAlive = false
      return breakBody(last!.req, new AppError(codeOf(error.code)))
    }
    const refuse = () => {
      // A request whose body goes wrong after its answer gets no second one.
      if (isInBody || !socket.writable || error.code === 'ECONNRESET') return void socket.destroy()
      const [code, requestId] = [codeOf(error.code), randomUUID()]
      socket.end(rawRefusal(code, requestId, tls !== null), () => socket.destroy())
      const { status } = failures[code]
      log('info', 'request', {
        requestId,
        route: 'none',
        status,
        address: socket.remoteAddress,
        failure: code,
      })
    }
    if (!waiting?.size) refuse()
    else if (socket.listenerCount('answered') === 0) socket.once('answered', refuse)
  })
  // Nothing can be said to who did not shake hands, and Node leaves its socket to whoever listens above.
  server.on('tlsClientError', ({ message }: Error, socket: Socket) => {
    log('info', 'handshake failed', { address: socket.remoteAddress, failure: message })
    socket.destroy()
  })

  await new Promise<void>((resolve, reject) => {
    server.once('error', ({ message }) =>
      reject(
        /ENOTFOUND|EAI_AGAIN|EADDRNOTAVAIL/.test(message)
          ? new ExitError('SERVER_HOST is no address of this machine', 2)
          : new ExitError(`Cannot listen: ${message}`),
      ),
    )
    server.listen({ port, ...(host !== undefined && { host }) }, resolve)
  })
  const bound = server.address() as AddressInfo
  const named =
    host === undefined || bound.address === '::' || bound.address === '0.0.0.0'
      ? 'localhost'
      : bound.address.includes(':')
        ? `[${bound.address}]`
        : bound.address

  return {
    url: `${tls === null ? 'http' : 'https'}://${named}:${bound.port}`,
    /** Rereads the certificate and key; throws and keeps the old pair when the new one is not usable. */
    rereadTls() {
      if (tls !== null)
        (server as https.Server).setSecureContext({ ...tlsSettings, ...readTls(tls) })
    },
    /** Stops accepting, waits up to `seconds` for requests in flight, then cuts what is left. */
    async stop(seconds: number) {
      stopping = true
      for (const { waiting } of peers.values()) {
        for (const [res] of waiting) if (!res.headersSent) res.shouldKeepAlive = false
      }
      // Not http.Server's own close: it cuts idle connections, on which a request may be on its way.
      // Those that come within the linger are answered, with Connection: close.
      const closed = new Promise((resolve) => NetServer.prototype.close.call(server, resolve))
      const linger = setTimeout(() => server.closeIdleConnections(), lingerMs)
      const isQuiet = () => [...peers.values()].every(({ waiting }) => waiting.size === 0)
      const sweep = setInterval(() => isQuiet() && server.closeIdleConnections(), lingerMs)
      const deadline = setTimeout(
        () => server.closeAllConnections(),
        Math.max(seconds * 1000, lingerMs),
      )
      await closed
      for (const timer of [linger, sweep, deadline, cutSlow]) clearTimeout(timer)
      server.close().unref()
    },
  }
}

/** What RFC 9112 has a server refuse and Node lets through. */
function findFault({
  rawHeaders,
  headers,
  method,
  url,
  httpVersion,
}: IncomingMessage): AppError | undefined {
  let hosts = 0
  for (let i = 0; i < rawHeaders.length; i += 2) {
    if (rawHeaders[i]!.length === 4 && rawHeaders[i]!.toLowerCase() === 'host') hosts++
  }
  const { host = '', 'transfer-encoding': coding, expect } = headers
  const sound =
    (httpVersion === '1.1' ? hosts === 1 : httpVersion === '1.0' && hosts <= 1) &&
    (hosts === 0 || hostPattern.test(host)) &&
    (coding === undefined || (coding.toLowerCase() === 'chunked' && httpVersion === '1.1')) &&
    /^[!"$-~]+$/.test(url!) &&
    (url!.startsWith('/') ||
      /^https?:\/\/[^/?#]/i.test(url!) ||
      (url === '*' && method === 'OPTIONS'))
  if (!sound) return new AppError('invalid_request')
  return /^(100-continue)?$/i.test(expect ?? '') ? undefined : new AppError('expectation_failed')
}

const hostPattern = /^([A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(:\d{0,5})?$/

/** The code of what Node's parser found. */
const codeOf = (reason: string | undefined): Code =>
  reason === 'HPE_HEADER_OVERFLOW'
    ? 'headers_too_large'
    : reason === 'ERR_HTTP_REQUEST_TIMEOUT'
      ? 'request_timeout'
      : 'invalid_request'

/** An answer for what never became a request. */
function rawRefusal(code: Code, requestId: string, secure: boolean): string {
  const { status, sentence } = failures[code]
  const body = JSON.stringify({ requestId, status: 'ERROR', details: sentence, code })
  return (
    `HTTP/1.1 ${status} ${http.STATUS_CODES[status]}\r\nX-Request-Id: ${requestId}\r\n` +
    `Content-Type: application/json\r\nContent-Length: ${body.length}\r\nCache-Control: no-store\r\n` +
    `X-Content-Type-Options: nosniff\r\n${secure ? 'Strict-Transport-Security: max-age=31536000\r\n' : ''}` +
    `Connection: close\r\n\r\n${body}`
  )
}

const tlsSettings = {
  minVersion: 'TLSv1.2',
  ciphers: [
    'TLS_AES_128_GCM_SHA256',
    'TLS_AES_256_GCM_SHA384',
    'TLS_CHACHA20_POLY1305_SHA256',
    'ECDHE-ECDSA-AES128-GCM-SHA256',
    'ECDHE-RSA-AES128-GCM-SHA256',
    'ECDHE-ECDSA-AES256-GCM-SHA384',
    'ECDHE-RSA-AES256-GCM-SHA384',
    'ECDHE-ECDSA-CHACHA20-POLY1305',
    'ECDHE-RSA-CHACHA20-POLY1305',
  ].join(':'),
  ecdhCurve: 'X25519:P-256:P-384',
  honorCipherOrder: true,
} as const

/** Reads a pair that can be used now; throws an ExitError with the reason otherwise. */
function readTls({ certFile, keyFile }: TlsFiles): { cert: string; key: string } {
  try {
    const pair = { cert: readFileSync(certFile, 'utf8'), key: readFileSync(keyFile, 'utf8') }
    if (pair.key.includes('ENCRYPTED')) throw new Error('the key wants a password')
    const certificate = new X509Certificate(pair.cert)
    if (!certificate.checkPrivateKey(createPrivateKey(pair.key)))
      throw new Error('the key is of another certificate')
    if (Date.parse(certificate.validTo) < Date.now())
      throw new Error(`it expired on ${certificate.validTo}`)
    if (Date.parse(certificate.validFrom) > Date.now())
      throw new Error(`it is valid from ${certificate.validFrom}`)
    createSecureContext({ ...tlsSettings, ...pair })
    return pair
  } catch (error) {
    // Of a file that cannot be read its code alone: the message has what was given for a path.
    const { code = '', message } = error as Error & { code?: string }
    throw new ExitError(
      `TLS_CERT_FILE and TLS_KEY_FILE cannot be used: ${/^E[A-Z]+$/.test(code) ? code : message}`,
      2,
    )
  }
}
