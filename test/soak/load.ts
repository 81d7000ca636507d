// Clients that sign up, work and leave. What a user must be is known at any time, as nobody else
// changes it. Whether a change whose answer was lost has happened is told by the audit at the end;
// until then its user is left alone.
import { isDeepStrictEqual } from 'node:util'
import { setTimeout as sleep } from 'node:timers/promises'

import { createRandom, type Random } from '../support/random.ts'
import type { Answer, Asking, Client } from './client.ts'

export interface Key {
  id?: string
  text?: string
  kind: 'api' | 'session'
  name: string
  enabled: boolean
  state: 'live' | 'gone'
}
export interface User {
  id: string
  email: string
  password: string
  version: number
  enabled: boolean
  permissions: string[]
  keys: Key[]
  exists: boolean
  isLost: boolean
}
/** A change that was asked for; `apply` has the model follow it. */
export interface Change {
  requestId: string
  actions: string[]
  user?: User
  makes?: Key
  isLost: boolean
  apply(): void
}
type Changing = Asking &
  Pick<Change, 'actions' | 'user' | 'makes'> & { status?: number; apply?(): void }

export type Load = ReturnType<typeof createLoad>

export const isUsable = ({ enabled }: User, key: Key) =>
  enabled && key.enabled && key.state === 'live'
const newKey = (kind: Key['kind'], name: string): Key => ({
  kind,
  name,
  enabled: true,
  state: 'live',
})
const live = ({ keys }: User) => keys.filter(({ state }) => state === 'live')

const newUser = (email: string): User => ({
  id: '',
  email,
  password: `first ${email}`,
  version: 1,
  enabled: true,
  permissions: [],
  keys: [],
  exists: false,
  isLost: false,
})

/** The key that stays. */
const first = (user: User) => user.keys[0]!

/** A usable key. */
const usable = (user: User, r: Random) =>
  r.pick(live(user).filter((key) => isUsable(user, key))).text

/** A key that may go. */
function spare(user: User, r: Random) {
  const others = live(user).slice(1)
  return r.pick(others.filter(({ kind, id }) => kind === 'api' && id))
}

function endSessions(user: User, except?: Key) {
  for (const key of user.keys) if (key.kind === 'session' && key !== except) key.state = 'gone'
}

