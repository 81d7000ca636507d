// A gateway before a service or several, which knows nothing of them.
import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'

import { undo } from './undo.ts'

interface GatewayOptions {
  /** The path below which the service is; all else is 404 without a body. */
  prefix?: string
  /** What it adds to answers. */
  headers?: Record<string, string>
}

/**
 * Passes on what is below a prefix, without it, to each of some services in turn; requests go as
 * they come. Returns where the services are then.
 */
export async function startPlainGateway(
  urls: string[],
  { prefix = '', headers: added = {} }: GatewayOptions = {},
): Promise<string> {
  let count = 0
  const gateway = http.createServer((req, res) => {
    if (!req.url!.startsWith(`${prefix}/`)) return void res.writeHead(404).end()
    const { method, headers } = req
    const path = req.url!.slice(prefix.length)
    const url = urls[count % urls.length]!
    count++
    const asking = http.request(url, { method, headers, path }, (answer) => {
      res.writeHead(answer.statusCode!, { ...answer.headers, ...added })
      answer.pipe(res)
    })
    asking.on('error', () => res.destroy())
    req.pipe(asking)
  })
  gateway.listen(0, '127.0.0.1')
  await once(gateway, 'listening')
  undo.push(() => {
    gateway.closeAllConnections()
    gateway.close()
  })
  return `http://127.0.0.1:${(gateway.address() as AddressInfo).port}${prefix}`
}
