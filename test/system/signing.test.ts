// Tokens, verified by npm's jose as a backend does, and what it refuses of those that were forged.
// Needs npm.
import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { test } from 'node:test'

import { later, signing, startTestApp } from '../support/helpers.ts'
import { installJose } from '../support/jose.ts'

const { jose } = await installJose()
const app = await startTestApp(signing)
const { id, key } = await app.user()
const expected = {
  issuer: signing.TOKEN_ISSUER,
  audience: 'orders',
  algorithms: ['ES256'],
  typ: 'JWT',
}

async function readSet() {
  const { text } = await app.request('GET', '/jwks.json')
  return JSON.parse(text) as { keys: { x: string; y: string; kid: string }[] }
}

async function signFor(audience: string) {
  const body = { audience, seconds: 30 }
  const { details } = await app.request('POST', '/users/jwt', { key, body })
  return details.token as string
}

const verify = (token: string, keys: object, more = {}) =>
  jose.jwtVerify(token, jose.createLocalJWKSet(keys), { ...expected, ...more })

const encode = (value: object | string) =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')
const decode = (part: string) => JSON.parse(Buffer.from(part, 'base64url').toString())

test('a token verifies, and none that was forged does', async () => {
  const set = await readSet()
  const token = await signFor('orders')
  assert.equal((await verify(token, set)).payload['sub'], id)
  const [header = '', claims = '', signature = ''] = token.split('.')
  const { kid } = decode(header)
  const admin = encode({ ...decode(claims), role: 'admin' })
  const byPublicKey = (text: string) =>
    createHmac('sha256', JSON.stringify(set.keys[0])).update(text).digest('base64url')
  const byHash = `${encode({ alg: 'HS256', typ: 'JWT', kid })}.${claims}`
  const flip = (part: string) => {
    const bytes = Buffer.from(part, 'base64url')
    bytes[bytes.length >> 1]! ^= 1
    return bytes.toString('base64url')
  }
  const forged = {
    none: `${encode({ alg: 'none', typ: 'JWT' })}.${claims}.`,
    'none, signed': `${encode({ alg: 'none', typ: 'JWT', kid })}.${claims}.${signature}`,
    'no signature': `${header}.${claims}.`,
    'hashed by what is public': `${byHash}.${byPublicKey(byHash)}`,
    'another algorithm': `${encode({ alg: 'ES384', typ: 'JWT', kid })}.${claims}.${signature}`,
    'another key': `${encode({ alg: 'ES256', typ: 'JWT', kid: 'x' })}.${claims}.${signature}`,
    'other claims': `${header}.${admin}.${signature}`,
    'a bit of the header': `${flip(header)}.${claims}.${signature}`,
    'a bit of the claims': `${header}.${flip(claims)}.${signature}`,
    'a bit of the signature': `${header}.${claims}.${flip(signature)}`,
    'for another backend': await signFor('billing'),
  }
  for (const [what, each] of Object.entries(forged)) {
    await assert.rejects(verify(each, set), { name: /^(JOSE|JWT|JWS|JWKS)/ }, what)
  }
  const isLate = { currentDate: new Date(Date.now() + 31_000) }
  await assert.rejects(verify(token, set, isLate), { code: 'ERR_JWT_EXPIRED' })
  await assert.rejects(verify(token, set, { issuer: 'https://example.org' }))
})

test('the keys from before a rotation verify what is signed after it', async () => {
  const age = (hours: number) =>
    app.db.query(`update signing_keys set created_at = created_at - $1 * interval '1 hour'`, [
      hours,
    ])
  const before = await readSet()
  await age(24 * 30)
  // The service reads its keys again, and makes one.
  const { old, during } = await later(31_000, async () => ({
    old: await signFor('orders'),
    during: await readSet(),
  }))
  await verify(old, before)
  assert.equal(during.keys.length, 2)
  await age(25)
  const { next, after } = await later(62_000, async () => ({
    next: await signFor('orders'),
    after: await readSet(),
  }))
  assert.notEqual(decode(next.split('.')[0]!).kid, decode(old.split('.')[0]!).kid)
  await verify(next, during)
  await verify(old, after)
})
