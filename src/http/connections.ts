import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

import type { Pipeline } from './pipeline.ts'
import { findFault } from './strict.ts'

/** A connection that has sent a request. */
export interface Connection {
  /** The answers that are waited for, oldest first, and since when. */
  waiting: Map<ServerResponse, number>
  /** The answer to the newest request, until both are complete. */
  newest: ServerResponse | undefined
  /** Called once no answer is waited for. */
  onAnswered: (() => void) | undefined
}

/** The requests under way, by connection. */
export interface Connections {
  /** Hands a request to the pipeline. */
  take(req: IncomingMessage, res: ServerResponse): void
  find(socket: Socket): Connection | undefined
  /** Whether no answer is waited for. */
  isQuiet(): boolean
  /** Cuts connections whose oldest answer has been waited for that long. */
  cutSlow(limitMs: number): void
  /** From now on each answer is the last of its connection. */
  close(): void
}

/** A connection on which more requests wait is cut: pipelining must not fill the memory. */
const maxPipelined = 1000

/**
 * Starts without any connection. Requests are kept by connection: one whose answer is still queued
 * when the connection goes never closes by itself.
 */
export function createConnections(pipeline: Pipeline): Connections {
  const connections = new Map<Socket, Connection>()
  let isClosing = false

  function connectionOf(socket: Socket): Connection {
    const known = connections.get(socket)
    if (known !== undefined) return known
    const connection = { waiting: new Map(), newest: undefined, onAnswered: undefined }
    connections.set(socket, connection)
    socket.once('close', () => connections.delete(socket))
    return connection
  }

  return {
    take(req, res) {
      const { socket } = req
      // It was reset: nobody waits for an answer, and we could not record who asked.
      if (socket.remoteAddress === undefined) {
        socket.destroy()
        return
      }
      const connection = connectionOf(socket)
      const { waiting } = connection
      if (waiting.size >= maxPipelined) {
        socket.destroy()
        return
      }
      const fault = findFault(req)
      if (isClosing || fault !== undefined) res.shouldKeepAlive = false
      connection.newest = res
      waiting.set(res, performance.now())
      res.on('close', () => {
        waiting.delete(res)
        if (connection.newest === res && req.complete) connection.newest = undefined
        if (waiting.size > 0) return
        connection.onAnswered?.()
        connection.onAnswered = undefined
      })
      void pipeline(req, res, fault)
    },
    find: (socket) => connections.get(socket),
    isQuiet() {
      for (const { waiting } of connections.values()) if (waiting.size > 0) return false
      return true
    },
    cutSlow(limitMs) {
      const latest = performance.now() - limitMs
      for (const [socket, { waiting }] of connections) {
        const { value: oldest } = waiting.values().next()
        if (oldest !== undefined && oldest < latest) socket.destroy()
      }
    },
    close() {
      isClosing = true
      for (const { waiting } of connections.values()) {
        for (const res of waiting.keys()) if (!res.headersSent) res.shouldKeepAlive = false
      }
    },
  }
}
