// One user's day with openapi-fetch and the types that openapi-typescript makes.
import createClient from 'openapi-fetch'

import type { components, paths } from './schema.ts'

type User = components['schemas']['User']

declare const process: { env: Record<string, string | undefined> }

const baseUrl = process.env['BASE']!
const email = process.env['EMAIL']!
const password = 'correct horse battery staple'
const holding = (key?: string) =>
  createClient<paths>({ baseUrl, ...(key !== undefined && { headers: { 'X-Api-Key': key } }) })

interface Reply<Details> {
  data?: { details: Details }
  error?: { code: string }
  response: Response
}

async function details<Details>(reply: Promise<Reply<Details>>): Promise<Details> {
  const { data, error } = await reply
  if (data === undefined) throw new Error(JSON.stringify(error))
  return data.details
}

async function codeOf(reply: Promise<Reply<unknown>>) {
  const { error, response } = await reply
  return [response.status, error?.code]
}

const made = await details(holding().POST('/users', { body: { email, password } }))
const key = made.apiKeys[0]!
const own = holding(key)
const admin = holding(process.env['ADMIN_KEY'])
const path = { id: made.id }

const read = await details(own.GET('/users/{id}', { params: { path } }))
const allowed = await details(
  admin.PATCH('/users/{id}', {
    params: { path, header: { 'If-Match': '"1"' } },
    body: { permissions: ['orders:read'] },
  }),
)
const renamed = await details(
  own.PATCH('/users/{id}', {
    params: { path, header: { 'If-Match': '"2"' } },
    body: { email: `x${email}` },
  }),
)
const listed = await details(
  admin.GET('/users', { params: { query: { email: `x${email}`, view: 'full' } } }),
)
type LogInBody = components['schemas']['LogInBody']
const logIn = (body: LogInBody) => details(holding().POST('/users/sessions', { body }))

const session = await logIn({ email: `x${email}`, password })
const step = await logIn({ email: process.env['PROTECTED']!, password })
const finished = await logIn({ token: step.token!, code: process.env['CODE']! })
const [first] = await details(own.GET('/users/{id}/keys', { params: { path: { id: 'me' } } }))
const rotated = await details(
  own.POST('/users/{id}/keys/{keyId}/rotate', {
    params: { path: { ...path, keyId: first!.id } },
    body: { overlapSeconds: 60 },
  }),
)

const day = {
  read: read.email,
  allowed: allowed.permissions,
  renamed: [renamed.email, renamed.permissions, renamed.version],
  listed: listed.map((each) => (each as User).email),
  session: [session.user === made.id, session.key?.slice(0, 4)],
  twoSteps: [
    step.key === undefined,
    step.token?.slice(0, 4),
    finished.key?.slice(0, 4),
    finished.token === undefined,
  ],
  rotated: [rotated.name, rotated.key !== key, rotated.key.slice(0, 4)],
  refused: await codeOf(holding('usk_wrong').GET('/users/{id}', { params: { path } })),
  missing: await codeOf(
    admin.GET('/users/{id}', { params: { path: { id: crypto.randomUUID() } } }),
  ),
  faulty: await codeOf(admin.POST('/users', { body: { email, password: 'password1' } })),
}
console.log(JSON.stringify(day))
