// One user's day with the client that openapi-generator makes for TypeScript and fetch.
import { Configuration, KeysApi, ResponseError, SessionsApi, UsersApi, type User } from './client'

declare const process: { env: Record<string, string | undefined> }

const basePath = process.env['BASE']!
const email = process.env['EMAIL']!
const password = 'correct horse battery staple'
const holding = (apiKey?: string) =>
  new Configuration({ basePath, ...(apiKey !== undefined && { apiKey }) })

async function codeOf(call: Promise<unknown>) {
  try {
    return await call
  } catch (error) {
    if (!(error instanceof ResponseError)) throw error
    return [error.response.status, (await error.response.json()).code]
  }
}

async function run() {
  const anyone = new UsersApi(holding())
  const { details: made } = await anyone.createUser({ createUserBody: { email, password } })
  const key = made.apiKeys[0]!
  const own = new UsersApi(holding(key))
  const admin = new UsersApi(holding(process.env['ADMIN_KEY']))
  const keys = new KeysApi(holding(key))
  const { id } = made

  const read = await own.getUser({ id })
  const allowed = await admin.updateUser({
    id,
    ifMatch: '"1"',
    updateUserBody: { permissions: new Set(['orders:read']) },
  })
  const { details: renamed } = await own.updateUser({
    id,
    ifMatch: '"2"',
    updateUserBody: { email: `x${email}` },
  })
  const listed = await admin.listUsers({ email: `x${email}`, view: 'full' })
  const sessions = new SessionsApi(holding())
  const { details: session } = await sessions.logIn({
    logInBody: { email: `x${email}`, password },
  })
  const { details: step } = await sessions.logIn({
    logInBody: { email: process.env['PROTECTED'], password },
  })
  const { details: finished } = await sessions.logIn({
    logInBody: { token: step.token, code: process.env['CODE'] },
  })
  const [first] = (await keys.listKeys({ id: 'me' })).details
  const { details: rotated } = await keys.rotateKey({
    id,
    keyId: first!.id,
    rotateKeyBody: { overlapSeconds: 60 },
  })

  return {
    read: read.details.email,
    allowed: allowed.details.permissions,
    renamed: [renamed.email, renamed.permissions, renamed.version],
    listed: listed.details.map((each) => (each as User).email),
    session: [session.user === id, session.key?.slice(0, 4)],
    twoSteps: [
      step.key === undefined,
      step.token?.slice(0, 4),
      finished.key?.slice(0, 4),
      finished.token === undefined,
    ],
    rotated: [rotated.name, rotated.key !== key, rotated.key.slice(0, 4)],
    refused: await codeOf(new UsersApi(holding('usk_wrong')).getUser({ id })),
    missing: await codeOf(admin.getUser({ id: crypto.randomUUID() })),
    faulty: await codeOf(admin.createUser({ createUserBody: { email, password: 'password1' } })),
  }
}

run().then((day) => console.log(JSON.stringify(day)))
