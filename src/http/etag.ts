import type { IncomingHttpHeaders } from 'node:http'

/** Whether If-None-Match says that the caller has this already (weak comparison, RFC 9110 13.1.2). */
export function isCurrent(headers: IncomingHttpHeaders, etag: string): boolean {
  const known = headers['if-none-match']
  return (
    known !== undefined &&
    known.split(',').some((tag) => ['*', etag].includes(tag.trim().replace(/^W\//, '')))
  )
}

/** Whether If-Match is absent or holds for this (strong comparison, RFC 9110 13.1.1). */
export function matches(headers: IncomingHttpHeaders, etag: string): boolean {
  const wanted = headers['if-match']
  return wanted === undefined || wanted.split(',').some((tag) => ['*', etag].includes(tag.trim()))
}
