// A gateway that serves a service below a path of its own, and knows nothing outside of it.
import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'

import { undo } from './undo.ts'

/**
 * Passes on what is below `prefix`, without it, and answers as they come: no header is rewritten.
 * Returns where the service is then; all else is 404 without a body.
 */
export async function startPrefixGateway(url: string, prefix: string): Promise<string> {
  const gateway = http.createServer((req, res) => {
    if (!req.url!.startsWith(`${prefix}/`)) return void res.writeHead(404).end()
    const { method, headers } = req
    const path = req.url!.slice(prefix.length)
    const asking = http.request(url, { method, headers, path }, (answer) => {
      res.writeHead(answer.statusCode!, answer.headers)
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
