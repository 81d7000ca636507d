import type { Database } from '../../src/database/pool.ts'
import { codeAt } from '../../src/factors/codes.ts'

const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'

/** The bytes of a secret as authenticators are given it. */
export function fromBase32(text: string): Buffer {
  const bits = [...text].map((char) => alphabet.indexOf(char).toString(2).padStart(5, '0')).join('')
  return Buffer.from(bits.match(/.{8}/g)!.map((byte) => parseInt(byte, 2)))
}

/** What an authenticator shows whose clock is the database's, so many steps of 30 s from now. */
export async function showCode(db: Database, secret: string, steps = 0): Promise<string> {
  const [row] = await db.query<{ step: number }>(
    'select floor(extract(epoch from clock_timestamp()) / 30)::int as step',
  )
  return codeAt(fromBase32(secret), row!.step + steps)
}
