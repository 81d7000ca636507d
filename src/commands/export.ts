import { pipeline } from 'node:stream/promises'

import { explain } from '../database/explain.ts'
import { checkSchema } from '../database/migrate.ts'
import { one, withDatabase, type Db } from '../database/pool.ts'
import { ExitError } from '../errors.ts'
import { command, readCommandDatabase } from './command.ts'

const usage = `Prints all users, or the one of that ID, as node bin/import.js reads them, with
hashes of passwords. Says on stderr what stays behind.

Connects as user_service_admin unless DATABASE_USER names another role.`

await command({
  name: 'export',
  synopsis: '[ID]',
  usage,
  pattern: /^( [\da-f-]{36})?$/i,
  async run({ positionals: [id] }) {
    const config = readCommandDatabase('user_service_admin')
    await withDatabase(config, async (db) => {
      await checkSchema(db)
      await db.transaction((tx) => print(tx, id))
    })
  },
})

/** Prints users, all as they are at one instant. */
async function print(tx: Db, id: string | undefined) {
  try {
    await tx.query('set transaction isolation level repeatable read, read only')
    const { said } = await one<{ said: string }>(tx, {
      text: `select format('%s users; second factors of %s and API keys of %s stay behind',
          count(*),
          count(factor_confirmed_at),
          count(*) filter (where exists (
            select from api_keys where user_id = users.id and kind = 'api'))) as said
        from users where id = coalesce($1, id) having count(*) > 0 or $1 is null`,
      values: [id],
      orThrow: 'user_not_found',
    })
    await tx.query(
      `declare printed cursor for
       select email, id, password_hash as "passwordHash", role, permissions, metadata, enabled,
         email_verified_at is not null as "emailVerified", created_at as "createdAt"
       from users where id = coalesce($1, id) order by id`,
      [id],
    )
    await pipeline(readPrinted(tx), process.stdout, { end: false })
    console.error(`export: ${said}`)
  } catch (error) {
    // Another attempt would print everything a second time.
    throw new ExitError(explain(error))
  }
}

async function* readPrinted(tx: Db) {
  while (true) {
    const users = await tx.query('fetch 1000 from printed')
    if (users.length === 0) return
    yield users.map((user) => `${JSON.stringify(user)}\n`).join('')
  }
}
