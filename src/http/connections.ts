import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

import { readPeer } from './address.ts'
import type { Pipeline } from './pipeline.ts'
import type { RefusalLog } from './refusals.ts'
import { findFault } from './rfc9112.ts'

/** A connection that has sent a request. */
interface Connection {
  /** The pending answers, oldest first, and since when each is pending. */
  waiting: Map<ServerResponse, number>
  /** The answer to the newest request, until both are complete. */
  newest?: ServerResponse | undefined
  /** Called when no answer is pending any more. */
  onAnswered?: (() => void) | undefined
}

/** The requests under way, by connection. */
export type Connections = ReturnType<typeof createConnections>

/**
 * A connection with more pending requests is cut. Gateways and browsers do not pipeline; a client
 * that does could queue thousands of requests ahead of everybody else's.
 */
const maxWaiting = 20

/**
 * Starts without any connection. Requests are kept by connection, because a response that is still
 * queued when its connection closes never emits `close`.
 */
export function createConnections(pipeline: Pipeline, logRefusal: RefusalLog) {
  const connections = new Map<Socket, Connection>()
  const pending: ServerResponse[] = []
  let isClosing = false

  function connectionOf(socket: Socket) {
    const known = connections.get(socket)
    if (known !== undefined) return known
    const connection: Connection = { waiting: new Map() }
    connections.set(socket, connection)
    socket.once('close', () => connections.delete(socket))
    return connection
  }

  function handle(res: ServerResponse) {
    const fault = findFault(res.req)
    // After an upgrade that nobody makes, Node's parser drops what it has read of the next request,
    // and would take the rest of that for a request.
    const isUpgrade = res.req.headers.upgrade !== undefined
    if (isClosing || isUpgrade || fault !== undefined) res.shouldKeepAlive = false
    void pipeline(res.req, res, fault)
  }

  /**
   * Handles one pipelined request a turn of the event loop, so that other connections progress;
   * skips those whose connection has closed.
   */
  function handleNext() {
    let next = pending.shift()
    while (next?.req.socket.writable === false) next = pending.shift()
    if (pending.length > 0) setImmediate(handleNext)
    if (next !== undefined) handle(next)
  }

  function cut(socket: Socket) {
    const { address, client } = readPeer(socket)
    logRefusal(client, 'connection cut', { address, failure: 'too many requests wait' })
    socket.destroy()
    // What was read in one go, up to 64 KiB, would still be parsed to its end, request by request:
    // a tenth of a second for a dozen connections. An answer of -1 makes the parser stop.
    const { parser } = socket as Socket & { parser?: { onIncoming(): number } }
    if (parser) parser.onIncoming = () => -1
  }

  return {
    /** Hands a request to the pipeline: at once or, if others of its connection wait, in turn. */
    take(req: IncomingMessage, res: ServerResponse) {
      const { socket } = req
      // It was reset: nobody waits for an answer, and we could not record who asked.
      if (socket.remoteAddress === undefined) {
        socket.destroy()
        return
      }
      const connection = connectionOf(socket)
      const { waiting } = connection
      if (waiting.size >= maxWaiting) {
        cut(socket)
        return
      }
      const isFirst = waiting.size === 0
      connection.newest = res
      waiting.set(res, performance.now())
      res.on('close', () => {
        waiting.delete(res)
        if (connection.newest === res && req.complete) connection.newest = undefined
        if (waiting.size > 0) return
        connection.onAnswered?.()
        connection.onAnswered = undefined
      })
      if (isFirst) {
        handle(res)
        return
      }
      if (pending.length === 0) setImmediate(handleNext)
      pending.push(res)
    },
    find: (socket: Socket) => connections.get(socket),
    /** Whether no answer is pending. */
    isQuiet: () => [...connections.values()].every(({ waiting }) => waiting.size === 0),
    /** Cuts connections whose oldest answer has been pending that long. */
    cutSlow(limitMs: number) {
      const cutoff = performance.now() - limitMs
      for (const [socket, { waiting }] of connections) {
        const { value: pendingSince } = waiting.values().next()
        if (pendingSince !== undefined && pendingSince < cutoff) socket.destroy()
      }
    },
    /** From now on, every answer closes its connection. */
    close() {
      isClosing = true
      for (const { waiting } of connections.values()) {
        for (const res of waiting.keys()) if (!res.headersSent) res.shouldKeepAlive = false
      }
    },
  }
}
