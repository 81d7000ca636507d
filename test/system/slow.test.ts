// What takes its time: the limits on slow and on very many clients, as they are in production.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { createTestDatabase, undo } from '../support/helpers.ts'
import { exchange, open } from '../support/raw.ts'
import { startService } from '../support/service.ts'

const { env } = await createTestDatabase()
const service = await startService(env)
const h = 'Host: x\r\n'
const limitMs = 60_000
const good = `GET /v1/livez HTTP/1.1\r\n${h}\r\n`

/** Sends a byte of a body each second. */
const dribble = (head: string) =>
  exchange(service.url, '', {
    limitMs,
    send(socket) {
      socket.write(head)
      const timer = setInterval(() => socket.write('1\r\n \r\n'), 1000)
      socket.on('close', () => clearInterval(timer))
    },
  })
const chunked = 'Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n'

// All at once: each is a matter of waiting.
const slowHeaders = exchange(service.url, '', {
  limitMs,
  send: (socket) => socket.write(good.slice(0, -2)),
})
const silence = exchange(service.url, '', { limitMs, send: () => {} })
const slowBody = dribble(`POST /v1/users/sessions HTTP/1.1\r\n${h}${chunked}`)
const slowRefused = dribble(`POST /v1/nowhere HTTP/1.1\r\n${h}${chunked}`)
const slowReader = readSlowly()
const idle = exchange(service.url, good, { limitMs: 90_000 })

/**
 * Asks for some 6 MB and takes nothing of it; resolves with when the service gave up, and what was
 * sent. The kernel takes 4 MB, request by request, and no more than 20 may wait then.
 */
async function readSlowly() {
  const socket = open(service.url)
  await once(socket, 'connect')
  socket.pause()
  for (let i = 0; i < 70; i++) {
    socket.write(`GET /v1/openapi.json HTTP/1.1\r\n${h}\r\n`)
    await sleep(15)
  }
  const start = performance.now()
  // The end of the service, established (01). What it has sent is the kernel's to deliver, for
  // ever.
  const hex = (port: string | number) => Number(port).toString(16).toUpperCase().padStart(4, '0')
  const held = new RegExp(`:${hex(new URL(service.url).port)} \\w+:${hex(socket.localPort!)} 01 `)
  while (held.test(readFileSync('/proc/net/tcp', 'utf8')) && performance.now() - start < limitMs)
    await sleep(200)
  const ms = performance.now() - start
  let bytes = 0
  socket.on('data', (chunk: Buffer) => {
    bytes += chunk.length
  })
  socket.resume()
  if (!socket.closed) await once(socket, 'close')
  return { ms, bytes }
}

const within = (ms: number, from: number, to: number) => assert.ok(ms > from && ms < to, `${ms} ms`)

test('headers that do not end get 408 after five seconds', async () => {
  const { answers, ms } = await slowHeaders
  assert.deepEqual(
    answers.map(({ status }) => status),
    [408],
  )
  within(ms, 4500, 8000)
})

test('a connection on which nothing is ever sent is cut after five seconds', async () => {
  within((await silence).ms, 4500, 8000)
})

test('a body that does not end gets 408 after fifteen seconds', async () => {
  const { answers, ms } = await slowBody
  assert.deepEqual(
    answers.map(({ status, body }) => [status, body.code]),
    [[408, 'request_timeout']],
  )
  within(ms, 14_000, 19_000)
})

test('a body that does not end is cut, too, when its answer was sent long ago', async () => {
  const { answers, ms } = await slowRefused
  assert.deepEqual(
    answers.map(({ status }) => status),
    [404],
  )
  within(ms, 14_000, 19_000)
})

test('ten thousand connections are kept, more are cut at once, and the rest go on', async () => {
  const rss = () =>
    Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${service.child.pid}/status`, 'utf8'))?.[1]) /
    1024
  const before = rss()
  const sockets: Socket[] = []
  let cut = 0
  for (let i = 0; i < 10_100; i += 100) {
    const some = Array.from({ length: 100 }, () => open(service.url))
    sockets.push(...some)
    await Promise.all(
      some.map(
        (socket) =>
          new Promise<void>((resolve) => {
            socket.write(good)
            socket.once('data', () => resolve())
            socket.once('close', () => resolve(void cut++))
          }),
      ),
    )
  }
  undo.push(() => sockets.forEach((socket) => socket.destroy()))
  const grown = rss() - before
  assert.ok(cut >= 100 && cut < 110, `${cut} were cut`)
  for (const socket of sockets.splice(0)) socket.destroy()
  assert.ok(grown < 200, `${Math.round(grown)} MiB`)
  for (let tries = 0; ; tries++) {
    const { status } = await fetch(`${service.url}/livez`).catch(() => ({ status: 0 }))
    if (status === 200) break
    assert.ok(tries < 50)
    await sleep(100)
  }
})

test('a client that does not read its answers is cut after forty seconds', async () => {
  const { ms, bytes } = await slowReader
  within(ms, 39_000, 46_000)
  assert.ok(bytes < 6_000_000, `${bytes}`)
})

test('an idle connection is kept for 65 seconds', async () => {
  const { answers, ms } = await idle
  assert.equal(answers.length, 1)
  within(ms, 64_000, 70_000)
})
