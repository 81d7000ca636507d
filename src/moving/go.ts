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
import { readTraveller } from './form.ts'
import {
  findGoRows,
  isNonAdmin,
  listGoRest,
  listGoUsers,
  type GoRecord,
  type GoRow,
  type Mover,
  toBytea,
  type MovingKey,
} from './queries.ts'
import { countBreach, importAll, type Import } from './store.ts'

/** Names of clients of the hasher, one a core; more would find no place in its queue. */
const clients = Array.from({ length: Math.min(32, availableParallelism()) }, (_, n) => `${n}`)
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
    const owners = readings.filter(
      ({ user, faults }) => faults.length === 0 && foldEmail(user.email) === folded,
    )
    if (owners.length !== 1)
      throw new ExitError(`${owners.length} users have the address ${address}: nothing was done`)
    const { user } = owners[0]!
    user.role = 'admin'
    if (await isNonAdmin(target.db, user.id, folded))
      throw new ExitError(`${address} is there and no admin: nothing was done`)
  }
  for (const { name } of await listGoRest(from)) target.say(`the table ${name} stays behind`)
  const hasher = createHasher(clients.length, new URL('../foreign/thread.js', import.meta.url))

  async function completeOne(mover: Mover, { user, keys }: GoRow, client: string) {
    const password = String(user.password ?? '')
    mover.enabled = isOn(user.enabled)
    mover.createdAt = readInstant(user.created_at)
    mover.keys = keys.filter(comesAlong).map(withDigest)
    target.counts.password += countBreach(newPasswordSchema, password)
    if (!/^[^]{1,1024}$/u.test(password))
      target.say(`user ${user.id} comes without its password, which is empty or too long`)
    else if (!target.isDryRun)
      mover.passwordHash = await hasher.hash(normalPassword(password), client)
  }

  function comesAlong({ id, key }: GoRecord) {
    const comes = /^.{14}[^0126f]/i.test(key) && isUuid(key)
    if (!comes) target.say(`key ${id} stays behind: it is no UUID, or one that can be guessed`)
    return comes
  }

  async function complete(movers: Mover[]) {
    const ids = movers.map(({ id }) => id)
    const rows = new Map((await findGoRows(from, ids)).map((row) => [row.user.id, row]))
    // The Go service may have deleted some since.
    const present = movers.filter(({ id }) => rows.has(id!))
    // All take from one iterator.
    const waiting = present.values()
    await Promise.all(
      clients.map(async (client) => {
        for (const mover of waiting) await completeOne(mover, rows.get(mover.id!)!, client)
      }),
    )
    return present
  }

  const nameOf = (number: number) => `user ${users[number - 1]!.id}`
  // An id is there once.
  const ownerOf = (address: string) =>
    nameOf(1 + readings.findIndex(({ user }) => foldEmail(user.email ?? '') === address))
  await importAll(target, { readings, perTransaction: 100, nameOf, ownerOf, complete })
}

const withDigest = ({ id, key, enabled, valid_until, created_at }: GoRecord): MovingKey => ({
  id,
  // Not the key, which the server may log.
  digest: toBytea(digestKey(key.toLowerCase())),
  enabled: isOn(enabled),
  validUntil: valid_until,
  createdAt: readInstant(created_at),
})

/** Where there is a switch, whatever its type, only true is on. */
const isOn = (enabled: unknown) => (enabled ?? true) === true

/** An instant as the API shows it; null if there is none, or it is none, such as infinity. */
function readInstant(given: string | undefined) {
  const faults: Fault[] = []
  const instant = instantSchema.check(given, '', faults)
  return faults.length === 0 ? instant : null
}
