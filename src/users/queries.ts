import { locks } from '../database/codes.ts'
import { first, one, type Db } from '../database/pool.ts'
import { AppError, faultIn } from '../errors.ts'
import { gainAddress, loseAddress } from '../passwords/guessing.ts'
import { nilUuid } from '../schema.ts'
import { foldEmail, reservedDefaults, type Reserved, type User } from './rules.ts'

const columns = `id, email, email_verified_at is not null as "emailVerified", role, permissions,
  metadata, enabled, factor_confirmed_at is not null as "secondFactor", version,
  created_at as "createdAt", updated_at as "updatedAt"`
const storedColumns = `${columns}, password_hash as "passwordHash"`

/** A user with its password's PHC string, or null if it has none. */
export type StoredUser = User & { passwordHash: string | null }

/** What can be stored of a user. */
type UserChanges = Partial<Reserved & Pick<StoredUser, 'email' | 'passwordHash'>>
/** A user to insert. */
export type NewUser = UserChanges & Pick<StoredUser, 'email' | 'passwordHash'>

/** Inserts a user; throws `email_in_use` if the address is taken, whatever its case. */
export async function insertUser(tx: Db, user: NewUser) {
  const { email, passwordHash, role, permissions, metadata, enabled, emailVerified } = {
    ...reservedDefaults,
    ...user,
  }
  const address = foldEmail(email)
  const inserted = await store(
    tx,
    `insert into users (email, email_lower, password_hash, role, permissions, metadata,
      enabled, email_verified_at)
     values ($1, $2, $3, $4, $5::text[], $6::jsonb, $7::boolean,
       case when $8::boolean then now() end)`,
    [email, address, passwordHash, role, permissions, metadata, enabled, emailVerified],
  )
  await gainAddress(tx, inserted.id, address)
  return inserted
}

/** The user of that id, or null. */
export const findUser = (db: Db, id: string): Promise<StoredUser | null> =>
  first(db, `select ${storedColumns} from users where id = $1::uuid`, [id])

/** The user, locked until the transaction ends; throws `user_not_found`. */
export const lockUser = (tx: Db, id: string): Promise<StoredUser> =>
  one(tx, {
    text: `select ${storedColumns} from users where id = $1::uuid for update`,
    values: [id],
    orThrow: 'user_not_found',
  })

/** The user of that address, whatever its case, or null. */
export const findUserByEmail = (db: Db, email: string): Promise<StoredUser | null> =>
  first(db, `select ${storedColumns} from users where email_lower = $1`, [foldEmail(email)])

/** Which users to list, in the order of creation: those after the user `after`. */
interface UserPage {
  /** The beginning of an address, or @ and its whole domain. */
  search?: string
  after?: string
  limit: number
}

/** Fewer matches are sorted by id; among more, the next ones by id are found by walking the ids. */
const fewMatches = 5000
/** Compared by bytes. No address that begins so comes after 254 times the last character. */
const isInRange = (prefix: string) =>
  `email_lower collate "C" between ${prefix} and ${prefix} || repeat(U&'\\+10FFFF', 254)`
const narrow = `id = any(array(
  select id from users where ${isInRange('$3')} and id > $1::uuid order by id limit $2::int))`
/** Written so that PostgreSQL does not choose the index of addresses, which has another order. */
const broad = 'left(email_lower, length($3)) = $3'

/** The users of a page. */
export async function listUsers(db: Db, page: UserPage) {
  const { search, after = nilUuid, limit } = page
  const list = (condition: string, values: string[]) =>
    db.query<User>(
      `select ${columns} from users where id > $1::uuid and ${condition}
       order by id limit $2::int`,
      [after, limit, ...values],
    )
  if (search === undefined) return list('true', [])
  const folded = foldEmail(search)
  if (folded.startsWith('@')) {
    return list(`split_part(email_lower, '@', 2) = $3`, [folded.slice(1)])
  }
  const { isFew } = await one<{ isFew: boolean }>(db, {
    text: `select count(*) < $2::int as "isFew" from (
      select from users where ${isInRange('$1')}
      order by email_lower collate "C" limit $2::int) as first`,
    values: [folded, fewMatches],
  })
  return list(isFew ? narrow : broad, [folded])
}

/** Changes what is given of a locked user and counts the version up; throws `email_in_use`. */
export async function updateUser(tx: Db, before: StoredUser, changes: UserChanges) {
  const { id, email, passwordHash, role, permissions, enabled, emailVerified } = {
    ...before,
    ...changes,
  }
  const address = foldEmail(email)
  const addressBefore = foldEmail(before.email)
  const { metadata } = changes
  const after = await store(
    tx,
    `update users set email = $2, email_lower = $3, password_hash = $4, role = $5,
       permissions = $6::text[], metadata = coalesce($7::jsonb, metadata), enabled = $8::boolean,
       email_verified_at = case when $9::boolean then coalesce(email_verified_at, now()) end,
       version = version + 1, updated_at = now()
     where id = $1::uuid`,
    [id, email, address, passwordHash, role, permissions, metadata, enabled, emailVerified],
  )
  if (address !== addressBefore) {
    await loseAddress(tx, id, addressBefore)
    await gainAddress(tx, id, address)
  }
  return after
}

/** Deletes a user with its keys, sessions and tokens. */
export async function deleteUser(tx: Db, { id, email }: User) {
  await tx.query('delete from users where id = $1::uuid', [id])
  await loseAddress(tx, id, foldEmail(email))
}

/** Throws `last_admin` unless another enabled admin remains; transactions check one by one. */
export async function requireAnotherAdmin(tx: Db, id: string) {
  await tx.query('select pg_advisory_xact_lock($1)', [locks.lastAdmin])
  await one(tx, {
    text: `select from users where role = 'admin' and enabled and id <> $1::uuid limit 1`,
    values: [id],
    orThrow: 'last_admin',
  })
}

/** Waits for the lock under which the first admin is made. */
export const lockFirstAdmin = (tx: Db) =>
  tx.query('select pg_advisory_xact_lock($1)', [locks.firstAdmin])

/** Whether there is an admin, enabled or not. */
export async function hasAdmin(db: Db) {
  const admins = await db.query(`select from users where role = 'admin' limit 1`)
  return admins.length > 0
}

/** Runs a statement that stores a user, and returns that. */
async function store(tx: Db, statement: string, values: unknown[]) {
  try {
    return await one<User>(tx, { text: `${statement} returning ${columns}`, values })
  } catch (error) {
    const { constraint } = error as { constraint?: string }
    if (constraint === 'users_email_key') throw new AppError('email_in_use')
    // PostgreSQL writes numbers in full: 1e308 has 309 digits.
    if (constraint === 'users_metadata_check') {
      throw faultIn('invalid_body', 'metadata', 'is too long')
    }
    throw error
  }
}
