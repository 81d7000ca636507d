import type { IncomingMessage } from 'node:http'
import { isIP, isIPv4, type BlockList, type Socket } from 'node:net'

import type { Log } from '../log.ts'

/** `client` is what is throttled: the IPv4 address, or the /64 of an IPv6 address. */
export type Client = { address: string; client: string }

/**
 * Finds who sent a request: the peer or, behind trusted proxies, the right-most entry of
 * X-Forwarded-For that is not a trusted proxy. An entry that is no address ends the search; an
 * empty one is skipped.
 */
export function createClientReader(
  trusted: BlockList | null,
  log: Log,
): (req: IncomingMessage) => Client {
  let isWarned = false
  const isTrusted = (address: string) =>
    trusted?.check(address, isIPv4(address) ? 'ipv4' : 'ipv6') === true

  /** Warns once: any client may send the header, as often as it likes. */
  function warn(address: string) {
    if (isWarned) return
    isWarned = true
    log('warn', 'X-Forwarded-For of a peer that TRUSTED_PROXIES does not name is ignored', {
      address,
      effect: 'all who are behind it share one rate limit',
    })
  }

  return (req) => {
    const peer = readPeer(req.socket)
    const forwarded = req.headers['x-forwarded-for'] as string | undefined // Node joins several
    if (forwarded === undefined) return peer
    if (!isTrusted(peer.address)) {
      warn(peer.address)
      return peer
    }
    let { address } = peer
    for (const hop of forwarded.split(',').reverse()) {
      const named = normalAddress(hop.trim())
      if (named === '') continue
      if (isIP(named) === 0) break
      address = named
      if (!isTrusted(named)) break
    }
    return describe(address)
  }
}

/** The other side of a connection, which may be a proxy. */
export const readPeer = (socket: Socket) => describe(normalAddress(socket.remoteAddress ?? ''))

const describe = (address: string): Client => ({
  address,
  client: isIP(address) === 6 ? network64(address) : address,
})

/** An address without port, brackets and zone; IPv4 that is mapped into IPv6 is IPv4. */
const normalAddress = (given: string) =>
  given
    .replace(/^\[(.*)\](:\d+)?$/, '$1')
    .replace(/^([\d.]+):\d+$/, '$1')
    .replace(/%.*$/, '')
    .replace(/^::ffff:(?=[\d.]+$)/i, '')

/** The /64 of an IPv6 address, in one spelling. */
function network64(address: string) {
  // What :: stands for. Splitting at the colons leaves one part empty, hence 9 and not 8.
  const zeros = '0:'.repeat(9 - address.split(':').length)
  const groups = address.replace('::', `:${zeros}`).split(':')
  const network = groups.slice(0, 4).map((group) => parseInt(`0${group}`, 16).toString(16))
  return `${network.join(':')}::/64`
}
