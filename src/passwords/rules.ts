import { readFileSync } from 'node:fs'

import { anyTextSchema, refined } from '../schema.ts'

const commonText = readFileSync(new URL('common.txt', import.meta.url), 'utf8')
const common = new Set(
  commonText
    .replace(/^#.*\n/, '')
    .trim()
    .split(/\s+/),
)

const sample = 'correct horse battery staple'

/** A new password, in the form that is hashed: NFKC. */
export const newPassword = (minLength: number) =>
  refined(
    anyTextSchema,
    (value, wrong) => {
      const password = normalPassword(value)
      const length = [...password].length
      if (length < minLength || length > 128) wrong(`must have ${minLength} to 128 characters`)
      if (!value.isWellFormed()) wrong('must be well-formed text')
      if (common.has(password.toLowerCase())) wrong('must not be one of the most common passwords')
      return password
    },
    {
      json: { minLength, maxLength: 128, format: 'password', examples: [sample] },
      code: 'invalid_password',
    },
  )

/**
 * A password that somebody may have. Other systems allowed longer ones than this, and before NFKC one has
 * more characters than after it.
 */
export const anyPasswordSchema = refined(
  anyTextSchema,
  (value, wrong) => {
    if ([...value].length > 1024) wrong('must have at most 1024 characters')
    return value
  },
  { json: { maxLength: 1024, format: 'password', examples: [sample] } },
)

/** The form of a password that is hashed. */
export const normalPassword = (password: string) => password.normalize('NFKC')
