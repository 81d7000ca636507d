import { existsSync, readFileSync, writeFileSync } from 'node:fs'

import { createKey, isKey } from '../keys/format.ts'
import { insertEvent } from '../audit/queries.ts'
import { locks } from '../database/codes.ts'
import type { Database } from '../database/pool.ts'
import { AppError, ExitError } from '../errors.ts'
import { insertKey } from '../keys/queries.ts'
import { check } from '../schema.ts'
import { insertUser } from './queries.ts'
import { email as emailSchema } from './rules.ts'

/** Makes an admin without a password, and its key; with `readFirstKey` only where there is no admin, else null. */
export const createAdmin = (db: Database, address: string, readFirstKey?: () => string) =>
  db.transaction(async (tx) => {
    await tx.query('select pg_advisory_xact_lock($1)', [locks.firstAdmin])
    const admins = await tx.query(`select from users where role = 'admin' limit 1`)
    if (readFirstKey && admins.length > 0) return null
    const key = readFirstKey && { key: readFirstKey() }
    const email = check(emailSchema, address, 'invalid_email')
    const { id } = await insertUser(tx, { email, passwordHash: null, role: 'admin' })
    const made = await insertKey(tx, { userId: id, kind: 'api', name: 'bootstrap', ...key })
    await insertEvent(tx, {
      action: 'user.created',
      actor: null,
      subject: id,
      keyId: made.id,
      origin: null,
    })
    return made
  })

/** `makesFile`: the file is made, with a new key, where there is none. */
export type FirstAdmin = { email: string; keyFile: string; makesFile?: true }

/**
 * Creates the first admin, once, however many instances start; where there is one, no file is
 * needed. Throws with status 2 where a setting cannot be used.
 */
export async function bootstrap(db: Database, { email, keyFile, makesFile }: FirstAdmin) {
  try {
    return await createAdmin(db, email, () => readKey(keyFile, makesFile === true))
  } catch (error) {
    const isOfAddress =
      error instanceof AppError && ['invalid_email', 'email_in_use'].includes(error.code)
    if (isOfAddress)
      throw new ExitError(`BOOTSTRAP_ADMIN_EMAIL cannot be used: ${error.message}`, 2)
    throw error
  }
}

function readKey(keyFile: string, makesFile: boolean): string {
  let key: string
  try {
    if (makesFile && !existsSync(keyFile))
      writeFileSync(keyFile, `${createKey()}\n`, { mode: 0o600, flag: 'wx' })
    key = readFileSync(keyFile, 'utf8').trim()
  } catch (error) {
    // Not its message, which has the path: that may be the key by mistake.
    throw unusable((error as { code?: string }).code ?? 'it cannot be read')
  }
  if (!isKey(key)) throw unusable('the file must hold a key: node bin/admin.js generate > FILE')
  return key
}

const unusable = (reason: string) =>
  new ExitError(`BOOTSTRAP_ADMIN_EMAIL and BOOTSTRAP_ADMIN_KEY_FILE cannot be used: ${reason}`, 2)
