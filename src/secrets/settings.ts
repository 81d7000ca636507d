import type { Reader } from '../environment.ts'
import { readKeyFile } from './keys.ts'

/** The keys that seal secrets, by the setting SECRETS_KEY_FILE; null without it. */
export function readSecretKeys({ text, wrong }: Reader) {
  const path = text('SECRETS_KEY_FILE')
  if (path === undefined) return null
  const read = readKeyFile(path)
  if (typeof read !== 'string') return read
  wrong('SECRETS_KEY_FILE', read)
  return null
}

/** For whom identities are signed, and as whose. */
export type SigningConfig = NonNullable<ReturnType<typeof readSigning>>

function readSigning({ pair, read }: Reader) {
  const rule =
    'must be an https: or http: URL without user, query and fragment, and end in no slash'
  return pair('TOKEN_ISSUER', 'TOKEN_AUDIENCES', () => ({
    issuer: read('TOKEN_ISSUER', '', rule, parseIssuer),
    audiences: read<string[]>(
      'TOKEN_AUDIENCES',
      [],
      'must be names of backends, none empty or with a blank, separated by commas',
      parseNames,
    ),
  }))
}

function parseIssuer(given: string) {
  const isPlain = /^https?:\/\/[^/?#@\s][^?#@\s]*$/.test(given) && !given.endsWith('/')
  return isPlain && URL.canParse(given) ? given : undefined
}

function parseNames(given: string) {
  const names = given.split(',').map((name) => name.trim())
  return names.every((name) => /^[!-~]{1,200}$/.test(name)) ? names : undefined
}

/** Reads the settings of sealing and signing; one that `makesOwn` key file needs none for it. */
export function readSecrets(reader: Reader, makesOwn: boolean) {
  const secretKeys = readSecretKeys(reader)
  const requireFactor = reader.choice('REQUIRE_FACTOR', ['none', 'admins', 'all'])
  const signing = readSigning(reader)
  if (reader.text('SECRETS_KEY_FILE') === undefined && !makesOwn) {
    if (requireFactor !== 'none') reader.wrong('REQUIRE_FACTOR', 'needs SECRETS_KEY_FILE')
    if (signing !== null) reader.wrong('TOKEN_ISSUER', 'needs SECRETS_KEY_FILE')
  }
  return { secretKeys, requireFactor, signing }
}
