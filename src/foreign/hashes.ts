// Passwords as other systems stored them: which of their hashes this service can verify, within
// which bounds, and the verification, which runs in the hasher's threads.
import * as crypto from 'node:crypto'

import { bcrypt, bcryptBase64 } from './bcrypt.ts'

/** What is stored of a password. */
interface Stored {
  hash: Buffer
  /** What that is of the right password. */
  compute(password: string): Buffer
  /** How much of the work that the bounds allow that takes, up to 1. */
  share: number
}

/** What the pattern of a form names. */
type Part = 'hash' | 'salt' | 'n' | 'r' | 'p' | 'm' | 't' | 'kind' | 'separator' | 'signer'
type Parts = Record<Part, string>

/** Of scrypt. */
interface Cost {
  N: number
  r: number
  p: number
}

/** Says what is wrong with a stored hash. */
class HashFault extends Error {}

const maxLength = 1024
const maxKiB = 128 * 1024
/** Of scrypt, N · r · p: three times the work of ours. */
const maxScryptWork = 2 ** 21
/** Of scrypt, r · p: PBKDF2 before and after it takes 128 bytes of each. */
const maxScryptBlocks = 1024
/** Of argon2, m · t. */
const maxArgonWork = 2 ** 20
/** Of argon2, t · p: with more lanes than one, OpenSSL starts a thread for each quarter of each. */
const maxArgonStarts = 1024
const maxRounds = 2_000_000
const maxBcryptCost = 14

const scryptNumbers = 'n=(?<n>\\d+),r=(?<r>\\d+),p=(?<p>\\d+)'
/** Each of them once, in any order. */
const argonNumbers =
  '(?=.*m=(?<m>\\d+))(?=.*t=(?<t>\\d+))(?=.*p=(?<p>\\d+))[mtp]=\\d+(,[mtp]=\\d+){2}'
const saltAndHash = '\\$(?<salt>[\\w+/-]+={0,2})\\$(?<hash>[\\w+/-]+={0,2})$'

/** The forms, each with what reads its parts and throws a `HashFault`. */
const forms: [pattern: string, read: (parts: Parts) => Stored][] = [
  ['^\\$scrypt\\$l' + scryptNumbers + saltAndHash, readScrypt],
  [
    '^\\$fbscrypt\\$v=1,' +
      scryptNumbers +
      ',ss=(?<separator>[\\w+/-]*={0,2}),sk=(?<signer>[\\w+/-]+={0,2})' +
      saltAndHash,
    readFirebase,
  ],
  ['^(?<salt>[0-9a-f]{32}):(?<hash>[0-9a-f]{128})$', readBetterAuth],
  ['^\\$pbkdf2-(?<kind>sha1|sha256|sha512)\\$i=(?<n>\\d+)' + saltAndHash, readPbkdf2],
  ['^\\$(?<kind>argon2(id|i|d))\\$v=19\\$' + argonNumbers + saltAndHash, readArgon2],
  ['^\\$2[aby]\\$(?<n>\\d\\d)\\$(?<salt>[./A-Za-z\\d]{22})(?<hash>[./A-Za-z\\d]{31})$', readBcrypt],
]

/** What is wrong with a stored hash; null if passwords can be verified with it here. */
export function findHashFault(stored: string): string | null {
  const read = readStored(stored)
  return read instanceof HashFault ? read.message : null
}

/**
 * Whether a password is the one of a stored hash: as it was typed, or in the form (NFKC) that some
 * systems hash, if both together take no more work than the bounds allow. False, without work, if
 * something is wrong with the hash.
 */
export function verifyForeign(stored: string, typed: string): boolean {
  const read = readStored(stored)
  if (read instanceof HashFault) return false
  const candidates = new Set([typed, read.share > 0.5 ? typed : typed.normalize('NFKC')])
  return [...candidates].some((each) => crypto.timingSafeEqual(read.compute(each), read.hash))
}

function readStored(stored: string): Stored | HashFault {
  try {
    demand(stored.length <= maxLength, `must have at most ${maxLength} characters`)
    for (const [pattern, read] of forms) {
      const match = new RegExp(pattern).exec(stored)
      if (match !== null) return read(match.groups as Parts)
    }
    return new HashFault('must be a hash of a form that src/foreign/README.md lists')
  } catch (error) {
    if (error instanceof HashFault) return error
    throw error
  }
}

function demand(isSo: boolean, message: string) {
  if (!isSo) throw new HashFault(message)
}

function readScrypt({ salt, hash, ...parts }: Parts): Stored {
  return scrypt(readCost(parts), decode(salt), decodeHash(hash))
}

/** Of better-auth; the salt is the hexadecimal text itself. */
function readBetterAuth({ salt, hash }: Parts): Stored {
  return scrypt({ N: 2 ** 14, r: 16, p: 1 }, Buffer.from(salt), Buffer.from(hash, 'hex'))
}

