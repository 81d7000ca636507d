// A password is stored as PHC string format has it. Parameters read from a stored string are bounded before they are
// used: whoever can write one row must not be able to ask for a gigabyte.
/** A password's parameters, salt and hash. `ln` is log2 of scrypt's N. */
export type PasswordHash = { ln: number; r: number; p: number; salt: Buffer; hash: Buffer }

/** OWASP's choice with the smallest memory: 16 MiB a hash. */
export const cost = { ln: 14, r: 8, p: 5 }

const phcPattern =
  /^\$scrypt\$ln=([1-9]\d?),r=([1-9]\d?),p=([1-9]\d?)\$([A-Za-z\d+/]{11,64})\$([A-Za-z\d+/]{22,86})$/

/** Reads a stored password; null when it has another form or asks for over 128 MiB or 16 passes. */
export function parseHash(stored: string): PasswordHash | null {
  const [, ln, r, p, salt, hash] = phcPattern.exec(stored) ?? []
  const read = { ln: Number(ln), r: Number(r), p: Number(p) }
  if (!salt || !hash || read.p > 16 || 128 * 2 ** read.ln * read.r > 2 ** 27) return null
  return { ...read, salt: Buffer.from(salt, 'base64'), hash: Buffer.from(hash, 'base64') }
}

export const formatHash = ({ ln, r, p, salt, hash }: PasswordHash) =>
  `$scrypt$ln=${ln},r=${r},p=${p}` +
  `$${salt.toString('base64')}$${hash.toString('base64')}`.replaceAll('=', '')

/** Whether a password stored so should be hashed anew when it is next seen. */
export const isWeaker = ({ ln, r, p }: PasswordHash) =>
  ln < cost.ln || 2 ** ln * r * p < 2 ** cost.ln * cost.r * cost.p
