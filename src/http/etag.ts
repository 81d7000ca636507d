import type { IncomingHttpHeaders } from 'node:http'

/** Whether If-None-Match says that the caller has this (weak comparison, RFC 9110 13.1.2). */
export function isCurrent(headers: IncomingHttpHeaders, etag: string): boolean {
  const known = headers['if-none-match']
  if (known === undefined) return false
  const tags = known.split(',').map((tag) => tag.trim().replace(/^W\//, ''))
  return tags.includes('*') || tags.includes(etag)
}

/** Whether If-Match is absent or holds for this (strong comparison, RFC 9110 13.1.1). */
export function matches(headers: IncomingHttpHeaders, etag: string): boolean {
  const wanted = headers['if-match']
  if (wanted === undefined) return true
  const tags = wanted.split(',').map((tag) => tag.trim())
  return tags.includes('*') || tags.includes(etag)
}
