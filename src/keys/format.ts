// Keys: API keys and sessions. This room owns their form, their rows, what they may do and whose
// they are; nothing else in the service touches the table api_keys.
//
// A key is usk_, 43 base62 characters of 32 random bytes and 6 base62 characters of the CRC-32 of
// those 43. So a mistyped or made-up key is refused without asking the database, and scanners can
// find a leaked one. The database holds SHA-256 of the key: a fast hash is enough for 256
// random bits, and timing a look-up of the digest tells an attacker nothing that leads to a key.
// A token is formed alike but begins with ust_, so that neither passes for the other.
import { hash, randomBytes } from 'node:crypto'
import { crc32 } from 'node:zlib'

import { text } from '../schema.ts'

const alphabet = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
const randomLength = 43
const checksumLength = 6

/** How a secret begins: `usk` is a key, which opens the API; `ust` a token, for a single act. */
type Prefix = 'usk' | 'ust'

const totalLength = 4 + randomLength + checksumLength
const patterns = { usk: /^usk_[0-9A-Za-z]{49}$/, ust: /^ust_[0-9A-Za-z]{49}$/ }

/** What a secret looks like. */
export const sampleOf = (prefix: Prefix) => `${prefix}_`.padEnd(totalLength, '0')

/** A key or token in the answer that makes it. */
export const secretSchema = (prefix: Prefix) =>
  text({ min: totalLength, max: totalLength, pattern: patterns[prefix], example: sampleOf(prefix) })

function encode(value: bigint, length: number) {
  let digits = ''
  let rest = value
  while (digits.length < length) {
    digits = alphabet[Number(rest % 62n)] + digits
    rest /= 62n
  }
  return digits
}

function decode(digits: string) {
  let value = 0
  for (const digit of digits) value = value * 62 + alphabet.indexOf(digit)
  return value
}

/** A new random key or token, in the form that is shown once. */
export function createSecret(prefix: Prefix) {
  const randomPart = encode(BigInt(`0x${randomBytes(32).toString('hex')}`), randomLength)
  return `${prefix}_${randomPart}${encode(BigInt(crc32(randomPart)), checksumLength)}`
}

/** A new random key. */
export const createKey = () => createSecret('usk')

/** Whether `text` has the form and checksum of a secret: then it is worth asking the database. */
export function isSecret(text: string, prefix: Prefix) {
  if (!patterns[prefix].test(text)) return false
  const randomPart = text.slice(4, 4 + randomLength)
  return decode(text.slice(4 + randomLength)) === crc32(randomPart)
}

/** SHA-256 of a key or token: what the database holds of it. */
export const digestKey = (key: string) => hash('sha256', key, 'buffer')
