import { locks } from '../database/codes.ts'
import { one, type Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import { nilUuid } from '../schema.ts'
import { foldEmail, type User } from './rules.ts'

const columns =
  'id, email, role, permissions, enabled, version, created_at as "createdAt", updated_at as "updatedAt"'
const stored = `${columns}, password_hash as "passwordHash"`

/** `passwordHash`: PHC string; null for who was made with a key alone. */
export type StoredUser = User & { passwordHash: string | null }
type Given = Pick<StoredUser, 'email' | 'passwordHash' | 'role' | 'permissions' | 'enabled'>
export type NewUser = Partial<Given> & Pick<Given, 'email' | 'passwordHash'>

/** Inserts a user; throws `email_in_use` when the address is taken, whatever its case. */
export function insertUser(
  db: Db,
  { email, passwordHash, role = 'user', permissions = [], enabled = true }: NewUser,
) {
  return one<User>(
    db,
    `insert into users (email, email_lower, password_hash, role, permissions, enabled)
     values ($1, $2, $3, $4, $5::text[], $6::boolean) returning ${columns}`,
    [email, foldEmail(email), passwordHash, role, permissions, enabled],
  ).catch(explain)
}

/** The user of that id, or null. */
export const findUser = async (db: Db, id: string): Promise<StoredUser | null> =>
  (await db.query<StoredUser>(`select ${stored} from users where id = $1::uuid`, [id]))[0] ?? null

/** The user, locked until the transaction ends; throws `user_not_found`. */
export const lockUser = (tx: Db, id: string): Promise<StoredUser> =>
  one(tx, `select ${stored} from users where id = $1::uuid for update`, [id], 'user_not_found')

/** The user of that address, whatever its case, or null. */
export const findUserByEmail = async (db: Db, email: string): Promise<StoredUser | null> =>
  (
    await db.query<StoredUser>(`select ${stored} from users where email_lower = $1`, [
      foldEmail(email),
    ])
  )[0] ?? null

/** Users in the order of creation, those after the user `after`. */
export const listUsers = (
  db: Db,
  { after = nilUuid, limit }: { after?: string; limit: number },
): Promise<User[]> =>
  db.query(`select ${columns} from users where id > $1::uuid order by id limit $2::int`, [
    after,
    limit,
  ])

/** Changes what is given and counts the version up; throws `email_in_use`. */
export function updateUser(
  tx: Db,
  id: string,
  { email, passwordHash, role, permissions, enabled }: Partial<Given>,
) {
  return one<User>(
    tx,
    `update users set email = coalesce($2, email), email_lower = coalesce($3, email_lower),
       password_hash = coalesce($4, password_hash), role = coalesce($5, role),
       permissions = coalesce($6::text[], permissions), enabled = coalesce($7::boolean, enabled),
       version = version + 1, updated_at = now()
     where id = $1::uuid returning ${columns}`,
    [id, email, email && foldEmail(email), passwordHash, role, permissions, enabled],
  ).catch(explain)
}

/** Deletes a user with its keys and sessions. */
export const deleteUser = (tx: Db, id: string) =>
  tx.query('delete from users where id = $1::uuid', [id])

/** Throws `last_admin` unless another enabled admin remains; locks, so that two cannot remove each other. */
export async function requireAnotherAdmin(tx: Db, id: string): Promise<void> {
  await tx.query('select pg_advisory_xact_lock($1)', [locks.lastAdmin])
  await one(
    tx,
    `select from users where role = 'admin' and enabled and id <> $1::uuid limit 1`,
    [id],
    'last_admin',
  )
}

function explain(error: { constraint?: string }): never {
  throw error.constraint === 'users_email_key' ? new AppError('email_in_use') : error
}
