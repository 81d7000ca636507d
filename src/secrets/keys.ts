// Secrets that must be read again, and so cannot be hashed: sealed by AES-256-GCM under the keys of
// the file that SECRETS_KEY_FILE names, which lies in no dump. The first key seals, all open.
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

import { ExitError } from '../errors.ts'

const algorithm = 'aes-256-gcm'

/** Seals a secret for its place: a box that was moved does not open. */
export function seal(keys: Buffer[], place: string, secret: Buffer) {
  const nonce = randomBytes(12)
  const cipher = createCipheriv(algorithm, keys[0]!, nonce).setAAD(Buffer.from(place))
  return Buffer.concat([nonce, cipher.update(secret), cipher.final(), cipher.getAuthTag()])
}

/** The secret of a box; null if none of the keys opens it in this place. */
export function open(keys: Buffer[], place: string, box: Buffer) {
  for (const key of keys) {
    try {
      const decipher = createDecipheriv(algorithm, key, box.subarray(0, 12), { authTagLength: 16 })
      decipher.setAAD(Buffer.from(place)).setAuthTag(box.subarray(-16))
      return Buffer.concat([decipher.update(box.subarray(12, -16)), decipher.final()])
    } catch {
      // Another may.
    }
  }
  return null
}

/** A new key, as a line of the file. */
export const createKeyLine = () => randomBytes(32).toString('base64')

/** The keys of a file; if it cannot be used, what is wrong with it. */
export function readKeyFile(path: string): Buffer[] | string {
  let lines: string[]
  try {
    lines = readFileSync(path, 'utf8').trim().split(/\r?\n/)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    return `is a file that this account cannot read (${code}): it must exist, and be its own`
  }
  if ((statSync(path).mode & 0o077) !== 0) return 'is a file that others may read: chmod 600'
  const bad = lines.findIndex((line) => !/^[A-Za-z0-9+/]{43}=$/.test(line))
  if (bad >= 0) return `is a file whose line ${bad + 1} is none of node bin/secrets.js generate`
  if (lines.length > 5) return 'is a file of more than five lines'
  return lines.map((line) => Buffer.from(line, 'base64'))
}

/** The key file of a service with a private database. */
const ownFile = fileURLToPath(new URL('../../.local/secrets-key', import.meta.url))

/**
 * The keys of a service with a private database; null if it has made none, or lost them. Throws an
 * `ExitError` if the file cannot be used.
 */
export function readOwnKeyFile() {
  if (!existsSync(ownFile)) return null
  const read = readKeyFile(ownFile)
  if (typeof read === 'string') throw new ExitError(`${ownFile} ${read}`, 2)
  return read
}

/** Makes the key file of a service with a private database; returns its key. */
export function makeOwnKeyFile() {
  const line = createKeyLine()
  writeFileSync(ownFile, `${line}\n`, { mode: 0o600, flag: 'wx' })
  return [Buffer.from(line, 'base64')]
}
