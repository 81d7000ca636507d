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

  async function ask(
    method: string,
    path: string,
    { key, body, headers = {}, at, isMany = false }: Asking = {},
  ): Promise<Answer> {
    const up = slots.filter(({ isUp }) => isUp)
    const slot = at ?? up[n % up.length]!
    const { instance, troubles, troubled } = slot
    const requestId = `soak-${++n}`
    const what = `${requestId} ${method} ${path.slice(0, 80)} at ${slot.name}`
    const start = performance.now()
    let answer: Answer
    try {
      const { text, ...rest } = await send(
        `${instance.service.url}${path}`,
        method,
        instance.agent,
        {
          // Those who share an address share what it may ask.
          'X-Forwarded-For': isMany
            ? '10.255.0.1'
            : `10.${(n >> 16) & 255}.${(n >> 8) & 255}.${n & 255}`,
          'X-Request-Id': requestId,
          ...(key !== undefined && { 'X-Api-Key': key }),
          ...(body !== undefined && { 'Content-Type': 'application/json' }),
          ...headers,
        },
        body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body),
      )
      const parsed =
        rest.headers['content-type'] === 'application/json' && text !== '' ? JSON.parse(text) : {}
      answer = {
        ...rest,
        requestId,
        details: rest.headers['content-type']?.startsWith('text/') ? text : parsed.details,
        code: parsed.code,
      }
      checkDocumented(method, path, answer)
      if (rest.headers['x-request-id'] !== requestId) fail(`${what}: the id of another request`)
    } catch (error) {
      if (!instance.killed) fail(`${what}: ${(error as Error).message}`)
      figures.lost++
      return { status: 0, headers: {}, details: undefined, requestId }
    }
    const ms = performance.now() - start
    const kind = path.endsWith('/healthcheck')
      ? 'health check'
      : (body as { password?: string } | undefined)?.password
        ? 'answer with one'
        : 'answer without a password'
    slowest[kind] = Math.max(slowest[kind], ms)
    if (ms > limits[kind]) fail(`${what}: took ${Math.round(ms)} ms`)
    figures.requests++
    statuses[answer.status] = (statuses[answer.status] ?? 0) + 1
    if ([429, 503].includes(answer.status) && !(Number(answer.headers['retry-after']) > 0))
      fail(`${what}: ${answer.status} without Retry-After`)
    if (answer.status < 500) return answer
    const isExcused = troubles + slot.troubles > 0 || troubled !== slot.troubled
    if (answer.status !== 503 || answer.code !== 'database_unavailable' || !isExcused)
      fail(`${what}: ${answer.status} ${answer.code}`)
    figures.lost++
    return { ...answer, status: 0 }
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

const send = (
  url: string,
  method: string,
  agent: http.Agent,
  headers: Record<string, string>,
  body?: string,
) =>
  new Promise<Raw>((resolve, reject) => {
    const req = http.request(url, { method, agent, headers, timeout: hangMs }, (res) => {
      let text = ''
      res.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk
      })
      res.on('error', reject)
      res.on('end', () =>
        res.complete
          ? resolve({ status: res.statusCode!, headers: res.headers, text })
          : reject(new Error('cut short')),
      )
    })
    req.on('timeout', () => req.destroy(new Error(`no answer in ${hangMs} ms`)))
    req.on('error', reject)
    req.end(body)
  })
