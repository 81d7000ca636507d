// The first admin: made by a command, by settings or by the private start.
import { existsSync, readFileSync, writeFileSync } from 'node:fs'

import { insertEvent } from '../audit/queries.ts'
import { explain } from '../database/explain.ts'
import type { Database, Db } from '../database/pool.ts'
import { AppError, ExitError } from '../errors.ts'
import type { Action } from '../events.ts'
import { createKey, isSecret } from '../keys/format.ts'
import { insertKey, type NewKey } from '../keys/queries.ts'
import { check } from '../schema.ts'
import { hasAdmin, insertUser, lockFirstAdmin } from './queries.ts'
import { emailSchema } from './rules.ts'

/** Where the first admin comes from. */
export interface FirstAdmin {
  email: string
  keyFile: string
  /** A missing file is made, with a new key. */
  makesFile?: true
}

/** Makes an admin without a password, and its key; throws `invalid_email` or `email_in_use`. */
export const createAdmin = (db: Database, address: string) =>
  db.transaction(async (tx) => {
    await lockFirstAdmin(tx)
    return insertAdmin(tx, address, createKey())
  })

/**
 * Makes the first admin with the key in the file, however many instances start; returns whether it
 * did. If there is an admin, no file is needed. Throws an ExitError that names the settings.
 */
export async function bootstrap(db: Database, admin: FirstAdmin) {
  try {
    return await db.transaction(async (tx) => {
      await lockFirstAdmin(tx)
      if (await hasAdmin(tx)) return false
      await insertAdmin(tx, admin.email, readKeyFile(admin))
      return true
    })
  } catch (error) {
    const isOfAddress =
      error instanceof AppError && ['invalid_email', 'email_in_use'].includes(error.code)
    if (isOfAddress)
      throw new ExitError(`BOOTSTRAP_ADMIN_EMAIL cannot be used: ${explain(error)}`, 2)
    throw error
  }
}

async function insertAdmin(tx: Db, address: string, key: string) {
  const email = check(emailSchema, address, 'invalid_email')
  const { id } = await insertUser(tx, { email, passwordHash: null, role: 'admin' })
  return insertOperatorKey(tx, { userId: id, name: 'bootstrap', key }, 'user.created')
}

/** Makes a key of an admin for an operator, who has proved more than a password. */
export async function insertOperatorKey(tx: Db, key: Omit<NewKey, 'kind'>, action: Action) {
  const made = await insertKey(tx, { kind: 'api', factors: 2, ...key })
  await insertEvent(tx, { action, actor: null, subject: key.userId, keyId: made.id, origin: null })
  return made
}

function readKeyFile({ keyFile, makesFile }: FirstAdmin) {
  let key: string
  try {
    if (makesFile && !existsSync(keyFile))
      writeFileSync(keyFile, `${createKey()}\n`, { mode: 0o600, flag: 'wx' })
    key = readFileSync(keyFile, 'utf8').trim()
  } catch (error) {
    // Not the message, which contains the path: by mistake, that may be the key itself.
    throw unusable((error as { code?: string }).code ?? 'it cannot be read')
  }
  if (!isSecret(key, 'usk'))
    throw unusable('the file must hold a key: node bin/admin.js generate > FILE')
  return key
}

const unusable = (reason: string) =>
  new ExitError(`BOOTSTRAP_ADMIN_KEY_FILE cannot be used: ${reason}`, 2)
