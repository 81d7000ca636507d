// One attempt at the receiver, by Standard Webhooks. The URL is a setting: no caller names a place
// to connect to; redirects are not followed, and the answer's body is not read.
import { createHmac } from 'node:crypto'

import type { Webhook } from '../config.ts'

/** Why the receiver did not take it, and how many seconds it asks to wait; null: it does not. */
export interface Failure {
  reason: string
  seconds: number | null
}

/** An event, and what `performance.now()` counts from, by the database's clock. */
interface Sent {
  id: string
  timeOrigin: number
}

/** Posts a signed payload; null: it was taken. Never rejects, and ends within ten seconds. */
export async function post({ url, secrets }: Webhook, sent: Sent, payload: object) {
  const { id, timeOrigin } = sent
  const now = () => timeOrigin + performance.now()
  const body = JSON.stringify(payload)
  const timestamp = String(Math.floor(now() / 1000))
  const signatures = secrets.map((secret) => {
    const signed = `${id}.${timestamp}.${body}`
    return `v1,${createHmac('sha256', secret).update(signed).digest('base64')}`
  })
  // No AbortSignal.timeout: on Node 20 it may be collected before it fires.
  const limit = new AbortController()
  const late = setTimeout(() => limit.abort(new Error('no answer within 10 s')), 10_000)
  try {
    const answer = await fetch(url, {
      method: 'POST',
      redirect: 'manual',
      signal: limit.signal,
      headers: {
        Connection: 'close',
        'Content-Type': 'application/json',
        'webhook-id': id,
        'webhook-timestamp': timestamp,
        'webhook-signature': signatures.join(' '),
      },
      body,
    })
    await answer.body?.cancel()
    if (answer.ok) return null
    return { reason: `status ${answer.status}`, seconds: readRetryAfter(answer.headers, now()) }
  } catch (error) {
    // The system's messages hold the URL's host, its codes do not: ENOTFOUND, CERT_HAS_EXPIRED.
    const { message, cause } = error as Error & { cause?: { code?: string; name: string } }
    return { reason: cause?.code ?? cause?.name ?? message, seconds: null }
  } finally {
    clearTimeout(late)
  }
}

/** Seconds, or until a date, up to an hour. */
function readRetryAfter(headers: Headers, now: number) {
  const given = headers.get('retry-after') ?? ''
  const seconds = /^\d+$/.test(given) ? Number(given) : (Date.parse(given) - now) / 1000
  return seconds > 0 ? Math.min(Math.max(seconds, 1), 3600) : null
}
