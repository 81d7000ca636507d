// Signed identity: what backends verify without asking this service. This room owns the ring of
// ES256 keys that all instances sign with, which lies sealed in the database.
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  hash,
  type KeyObject,
} from 'node:crypto'

import { insertEvent } from '../audit/queries.ts'
import type { Database, Db } from '../database/pool.ts'
import { AppError, ExitError } from '../errors.ts'
import { describeError, type Log } from '../log.ts'
import { open, seal } from '../secrets/keys.ts'
import {
  deleteKeys,
  deleteUnpublished,
  insertKey,
  isKeyDue,
  listPublished,
  lockRing,
} from './queries.ts'

/** The keys at one moment, as all instances have them. */
export interface Ring {
  /** By RFC 7517, the oldest first. */
  published: object[]
  /** The key that signs. */
  kid: string
  key: KeyObject
  /** When `performance.timeOrigin` was by the database's clock, in seconds since 1970. */
  originSeconds: number
}

/** Where the ring lies, and the keys that open it. */
export interface RingDeps {
  db: Database
  keys: Buffer[]
  log: Log
}

/** Where a signing key lies. */
export const placeOf = (kid: string) => `signing key ${kid}`

/**
 * Returns a function that returns the ring, at most 30 s old, and makes a key where one is due. It
 * throws `database_unavailable`, also if the keys do not open.
 */
export function createRing(deps: RingDeps) {
  let ring: Promise<Ring> | null = null
  let readAt = 0

  return () => {
    if (ring === null || performance.now() - readAt > 30_000) {
      readAt = performance.now()
      ring = readRing(deps)
      ring.catch(() => {
        ring = null
      })
    }
    return ring
  }
}

async function readRing({ db, keys, log }: RingDeps): Promise<Ring> {
  let failure: unknown
  try {
    if (await isKeyDue(db)) await addKey(db, keys)
  } catch (error) {
    failure = error
  }
  const rows = await listPublished(db)
  // A key that is too old signs until there can be another.
  if (rows.length === 0) throw failure ?? new AppError('database_unavailable')
  if (failure !== undefined) log('warn', 'no new signing key', describeError(failure))
  const opened = rows.map(({ kid, box }) => openKey(keys, kid, box))
  const at = rows.findIndex(({ signs }) => signs)
  const { kid, now } = rows[at]!
  return {
    published: rows.map(({ kid }, index) => publish(kid, opened[index]!)),
    kid,
    key: opened[at]!,
    originSeconds: now - performance.now() / 1000,
  }
}

const closed = new ExitError(
  'The signing keys do not open: set the SECRETS_KEY_FILE that sealed them, or have a new one ' +
    'made: node bin/secrets.js new-signing-key --yes (of a private database, while npm start ' +
    'runs without TOKEN_ISSUER)',
)

function openKey(keys: Buffer[], kid: string, box: Buffer) {
  const opened = open(keys, placeOf(kid), box)
  if (opened === null) throw new AppError('database_unavailable', { cause: closed })
  return createPrivateKey({ key: opened, format: 'der', type: 'pkcs8' })
}

function publish(kid: string, key: KeyObject) {
  const { kty, crv, x, y } = createPublicKey(key).export({ format: 'jwk' })
  return { kty, crv, x, y, kid, alg: 'ES256', use: 'sig' }
}

/** Adds a key to the ring, unless another instance just did. */
const addKey = (db: Database, keys: Buffer[]) =>
  db.transaction(async (tx) => {
    await lockRing(tx)
    if (!(await isKeyDue(tx))) return
    await deleteUnpublished(tx)
    await makeKey(tx, keys)
  })

/** Puts one new key in place of all others, so that what they signed is refused. */
export const replaceKeys = (db: Database, keys: Buffer[]) =>
  db.transaction(async (tx) => {
    await lockRing(tx)
    await deleteKeys(tx)
    await makeKey(tx, keys)
    const byCommand = { actor: null, subject: null, origin: null }
    await insertEvent(tx, { action: 'signing_key.replaced', ...byCommand })
  })

async function makeKey(tx: Db, keys: Buffer[]) {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const { crv, kty, x, y } = publicKey.export({ format: 'jwk' })
  // The thumbprint of RFC 7638: these members in this order.
  const kid = hash('sha256', JSON.stringify({ crv, kty, x, y }), 'base64url')
  const secret = privateKey.export({ format: 'der', type: 'pkcs8' })
  await insertKey(tx, { kid, box: seal(keys, placeOf(kid), secret) })
}
