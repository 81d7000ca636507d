// Load comes from other processes: from `wrk` where there is one, else from load.ts.
import { fork, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

import type { LoadOptions, LoadResult } from './load.ts'
import { cpuMs, loader } from '../support/process.ts'
import { onOtherCores, pin, pinned } from './servers.ts'

export const hasWrk = spawnSync('wrk', ['--version']).error === undefined

/** Writes whole requests into a file that both generators read. */
export function writeRequests(path: string, requests: Request[]): string {
  writeFileSync(path, requests.map(formatRequest).join('\x01'), 'latin1')
  return path
}

export interface Request {
  method?: string
  path: string
  headers?: Record<string, string>
  body?: unknown
}

function formatRequest({ method = 'GET', path, headers = {}, body }: Request): string {
  const text = body === undefined ? '' : JSON.stringify(body)
  const all = {
    Host: '127.0.0.1',
    ...headers,
    ...(text !== '' && {
      'Content-Type': 'application/json',
      'Content-Length': String(text.length),
    }),
  }
  return `${method} ${path} HTTP/1.1\r\n${Object.entries(all)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join('')}\r\n${text}`
}

/** As many requests as the server answers, on connections that each wait for their answer. */
export async function flood(directory: string, options: LoadOptions): Promise<LoadResult> {
  if (!hasWrk) return (await prepare(options, onOtherCores)).go()
  const script = `${directory}/requests.lua`
  writeFileSync(
    script,
    `
    local requests, at = {}, 0
    function init(args)
      for each in io.open(args[1]):read('*a'):gmatch('[^\\1]+') do
        requests[#requests + 1] = each
      end
    end
    function request()
      at = at % #requests + 1
      return requests[at]
    end`,
  )
  const { connections, seconds, port, requests } = options
  const command = [
    'wrk',
    '-t1',
    `-c${connections}`,
    `-d${Math.ceil(seconds)}s`,
    '--latency',
    '-s',
    script,
    `http://127.0.0.1:${port}/`,
    requests,
  ]
  const [program, ...args] = pinned(command, onOtherCores)
  const child = spawn(program!, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
  })
  let generatorMs = 0
  const watch = setInterval(() => {
    generatorMs = cpuOf(child.pid!) ?? generatorMs
  }, 100)
  await once(child, 'close')
  clearInterval(watch)
  const perSecond = Number(/Requests\/sec:\s+([\d.]+)/.exec(text)?.[1])
  const bad = Number(/Non-2xx or 3xx responses: (\d+)/.exec(text)?.[1] ?? 0)
  const broken = /Socket errors: .*/.exec(text)?.[0]
  if (!(perSecond > 0) || broken) throw new Error(`wrk: ${broken ?? text}`)
  const answered = Number(/(\d+) requests in/.exec(text)?.[1])
  const time = (name: string) => {
    const [, value, unit] = new RegExp(`${name}\\s+([\\d.]+)(us|ms|s)`).exec(text) ?? []
    return Number(value) * ({ us: 0.001, ms: 1, s: 1000 }[unit!] ?? NaN)
  }
  return {
    answered,
    perSecond,
    statuses: { 200: answered - bad, ...(bad > 0 && { other: bad }) },
    p50: time('50%'),
    p99: time('99%'),
    max: NaN,
    generatorCpu: generatorMs / Math.ceil(seconds) / 1000,
  }
}

function cpuOf(pid: number): number | undefined {
  try {
    return cpuMs(pid)
  } catch {
    return undefined // It has ended.
  }
}

/**
 * Starts load.ts and gets it ready; `go` starts the load and waits for the result, `stop` ends it
 * before its time.
 */
export async function prepare(
  options: LoadOptions,
  cores?: string,
): Promise<{ go(): Promise<LoadResult>; stop(): void }> {
  const child = fork(fileURLToPath(new URL('load.ts', import.meta.url)), { execArgv: loader })
  if (cores !== undefined) pin([child.pid!], cores)
  child.send(options)
  await once(child, 'message')
  return {
    async go() {
      child.send('go')
      const [result] = (await once(child, 'message')) as [LoadResult]
      return result
    },
    stop: () => child.send('stop'),
  }
}
