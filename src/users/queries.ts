import { one, violates, type Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import { nilUuid } from '../schema.ts'
import { foldEmail } from './rules.ts'

export interface User {
  id: string
  email: string
  role: 'user' | 'admin'
  permissions: string[]
  enabled: boolean
  version: number
  createdAt: Date
  updatedAt: Date
}

const columns = `id, email, role, permissions, enabled, version,
  created_at as "createdAt", updated_at as "updatedAt"`

export interface Credentials {
  id: string
  enabled: boolean
  /** PHC string; null for who was made with a key alone. */
  passwordHash: string | null
}

export interface NewUser {
  email: string
  passwordHash: string | null
  role?: 'user' | 'admin'
  permissions?: string[]
  enabled?: boolean
}

/** Inserts a user; throws `email_in_use` when the address is taken, whatever its case. */
export function insertUser(db: Db, user: NewUser): Promise<User> {
  const { email, passwordHash, role = 'user', permissions = [], enabled = true } = user
  return explained(one(db,
    `insert into users (email, email_lower, password_hash, role, permissions, enabled)
     values ($1, $2, $3, $4, $5::text[], $6::boolean) returning ${columns}`,
    [email, foldEmail(email), passwordHash, role, permissions, enabled]))
}

/** The user of that id, or null. */
export async function findUser(db: Db, id: string): Promise<User | null> {
  const rows = await db.query<User>(`select ${columns} from users where id = $1::uuid`, [id])
  return rows[0] ?? null
}

/** The user and the stored password, locked until the transaction ends; throws `user_not_found`. */
export async function lockUser(tx: Db, id: string): Promise<User & Credentials> {
  const [user] = await tx.query<User & Credentials>(
    `select ${columns}, password_hash as "passwordHash" from users where id = $1::uuid for update`, [id])
  if (user === undefined) throw new AppError('user_not_found')
  return user
}

/** The user of that address, whatever its case, or null. */
export async function findUserByEmail(db: Db, email: string): Promise<User | null> {
  const rows = await db.query<User>(
    `select ${columns} from users where email_lower = $1`, [foldEmail(email)])
  return rows[0] ?? null
}

/** What a log-in is checked against, or null. */
export async function findCredentials(db: Db, email: string): Promise<Credentials | null> {
  const rows = await db.query<Credentials>(
    'select id, enabled, password_hash as "passwordHash" from users where email_lower = $1', [foldEmail(email)])
  return rows[0] ?? null
}

/** Users in the order of creation, those after the user `after`. */
export function listUsers(
  db: Db, { after = nilUuid, limit }: { after?: string; limit: number },
): Promise<User[]> {
  return db.query(
    `select ${columns} from users where id > $1::uuid order by id limit $2::int`, [after, limit])
}

/** Changes what is given and counts the version up; throws `email_in_use`. */
export function updateUser(tx: Db, id: string, changes: Partial<NewUser>): Promise<User> {
  const { email, passwordHash, role, permissions, enabled } = changes
  return explained(one(tx,
    `update users set email = coalesce($2, email), email_lower = coalesce($3, email_lower),
       password_hash = coalesce($4, password_hash), role = coalesce($5, role),
       permissions = coalesce($6::text[], permissions), enabled = coalesce($7::boolean, enabled),
       version = version + 1, updated_at = now()
     where id = $1::uuid returning ${columns}`,
    [id, email ?? null, email === undefined ? null : foldEmail(email), passwordHash ?? null,
      role ?? null, permissions ?? null, enabled ?? null]))
}

/** Replaces a stored password by another form of the same; not a change that anybody sees. */
export async function renewHash(tx: Db, id: string, renewed: string): Promise<void> {
  await tx.query('update users set password_hash = $2 where id = $1::uuid', [id, renewed])
}

/** Deletes a user with its keys and sessions. */
export async function deleteUser(tx: Db, id: string): Promise<void> {
  await tx.query('delete from users where id = $1::uuid', [id])
}

/**
 * Throws `last_admin` unless another enabled admin remains without this one. Who asks first holds a
 * lock until its transaction ends, so that two admins cannot remove each other.
 */
export async function requireAnotherAdmin(tx: Db, id: string): Promise<void> {
  await tx.query('select pg_advisory_xact_lock(7520602)')
  const others = await tx.query(
    `select from users where role = 'admin' and enabled and id <> $1::uuid limit 1`, [id])
  if (others.length === 0) throw new AppError('last_admin')
}

async function explained<T>(statement: Promise<T>): Promise<T> {
  try {
    return await statement
  } catch (error) {
    if (violates(error, 'users_email_key')) throw new AppError('email_in_use')
    throw error
  }
}
