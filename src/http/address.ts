import type { IncomingMessage } from 'node:http'
import { isIP, isIPv4, type BlockList, type Socket } from 'node:net'

/** `client` is what is throttled: the IPv4 address, or the /64 of an IPv6 address. */
export type Client = { address: string; client: string }

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
    if (peer === undefined)
      peers.set(req.socket, (peer = describe(normal(req.socket.remoteAddress ?? ''))))
    const forwarded = req.headers['x-forwarded-for'] as string | undefined // Node joins several
    if (forwarded === undefined || !isTrusted(peer.address)) return peer
    let { address } = peer
    for (const hop of forwarded.split(',').reverse()) {
      const named = normal(hop.trim())
      if (isIP(named) === 0) break
      address = named
      if (!isTrusted(named)) break
    }
    return describe(address)
  }
}

const describe = (address: string): Client => ({
  address,
  client: isIP(address) === 6 ? network64(address) : address,
})

/** Without a zone, a port (`1.2.3.4:5`, `[::1]:5`) and the mapping of IPv4 into IPv6. */
const normal = (given: string) =>
  given
    .replace(/^\[(.*)\](:\d+)?$|^([\d.]+):\d+$/, '$1$3')
    .replace(/%.*$/, '')
    .replace(/^::ffff:(?=[\d.]+$)/i, '')

function network64(address: string): string {
  const [head = [], tail = []] = address
    .split('::')
    .map((part) => part.split(':').filter((group) => group !== ''))
  const zeros = Array<string>(Math.max(0, 8 - head.length - tail.length)).fill('0')
  const groups = [...head, ...(address.includes('::') ? zeros : []), ...tail]
  return (
    groups
      .slice(0, 4)
      .map((group) => parseInt(group, 16).toString(16))
      .join(':') + '::/64'
  )
}
