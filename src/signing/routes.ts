import { hash } from 'node:crypto'

import type { Code } from '../errors.ts'
import { route, type Caller } from '../http/route.ts'
import type { createIdentify } from '../keys/identify.ts'
import { instantSchema, integer, object, omittable, text, titled } from '../schema.ts'
import type { Signer } from './sign.ts'

const jwt = titled('Jwt', {
  token: text({ max: 65_536, example: 'eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIwMTkwIn0.c2lnbmVk' }),
  validUntil: instantSchema,
})

/** Makes X-Auth-Token: empty unless the query names an audience, the first of which counts. */
export const createTokenHeader =
  ({ reuseFor }: Signer) =>
  async (caller: Caller, search: string) => {
    const audience = new URLSearchParams(search).get('token-audience')
    return audience === null ? '' : reuseFor(caller, audience)
  }

/** The routes of signed identity. */
export const signingRoutes = (
  { issuer, getRing, signFor }: Signer,
  identify: ReturnType<typeof createIdentify>,
) => [
  route('POST /users/jwt', {
    operationId: 'signJwt',
    tag: 'auth',
    access: 'key',
    summary: 'Get a signed proof of who calls',
    description:
      'A JSON Web Token, signed by ES256, for a backend of that audience. It is valid until it ' +
      'ends, whatever happens to the key and its user, and this service does not accept it.',
    body: object(
      { audience: text({ min: 1, max: 200, example: 'orders' }) },
      { seconds: omittable(integer(30, 300)) },
    ),
    replies: { 201: { says: 'The token', body: jwt } },
    async handle({ headers, origin, body: { audience, seconds } }) {
      // The body may have taken 15 s to arrive.
      const caller = await identify(headers, origin.client)
      const { token, expires } = await signFor(caller, audience, seconds)
      return { body: { token, validUntil: new Date(expires * 1000).toISOString() } }
    },
  }),
  documentRoute('/jwks.json', 'getJwks', {
    summary: 'The keys that verify tokens (RFC 7517)',
    fails: ['database_unavailable'],
    async make() {
      const { published } = await getRing()
      return { keys: published }
    },
  }),
  documentRoute('/.well-known/openid-configuration', 'getDiscovery', {
    summary: 'Where verifiers find those keys (OpenID Connect Discovery 1.0)',
    fails: [],
    make: () => ({
      issuer,
      jwks_uri: `${issuer}/jwks.json`,
      id_token_signing_alg_values_supported: ['ES256'],
      response_types_supported: ['none'],
      subject_types_supported: ['public'],
    }),
  }),
]

/** A document that everybody may keep for five minutes. */
function documentRoute(
  path: string,
  operationId: string,
  spec: { summary: string; fails: Code[]; make: () => object | Promise<object> },
) {
  const { summary, fails, make } = spec
  return route(`GET ${path}`, {
    operationId,
    tag: 'auth',
    access: 'anyone',
    summary,
    replies: {
      200: { says: summary, raw: 'application/json', headers: ['ETag'] },
      304: { says: 'It is as `If-None-Match` has it', headers: ['ETag'] },
    },
    fails,
    async handle() {
      const text = `${JSON.stringify(await make())}\n`
      const ETag = `"${hash('sha256', text, 'base64url')}"`
      const headers = { 'Cache-Control': 'public, max-age=300', ETag }
      return { headers, raw: { type: 'application/json', text } }
    },
  })
}
