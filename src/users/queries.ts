import { one, type Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import { nilUuid } from '../schema.ts'
import { foldEmail, type User } from './rules.ts'

const columns = `id, email, role, permissions, enabled, version,
  created_at as "createdAt", updated_at as "updatedAt"`

/** `passwordHash`: PHC string; null for who was made with a key alone. */
export type StoredUser = User & { passwordHash: string | null }
const storedColumns = `${columns}, password_hash as "passwordHash"`

export type NewUser =
  Pick<StoredUser, 'email' | 'passwordHash'> & Partial<Pick<User, 'role' | 'permissions' | 'enabled'>>

/** Inserts a user; throws `email_in_use` when the address is taken, whatever its case. */
export function insertUser(db: Db, user: NewUser): Promise<User> {
  const { email, passwordHash, role = 'user', permissions = [], enabled = true } = user
  return one<User>(db,
    `insert into users (email, email_lower, password_hash, role, permissions, enabled)
     values ($1, $2, $3, $4, $5::text[], $6::boolean) returning ${columns}`,
    [email, foldEmail(email), passwordHash, role, permissions, enabled]).catch(explain)
}

/** The user of that id, or null. */
export async function findUser(db: Db, id: string): Promise<StoredUser | null> {
  const [user] = await db.query<StoredUser>(`select ${storedColumns} from users where id = $1::uuid`, [id])
  return user ?? null
}

/** The user, locked until the transaction ends; throws `user_not_found`. */
export const lockUser = (tx: Db, id: string): Promise<StoredUser> =>
  one(tx, `select ${storedColumns} from users where id = $1::uuid for update`, [id], 'user_not_found')

/** The user of that address, whatever its case, or null. */
export async function findUserByEmail(db: Db, email: string): Promise<StoredUser | null> {
  const [user] = await db.query<StoredUser>(
    `select ${storedColumns} from users where email_lower = $1`, [foldEmail(email)])
  return user ?? null
}

/** Users in the order of creation, those after the user `after`. */
export const listUsers = (db: Db, { after = nilUuid, limit }: { after?: string; limit: number }): Promise<User[]> =>
  db.query(`select ${columns} from users where id > $1::uuid order by id limit $2::int`, [after, limit])

/** Changes what is given and counts the version up; throws `email_in_use`. */
export function updateUser(tx: Db, id: string, changes: Partial<NewUser>): Promise<User> {
  const { email, passwordHash, role, permissions, enabled } = changes
  return one<User>(tx,
    `update users set email = coalesce($2, email), email_lower = coalesce($3, email_lower),
       password_hash = coalesce($4, password_hash), role = coalesce($5, role),
       permissions = coalesce($6::text[], permissions), enabled = coalesce($7::boolean, enabled),
       version = version + 1, updated_at = now()
     where id = $1::uuid returning ${columns}`,
    [id, email, email === undefined ? null : foldEmail(email), passwordHash, role, permissions, enabled]).catch(explain)
}

/** Deletes a user with its keys and sessions. */
export const deleteUser = (tx: Db, id: string) => tx.query('delete from users where id = $1::uuid', [id])

/**
 * Throws `last_admin` unless another enabled admin remains without this one. Who asks first holds a
 * lock until its transaction ends, so that two admins cannot remove each other.
 */
export async function requireAnotherAdmin(tx: Db, id: string): Promise<void> {
  await tx.query('select pg_advisory_xact_lock(7520602)')
  await one(tx, `select from users where role = 'admin' and enabled and id <> $1::uuid limit 1`, [id], 'last_admin')
}

function explain(error: { constraint?: string }): never {
  throw error.constraint === 'users_email_key' ? new AppError('email_in_use') : error
}
