import {
  anyTextSchema,
  booleanSchema,
  instantSchema,
  integer,
  list,
  oneOf,
  refined,
  text,
  uuidSchema,
} from '../schema.ts'
import type { Members, Schema } from '../schema.ts'

/** What addresses are compared by. NUL, which PostgreSQL does not take, matches no address. */
export const foldEmail = (email: string) =>
  email.trim().normalize('NFC').toLowerCase().normalize('NFC').replaceAll('\0', ' ')

/** \s, and of Unicode's classes Cc and Cf what UTF-16 writes in one unit: not every dialect has \p. */
const blank =
  '\\u0000-\\u0020\\u007f-\\u00a0\\u00ad\\u0600-\\u0605\\u061c\\u06dd\\u070f\\u0890\\u0891\\u08e2' +
  '\\u1680\\u180e\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u2064\\u2066-\\u206f\\u3000\\ufeff\\ufff9-\\ufffb'
const emailJson = {
  minLength: 3,
  maxLength: 254,
  pattern: `^[^@${blank}]+@[^@${blank}]+$`,
  examples: ['ada@example.org'],
}

/** An address as it is kept: trimmed, NFC. */
export const email = refined(
  anyTextSchema,
  (value, wrong) => {
    const address = value.trim().normalize('NFC')
    if (!/^[^@]+@[^@]+$/.test(address)) wrong('must have one @ with something on both sides')
    if ([...address].length > 254) wrong('must have at most 254 characters')
    if (/[\s\p{Cc}\p{Cf}\p{Zs}]/u.test(address))
      wrong('must not have white space or control characters')
    if (!address.isWellFormed()) wrong('must be well-formed text')
    return address
  },
  { json: emailJson, code: 'invalid_email' },
)

/** An address that somebody may have: what a log-in or a search takes. */
export const anyEmailSchema = refined(
  anyTextSchema,
  (value, wrong) => {
    if ([...value.trim().normalize('NFC')].length > 254) wrong('must have at most 254 characters')
    return value
  },
  { json: { maxLength: 254, examples: ['ada@example.org'] } },
)

/** Whether a password is the address. */
export const isEmail = (password: string, email: string) =>
  foldEmail(password) === foldEmail(email.normalize('NFKC'))
export const notTheEmail = 'must not be the email'

/** A body in which the password is not the address. */
export const refusingEmailAsPassword = <T extends { email?: string; password?: string }>(
  body: Schema<T>,
) =>
  refined(
    body,
    (given, wrong) => {
      if (given.password && given.email && isEmail(given.password, given.email))
        wrong(notTheEmail, 'password')
      return given
    },
    { code: 'invalid_password' },
  )

/** A name that services behind a gateway give a meaning; without a comma, since it travels in a list. */
const permission = text({
  min: 1,
  max: 64,
  pattern: /^[A-Za-z0-9._:/*-]+$/,
  message: 'must have 1 to 64 letters, digits and . _ : / * -',
  example: 'orders:read',
})

/** What only an admin may set. */
export const reserved = {
  role: oneOf('user', 'admin'),
  permissions: list(permission, 32),
  enabled: booleanSchema,
}

/** A user as it is shown, but for the key that only its creation shows. */
export const members = {
  id: uuidSchema,
  email,
  ...reserved,
  version: integer(1, 2 ** 31 - 1),
  createdAt: instantSchema,
  updatedAt: instantSchema,
}
export type User = Members<typeof members>
