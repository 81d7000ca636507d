// A hostile client, in a process of its own, at 127.0.0.2: it sends bursts on many connections and
// comes back as soon as it is answered or cut. It takes its options as a message, answers 'ready',
// starts at the next message, and answers with the number of requests that it sent.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

import { createKey } from '../../src/keys/format.ts'

export type What = 'plain' | 'keys' | 'logins' | 'headers' | 'drip'

export interface AttackOptions {
  port: number
  connections: number
  seconds: number
  what: What
  /** Requests that are sent at once; the next ones when all are answered. */
  burst: number
  /** How many are sent before a pause until the second is over; null: no pause. */
  perSecond: number | null
  /** What becomes of a connection after each burst. */
  then: 'keep' | 'close' | 'reset'
}

const request = (line: string, headers: string, body = '') =>
  `${line} HTTP/1.1\r\nHost: x\r\n${headers}\r\n${body}`

function logIn(): string {
  const body = JSON.stringify({ email: `${randomBytes(6).toString('hex')}@x`, password: 'wrong' })
  const headers = `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n`
  return request('POST /v1/users/sessions', headers, body)
}

const makers: Record<What, () => string> = {
  plain: () => request('GET /v1/livez', ''),
  keys: () => request('GET /v1/users/auth', `X-Api-Key: ${createKey()}\r\n`),
  logins: logIn,
  headers: () => request('GET /v1/livez', 'A: bcdefghijk\r\n'.repeat(1000)),
  drip: () => 'GET /v1/livez HTTP/1.1\r\n',
}

async function open(port: number): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1', localAddress: '127.0.0.2' })
  socket.on('error', () => {})
  await Promise.race([once(socket, 'connect'), once(socket, 'close')])
  return socket
}

/** Resolves when so many answers have come, or the connection has gone. */
function answersOf(socket: Socket, count: number): Promise<void> {
  return new Promise((resolve) => {
    let left = count
    const onData = (chunk: Buffer) => {
      left -= chunk.toString('latin1').split('HTTP/1.1 ').length - 1
      if (left <= 0) end()
    }
    function end() {
      socket.off('data', onData)
      socket.off('close', end)
      resolve()
    }
    socket.on('data', onData)
    socket.on('close', end)
    if (socket.destroyed) end()
  })
}

async function attack(options: AttackOptions): Promise<number> {
  const { port, connections, seconds, what, burst, perSecond, then } = options
  const start = performance.now()
  const end = start + seconds * 1000
  const make = makers[what]
  let sent = 0

  async function drip(socket: Socket) {
    while (performance.now() < end && !socket.destroyed) {
      socket.write('A')
      await sleep(200)
    }
  }

  async function hold() {
    let socket = await open(port)
    let second = 1
    let sentNow = 0
    while (performance.now() < end) {
      if (socket.destroyed) socket = await open(port)
      const answers = then === 'reset' ? Promise.resolve() : answersOf(socket, burst)
      socket.write(Array.from({ length: burst }, make).join(''))
      sent += burst
      sentNow += burst
      if (what === 'drip') await drip(socket)
      await answers
      if (then === 'reset') socket.resetAndDestroy()
      if (then === 'close') socket.destroy()
      if (perSecond === null || sentNow < perSecond) continue
      const rest = start + second * 1000 - performance.now()
      if (rest > 0) await sleep(rest)
      second++
      sentNow = 0
    }
    socket.destroy()
  }

  await Promise.all(Array.from({ length: connections }, hold))
  return sent
}

process.once('message', (options: AttackOptions) => {
  process.once('message', () => {
    void attack(options).then((sent) => process.send!(sent, () => process.exit()))
  })
  process.send!('ready')
})
