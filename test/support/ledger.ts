// A load that writes down what was acknowledged, and holds every answer against that.
import { setTimeout as sleep } from 'node:timers/promises'

/** An instance of the service, by its base address. */
export interface Instance {
  name: string
  url: string
}
export interface Answer {
  instance: string
  kind: 'read' | 'change'
  /** When it was asked for. */
  at: number
  ms: number
  status: number
}
interface Key {
  id: string
  text: string
  /** Somebody has set out to switch it off. */
  isTaken: boolean
  /** When that was acknowledged. */
  offAt: number
  /** The instances that made it and switched it off. */
  by: string[]
}
interface User {
  id: string
  key: string
  /** The number of its last acknowledged change. */
  changed: number
}
interface Asking {
  key: string
  body?: object
  kind?: Answer['kind']
  about?: string
  /** Besides 503 while a fault is on. */
  isRight: (status: number) => boolean
}

/**
 * As long as an answer may take, and what a busy machine adds; a change is a look-up of its key and
 * a transaction, each of which may wait.
 */
const limits = { read: 3500, change: 4500 }
/** How long after its acknowledgement a change must count everywhere. */
const contractMs = 1000
const pick = <T>(list: T[]) => list[Math.floor(Math.random() * list.length)]

export type Ledger = Awaited<ReturnType<typeof createLedger>>

/**
 * Once an instance joins, keys are made and switched off there, a user is changed, and it is asked
 * whether keys pass that are live or off, wherever that was done.
 */
export async function createLedger(admin: string, first: Instance) {
  const live: Key[] = []
  const off: Key[] = []
  const users: User[] = []
  const wrong: string[] = []
  const owner = await signUp(first)
  let answers: Answer[] = []
  let faults = 0

  async function ask(
    instance: Instance,
    what: string,
    { key, body, kind, about = '', isRight }: Asking,
  ) {
    const at = performance.now()
    const wasFault = faults > 0
    const [method, path] = what.split(' ')
    const { status, text } = await send(instance.url + path, {
      method: method!,
      headers: { 'x-api-key': key, ...(body && { 'content-type': 'application/json' }) },
      ...(body && { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(10_000),
    })
    const ms = performance.now() - at
    const words = `${what} at ${instance.name}, ${Math.round(ms)} ms: ${status} ${about}`
    const isExcused = status === 503 && (wasFault || faults > 0)
    if (!isRight(status) && !isExcused) wrong.push(`${words} ${text.slice(0, 200)}`)
    else if (ms > limits[kind ?? 'read']) wrong.push(words)
    if (kind) answers.push({ instance: instance.name, kind, at, ms, status })
    return { status, details: text === '' || isExcused ? undefined : JSON.parse(text).details }
  }

  function authenticate(instance: Instance, key: Key, kind?: 'read') {
    const isOff = key.offAt > 0
    return ask(instance, 'GET /users/auth', {
      key: key.text,
      about: `a key of ${key.by.join(' and ')}`,
      ...(kind && { kind }),
      isRight: (status) => status === (isOff ? 401 : 200) || (status === 401 && key.isTaken),
    })
  }

  async function makeKey(instance: Instance) {
    const { status, details } = await ask(instance, `POST /users/${owner.id}/keys`, {
      key: owner.key,
      body: { name: 'made' },
      kind: 'change',
      isRight: (each) => each === 201,
    })
    if (status !== 201) return
    const { id, key: text } = details
    live.push({ id, text, isTaken: false, offAt: 0, by: [instance.name] })
  }

  /** A key whose end is not acknowledged is asked for no more: it may have happened. */
  async function switchOff(instance: Instance) {
    const key = pick(live)!
    key.isTaken = true
    live.splice(live.indexOf(key), 1)
    const { status } = await ask(instance, `PATCH /users/${owner.id}/keys/${key.id}`, {
      key: owner.key,
      body: { enabled: false },
      kind: 'change',
      isRight: (each) => each === 200,
    })
    if (status !== 200) return
    key.offAt = performance.now()
    key.by.push(instance.name)
    off.push(key)
  }

  async function change(instance: Instance, user: User, number: number) {
    const { status } = await ask(instance, `PATCH /users/${user.id}`, {
      key: admin,
      body: { permissions: [`n-${number}`] },
      kind: 'change',
      isRight: (each) => each === 200,
    })
    if (status === 200) user.changed = number
  }

  /** Of what has been switched off last, which a server that is behind would let pass. */
  function lastOff() {
    const longAgo = performance.now() - contractMs
    return pick(off.filter(({ offAt }) => offAt < longAgo).slice(-10))
  }

  /** Returns what has the instance leave, when its last answer has come. */
  async function join(instance: Instance) {
    const user = await signUp(instance)
    const asked = new Set<Promise<unknown>>()
    let changing: Promise<void> | undefined
    let isOver = false
    const add = (asking: Promise<unknown>) => {
      asked.add(asking)
      void asking.then(() => asked.delete(asking))
    }
    const changeNext = (number: number) => {
      changing ??= change(instance, user, number).then(() => {
        changing = undefined
      })
      return changing
    }
    const drive = async () => {
      for (let n = 1; !isOver; n++, await sleep(100)) {
        const key = pick(live)
        const gone = lastOff()
        if (key) add(authenticate(instance, key, 'read'))
        if (gone) add(authenticate(instance, gone))
        if (n % 3 === 0) add(makeKey(instance))
        else if (n % 3 === 1 && live.length > 20) add(switchOff(instance))
        else add(changeNext(n))
      }
      await Promise.all(asked)
    }
    const work = drive()
    users.push(user)
    return () => {
      isOver = true
      return work
    }
  }

  /** Looks for all that was acknowledged; what is missing is added to what is wrong. */
  async function verify(instances: Instance[]) {
    const keys = [...live, ...off]
    const lookAt = async () => {
      for (let key = keys.pop(); key; key = keys.pop())
        for (const instance of instances) await authenticate(instance, key)
    }
    await Promise.all(Array.from({ length: 8 }, lookAt))
    for (const user of users) {
      const least = user.changed
      const isRight = (status: number) => status === 200
      const path = `GET /users/${user.id}`
      const { details } = await ask(instances[0]!, path, { key: admin, isRight })
      const is = Number(/\d+/.exec(details?.permissions[0] ?? '0'))
      if (is < least) wrong.push(`${user.id} is at its change ${is}, not ${least}`)
    }
  }

  return {
    wrong,
    off,
    answers: () => answers,
    /** From now on a fault is on; returns what ends it. */
    begin() {
      answers = []
      faults++
      return () => {
        faults--
      }
    },
    join,
    lastOff,
    authenticate,
    verify,
  }
}

/** Status 0 is no answer. */
async function send(url: string, init: RequestInit) {
  try {
    const response = await fetch(url, init)
    return { status: response.status, text: await response.text() }
  } catch (error) {
    return { status: 0, text: JSON.stringify(String((error as Error).cause ?? error)) }
  }
}

async function signUp(instance: Instance): Promise<User> {
  const response = await fetch(`${instance.url}/users`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      email: `${Math.random()}@example.org`,
      password: 'correct horse battery staple',
    }),
  })
  const { details } = (await response.json()) as { details: { id: string; apiKeys: string[] } }
  return { id: details.id, key: details.apiKeys[0]!, changed: 0 }
}
