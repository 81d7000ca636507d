import http from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'

import { checkDocumented } from '../support/documented.ts'
import type { Service } from '../support/service.ts'

/** Where an instance is found; another may take its place. */
export interface Slot {
  name: string
  instance: { service: Service; agent: http.Agent; killed: boolean }
  /** Whether requests are sent to it. */
  isUp: boolean
  /** How many faults are on that it may answer 503 for, and how many there have been. */
  troubles: number
  troubled: number
}

/** `status` is 0 where no answer came, or a 503, and a fault excuses that. */
export interface Answer {
  status: number
  headers: http.IncomingHttpHeaders
  details: any
  code?: string
  requestId: string
}
export interface Asking {
  key?: string | undefined
  body?: unknown
  headers?: Record<string, string>
  at?: Slot
  isMany?: boolean
}
type Raw = Pick<Answer, 'status' | 'headers'> & { text: string }

/** As long as the service gives a client to take its answer. */
const hangMs = 40_000
/**
 * More than the contract's two seconds by what a busy machine takes; of others, several statements
 * may time out.
 */
const limits = {
  'health check': 2500,
  'answer without a password': 6000,
  'answer with one': Infinity,
}

/**
 * Calls the instances in turn, holds every answer against what may be answered, and keeps count.
 */
export function createClient(slots: Slot[]) {
  const wrong: string[] = []
  const figures = { requests: 0, lost: 0 }
  const slowest = { 'health check': 0, 'answer without a password': 0, 'answer with one': 0 }
  const statuses: Record<string, number> = {}
  let n = 0

  const fail = (what: string) => {
    if (wrong.push(what) <= 20) console.log(`WRONG ${what}`)
  }

  function nextAddress() {
    return `10.${(n >> 16) & 255}.${(n >> 8) & 255}.${n & 255}`
  }

  /** Fails if an answer is not one that may be given; returns whether it is one to look at. */
  function judge(answer: Answer, asked: Asked): boolean {
    const { what, kind, ms, isExcused } = asked
    const { status, code } = answer
    slowest[kind] = Math.max(slowest[kind], ms)
    if (ms > limits[kind]) fail(`${what}: took ${Math.round(ms)} ms`)
    figures.requests++
    statuses[status] = (statuses[status] ?? 0) + 1
    const mustSayWhen = status === 429 || status === 503
    if (mustSayWhen && !(Number(answer.headers['retry-after']) > 0))
      fail(`${what}: ${status} without Retry-After`)
    if (status < 500) return true
    if (status !== 503 || code !== 'database_unavailable' || !isExcused())
      fail(`${what}: ${status} ${code}`)
    figures.lost++
    return false
  }

  async function ask(method: string, path: string, asking: Asking = {}): Promise<Answer> {
    const { key, body, headers = {}, at, isMany = false } = asking
    const up = slots.filter(({ isUp }) => isUp)
    const slot = at ?? up[n % up.length]!
    const { instance, troubles, troubled } = slot
    const requestId = `soak-${++n}`
    const what = `${requestId} ${method} ${path.slice(0, 80)} at ${slot.name}`
    const start = performance.now()
    let answer: Answer
    try {
      const raw = await send(`${instance.service.url}${path}`, {
        method,
        agent: instance.agent,
        headers: {
          // Clients that share an address share what it may ask.
          'X-Forwarded-For': isMany ? '10.255.0.1' : nextAddress(),
          'X-Request-Id': requestId,
          ...(key !== undefined && { 'X-Api-Key': key }),
          ...(body !== undefined && { 'Content-Type': 'application/json' }),
          ...headers,
        },
        body: textOf(body),
      })
      answer = { ...readAnswer(raw), requestId }
      checkDocumented(method, path, answer)
      if (raw.headers['x-request-id'] !== requestId) fail(`${what}: the id of another request`)
    } catch (error) {
      if (!instance.killed) fail(`${what}: ${(error as Error).message}`)
      figures.lost++
      return { status: 0, headers: {}, details: undefined, requestId }
    }
    const isGood = judge(answer, {
      what,
      kind: kindOf(path, body),
      ms: performance.now() - start,
      isExcused: () => troubles + slot.troubles > 0 || troubled !== slot.troubled,
    })
    return isGood ? answer : { ...answer, status: 0 }
  }

  return {
    ask,
    fail,
    wrong,
    figures,
    slowest,
    statuses,
    /** Asks until there is an answer; for when no fault is on, or until it is over. */
    async insist(method: string, path: string, asking: Asking = {}): Promise<Answer> {
      for (let tries = 0; tries < 50; tries++, await sleep(100)) {
        const answer = await ask(method, path, asking)
        if (answer.status > 0) return answer
      }
      throw new Error(`${method} ${path}: no answer`)
    },
  }
}

export type Client = ReturnType<typeof createClient>

type Kind = keyof typeof limits

interface Asked {
  what: string
  kind: Kind
  ms: number
  /** Whether a fault was on at any time since it was asked. */
  isExcused(): boolean
}

function kindOf(path: string, body: unknown): Kind {
  if (path.endsWith('/healthcheck')) return 'health check'
  const { password } = (body ?? {}) as { password?: string }
  return password ? 'answer with one' : 'answer without a password'
}

function textOf(body: unknown): string | undefined {
  if (body === undefined || typeof body === 'string') return body
  return JSON.stringify(body)
}

function readAnswer({ text, status, headers }: Raw) {
  const type = headers['content-type']
  const parsed = type === 'application/json' && text !== '' ? JSON.parse(text) : {}
  const details = type?.startsWith('text/') ? text : parsed.details
  return { status, headers, details, code: parsed.code }
}

interface Sending {
  method: string
  agent: http.Agent
  headers: Record<string, string>
  body: string | undefined
}

function send(url: string, { method, agent, headers, body }: Sending): Promise<Raw> {
  return new Promise((resolve, reject) => {
    const req = http.request(url, { method, agent, headers, timeout: hangMs }, (res) => {
      let text = ''
      res.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk
      })
      res.on('error', reject)
      res.on('end', () => {
        if (res.complete) resolve({ status: res.statusCode!, headers: res.headers, text })
        else reject(new Error('cut short'))
      })
    })
    req.on('timeout', () => req.destroy(new Error(`no answer in ${hangMs} ms`)))
    req.on('error', reject)
    req.end(body)
  })
}
