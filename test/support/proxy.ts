import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

import { undo } from './undo.ts'

export type Proxy = Awaited<ReturnType<typeof startProxy>>

/**
 * A way over loopback to the server that listens on the Unix socket `path`, on which everything can
 * go wrong.
 */
export async function startProxy(path: string) {
  const sockets = new Set<Socket>()
  let isDown = false
  let delayMs = 0
  let flowing: Promise<void> | null = null
  let thaw = () => {}

  /** Clients that are reset as soon as they send something. */
  const ambushed = new WeakSet<Socket>()

  async function pump(from: Socket, to: Socket) {
    try {
      for await (const chunk of from) {
        if (ambushed.has(from)) from.resetAndDestroy()
        if (delayMs > 0) await sleep(delayMs)
        await flowing
        to.write(chunk)
      }
      await flowing
      to.end()
    } catch {
      to.destroy()
    }
  }
  const server = createServer((client) => {
    if (isDown) return void client.resetAndDestroy()
    const behind = connect({ path })
    for (const socket of [client, behind]) {
      sockets.add(socket.on('error', () => {}).on('close', () => sockets.delete(socket)))
    }
    void pump(client, behind)
    void pump(behind, client)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const proxy = {
    port: (server.address() as AddressInfo).port,
    connections: () => sockets.size / 2,
    /** Resets every connection, also each new one until `up`. */
    cut() {
      isDown = true
      for (const socket of sockets)
        socket.remoteFamily ? socket.resetAndDestroy() : socket.destroy()
    },
    /** Resets each of the present connections when it is used next, as a firewall does. */
    ambush() {
      for (const socket of sockets) ambushed.add(socket)
    },
    up: () => {
      isDown = false
    },
    /** Accepts connections and bytes, and passes nothing on until `thaw`. */
    freeze() {
      flowing ??= new Promise((resolve) => {
        thaw = () => {
          flowing = null
          resolve()
        }
      })
    },
    thaw: () => thaw(),
    /** Holds back, from now on, what is passed on. */
    delay: (ms: number) => {
      delayMs = ms
    },
  }
  undo.push(() => {
    proxy.cut()
    proxy.thaw()
    return new Promise((resolve) => server.close(resolve))
  })
  return proxy
}
