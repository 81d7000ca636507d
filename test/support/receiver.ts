// A receiver of the webhook, which answers as a test wants and checks every signature by the text
// of Standard Webhooks.
import assert from 'node:assert/strict'
import { createHmac, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'

import { makeFolder, until } from './process.ts'
import { undo } from './undo.ts'

/** What came. */
export interface Told {
  id: string
  /** Of the attempt, in seconds. */
  timestamp: number
  headers: http.IncomingHttpHeaders
  path: string
  type: string
  data: any
  body: any
  text: string
  /** When, by `performance.now()`. */
  at: number
  /** Answers one that hangs. */
  answer(status: number): void
}

/** A status, a status with headers, or none: the connection is reset, or nothing comes. */
export type Reaction =
  number | { status: number; headers: Record<string, string> } | 'reset' | 'hang'

/** The signature of a text by one secret of the form whsec_…, which may have come in a file. */
export function signatureOf(secret: string, signed: string): string {
  const key = Buffer.from(secret.replace('whsec_', ''), 'base64')
  return `v1,${createHmac('sha256', key).update(signed).digest('base64')}`
}

export const makeSecret = () => `whsec_${randomBytes(32).toString('base64')}`

export interface Receiver {
  url: string
  /** Settings that make a service tell it. */
  env: Record<string, string>
  secrets: string[]
  /** All that came, in order. */
  told: Told[]
  /** What it answers from now on. */
  react(reaction: Reaction | ((told: Told) => Reaction)): void
  /** The first that fits, and that came after `after` others; waits for it. */
  next(fits: (told: Told) => boolean, seconds?: number): Promise<Told>
  close(): Promise<void>
  /** Listens again where it did. */
  open(): Promise<void>
}

/** Starts one that takes everything. */
export async function startReceiver(secrets = [makeSecret()]): Promise<Receiver> {
  const told: Told[] = []
  let reaction: Reaction | ((each: Told) => Reaction) = 204
  const server = http.createServer((req, res) => void answer(req, res))

  async function answer(req: http.IncomingMessage, res: http.ServerResponse) {
    let text = ''
    for await (const chunk of req.setEncoding('utf8')) text += chunk
    const { headers } = req
    const id = String(headers['webhook-id'])
    const timestamp = Number(headers['webhook-timestamp'])
    const signed = `${id}.${timestamp}.${text}`
    assert.equal(
      headers['webhook-signature'],
      secrets.map((secret) => signatureOf(secret, signed)).join(' '),
    )
    const body = JSON.parse(text)
    const { type, data } = body
    const at = performance.now()
    const later = (status: number) => void res.writeHead(status).end()
    const each = {
      id,
      timestamp,
      headers,
      path: req.url!,
      type,
      data,
      body,
      text,
      at,
      answer: later,
    }
    told.push(each)
    const chosen = typeof reaction === 'function' ? reaction(each) : reaction
    if (chosen === 'hang') return
    if (chosen === 'reset') return void req.socket.resetAndDestroy()
    if (typeof chosen === 'number') res.writeHead(chosen).end()
    else res.writeHead(chosen.status, chosen.headers).end()
  }

  let port = 0
  async function open() {
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    port = (server.address() as AddressInfo).port
  }
  async function close() {
    if (!server.listening) return
    server.close()
    server.closeAllConnections()
    await once(server, 'close')
  }
  await open()
  undo.push(close)
  const secretFile = join(makeFolder('webhook'), 'secrets')
  writeFileSync(secretFile, `${secrets.join('\n')}\n`)
  const url = `http://127.0.0.1:${port}/hook`
  return {
    url,
    env: { WEBHOOK_URL: url, WEBHOOK_SECRET_FILE: secretFile },
    secrets,
    told,
    react(next) {
      reaction = next
    },
    next: async (fits, seconds) =>
      until(
        () => `an event, of ${JSON.stringify(told.map(({ type }) => type))}`,
        () => told.find(fits)!,
        seconds,
      ),
    open,
    close,
  }
}
