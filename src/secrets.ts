// Keys and stored passwords.
//
// A key is usk_, 43 base62 characters of 32 random bytes and 6 base62 characters of the CRC-32 of those 43.
// The checksum keeps no secret: it lets a mistyped or made-up key be refused without asking the database, and
// a scanner find a leaked one. The database holds SHA-256 of the key: a fast hash is enough for 256 random
// bits, and looking a digest up by an index tells an attacker who times it nothing that leads to a key.
//
// A password is stored as PHC string format has it, by scrypt at OWASP's choice with the smallest memory.
// Parameters read from a stored string are bounded before they are used: whoever can write one row must not
// be able to ask for a gigabyte.
import { createHash, randomBytes } from 'node:crypto'

const alphabet = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'

/** A new random key, in the form that is shown once. */
export function createKey(): string {
  const secret = base62(BigInt(`0x${randomBytes(32).toString('hex')}`), 43)
  return `usk_${secret}${checksum(secret)}`
}

/** Whether `key` has a key's form and checksum, so that it is worth asking the database. */
export const isKey = (key: string) => /^usk_[0-9A-Za-z]{49}$/.test(key) && checksum(key.slice(4, 47)) === key.slice(47)

/** What the database holds of a key. */
export const digestKey = (key: string) => createHash('sha256').update(key).digest()

function base62(value: bigint, length: number): string {
  let digits = ''
  for (let rest = value; digits.length < length; rest /= 62n) digits = alphabet[Number(rest % 62n)] + digits
  return digits
}

/** CRC-32, bit by bit: 3 µs a key, and Node has one only from 20.15 on. */
function checksum(secret: string): string {
  let crc = -1
  for (let i = 0; i < secret.length; i++) {
    crc ^= secret.charCodeAt(i)
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 && 0xedb88320)
  }
  return base62(BigInt(~crc >>> 0), 6)
}

/** A password's parameters, salt and hash. `ln` is log2 of scrypt's N. */
export type PasswordHash = { ln: number; r: number; p: number; salt: Buffer; hash: Buffer }

/** OWASP's choice with the smallest memory: 16 MiB a hash. */
export const cost = { ln: 14, r: 8, p: 5 }

const phcPattern =
  /^\$scrypt\$ln=([1-9]\d?),r=([1-9]\d?),p=([1-9]\d?)\$([A-Za-z0-9+/]{11,64})\$([A-Za-z0-9+/]{22,86})$/

/** Reads a stored password; null when it has another form or asks for over 128 MiB or 16 passes. */
export function parseHash(stored: string): PasswordHash | null {
  const [, ln, r, p, salt, hash] = phcPattern.exec(stored) ?? []
  if (salt === undefined || hash === undefined) return null
  const read = { ln: Number(ln), r: Number(r), p: Number(p) }
  if (read.p > 16 || 128 * 2 ** read.ln * read.r > 2 ** 27) return null
  return { ...read, salt: Buffer.from(salt, 'base64'), hash: Buffer.from(hash, 'base64') }
}

/** The form in which a password is stored. */
export function formatHash({ ln, r, p, salt, hash }: PasswordHash): string {
  const encode = (bytes: Buffer) => bytes.toString('base64').replace(/=+$/, '')
  return `$scrypt$ln=${ln},r=${r},p=${p}$${encode(salt)}$${encode(hash)}`
}

/** Whether a password stored so should be hashed anew when it is next seen. */
export const isWeaker = ({ ln, r, p }: PasswordHash) => ln < cost.ln || 2 ** ln * r * p < 2 ** cost.ln * cost.r * cost.p
