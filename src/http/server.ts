// The server's edge: sockets, limits and strictness where Node's defaults are lenient.
// This room owns a request from the socket to its answer, and knows no domain.
//
// Slow clients: 5 s for the handshake of TLS, 5 s for the headers, 15 s for the whole request, 40 s
// until the answer is taken, 65 s idle (longer than gateways keep theirs); checked each second.
// At most 10,000 connections, on each of which 20 requests may wait. Malformed requests get 400 and
// a close, but only after the answers to the valid ones before them.
import http from 'node:http'
import https from 'node:https'
import { Server as NetServer, type AddressInfo, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

import { AppError, ExitError } from '../errors.ts'
import type { Log } from '../log.ts'
import { readPeer } from './address.ts'
import { breakBody } from './body.ts'
import { createConnections, type Connections } from './connections.ts'
import type { Pipeline } from './pipeline.ts'
import { createRefusalLog } from './refusals.ts'
import { maxFields } from './rfc9112.ts'
import { readTlsSettings, type TlsFiles } from './tls.ts'

interface Options {
  /** Undefined: every address of the machine. */
  host: string | undefined
  port: number
  tls: TlsFiles | null
}

const lingerMs = 250

/** Listens and hands each request to `pipeline`; throws an ExitError if it cannot. */
export async function listen(pipeline: Pipeline, { host, port, tls }: Options, log: Log) {
  const logRefusal = createRefusalLog(log)
  const connections = createConnections(pipeline, logRefusal)
  const server = createServer(tls)
  server.on('request', connections.take)
  server.on('checkContinue', connections.take)
  server.on('checkExpectation', connections.take)
  server.on('clientError', createRefusal(connections, pipeline))
  // There is no way to answer before the handshake; with a listener on this event, closing the
  // socket is our job.
  server.on('tlsClientError', ({ message }: Error, socket: Socket) => {
    const { address, client } = readPeer(socket)
    logRefusal(client, 'handshake failed', { address, failure: message })
    socket.destroy()
  })
  let newestAt = 0
  server.on('connection', () => {
    newestAt = performance.now()
  })
  await bind(server, host, port)
  const cutting = setInterval(() => connections.cutSlow(40_000), 1000).unref()

  return {
    /** Scheme, host and port. */
    url: `${tls === null ? 'http' : 'https'}://${nameOf(server, host)}`,
    /** Rereads certificate and key; throws, and keeps the old pair, if the new is not usable. */
    rereadTls() {
      if (server instanceof https.Server && tls !== null)
        server.setSecureContext(readTlsSettings(tls))
    },
    /** Soon stops accepting, waits that long for requests in flight, then cuts what is left. */
    async stop(seconds: number) {
      connections.close()
      // A new connection may still wait to be accepted, and a request may be on its way on an idle
      // connection: both are answered, with Connection: close.
      await sleep(lingerMs)
      // Node accepts one connection a turn of its event loop: while they come, this waits longer.
      const isAccepting = () => newestAt > performance.now() - lingerMs
      for (let tries = 0; tries < 3 && isAccepting(); tries++) await sleep(lingerMs)
      // Not http.Server's own close, which would cut connections that have just been made.
      const closed = new Promise((resolve) => NetServer.prototype.close.call(server, resolve))
      server.closeIdleConnections()
      const sweeping = setInterval(() => {
        if (connections.isQuiet()) server.closeIdleConnections()
      }, lingerMs)
      const limitMs = Math.max(seconds * 1000 - lingerMs, 0)
      const deadline = setTimeout(() => server.closeAllConnections(), limitMs)
      await closed
      for (const timer of [sweeping, deadline, cutting]) clearTimeout(timer)
      // Also ends http.Server's timer for slow requests, which NetServer's close leaves running.
      server.close().unref()
    },
  }
}

function createServer(tls: TlsFiles | null) {
  const options = {
    headersTimeout: 5000,
    requestTimeout: 15_000,
    keepAliveTimeout: 65_000,
    connectionsCheckingInterval: 1000,
    maxHeaderSize: 16 * 1024,
    joinDuplicateHeaders: true, // by default, the first of two Authorization counts
    requireHostHeader: false, // findFault refuses that, with an envelope
  }
  const server =
    tls === null
      ? http.createServer(options)
      : https.createServer({ ...options, ...readTlsSettings(tls), handshakeTimeout: 5000 })
  server.maxConnections = 10_000
  server.maxHeadersCount = maxFields
  // A client that says it sends no more still waits for its answers.
  return Object.assign(server, { httpAllowHalfOpen: true })
}

/** Has a server listen; throws an ExitError with the setting at fault when it cannot. */
export function bind(server: NetServer, host: string | undefined, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', ({ message }) => {
      const isNoAddress = /ENOTFOUND|EAI_AGAIN|EADDRNOTAVAIL/.test(message)
      if (isNoAddress) reject(new ExitError('SERVER_HOST is no address of this machine', 2))
      else reject(new ExitError(`Cannot listen: ${message}; see SERVER_PORT and SERVER_HOST`))
    })
    server.listen(port, host, resolve)
  })
}

/** Host and port under which the machine itself reaches a server. */
function nameOf(server: http.Server, host: string | undefined) {
  const { address, port } = server.address() as AddressInfo
  if (host === undefined || address === '::' || address === '0.0.0.0') return `localhost:${port}`
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`
}

/**
 * Handles what Node's parser and time limits find: a request, or a body, that is malformed or comes
 * too slowly. Valid requests before it get their answers first.
 */
function createRefusal({ find }: Connections, pipeline: Pipeline) {
  /** Answers what never became a request as if it had. */
  function refuse(socket: Socket, refusal: AppError) {
    const res = new http.ServerResponse(new http.IncomingMessage(socket))
    res.assignSocket(socket)
    res.on('finish', () => socket.end(() => socket.destroy()))
    void pipeline(res.req, res, refusal)
  }

  return (error: Error & { code?: string }, socket: Socket) => {
    const refusal = new AppError(codeOf(error.code))
    const connection = find(socket)
    const newest = connection?.newest
    const isInBody = newest?.req.complete === false
    if (isInBody && !newest.headersSent) {
      // The pipeline answers as soon as it comes to read the body.
      newest.shouldKeepAlive = false
      breakBody(newest.req, refusal)
      return
    }
    function finish() {
      // A request whose body goes wrong after its answer gets no second one.
      const isUnanswerable = isInBody || error.code === 'ECONNRESET' || !socket.writable
      if (isUnanswerable) socket.destroy()
      else refuse(socket, refusal)
    }
    if (connection === undefined || connection.waiting.size === 0) finish()
    else connection.onAnswered ??= finish
  }
}

/** The code of a reason that Node gives. */
function codeOf(reason: string | undefined) {
  if (reason === 'HPE_HEADER_OVERFLOW') return 'headers_too_large'
  if (reason === 'ERR_HTTP_REQUEST_TIMEOUT') return 'request_timeout'
  return 'invalid_request'
}
