import { existsSync, readFileSync, writeFileSync } from 'node:fs'

import { insertEvent } from '../audit/queries.ts'
import type { Database, Db } from '../database/pool.ts'
import { AppError, ExitError } from '../errors.ts'
import { insertKey } from '../keys/queries.ts'
import { check } from '../schema.ts'
import { createKey, isKey } from '../secrets.ts'
import { insertUser } from '../users/queries.ts'
import { email as emailSchema, type User } from '../users/rules.ts'

/** Creates an admin with a key and no password; throws `email_in_use` and, for no address, an ExitError. */
export async function createAdmin(
  db: Database, address: string, key?: string, onlyFirst = false,
): Promise<{ user: User; key: string } | null> {
  const checked = check(emailSchema, address)
  if (!('value' in checked)) throw new ExitError('The email of the admin is not valid', 2)
  return db.transaction(async (tx) => {
    await tx.query('select pg_advisory_xact_lock(7520603)')
    if (onlyFirst && await hasAdmin(tx)) return null
    const user = await insertUser(tx, { email: checked.value, passwordHash: null, role: 'admin' })
    const made = await insertKey(tx, { userId: user.id, kind: 'api', name: 'bootstrap', ...(key && { key }) })
    await insertEvent(tx, {
      action: 'user.created', actor: null, subject: user.id, keyId: made.id, origin: null,
    })
    return { user, key: made.key }
  })
}

/**
 * Creates the first admin with the key in the file, once, however many instances start; does nothing
 * where there is an admin. Returns whether it did; throws an ExitError when it cannot.
 */
export async function bootstrap(
  db: Database, { email, keyFile }: { email: string; keyFile: string },
): Promise<boolean> {
  if (await hasAdmin(db)) return false
  try {
    return (await createAdmin(db, email, readKeyFile(keyFile), true)) !== null
  } catch (error) {
    if (!(error instanceof AppError) || error.code !== 'email_in_use') throw error
    throw new ExitError('BOOTSTRAP_ADMIN_EMAIL is the address of a user who is no admin', 2)
  }
}

const hasAdmin = async (db: Db) =>
  (await db.query(`select from users where role = 'admin' limit 1`)).length > 0

function readKeyFile(path: string): string {
  let key = ''
  try {
    key = readFileSync(path, 'utf8').trim()
  } catch (error) {
    throw new ExitError(`BOOTSTRAP_ADMIN_KEY_FILE cannot be read: ${(error as { code: string }).code}`, 2)
  }
  if (isKey(key)) return key
  throw new ExitError('BOOTSTRAP_ADMIN_KEY_FILE must hold a key: node bin/admin.js generate > FILE', 2)
}

/** Writes a new key into a file that only its owner can read, unless there is one. */
export function ensureKeyFile(path: string): void {
  if (!existsSync(path)) writeFileSync(path, `${createKey()}\n`, { mode: 0o600, flag: 'wx' })
}
