import { existsSync, readFileSync, writeFileSync } from 'node:fs'

import { createKey, isKey } from '../keys/format.ts'
import { insertEvent } from '../audit/queries.ts'
import { locks } from '../database/codes.ts'
import type { Database } from '../database/pool.ts'
import { ExitError } from '../errors.ts'
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

/** Creates the first admin, once, however many instances start, or throws; where there is one, no file is needed. */
export const bootstrap = (db: Database, { email, keyFile, makesFile }: FirstAdmin) =>
  createAdmin(db, email, () => {
    if (makesFile && !existsSync(keyFile))
      writeFileSync(keyFile, `${createKey()}\n`, { mode: 0o600, flag: 'wx' })
    const key = readFileSync(keyFile, 'utf8').trim()
    if (!isKey(key)) throw new Error('the file must hold a key: node bin/admin.js generate > FILE')
    return key
  }).catch(({ code, message }: { code?: string; message: string }) => {
    // Not the message of readFileSync: it has the path, which may be the key by mistake.
    throw new ExitError(
      `BOOTSTRAP_ADMIN_EMAIL and BOOTSTRAP_ADMIN_KEY_FILE cannot be used: ${code ?? message}`,
      2,
    )
  })
