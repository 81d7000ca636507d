import assert from 'node:assert/strict'
import { connect, type Socket } from 'node:net'

/** An answer as it came over the wire. */
export interface RawAnswer {
  status: number
  headers: Record<string, string>
  text: string
  /** The envelope, if it is one. */
  body: any
}

export interface Exchange {
  answers: RawAnswer[]
  /** The server closed the connection; `reset`: by a reset. */
  closed: boolean
  reset: boolean
  ms: number
}

export interface Sending {
  /** How many answers to wait for; without: until the server closes. */
  count?: number
  /** The requests are HEAD: no answer has a body. */
  head?: boolean
  limitMs?: number
  /** Called once connected, instead of sending all at once. */
  send?(socket: Socket): unknown
}

/** Opens a connection to the service at `url`. */
export function open(url: string): Socket {
  const { hostname, port } = new URL(url)
  const socket = connect({ host: hostname, port: Number(port) })
  socket.on('error', () => {})
  return socket
}

/**
 * Sends bytes as they are and reads the answers, each held against what all have in common. Fails
 * when the server neither answers nor closes within the limit.
 */
export function exchange(
  url: string,
  bytes: string | Buffer,
  options: Sending = {},
): Promise<Exchange> {
  const { count = Infinity, head = false, limitMs = 5000, send } = options
  return new Promise((resolve, reject) => {
    const start = performance.now()
    const answers: RawAnswer[] = []
    let buffer = ''
    let reset = false
    const socket = open(url)
    const end = (closed: boolean) => {
      clearTimeout(late)
      socket.destroy()
      resolve({ answers, closed, reset, ms: performance.now() - start })
    }
    const late = setTimeout(() => {
      socket.destroy()
      reject(
        new Error(
          `Neither answered nor closed within ${limitMs} ms; so far: ` +
            JSON.stringify(answers.map(({ status }) => status)) +
            buffer.slice(0, 200),
        ),
      )
    }, limitMs)
    socket.on('connect', () => (send ? send(socket) : socket.write(bytes)))
    socket.on('data', (chunk: Buffer) => {
      buffer += chunk.toString('latin1')
      for (;;) {
        const taken = parse(buffer, head)
        if (taken === null) break
        buffer = buffer.slice(taken.length)
        if (taken.answer.status >= 200) answers.push(taken.answer)
        if (answers.length >= count) return end(false)
      }
    })
    socket.on('error', () => {
      reset = true
    })
    socket.on('close', () => {
      if (buffer !== '') {
        clearTimeout(late)
        return reject(new Error(`What was left is no answer: ${buffer.slice(0, 200)}`))
      }
      end(true)
    })
  })
}

function parse(buffer: string, head: boolean): { answer: RawAnswer; length: number } | null {
  const end = buffer.indexOf('\r\n\r\n')
  if (end < 0) return null
  const [first = '', ...lines] = buffer.slice(0, end).split('\r\n')
  const status = Number(/^HTTP\/1\.1 (\d{3}) [A-Za-z ]+$/.exec(first)?.[1])
  assert.ok(status, `no status line: ${first}`)
  const headers: Record<string, string> = {}
  for (const line of lines) {
    const [, name, value] =
      /^([A-Za-z0-9-]+): (.*)$/.exec(line) ?? assert.fail(`no header: ${line}`)
    assert.equal(headers[name!.toLowerCase()], undefined, `${name} came twice`)
    headers[name!.toLowerCase()] = value!
  }
  const hasBody = !head && status >= 200 && status !== 204 && status !== 304
  const size = hasBody ? Number(headers['content-length']) : 0
  assert.ok(Number.isInteger(size), `no length: ${buffer.slice(0, end)}`)
  if (buffer.length < end + 4 + size) return null
  const text = Buffer.from(buffer.slice(end + 4, end + 4 + size), 'latin1').toString()
  const answer = { status, headers, text, body: undefined as any }
  if (status >= 200) check(answer)
  return { answer, length: end + 4 + size }
}

/** What the contract has of every answer. */
function check(answer: RawAnswer) {
  const { status, headers, text } = answer
  assert.match(headers['x-request-id'] ?? '', /^[A-Za-z0-9._-]{1,64}$/)
  assert.equal(headers['x-content-type-options'], 'nosniff')
  assert.ok(headers['cache-control'])
  if (headers['content-type'] !== 'application/json' || text === '') return
  answer.body = JSON.parse(text)
  if (answer.body.openapi) return
  assert.equal(answer.body.requestId, headers['x-request-id'])
  assert.equal(answer.body.status, status < 400 ? 'SUCCESS' : 'ERROR')
  if (status >= 400) assert.match(answer.body.code, /^[a-z_]+$/)
}
