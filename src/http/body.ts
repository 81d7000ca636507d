import type { IncomingMessage, ServerResponse } from 'node:http'

import { AppError, faultIn } from '../errors.ts'

const maxBytes = 16 * 1024
const maxDiscardedBytes = 16 * 1024 * 1024
const decoder = new TextDecoder('utf-8', { fatal: true })

/** Why a body cannot be read. */
const broken = new WeakMap<IncomingMessage, AppError>()

/** Makes reading a body fail, now or when it begins: the rest of the body cannot arrive. */
export function breakBody(req: IncomingMessage, error: AppError) {
  broken.set(req, error)
  if (req.listenerCount('error') > 0) req.emit('error', error)
}

/** Whether the request announces a body. */
export const hasBody = ({ headers }: IncomingMessage) =>
  headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0

/**
 * Reads a JSON body; throws `unsupported_media_type`, `body_too_large` or, if it is not JSON in
 * UTF-8, `invalid_body`. A client that expects `100 Continue` gets it here, and not before.
 */
export async function readBody(req: IncomingMessage, res: ServerResponse): Promise<unknown> {
  if (!hasBody(req)) throw faultIn('invalid_body', '', 'is missing')
  const { 'content-type': type = '', 'content-encoding': encoding, expect } = req.headers
  if (!/^application\/json\s*(;|$)/i.test(type) || encoding !== undefined) {
    throw new AppError('unsupported_media_type')
  }
  if (Number(req.headers['content-length'] ?? 0) > maxBytes) throw new AppError('body_too_large')
  if (expect?.toLowerCase() === '100-continue' && req.httpVersion === '1.1') res.writeContinue()
  const bytes = await collect(req)
  try {
    return JSON.parse(decoder.decode(bytes))
  } catch {
    throw faultIn('invalid_body', '', 'must be JSON in UTF-8')
  }
}

function collect(req: IncomingMessage): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let length = 0
    req.on('data', (chunk: Buffer) => {
      length += chunk.length
      if (length > maxBytes) reject(new AppError('body_too_large'))
      else chunks.push(chunk)
    })
    req.on('end', () => resolve(Buffer.concat(chunks)))
    req.on('error', () => reject(broken.get(req) ?? new AppError('invalid_request')))
    if (broken.has(req)) reject(broken.get(req))
  })
}

/**
 * Reads and drops the rest of a refused body, since many clients read no answer before they have
 * sent everything; after 16 MiB the connection is cut.
 */
export function discardBody(req: IncomingMessage) {
  let left = maxDiscardedBytes
  req.on('data', (chunk: Buffer) => {
    left -= chunk.length
    if (left < 0) req.destroy()
  })
  req.on('error', () => {})
  req.resume()
}
