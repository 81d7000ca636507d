// The form in which passwords are stored: PHC strings. Parameters that are read from a stored
// string are bounded before use, so that a single written row cannot ask for a gigabyte.

/** A password's parameters, salt and hash; `ln` is the binary logarithm of scrypt's N. */
export interface PasswordHash {
  ln: number
  r: number
  p: number
  salt: Buffer
  hash: Buffer
}

/** One of OWASP's settings: 16 MiB a hash, five passes. */
export const cost = { ln: 14, r: 8, p: 5 }

/** Of N · r · p: three times the work of today's. */
const maxWork = 2 ** 21
const maxBytes = 128 * 2 ** 20

const parameter = '([1-9]\\d?)'
const phcPattern = new RegExp(
  `^\\$scrypt\\$ln=${parameter},r=${parameter},p=${parameter}` +
    '\\$([A-Za-z\\d+/]{11,64})\\$([A-Za-z\\d+/]{22,86})$',
)

/** Reads a stored password; null if it has another form, or asks for over 128 MiB or `maxWork`. */
export function parseHash(stored: string) {
  const match = phcPattern.exec(stored)
  if (match === null) return null
  const [ln, r, p] = match.slice(1, 4).map(Number) as [number, number, number]
  const [salt, hash] = match.slice(4).map((part) => Buffer.from(part, 'base64')) as [Buffer, Buffer]
  if (2 ** ln * r * p > maxWork || 128 * 2 ** ln * r > maxBytes) return null
  // RFC 7914 does not allow it, and Node throws.
  if (ln >= 16 * r) return null
  return { ln, r, p, salt, hash }
}

/** The PHC string of a password. */
export function formatHash({ ln, r, p, salt, hash }: PasswordHash) {
  return `$scrypt$ln=${ln},r=${r},p=${p}$${encode(salt)}$${encode(hash)}`
}

/** Base64 without padding, as PHC strings have it. */
const encode = (bytes: Buffer) => bytes.toString('base64').replaceAll('=', '')

/** Whether a password should be hashed again: with less memory or work than today's. */
export function isWeaker({ ln, r, p }: PasswordHash) {
  return ln < cost.ln || 2 ** ln * r * p < 2 ** cost.ln * cost.r * cost.p
}
