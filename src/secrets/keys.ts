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

/** What a file of keys has to be. */
export const keyFileRule =
  'must be a file of one to five lines made by node bin/secrets.js generate, which its owner ' +
  'alone may read (chmod 600)'

/** The keys of a file; undefined if others may read it, or it holds anything but one to five. */
export function readKeyFile(path: string) {
  const lines = readFileSync(path, 'utf8').trim().split(/\r?\n/)
  const areKeys = lines.length <= 5 && lines.every((line) => /^[A-Za-z0-9+/]{43}=$/.test(line))
  const isPrivate = (statSync(path).mode & 0o077) === 0
  return areKeys && isPrivate ? lines.map((line) => Buffer.from(line, 'base64')) : undefined
}

/** The key file of a service with a private database. */
const ownFile = fileURLToPath(new URL('../../.local/secrets-key', import.meta.url))

/** The keys of a service with a private database; null if it has made none, or lost them. */
export function readOwnKeyFile() {
  if (!existsSync(ownFile)) return null
  const keys = readKeyFile(ownFile)
  if (keys === undefined) throw new ExitError(`${ownFile} ${keyFileRule}`, 2)
  return keys
}

/** Makes that file, with a new key. */
export function makeOwnKeyFile() {
  const line = createKeyLine()
  writeFileSync(ownFile, `${line}\n`, { mode: 0o600, flag: 'wx' })
  return [Buffer.from(line, 'base64')]
}
