// Keys and stored passwords.
//
// A key is usk_, 43 base62 characters of 32 random bytes and 6 base62 characters of the CRC-32 of those 43, which lets
// a mistyped or made-up key be refused without asking the database, and a scanner find a leaked one. The database holds
// SHA-256 of the key: a fast hash is enough for 256 random bits, and looking a digest up by an index tells an attacker
// who times it nothing that leads to a key.
//
// A password is stored as PHC string format has it. Parameters read from a stored string are bounded before they are
// used: whoever can write one row must not be able to ask for a gigabyte.
import { hash, randomBytes } from 'node:crypto'
import { crc32 } from 'node:zlib'

const alphabet = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
const encode = (value: bigint, length: number): string =>
  length === 0 ? '' : encode(value / 62n, length - 1) + alphabet[Number(value % 62n)]
const decode = (digits: string) => [...digits].reduce((value, digit) => value * 62 + alphabet.indexOf(digit), 0)

/** A new random key, in the form that is shown once. */
export function createKey(): string {
  const secret = encode(BigInt(`0x${randomBytes(32).toString('hex')}`), 43)
  return `usk_${secret}${encode(BigInt(crc32(secret)), 6)}`
}

/** Whether `key` has a key's form and checksum, so that it is worth asking the database. */
export const isKey = (key: string) =>
  /^usk_[0-9A-Za-z]{49}$/.test(key) && decode(key.slice(47)) === crc32(key.slice(4, 47))

export const digestKey = (key: string) => hash('sha256', key, 'buffer')

/** A password's parameters, salt and hash. `ln` is log2 of scrypt's N. */
export type PasswordHash = { ln: number; r: number; p: number; salt: Buffer; hash: Buffer }

/** OWASP's choice with the smallest memory: 16 MiB a hash. */
export const cost = { ln: 14, r: 8, p: 5 }

const phcPattern = /^\$scrypt\$ln=([1-9]\d?),r=([1-9]\d?),p=([1-9]\d?)\$([A-Za-z\d+/]{11,64})\$([A-Za-z\d+/]{22,86})$/

/** Reads a stored password; null when it has another form or asks for over 128 MiB or 16 passes. */
export function parseHash(stored: string): PasswordHash | null {
  const [, ln, r, p, salt, hash] = phcPattern.exec(stored) ?? []
  const read = { ln: Number(ln), r: Number(r), p: Number(p) }
  if (!salt || !hash || read.p > 16 || 128 * 2 ** read.ln * read.r > 2 ** 27) return null
  return { ...read, salt: Buffer.from(salt, 'base64'), hash: Buffer.from(hash, 'base64') }
}

export const formatHash = ({ ln, r, p, salt, hash }: PasswordHash) => `$scrypt$ln=${ln},r=${r},p=${p}` +
  `$${salt.toString('base64')}$${hash.toString('base64')}`.replaceAll('=', '')

/** Whether a password stored so should be hashed anew when it is next seen. */
export const isWeaker = ({ ln, r, p }: PasswordHash) => ln < cost.ln || 2 ** ln * r * p < 2 ** cost.ln * cost.r * cost.p