/** Makes load through `client`; `admin` is an admin's key. */
export function createLoad({ ask, fail }: Client, admin: string) {
  const users: User[] = []
  const changes: Change[] = []

  const unexpected = ({ requestId, status, code }: Answer, what: string) =>
    fail(`${requestId} ${what}: ${status} ${code ?? ''}`)

  /** Asks for a change and notes it; returns whether it was acknowledged. */
  async function change(method: string, path: string, changing: Changing): Promise<boolean> {
    const { actions, status = 200, user, makes, apply = () => {}, ...asking } = changing
    const answer = await ask(method, path, asking)
    const isLost = answer.status === 0
    if (!isLost && answer.status !== status) {
      unexpected(answer, `${method} ${path}`)
      return false
    }
    changes.push({
      requestId: answer.requestId,
      actions,
      ...(user && { user }),
      ...(makes && { makes }),
      isLost,
      apply,
    })
    if (isLost && user) user.isLost = true
    if (isLost) {
      await sleep(300)
      return false
    }
    if (user && makes) {
      const { id, key, apiKeys } = answer.details
      if (actions.includes('user.created')) user.id = id
      else if (makes.kind === 'api') makes.id = id
      makes.text = key ?? apiKeys[0]
    }
    apply()
    return true
  }

  async function signUp(r: Random): Promise<User> {
    const email = `u${r.below(2 ** 31)}.${users.length}@example.org`
    const user = newUser(email)
    const makes = newKey('api', 'default')
    users.push(user)
    await change('POST', '/users', {
      actions: ['user.created'],
      status: 201,
      user,
      makes,
      body: { email, password: user.password },
      apply: () => {
        user.exists = true
        user.keys.push(makes)
      },
    })
    return user
  }

  /** What a user may do, with how often; all of it known to succeed, or to be refused. */
  const steps: Step[] = [
    [
      20,
      async (user, r) => {
        const answer = await ask('GET', `/users/${user.id}`, { key: usable(user, r) })
        const { email, version, enabled, permissions } = answer.details ?? {}
        const same = isDeepStrictEqual(
          [email, version, enabled, permissions],
          [user.email, user.version, user.enabled, user.permissions],
        )
        if (answer.status !== 0 && !same)
          unexpected(answer, `GET /users/${user.id}, which is ${JSON.stringify(user)}`)
      },
    ],
    [40, (user, r) => authenticate(user, r.pick(user.keys))],
    [
      6,
      (user, r) => {
        const email = `v${r.below(2 ** 31)}.${user.version}.${user.email.slice(-40)}`
        return change('PATCH', `/users/${user.id}`, {
          actions: ['user.changed'],
          user,
          key: usable(user, r),
          body: { email },
          apply: () => {
            user.email = email
            user.version++
          },
        })
      },
    ],
    [
      1,
      (user, r) => {
        const key = r.pick(live(user).filter((each) => isUsable(user, each)))
        const password = `next ${r.below(2 ** 31)}`
        return change('PATCH', `/users/${user.id}`, {
          actions: ['user.changed'],
          user,
          key: key.text,
          body: { password, currentPassword: user.password },
          apply: () => {
            user.password = password
            user.version++
            endSessions(user, key)
          },
        })
      },
    ],
    [
      4,
      (user, r) => {
        // Never what they are already: that would change nothing.
        const permissions = ['read', 'write'].filter(() => r.chance(0.5))
        permissions.push(`list-${r.below(2 ** 31)}`)
        return change('PATCH', `/users/${user.id}`, {
          actions: ['user.changed'],
          user,
          key: admin,
          body: { permissions },
          apply: () => {
            user.permissions = permissions
            user.version++
          },
        })
      },
    ],
    [
      2,
      async (user, r) => {
        const set = (enabled: boolean) =>
          change('PATCH', `/users/${user.id}`, {
            actions: ['user.changed'],
            user,
            key: admin,
            body: { enabled },
            apply: () => {
              user.enabled = enabled
              user.version++
            },
          })
        if (!(await set(false))) return
        for (let i = 0; i < 3; i++) await authenticate(user, r.pick(user.keys))
        await set(true)
      },
    ],
    [
      3,
      (user) => {
        const makes = newKey('session', 'session')
        return change('POST', '/users/sessions', {
          actions: ['session.started'],
          user,
          makes,
          status: 201,
          body: { email: user.email, password: user.password },
          apply: () => user.keys.push(makes),
        })
      },
    ],
    [
      3,
      async (user, r) => {
        const session = r.pick(live(user).filter((key) => key.kind === 'session'))
        if (session)
          await change('DELETE', '/users/sessions', {
            actions: ['session.ended'],
            user,
            status: 204,
            key: session.text,
            apply: () => {
              session.state = 'gone'
            },
          })
      },
    ],
    [
      1,
      (user, r) =>
        change('DELETE', `/users/sessions/${user.id}`, {
          actions: ['sessions.ended'],
          user,
          status: 204,
          key: usable(user, r),
          apply: () => endSessions(user),
        }),
    ],
    [
      4,
      (user, r) => {
        const makes = newKey('api', `key ${r.below(1000)}`)
        return change('POST', `/users/${user.id}/keys`, {
          actions: ['key.created'],
          user,
          makes,
          status: 201,
          key: usable(user, r),
          body: { name: makes.name },
          apply: () => user.keys.push(makes),
        })
      },
    ],
    [
      4,
      async (user, r) => {
        const key = spare(user, r)
        const to = { enabled: r.chance(0.5), name: `renamed ${r.below(1000)}` }
        if (key)
          await change('PATCH', `/users/${user.id}/keys/${key.id}`, {
            actions: ['key.changed'],
            user,
            key: first(user).text,
            body: to,
            apply: () => Object.assign(key, to),
          })
      },
    ],
    [
      4,
      async (user, r) => {
        const key = spare(user, r)
        const makes = key && newKey('api', key.name)
        if (key)
          await change('POST', `/users/${user.id}/keys/${key.id}/rotate`, {
            actions: ['key.created', 'key.rotated'],
            user,
            makes: makes!,
            status: 201,
            key: first(user).text,
            apply: () => {
              key.state = 'gone'
              user.keys.push(makes!)
            },
          })
      },
    ],
    [
      3,
      async (user, r) => {
        const key = spare(user, r)
        if (key)
          await change('DELETE', `/users/${user.id}/keys/${key.id}`, {
            actions: ['key.deleted'],
            user,
            status: 204,
            key: first(user).text,
            apply: () => {
              key.state = 'gone'
            },
          })
      },
    ],
    [
      1,
      (user) =>
        change('DELETE', `/users/${user.id}`, {
          actions: ['user.deleted'],
          user,
          status: 204,
          key: first(user).text,
          apply: () => {
            user.exists = false
            for (const key of user.keys) key.state = 'gone'
          },
        }),
    ],
    [
      2,
      (_, r) =>
        change('POST', '/users/sessions', {
          actions: ['session.failed'],
          status: 401,
          body: { email: `n${r.below(2 ** 31)}@example.org`, password: 'x' },
        }),
    ],
    ...nuisances({ ask, fail }, unexpected),
  ]
  const drawn = steps.flatMap(([often, step]) => Array<typeof step>(often).fill(step))

  /** On each instance a key counts as long as it should, and no longer. */
  async function authenticate(user: User, key: Key, asking: Asking = {}) {
    const answer = await ask('GET', '/users/auth', { ...asking, key: key.text })
    const says = isUsable(user, key)
      ? [200, user.id, user.permissions.join(',')]
      : [401, undefined, undefined]
    const { 'x-auth-user-id': id, 'x-auth-permissions': permissions } = answer.headers
    if (answer.status !== 0 && !isDeepStrictEqual([answer.status, id, permissions], says)) {
      unexpected(answer, `a key of ${user.id}, ${JSON.stringify(key)}`)
    }
  }

  return {
    users,
    changes,
    change,
    authenticate,
    /** One client, until `isOver`. */
    async live(seed: number, isOver: () => boolean) {
      const r = createRandom(seed)
      while (!isOver()) {
        const user = await signUp(r)
        const count = 10 + r.below(60)
        for (let i = 0; i < count; i++) {
          if (!user.exists || user.isLost || isOver()) break
          await r.pick(drawn)(user, r)
          await sleep(r.below(50))
        }
      }
    },
  }
}

