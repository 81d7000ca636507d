import type { IncomingHttpHeaders } from 'node:http'

import { anyPasswordSchema, newPassword } from '../passwords/rules.ts'
import { audited, requireStill } from '../keys/acting.ts'
import { insertEvent } from '../audit/queries.ts'
import type { Database, Db } from '../database/pool.ts'
import { AppError } from '../errors.ts'
import type { Hasher } from '../passwords/hasher.ts'
import { isCurrent, matches } from '../http/etag.ts'
import { paged, pageQuery } from '../http/pagination.ts'
import { route, type Caller, type Reply, type Route } from '../http/route.ts'
import { deleteSessions, insertKey, keyText } from '../keys/queries.ts'
import { documented, list, object, oneOf, uuidSchema } from '../schema.ts'
import { checkPassword } from '../passwords/check.ts'
import {
  deleteUser,
  findUser,
  findUserByEmail,
  insertUser,
  listUsers,
  lockUser,
} from './queries.ts'
import { requireAnotherAdmin, updateUser, type StoredUser } from './queries.ts'
import { anyEmailSchema, email, isEmail, members, notTheEmail } from './rules.ts'
import { refusingEmailAsPassword, reserved, type User } from './rules.ts'

const user = { title: 'User', ...object({ ...members, apiKeys: list(keyText, 0) }).json }
const userOrId = { title: 'UserOrId', oneOf: [uuidSchema.json, user] }
const idsOrUsers = { type: 'array', maxItems: 1000, items: userOrId }
const newUser = { title: 'CreatedUser', ...object({ ...members, apiKeys: list(keyText, 1) }).json }

type Deps = {
  db: Database
  hasher: Hasher
  signup: 'open' | 'admin'
  passwordMinLength: number
}

