import { readFileSync } from 'node:fs'

import { anyTextSchema, documented, maxNormalizedLength, refined, text } from '../schema.ts'

const sample = 'correct horse battery staple'
const maxLength = 128
/**
 * Other systems allowed longer ones, and NFKC may shorten a password.
 */
const maxLengthOfAny = 1024

const commonText = readFileSync(new URL('common.txt', import.meta.url), 'utf8')
const commonPasswords = new Set(
  commonText
    .replace(/^#.*\n/, '')
    .trim()
    .split(/\s+/),
)

/** The form of a password that is hashed: NFKC. */
export const normalPassword = (password: string) => password.normalize('NFKC')

/**
 * A new password of at least `minLength` code points, in the form that is hashed. That it is not
 * the address is a rule of users.
 */
export function newPassword(minLength: number) {
  const wrongLength = `must have ${minLength} to ${maxLength} characters`
  function refine(value: string, wrong: (message: string) => void) {
    if (value.length > maxNormalizedLength) {
      wrong(wrongLength)
      return value.slice(0, maxNormalizedLength)
    }
    const password = normalPassword(value)
    const length = [...password].length
    if (length < minLength || length > maxLength) wrong(wrongLength)
    if (!value.isWellFormed()) wrong('must be well-formed text')
    if (commonPasswords.has(password.toLowerCase())) {
      wrong('must not be one of the most common passwords')
    }
    return password
  }
  const json = { minLength, maxLength, format: 'password', examples: [sample] }
  return refined(anyTextSchema, refine, { json, code: 'invalid_password' })
}

/** A password that somebody may have. */
export const anyPasswordSchema = documented(text({ max: maxLengthOfAny, example: sample }), {
  format: 'password',
})