type Step = [often: number, step: (user: User, r: Random) => Promise<unknown>]
type Unexpected = (answer: Answer, what: string) => void

/** What is asked beside the work of users. */
const nuisances = ({ ask, fail }: Pick<Client, 'ask' | 'fail'>, unexpected: Unexpected): Step[] => [
  [
    4,
    async (_, r) => {
      const [status, method, path, asking] = r.pick(garbage)
      const answer = await ask(method, path, asking)
      if (![0, status].includes(answer.status)) unexpected(answer, `${method} ${path}`)
    },
  ],
  [
    4,
    async () => {
      const answer = await ask('GET', '/healthcheck')
      if (![0, 200].includes(answer.status)) unexpected(answer, 'GET /healthcheck')
    },
  ],
  [
    1,
    async () => {
      // One address, more than it may.
      const asked = Array.from({ length: 40 }, () => ask('GET', '/docs', { isMany: true }))
      for (const { status } of await Promise.all(asked)) {
        if (![0, 200, 429].includes(status)) fail(`GET /docs: ${status}`)
      }
    },
  ],
]

const garbage: [number, string, string, Asking][] = [
  [401, 'GET', '/users', { key: 'usk_nothing' }],
  [401, 'GET', '/users/auth', {}],
  [404, 'GET', '/nowhere/%00', {}],
  [405, 'PUT', '/users', { body: {} }],
  [400, 'POST', '/users', { body: '{"email":' }],
  [400, 'POST', '/users', { body: { email: 'x', password: 'x', other: 1 } }],
  [413, 'POST', '/users/sessions', { body: `"${'x'.repeat(20_000)}"` }],
  [415, 'POST', '/users', { body: 'x', headers: { 'Content-Type': 'text/plain' } }],
  [400, 'POST', '/users/sessions', { body: { email: ['x'], password: null } }],
  [200, 'GET', '/livez', {}],
  [200, 'GET', '/openapi.json', {}],
]
