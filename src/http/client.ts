import type { IncomingMessage } from 'node:http'
import { isIP, isIPv4, type BlockList, type Socket } from 'node:net'

export interface Client {
  address: string
  /** What is throttled: the IPv4 address, or the /64 of an IPv6 address. */
  client: string
}

/**
 * Tells who sent a request: the peer or, behind trusted proxies, the right-most entry of
 * X-Forwarded-For that is not one of them. An entry that is no address ends the search.
 */
export function createClientReader(trusted: BlockList | null): (req: IncomingMessage) => Client {
  const peers = new WeakMap<Socket, Client>()
  const isTrusted = (address: string) =>
    trusted !== null && trusted.check(address, isIPv4(address) ? 'ipv4' : 'ipv6')

  return (req) => {
    let peer = peers.get(req.socket)
    if (peer === undefined) peers.set(req.socket, (peer = describe(req.socket.remoteAddress ?? '')))
    const forwarded = req.headers['x-forwarded-for']
    if (trusted === null || forwarded === undefined || !isTrusted(peer.address)) return peer
    let { address } = peer
    const hops = (Array.isArray(forwarded) ? forwarded.join(',') : forwarded).split(',')
    for (const hop of hops.reverse()) {
      const named = normal(hop.trim())
      if (isIP(named) === 0) break
      address = named
      if (!isTrusted(named)) break
    }
    return describe(address)
  }
}

const describe = (given: string): Client => {
  const address = normal(given)
  return { address, client: isIP(address) === 6 ? network64(address) : address }
}

/** Without a zone, a port (`1.2.3.4:5`, `[::1]:5`) and the mapping of IPv4 into IPv6. */
function normal(given: string): string {
  const bare = /^\[(.*)\](?::\d+)?$/.exec(given)?.[1] ?? /^([\d.]+):\d+$/.exec(given)?.[1] ?? given
  const address = bare.replace(/%.*$/, '')
  const mapped = /^::ffff:([\d.]+)$/i.exec(address)?.[1]
  return mapped ?? address
}

function network64(address: string): string {
  const [left = '', right] = address.split('::')
  const head = left === '' ? [] : left.split(':')
  const tail = right === undefined || right === '' ? [] : right.split(':')
  const missing = right === undefined ? 0 : 8 - head.length - tail.length
  const groups = [...head, ...Array<string>(Math.max(0, missing)).fill('0'), ...tail]
  return groups.slice(0, 4).map((group) => parseInt(group, 16).toString(16)).join(':') + '::/64'
}
