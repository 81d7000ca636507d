import { faultIn } from '../errors.ts'
import { permissionsSchema } from '../keys/rules.ts'
import { newPassword } from '../passwords/rules.ts'
import {
  anyTextSchema,
  booleanSchema,
  instantSchema,
  integer,
  isObject,
  maxNormalizedLength,
  object,
  oneOf,
  omittable,
  refined,
  rule,
  uuidSchema,
  type Members,
  type Schema,
} from '../schema.ts'

const maxEmailLength = 254
const maxMetadataBytes = 4096
const sample = 'ada@example.org'

/**
 * The form in which addresses are compared. Lower case may undo NFC, which is applied again.
 * PostgreSQL refuses NUL, so it becomes a character that no address has.
 */
export const foldEmail = (email: string) =>
  email.trim().normalize('NFC').toLowerCase().normalize('NFC').replaceAll('\0', ' ')

/**
 * The characters of Unicode's class Cf beyond the first plane, which are in these blocks; one by
 * one, since not every dialect of regular expressions has a range of such.
 */
const invisible = [0x11000, 0x13400, 0x1bc00, 0x1d100, 0xe0000].flatMap((block) =>
  Array.from({ length: 256 }, (_, index) => String.fromCodePoint(block + index)).filter((each) =>
    /\p{Cf}/u.test(each),
  ),
)
/** \s, Cc and Cf; not every dialect has \p. */
const blank =
  '\\u0000-\\u0020\\u007f-\\u00a0\\u00ad\\u0600-\\u0605\\u061c\\u06dd\\u070f\\u0890\\u0891\\u08e2' +
  '\\u1680\\u180e\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u2064\\u2066-\\u206f' +
  `\\u3000\\ufeff\\ufff9-\\ufffb${invisible.join('')}`
const hasBlank = RegExp(`[${blank}]`, 'u')

/** An address as it is kept: trimmed, NFC, of at most 254 characters. */
function keptForm(value: string, wrong: (message: string) => void) {
  const trimmed = value.trim()
  // A longer text is refused below; normalising all of it would take too long.
  const address = trimmed.slice(0, maxNormalizedLength).normalize('NFC')
  if (trimmed.length > maxNormalizedLength || [...address].length > maxEmailLength) {
    wrong(`must have at most ${maxEmailLength} characters`)
  }
  return address
}

/** An address that a user may have. */
export const emailSchema = refined(
  anyTextSchema,
  (value, wrong) => {
    const address = keptForm(value, wrong)
    if (!/^[^@]+@[^@]+$/.test(address)) wrong('must have one @ with something on both sides')
    if (hasBlank.test(address)) {
      wrong('must not have white space or control characters')
    }
    if (!address.isWellFormed()) wrong('must be well-formed text')
    return address
  },
  {
    json: {
      minLength: 3,
      maxLength: maxEmailLength,
      pattern: `^[^@${blank}]+@[^@${blank}]+$`,
      examples: [sample],
    },
    code: 'invalid_email',
  },
)

/** An address that somebody may have: what a log-in takes. */
export const anyEmailSchema = refined(anyTextSchema, keptForm, {
  json: { maxLength: maxEmailLength, examples: [sample] },
})

/** An address, or its beginning, in a query. */
export const soughtEmailSchema = refined(anyEmailSchema, (address, wrong) => {
  if (/\s/.test(address)) wrong('must not have a blank: write + as %2B')
  return address
})

/** Whether a password, which is in NFKC by now, is the address. */
const isSameAsEmail = (password: string, email: string) =>
  foldEmail(password) === foldEmail(email.normalize('NFKC'))

const emailAsPassword = 'must not be the email'

/** Throws `invalid_password` if a password is the address. */
export function refuseEmailAsPassword(password: string, email: string) {
  if (isSameAsEmail(password, email)) throw faultIn('invalid_password', 'password', emailAsPassword)
}

/**
 * Whether PostgreSQL can store this as JSON without changing it. 4 KiB of JSON have at most 2,048
 * levels; many more would overflow the stack.
 */
function isStorable(value: unknown, levels = maxMetadataBytes / 2): boolean {
  if (typeof value === 'string') return value.isWellFormed() && !value.includes('\0')
  if (typeof value === 'number') return Number.isFinite(value)
  if (typeof value !== 'object' || value === null) return true
  if (levels === 0) return false
  return Object.entries(value).every(
    ([name, member]) => isStorable(name) && isStorable(member, levels - 1),
  )
}

/** Any JSON object of at most 4 KiB, which means something to other services. */
const metadataSchema = rule(
  { type: 'object', description: 'At most 4 KiB of JSON', examples: [{ plan: 'free' }] },
  'must be a JSON object of at most 4 KiB, without NUL',
  (value) => {
    if (!isObject(value) || !isStorable(value)) return undefined
    const bytes = Buffer.byteLength(JSON.stringify(value))
    return bytes <= maxMetadataBytes ? value : undefined
  },
)

const reserved = {
  role: oneOf('user', 'admin'),
  permissions: permissionsSchema,
  metadata: metadataSchema,
  enabled: booleanSchema,
  emailVerified: booleanSchema,
}

/** What only an admin may set, as members of a body: null means not given. */
export const reservedMembers = {
  role: omittable(reserved.role),
  permissions: omittable(reserved.permissions),
  metadata: omittable(reserved.metadata),
  enabled: omittable(reserved.enabled),
  emailVerified: omittable(reserved.emailVerified),
}
export type Reserved = Members<typeof reserved>

/** The values of these members where no admin has set them. */
export const reservedDefaults: Reserved = {
  role: 'user',
  permissions: [],
  metadata: {},
  enabled: true,
  emailVerified: false,
}

/** A user as it is shown, without the key that only its creation shows. */
export const userMembers = {
  id: uuidSchema,
  email: emailSchema,
  ...reserved,
  secondFactor: booleanSchema,
  version: integer(1, 2 ** 31 - 1),
  createdAt: instantSchema,
  updatedAt: instantSchema,
}
export type User = Members<typeof userMembers>

type SignUp = Partial<Reserved> & { email: string; password?: string }

/** The body of a sign-up; an admin may leave out the password. */
export function signUpSchema(passwordMinLength: number, isByAdmin: boolean) {
  const passwordSchema = newPassword(passwordMinLength)
  const body: Schema<SignUp> = isByAdmin
    ? object({ email: emailSchema }, { password: omittable(passwordSchema), ...reservedMembers })
    : object({ email: emailSchema, password: passwordSchema }, reservedMembers)
  function refine(given: SignUp, wrong: (message: string, member: string) => void) {
    // Despite its type, `given` lacks members that were not sent or that broke their own rules.
    const { email, password } = given as Partial<SignUp>
    if (email !== undefined && password !== undefined && isSameAsEmail(password, email)) {
      wrong(emailAsPassword, 'password')
    }
    return given
  }
  return refined(body, refine, { code: 'invalid_password' })
}
