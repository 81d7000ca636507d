// A load generator over raw sockets, in a process of its own. It takes one set of options as a
// message, answers 'ready', starts at the next message, ends in time or at a further message, and
// answers with what it measured. With `perSecond` requests leave on time whatever the answers do;
// else each connection sends its next request when the last is answered.
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'

import { median, quantile } from './stats.ts'

export interface LoadOptions {
  port: number
  connections: number
  /** A file of whole requests, separated by \x01, sent in their order, over and over. */
  requests: string
  seconds: number
  /** No more than so many in all. */
  count?: number
  perSecond?: number
}

export interface LoadResult {
  /** Answered within the time. */
  answered: number
  perSecond: number
  statuses: Record<string, number>
  p50: number
  p99: number
  max: number
  /** CPU time of the generator, as a share of one core. */
  generatorCpu: number
}

process.on('disconnect', () => process.exit())
process.once('message', (options: LoadOptions) => {
  const requests = readFileSync(options.requests, 'latin1').split('\x01')
  process.once(
    'message',
    () =>
      void generate(options, requests).then((result) =>
        process.send!(result, () => process.exit()),
      ),
  )
  process.send!('ready')
})

async function generate(options: LoadOptions, requests: string[]): Promise<LoadResult> {
  const { port, connections, seconds, count = Infinity, perSecond } = options
  const free: Connection[] = []
  const latencies: number[] = []
  const statuses: Record<string, number> = {}
  const start = performance.now()
  let end = start + seconds * 1000
  process.once('message', () => {
    end = performance.now()
  })
  const cpu = process.cpuUsage()
  let sent = 0
  let underWay = 0

  await new Promise<void>((resolve) => {
    /** The server ends those that are idle for long. */
    function take(): Connection {
      const connection = free.pop() ?? open(port)
      return connection.isOpen() ? connection : take()
    }
    function send(connection: Connection) {
      const at = performance.now()
      underWay++
      connection.send(requests[sent++ % requests.length]!, (status) => {
        underWay--
        const now = performance.now()
        if (now <= end || perSecond !== undefined) {
          latencies.push(now - at)
          statuses[status] = (statuses[status] ?? 0) + 1
        }
        if (perSecond !== undefined) free.push(connection)
        else if (now < end && sent < count) return send(connection)
        if (underWay === 0 && (now >= end || sent >= count)) resolve()
      })
    }
    if (perSecond === undefined) {
      for (let i = 0; i < connections && sent < count; i++) send(open(port))
      return
    }
    const tick = () => {
      const now = performance.now()
      while (now < end && sent < ((now - start) / 1000) * perSecond) send(take())
      if (now < end) setTimeout(tick, 1)
      else if (underWay === 0) resolve()
    }
    tick()
  })
  const used = process.cpuUsage(cpu)
  return {
    answered: latencies.length,
    perSecond: (latencies.length * 1000) / (end - start),
    statuses,
    p50: median(latencies),
    p99: quantile(latencies, 0.99),
    max: Math.max(...latencies),
    generatorCpu: (used.user + used.system) / 1000 / (performance.now() - start),
  }
}

interface Connection {
  isOpen(): boolean
  send(request: string, done: (status: string) => void): void
}

function open(port: number): Connection {
  const socket: Socket = connect({ port, host: '127.0.0.1', noDelay: true })
  let waiting: ((status: string) => void) | null = null
  let text = ''
  const finish = (status: string) => {
    const done = waiting
    waiting = null
    text = ''
    done?.(status)
  }
  socket.setEncoding('latin1')
  socket.on('data', (chunk: string) => {
    text += chunk
    const headEnd = text.indexOf('\r\n\r\n')
    if (headEnd < 0) return
    const length = /\r\nContent-Length: (\d+)/i.exec(text.slice(0, headEnd))?.[1] ?? '0'
    if (text.length >= headEnd + 4 + Number(length)) finish(text.slice(9, 12))
  })
  socket.on('error', () => {})
  socket.on('close', () => finish('closed'))
  return {
    isOpen: () => !socket.destroyed,
    send(request, done) {
      waiting = done
      socket.write(request)
    },
  }
}
