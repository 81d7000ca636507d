import { createHmac, hash, randomBytes } from 'node:crypto'

const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'

/** Base32 by RFC 4648 of bytes whose number is a multiple of five, which needs no padding. */
export function toBase32(bytes: Buffer) {
  let bits = ''
  for (const byte of bytes) bits += byte.toString(2).padStart(8, '0')
  return bits.replace(/.{5}/g, (five) => alphabet[parseInt(five, 2)]!)
}

/** The code of a step of 30 s, by RFC 6238: SHA-1, six digits. */
export function codeAt(secret: Buffer, step: number) {
  const counter = Buffer.alloc(8)
  counter.writeBigUInt64BE(BigInt(step))
  const digest = createHmac('sha1', secret).update(counter).digest()
  const number = digest.readUInt32BE(digest[19]! & 15) & 0x7fffffff
  return String(number % 1_000_000).padStart(6, '0')
}

/** The step, at most one from `now`, of which this is the code; of two the later one, or null. */
export function findStep(secret: Buffer, code: string, now: number): number | null {
  const steps = [now + 1, now, now - 1]
  return steps.find((step) => codeAt(secret, step) === normalCode(code)) ?? null
}

/** The URI that authenticators read, mostly from a QR code. */
export const uriOf = (email: string, secret: string) =>
  `otpauth://totp/user-service:${encodeURIComponent(email)}?secret=${secret}` +
  '&issuer=user-service&algorithm=SHA1&digits=6&period=30'

/** A recovery code, of 120 random bits. */
export const createRecoveryCode = () => toBase32(randomBytes(15)).replace(/.{6}(?=.)/g, '$&-')

/** A code as codes are compared, however it was typed. */
export const normalCode = (code: string) => code.replace(/[\s-]/g, '').toUpperCase()

/** What the database holds of a recovery code. */
export const digestCode = (code: string) => hash('sha256', normalCode(code), 'buffer')