export const userRoutes = ({ db, hasher, signup, passwordMinLength }: Deps): Route[] => [
  route({
    method: 'POST',
    path: '/users',
    operationId: 'createUser',
    tag: 'users',
    access: signup === 'open' ? 'optional' : 'admin',
    summary: 'Create a user with a first key',
    description: 'Only an admin may give `role`, `permissions` and `enabled`.',
    body: refusingEmailAsPassword(
      object({ email, password: newPassword(passwordMinLength) }, reserved),
    ),
    bodySentence: 'Invalid user syntax',
    replies: {
      201: {
        says: 'The user and its key, shown this once',
        body: newUser,
        headers: ['Location', 'ETag'],
        creates: { id: 'id' },
      },
    },
    fails: ['invalid_email', 'invalid_password', 'forbidden', 'email_in_use', 'overloaded'],
    async handle({ caller, body: { password, ...given }, origin }) {
      requireAdminFor(caller, given)
      const passwordHash = await hasher.hash(password, origin.client)
      return db.transaction(async (tx) => {
        if (caller) await requireStill(tx, caller)
        const user = await insertUser(tx, { ...given, passwordHash })
        const { id: keyId, key } = await insertKey(tx, {
          userId: user.id,
          kind: 'api',
          name: 'default',
        })
        const actor = caller?.userId ?? user.id
        await insertEvent(tx, { action: 'user.created', actor, subject: user.id, keyId, origin })
        return reply(201, user, [key], { Location: `users/${user.id}` })
      })
    },
  }),
  route({
    method: 'GET',
    path: '/users',
    operationId: 'listUsers',
    tag: 'users',
    access: 'admin',
    summary: 'List users in the order of creation',
    query: {
      ...pageQuery,
      email: documented(anyEmailSchema, {
        description: 'The user who has this address, whatever its case',
      }),
      view: documented(oneOf('ids', 'full'), { description: '`full`: users instead of ids' }),
    },
    replies: {
      200: { says: 'Ids or, with `view=full`, users', body: idsOrUsers, headers: ['Link'] },
    },
    async handle({ query }) {
      const show = query.view === 'full' ? (row: User) => payload(row) : (row: User) => row.id
      if (query.email === undefined) return paged(query, (page) => listUsers(db, page), show)
      const found = await findUserByEmail(db, query.email)
      return { status: 200, body: found === null ? [] : [show(found)] }
    },
  }),
  route({
    method: 'GET',
    path: '/users/{id}',
    operationId: 'getUser',
    tag: 'users',
    access: 'self',
    summary: 'Read a user',
    replies: {
      200: { says: 'The user', body: user, headers: ['ETag'] },
      304: { says: 'The user is as `If-None-Match` has it', headers: ['ETag'] },
    },
    fails: ['user_not_found'],
    async handle({ caller, params: { id }, headers }) {
      const found = id === caller.userId ? userOf(caller) : await findUser(db, id)
      if (found === null) throw new AppError('user_not_found')
      const ETag = etag(found)
      return isCurrent(headers, ETag) ? { status: 304, headers: { ETag } } : reply(200, found)
    },
  }),
  route({
    method: 'PATCH',
    path: '/users/{id}',
    operationId: 'updateUser',
    tag: 'users',
    access: 'self',
    summary: 'Change a user',
    description:
      'Who changes its own password sends `currentPassword`; all its other sessions end. ' +
      'Only an admin may change `role`, `permissions` and `enabled`. With `If-Match`: only that version.',
    body: object(
      {},
      {
        email,
        password: newPassword(passwordMinLength),
        currentPassword: anyPasswordSchema,
        ...reserved,
      },
    ),
    bodySentence: 'Invalid user syntax',
    replies: { 200: { says: 'The user as it is now', body: user, headers: ['ETag'] } },
    fails: [
      'invalid_email',
      'invalid_password',
      'invalid_credentials',
      'forbidden',
      'user_not_found',
      'email_in_use',
      'last_admin',
      'stale_version',
      'login_throttled',
      'overloaded',
    ],
    async handle({ caller, body: { currentPassword, ...body }, params: { id }, headers, origin }) {
      requireAdminFor(caller, body)
      const { password, ...given } = body
      const own = caller.userId === id
      /** Changes all, the password too unless it is stored already, by who knew the one before. */
      const change = async (tx: Db, passwordHash?: string) => {
        const before = await lock(tx, id, headers)
        await requireStill(tx, caller)
        // There was none to know; there may be meanwhile.
        if (own && passwordHash && before.passwordHash !== null)
          throw new AppError('invalid_credentials')
        const changes = Object.keys(body)
        if (changes.length === 0) return reply(200, before)
        const staysAdmin = (body.role ?? 'admin') === 'admin' && body.enabled !== false
        if (before.role === 'admin' && before.enabled && !staysAdmin)
          await requireAnotherAdmin(tx, id)
        const after = await updateUser(tx, id, { ...given, ...(passwordHash && { passwordHash }) })
        if (password !== undefined) await deleteSessions(tx, id, caller.keyId)
        await insertEvent(tx, {
          action: 'user.changed',
          actor: caller.userId,
          subject: id,
          changes,
          origin,
        })
        return reply(200, after)
      }
      if (password === undefined) return db.transaction((tx) => change(tx))
      const user = await lock(db, id, headers)
      if (isEmail(password, body.email ?? user.email))
        throw new AppError('invalid_password', emailAsPassword)
      if (own && user.passwordHash !== null) {
        if (currentPassword === undefined) throw new AppError('invalid_body', missingCurrent)
        const attempt = {
          find: () => findUser(db, id),
          address: id,
          password: currentPassword,
          next: password,
          origin,
        }
        return checkPassword({ db, hasher }, attempt, (tx) => change(tx))
      }
      const passwordHash = await hasher.hash(password, origin.client)
      return db.transaction((tx) => change(tx, passwordHash))
    },
  }),
  route({
    method: 'DELETE',
    path: '/users/{id}',
    operationId: 'deleteUser',
    tag: 'users',
    access: 'self',
    summary: 'Delete a user with its keys and sessions',
    replies: { 204: { says: 'It is gone' } },
    fails: ['user_not_found', 'last_admin', 'stale_version'],
    handle: (call) =>
      audited(db, 'user.deleted', 204, call, async (tx) => {
        const { id, role, enabled } = await lock(tx, call.params.id, call.headers)
        if (role === 'admin' && enabled) await requireAnotherAdmin(tx, id)
        await deleteUser(tx, id)
      }),
  }),
]

/** Locks the user; throws `user_not_found` or, when If-Match means another version, `stale_version`. */
async function lock(tx: Db, id: string, headers: IncomingHttpHeaders): Promise<StoredUser> {
  const user = await lockUser(tx, id)
  if (!matches(headers, etag(user))) throw new AppError('stale_version')
  return user
}

const emailAsPassword = { faults: [{ field: 'password', message: notTheEmail }] }
const missingCurrent = { faults: [{ field: 'currentPassword', message: 'is missing' }] }

function requireAdminFor(caller: Caller | null, body: object) {
  const asks = Object.keys(reserved).some((name) => name in body)
  if (asks && caller?.role !== 'admin') throw new AppError('forbidden')
}

const etag = ({ version }: Pick<User, 'version'>) => `"${version}"`

/** Member by member: to copy a row as it is would cost more than to find it. */
const userOf = ({
  userId: id,
  email,
  role,
  permissions,
  version,
  createdAt,
  updatedAt,
}: Caller): User => ({ id, email, role, permissions, enabled: true, version, createdAt, updatedAt })

function payload(user: User, apiKeys: string[] = []) {
  const { id, email, role, permissions, enabled, version, createdAt, updatedAt } = user
  return { id, email, role, permissions, enabled, apiKeys, version, createdAt, updatedAt }
}

const reply = (
  status: number,
  user: User,
  apiKeys?: string[],
  headers: Record<string, string> = {},
): Reply => ({ status, body: payload(user, apiKeys), headers: { ETag: etag(user), ...headers } })
