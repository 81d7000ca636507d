import type { IncomingMessage } from 'node:http'

import { AppError } from '../errors.ts'

/**
 * How many header fields a request may have: 1,000 short ones cost as much as ten requests. Node
 * stops collecting them soon after.
 */
export const maxFields = 100

/** What Node accepts and RFC 9112, RFC 9110 or our limit refuses; undefined: nothing is wrong. */
export function findFault(req: IncomingMessage) {
  if (req.rawHeaders.length > 2 * maxFields) return new AppError('headers_too_large')
  const isSound = hasSoundHost(req) && hasSoundCoding(req) && hasSoundTarget(req)
  if (!isSound) return new AppError('invalid_request')
  const { expect } = req.headers
  const isExpected = expect === undefined || /^(100-continue)?$/i.test(expect)
  return isExpected ? undefined : new AppError('expectation_failed')
}

const hostPattern = /^([A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(:\d{0,5})?$/

/** RFC 9112 3.2: one Host, which 1.0 may leave out, and nothing but a host and a port in it. */
function hasSoundHost({ headersDistinct, httpVersion }: IncomingMessage) {
  const hosts = headersDistinct['host'] ?? []
  if (hosts.length > 1) return false
  // Node takes any version; what a Host may be is defined for these two.
  if (httpVersion !== '1.1' && httpVersion !== '1.0') return false
  if (hosts.length === 0) return httpVersion === '1.0'
  return hostPattern.test(hosts[0]!)
}

/** RFC 9112 6.1: no coding but chunked, and none in 1.0. */
function hasSoundCoding({ headers, httpVersion }: IncomingMessage) {
  const coding = headers['transfer-encoding']
  if (coding === undefined) return true
  return coding.toLowerCase() === 'chunked' && httpVersion === '1.1'
}

/** RFC 9112 3.2: visible ASCII without a fragment; a path, a URL, or `*` of OPTIONS. */
function hasSoundTarget({ url = '', method }: IncomingMessage) {
  if (!/^[!"$-~]+$/.test(url)) return false
  if (url.startsWith('/') || /^https?:\/\/[^/?#]/i.test(url)) return true
  return url === '*' && method === 'OPTIONS'
}
