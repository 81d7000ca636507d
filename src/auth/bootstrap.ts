import { readFileSync } from 'node:fs'

import { insertEvent } from '../audit/queries.ts'
import type { Database, Db } from '../database/pool.ts'
import { ExitError } from '../errors.ts'
import { insertKey } from '../keys/queries.ts'
import { check } from '../schema.ts'
import { isKey } from '../secrets.ts'
import { insertUser } from '../users/queries.ts'
import { email as emailSchema } from '../users/rules.ts'

/**
 * Creates an admin without a password and returns its key; with `firstKey` only where there is no admin, else null.
 * Throws `email_in_use` and, for no address, `invalid_email`.
 */
export async function createAdmin(db: Database, address: string, firstKey?: string) {
  const email = check(emailSchema, address, 'invalid_email')
  return db.transaction(async (tx) => {
    await tx.query('select pg_advisory_xact_lock(7520603)')
    if (firstKey && await hasAdmin(tx)) return null
    const { id } = await insertUser(tx, { email, passwordHash: null, role: 'admin' })
    const key = await insertKey(tx, { userId: id, kind: 'api', name: 'bootstrap', ...(firstKey && { key: firstKey }) })
    await insertEvent(tx, { action: 'user.created', actor: null, subject: id, keyId: key.id, origin: null })
    return key
  })
}

/**
 * Creates the first admin with the key in the file, once, however many instances start; does nothing where there is
 * an admin, whether or not the file is still there. Returns whether it did; throws an ExitError when it cannot.
 */
export async function bootstrap(db: Database, { email, keyFile }: { email: string; keyFile: string }) {
  if (await hasAdmin(db)) return false
  try {
    const key = readFileSync(keyFile, 'utf8').trim()
    if (!isKey(key)) throw new Error('the file must hold a key: node bin/admin.js generate > FILE')
    return await createAdmin(db, email, key) !== null
  } catch (error) {
    // Not the message of readFileSync: it has the path, which may be the key by mistake.
    const { code, message } = error as { code?: string; message: string }
    throw new ExitError(`BOOTSTRAP_ADMIN_EMAIL and BOOTSTRAP_ADMIN_KEY_FILE cannot be used: ${code ?? message}`, 2)
  }
}

const hasAdmin = async (db: Db) => (await db.query(`select from users where role = 'admin' limit 1`)).length > 0
