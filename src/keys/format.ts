// A key is usk_, 43 base62 characters of 32 random bytes and 6 base62 characters of the CRC-32 of those 43, which lets
// a mistyped or made-up key be refused without asking the database, and a scanner find a leaked one. The database holds
// SHA-256 of the key: a fast hash is enough for 256 random bits, and looking a digest up by an index tells an attacker
// who times it nothing that leads to a key.
import { hash, randomBytes } from 'node:crypto'
import { crc32 } from 'node:zlib'

const alphabet = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
const encode = (value: bigint, length: number): string =>
  length === 0 ? '' : encode(value / 62n, length - 1) + alphabet[Number(value % 62n)]
const decode = (digits: string) =>
  [...digits].reduce((value, digit) => value * 62 + alphabet.indexOf(digit), 0)

/** A new random key, in the form that is shown once. */
export function createKey(): string {
  const secret = encode(BigInt(`0x${randomBytes(32).toString('hex')}`), 43)
  return `usk_${secret}${encode(BigInt(crc32(secret)), 6)}`
}

/** Whether `key` has a key's form and checksum, so that it is worth asking the database. */
export const isKey = (key: string) =>
  /^usk_[0-9A-Za-z]{49}$/.test(key) && decode(key.slice(47)) === crc32(key.slice(4, 47))

export const digestKey = (key: string) => hash('sha256', key, 'buffer')