function scrypt({ N, r, p }: Cost, salt: Buffer, hash: Buffer): Stored {
  const options = { N, r, p, maxmem: 2 * 1024 * maxKiB }
  return {
    hash,
    compute: (password) => crypto.scryptSync(password, salt, hash.length, options),
    share: Math.max((N * r * p) / maxScryptWork, (r * p) / maxScryptBlocks),
  }
}

/** Of Firebase; the hash is the project's key, encrypted with one that scrypt makes. */
function readFirebase({ separator, signer, ...parts }: Parts): Stored {
  const salt = Buffer.concat([decode(parts.salt), decode(separator)])
  const plain = decode(signer)
  const hash = decodeHash(parts.hash)
  demand(hash.length === plain.length, 'must have a hash as long as sk')
  const key = scrypt(readCost(parts), salt, Buffer.alloc(32))
  return {
    ...key,
    hash,
    compute: (password) =>
      crypto.createCipheriv('aes-256-ctr', key.compute(password), Buffer.alloc(16)).update(plain),
  }
}

/** Reads the parameters of scrypt, of which `n` is the binary logarithm of N. */
function readCost(parts: Pick<Parts, 'n' | 'r' | 'p'>): Cost {
  const N = 2 ** Number(parts.n)
  const r = Number(parts.r)
  const p = Number(parts.p)
  // As RFC 7914 has it.
  const isSound = N > 1 && r > 0 && p > 0 && N < 2 ** (16 * r)
  demand(isSound, 'must have parameters that scrypt allows')
  demand(N * r <= 8 * maxKiB, 'must need at most 128 MiB')
  demand(N * r * p <= maxScryptWork, `must have N · r · p of at most ${maxScryptWork}`)
  demand(r * p <= maxScryptBlocks, `must have r · p of at most ${maxScryptBlocks}`)
  return { N, r, p }
}

function readPbkdf2({ kind, n, salt, ...parts }: Parts): Stored {
  // The first block is enough: each takes all rounds.
  const hash = decodeHash(parts.hash).subarray(0, crypto.hash(kind, '', 'buffer').length)
  const saltBytes = decode(salt)
  const rounds = Number(n)
  demand(rounds > 0 && rounds <= maxRounds, `must have 1 to ${maxRounds} rounds`)
  return {
    hash,
    compute: (password) => crypto.pbkdf2Sync(password, saltBytes, rounds, hash.length, kind),
    share: rounds / maxRounds,
  }
}

/** Node has it from 24.7 on. */
const { argon2Sync } = crypto as { argon2Sync?: (kind: string, parameters: object) => Buffer }

function readArgon2({ kind, salt, ...parts }: Parts): Stored {
  const hash = decodeHash(parts.hash)
  const nonce = decode(salt)
  const memory = Number(parts.m)
  const passes = Number(parts.t)
  const parallelism = Number(parts.p)
  const isSound = nonce.length >= 8 && passes > 0 && parallelism > 0 && memory >= 8 * parallelism
  demand(isSound, 'must have a salt and parameters that argon2 allows')
  demand(memory <= maxKiB, 'must need at most 128 MiB')
  demand(memory * passes <= maxArgonWork, `must have m · t of at most ${maxArgonWork}`)
  demand(passes * parallelism <= maxArgonStarts, `must have t · p of at most ${maxArgonStarts}`)
  if (argon2Sync === undefined) throw new HashFault('must not be of argon2 before Node 24.7')
  const parameters = { nonce, memory, passes, parallelism, tagLength: hash.length }
  return {
    hash,
    compute: (message) => argon2Sync(kind, { ...parameters, message }),
    share: Math.max((memory * passes) / maxArgonWork, (passes * parallelism) / maxArgonStarts),
  }
}

function readBcrypt({ n, salt, hash }: Parts): Stored {
  const cost = Number(n)
  demand(cost >= 4 && cost <= maxBcryptCost, `must have a cost of 4 to ${maxBcryptCost}`)
  const saltBytes = bcryptBase64(salt)
  return {
    hash: bcryptBase64(hash),
    compute: (password) => bcrypt(Buffer.from(password), saltBytes, cost),
    share: 2 ** (cost - maxBcryptCost),
  }
}

/** A shorter hash would be that of some wrong passwords, too. */
function decodeHash(text: string): Buffer {
  const hash = decode(text)
  demand(hash.length >= 16 && hash.length <= 128, 'must have a hash of 16 to 128 bytes')
  return hash
}

/** Decodes base64 or base64url, with or without padding. */
function decode(text: string): Buffer {
  demand(text.replaceAll('=', '').length % 4 !== 1, 'must not have base64 that is cut off')
  return Buffer.from(text, 'base64')
}
