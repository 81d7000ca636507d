import { isDeepStrictEqual } from 'node:util'

import type { Client, Slot } from './client.ts'
import { isUsable, type Key, type Load, type User } from './load.ts'

interface Event {
  id: string
  action: string
  subject: string | null
  keyId: string
  requestId: string | null
}

interface Verified {
  client: Client
  slots: Slot[]
  load: Load
  /** An admin's key. */
  admin: string
}

/** All events of the audit, by the request that made them. */
async function readEvents({ insist }: Client, key: string): Promise<Map<string, Event[]>> {
  const events = new Map<string, Event[]>()
  for (let after = ''; ;) {
    const path = `/audit?limit=1000${after && `&after=${after}`}`
    const { details } = (await insist('GET', path, { key })) as { details: Event[] }
    for (const event of details) {
      const { requestId } = event
      if (requestId !== null) events.set(requestId, [...(events.get(requestId) ?? []), event])
    }
    if (details.length < 1000) return events
    after = details.at(-1)!.id
  }
}

/**
 * Compares a change with the events that its request left; returns whether it had happened although
 * its answer was lost.
 */
function checkChange(fail: Client['fail'], change: Load['changes'][number], found: Event[]) {
  const { requestId, actions, user, makes, isLost, apply } = change
  if (isLost && found.length === 0) return false
  const happened = found.map(({ action }) => action)
  if (!isDeepStrictEqual(happened.sort(), actions)) {
    const outcome = isLost ? 'lost' : 'acknowledged'
    fail(`${requestId}: ${actions} ${outcome}, but in the audit is [${happened}]`)
    return false
  }
  if (isLost) {
    if (actions.includes('user.created')) user!.id = found[0]!.subject!
    apply()
  }
  if (makes) {
    const { keyId } = found.find(({ action }) => /\.(created|started)$/.test(action))!
    makes.id ??= keyId
    if (makes.id !== keyId) fail(`${requestId}: made the key ${makes.id}, in the audit ${keyId}`)
  }
  if (user && found.some(({ subject }) => subject !== user.id))
    fail(`${requestId}: the event is of another user than ${user.id}`)
  return isLost
}

/**
 * Looks for everything that was acknowledged, and for what was not; returns how much was looked at.
 */
export async function verify({ client, slots, load, admin }: Verified) {
  const { users, changes, authenticate } = load
  const { insist, fail } = client
  const events = await readEvents(client, admin)
  let happened = 0
  for (const change of changes) {
    const found = events.get(change.requestId) ?? []
    events.delete(change.requestId)
    if (checkChange(fail, change, found)) happened++
  }
  for (const [requestId, [event]] of events)
    fail(`${requestId}: ${event!.action} that nobody asked for`)

  let keys = 0
  let revoked = 0
  const queue = [...users]
  const checkSome = async () => {
    for (let user = queue.pop(); user; user = queue.pop()) {
      await checkUser(user)
      for (const key of user.keys.filter(({ text }) => text)) {
        for (const at of slots) await authenticate(user, key, { at })
        keys++
        if (!isUsable(user, key)) revoked++
      }
    }
  }
  await Promise.all(Array.from({ length: 8 }, checkSome))

  async function checkUser(user: User) {
    if (user.id === '') {
      const { details } = await insist('GET', `/users?email=${user.email}`, { key: admin })
      if (details.length > 0) fail(`${user.email}: is there, without an event`)
      return
    }
    for (const at of slots) {
      const { status, details } = await insist('GET', `/users/${user.id}`, { key: admin, at })
      const { email, version, enabled, permissions } = details ?? {}
      const is = status === 200 ? { email, version, enabled, permissions } : status
      const must = user.exists
        ? {
            email: user.email,
            version: user.version,
            enabled: user.enabled,
            permissions: user.permissions,
          }
        : 404
      if (!isDeepStrictEqual(is, must))
        fail(`user ${user.id} is ${JSON.stringify(is)}, must be ${JSON.stringify(must)}`)
    }
    if (!user.exists) return
    const { details } = await insist('GET', `/users/${user.id}/keys`, { key: admin })
    const sorted = (list: Key[]) =>
      list
        .map(({ id, kind, name, enabled }) => ({ id, kind, name, enabled }))
        .sort((a, b) => (a.id! < b.id! ? -1 : 1))
    const is = sorted(details)
    const must = sorted(user.keys.filter(({ state }) => state !== 'gone'))
    if (!isDeepStrictEqual(is, must))
      fail(`keys of ${user.id} are ${JSON.stringify(is)}, must be ${JSON.stringify(must)}`)
  }
  const lost = changes.filter(({ isLost }) => isLost).length
  return { changes: changes.length - lost, lost, happened, users: users.length, keys, revoked }
}
