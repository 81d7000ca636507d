import type { IncomingHttpHeaders } from 'node:http'

import { AppError } from '../errors.ts'

/** Whether If-None-Match names this ETag (weak comparison, RFC 9110 13.1.2). */
export function isCurrent(headers: IncomingHttpHeaders, etag: string) {
  const known = headers['if-none-match'] ?? ''
  if (known.trim() === '*') return true
  const tags = readTags(known) ?? []
  return tags.some((tag) => tag.replace(/^W\//, '') === etag)
}

/**
 * Whether If-Match is absent or names this ETag (strong comparison, RFC 9110 13.1.1); throws
 * `invalid_request` if it is no list of ETags, for example a version without quotes.
 */
export function matches(headers: IncomingHttpHeaders, etag: string) {
  const wanted = headers['if-match']
  if (wanted === undefined || wanted.trim() === '*') return true
  const tags = readTags(wanted)
  if (tags === null) throw new AppError('invalid_request')
  return tags.includes(etag)
}

const tagPattern = /(?:W\/)?"[^"]*"/g

/** The ETags of a list, or null if it contains anything else. */
function readTags(list: string) {
  const tags = list.match(tagPattern)
  const rest = list.replace(tagPattern, '')
  return tags !== null && /^[\s,]*$/.test(rest) ? tags : null
}
