// JSON Web Tokens (RFC 7519), signed by ES256. This service never reads one.
import { randomUUID, sign } from 'node:crypto'

import { causeOf } from '../database/codes.ts'
import { AppError } from '../errors.ts'
import type { Caller } from '../http/route.ts'
import type { SigningConfig } from '../secrets/settings.ts'
import { createRing, type Ring, type RingDeps } from './ring.ts'

const maxSeconds = 300
/** How long a signature is reused, and how many are kept. */
const reuseMs = 60_000
const maxKept = 10_000

/** A signed token. */
interface Signed {
  token: string
  /** Seconds since 1970. */
  expires: number
}

/** What this service says of itself. */
interface Place {
  basePath: string
  /** Sessions end when they were not used for so long; 0: no such limit. */
  sessionIdleSeconds: number
}

/** Signs who a caller is. */
export type Signer = Awaited<ReturnType<typeof openSigner>>

/**
 * Makes the first key if there is none, and returns what signs for the configured audiences. Throws
 * an `ExitError` if the signing keys do not open, else what the database fails with.
 */
export async function openSigner(config: SigningConfig & Place & RingDeps) {
  const { issuer, audiences, basePath, sessionIdleSeconds, ...deps } = config
  if (!issuer.endsWith(basePath))
    deps.log('warn', `TOKEN_ISSUER does not end in ${basePath}: backends seek its keys below it`)
  const maxSessionSeconds = Math.min(maxSeconds, sessionIdleSeconds || maxSeconds)
  const getRing = createRing(deps)
  try {
    await getRing()
  } catch (error) {
    throw causeOf(error)
  }
  const kept = new Map<string, Signed & { until: number }>()

  /** Signs who the caller is; throws `forbidden` for an audience that is not listed. */
  async function signFor(caller: Caller, audience: string, seconds = maxSeconds): Promise<Signed> {
    if (!audiences.includes(audience)) throw new AppError('forbidden')
    const ring = await getRing()
    const now = Math.floor(ring.originSeconds + performance.now() / 1000)
    const most = caller.keyKind === 'session' ? maxSessionSeconds : maxSeconds
    const end = Math.floor(caller.endsAt ?? Infinity)
    const expires = Math.min(now + Math.min(seconds, most), end)
    const claims = { iss: issuer, aud: audience, iat: now, exp: expires, ...claimsOf(caller) }
    return { token: signClaims(ring, claims), expires }
  }

  return {
    getRing,
    issuer,
    signFor,
    /** As `signFor`, but the same token for up to a minute, while nothing that it says changes. */
    async reuseFor(caller: Caller, audience: string) {
      const { kid } = await getRing()
      const { keyId, email, emailVerified, role, permissions, factors, endsAt } = caller
      const said = [email, emailVerified, role, permissions, factors, endsAt]
      const name = JSON.stringify([kid, audience, keyId, ...said])
      const before = kept.get(name)
      if (before !== undefined && before.until > performance.now()) return before.token
      const signed = await signFor(caller, audience)
      kept.delete(name)
      const [oldest] = kept.keys()
      if (kept.size >= maxKept) kept.delete(oldest!)
      kept.set(name, { ...signed, until: performance.now() + reuseMs })
      return signed.token
    },
  }
}

function claimsOf(caller: Caller) {
  const { keyKind, factors, provedSeconds } = caller
  const isProved = keyKind === 'session' && provedSeconds !== null && provedSeconds >= 0
  const byLogIn = factors < 2 ? ['pwd'] : ['pwd', 'otp']
  return {
    sub: caller.userId,
    jti: randomUUID(),
    email: caller.email,
    email_verified: caller.emailVerified,
    role: caller.role,
    permissions: caller.permissions,
    key_id: caller.keyId,
    ...(isProved && { auth_time: caller.provedAt }),
    amr: keyKind === 'session' ? byLogIn : ['key'],
  }
}

function signClaims({ kid, key }: Ring, claims: object) {
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const text = `${encode({ alg: 'ES256', typ: 'JWT', kid })}.${encode(claims)}`
  const signature = sign('sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' })
  return `${text}.${signature.toString('base64url')}`
}
