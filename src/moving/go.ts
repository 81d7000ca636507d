// The way from the Go service, whose database lies on the same server under another name. Passwords
// are there in clear: they leave this process as hashes alone.
import { availableParallelism } from 'node:os'

import type { Db } from '../database/pool.ts'
import { ExitError, type Fault } from '../errors.ts'
import { digestKey } from '../keys/format.ts'
import { createHasher } from '../passwords/hasher.ts'
import { newPassword, normalPassword } from '../passwords/rules.ts'
import { instantSchema, isUuid } from '../schema.ts'
import { foldEmail } from '../users/rules.ts'
import { readTraveller, type Reading } from './form.ts'
import {
  findGoRows,
  findObstacles,
  listGoUsers,
  type GoKey,
  type GoRow,
  type Mover,
  toBytea,
  type MovingKey,
} from './queries.ts'
import { countBreach, importAll, type Import } from './store.ts'

/** More would find no place in the hasher's queue. */
const threads = Array.from({ length: Math.min(32, availableParallelism()) }, (_, n) => `${n}`)
const newPasswordSchema = newPassword(8)

/**
 * Imports the Go service's users and keys; the users of the addresses `admins` become admins.
 * Throws, before anything is written, if nobody or more than one user has such an address.
 */
export async function importGo(target: Import, from: Db, admins: string[]) {
  const users = await listGoUsers(from)
  const readings = users.map((user) => readTraveller(user))
  for (const address of admins) {
    const folded = foldEmail(address)
    const owners = readings.filter(({ user }) => foldEmail(user.email ?? '') === folded)
    if (owners.length !== 1)
      throw new ExitError(`${owners.length} users have the address ${address}: nothing was done`)
    owners[0]!.user.role = 'admin'
  }
  await refuseMere(target.db, readings)
  const hasher = createHasher(threads.length, new URL('../foreign/thread.js', import.meta.url))

  async function completeOne(mover: Mover, { user, keys }: GoRow, thread: string) {
    const password = user.password ?? ''
    const createdAt = readInstant(user.created_at)
    const enabled = user.enabled !== false
    Object.assign(mover, { enabled, createdAt, keys: keys.filter(comesAlong).map(withDigest) })
    target.counts.password += countBreach(newPasswordSchema, password)
    if (!/^[^]{1,1024}$/u.test(password))
      target.say(`user ${user.id} comes without its password, which is empty or too long`)
    else if (!target.isDryRun)
      mover.passwordHash = await hasher.hash(normalPassword(password), thread)
  }

  function comesAlong({ id, key }: GoKey) {
    const isGuessable = /^.{14}[0126f]/.test(key)
    if (isGuessable) target.say(`key ${id} stays behind: its UUID can be guessed`)
    else if (!isUuid(key ?? '')) target.say(`key ${id} stays behind: it is no UUID`)
    return !isGuessable && isUuid(key ?? '')
  }

  async function complete(movers: Mover[]) {
    const ids = movers.map(({ id }) => id)
    const rows = new Map((await findGoRows(from, ids)).map((row) => [row.user.id, row]))
    const waiting = movers.values()
    await Promise.all(
      threads.map(async (thread) => {
        for (const mover of waiting) await completeOne(mover, rows.get(mover.id!)!, thread)
      }),
    )
    return movers
  }

  const nameOf = (number: number) => `user ${users[number - 1]!.id}`
  await importAll(target, { readings, perTransaction: 100, nameOf, complete })
  await hasher.stop()
}

const withDigest = ({ id, key, enabled, valid_until, created_at }: GoKey): MovingKey => ({
  id,
  // Not the key, which the server may log.
  digest: toBytea(digestKey(key.toLowerCase())),
  enabled: enabled !== false,
  validUntil: valid_until,
  createdAt: readInstant(created_at),
})

/** An instant as the API shows it; undefined if there is none, or it is none, such as infinity. */
function readInstant(given: string | undefined) {
  const faults: Fault[] = []
  const instant = instantSchema.check(given, '', faults)
  return faults.length === 0 ? instant : undefined
}

/** Throws if somebody who is to become an admin is there already as a mere user. */
async function refuseMere(db: Db, readings: Reading[]) {
  const admins = readings.filter(({ user }) => user.role === 'admin')
  const movers = admins.map(({ user }, number) => ({
    ...user,
    number,
    address: foldEmail(user.email),
    keys: [],
  }))
  for (const { number, role } of await findObstacles(db, movers))
    if (role === 'user')
      throw new ExitError(`${movers[number]!.email} is there and no admin: nothing was done`)
}
