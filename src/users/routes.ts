// Users: accounts, their members and who may change them. Passwords and keys lie in
// rooms of their own.
import { insertEvent } from '../audit/queries.ts'
import { AppError } from '../errors.ts'
import { requireFresh } from '../http/access.ts'
import { paged, pageOf, pageQuery } from '../http/pagination.ts'
import { route } from '../http/route.ts'
import { audited, requireStill } from '../keys/acting.ts'
import { insertKey } from '../keys/queries.ts'
import { keyTextSchema, powersOfNew } from '../keys/rules.ts'
import { anyPasswordSchema, newPassword } from '../passwords/rules.ts'
import { deleteTokens } from '../tokens/queries.ts'
import {
  differing,
  documented,
  list,
  object,
  omittable,
  oneOf,
  refined,
  titled,
  uuidSchema,
} from '../schema.ts'
import { applyChange, changePassword, lockVersion, type ChangeDeps } from './change.ts'
import {
  deleteUser,
  findUser,
  findUserByEmail,
  insertUser,
  listUsers,
  requireAnotherAdmin,
} from './queries.ts'
import {
  emailSchema,
  reservedDefaults,
  reservedMembers,
  signUpSchema,
  soughtEmailSchema,
  userMembers,
  type User,
} from './rules.ts'
import { etag, payload, reply, userOf } from './view.ts'

const user = titled('User', { ...userMembers, apiKeys: list(keyTextSchema, 0) })
const createdUser = titled('CreatedUser', {
  ...userMembers,
  apiKeys: list(keyTextSchema, 1),
  keyId: uuidSchema,
})
const listQuery = refined(
  object(
    {},
    {
      ...pageQuery,
      email: documented(soughtEmailSchema, {
        description: 'The user who has this address, whatever its case',
      }),
      search: documented(soughtEmailSchema, {
        description: 'The beginning of an address, or @ and its whole domain, whatever their case',
        examples: ['@example.org'],
      }),
      view: documented(oneOf('ids', 'full'), { description: '`full`: users instead of ids' }),
    },
  ),
  (query, wrong) => {
    if (query.email !== undefined && query.search !== undefined)
      wrong('cannot be combined with email', 'search')
    return query
  },
)
const userOrId = { title: 'UserOrId', oneOf: [uuidSchema.json, user] }

/** What the routes of users need. */
export interface UserDeps extends ChangeDeps {
  signup: 'open' | 'admin'
  passwordMinLength: number
}

/** The routes of users. */
export const userRoutes = (deps: UserDeps) => [
  route('POST /users', {
    operationId: 'createUser',
    tag: 'users',
    access: deps.signup === 'open' ? 'optional' : 'admin',
    summary: 'Create a user with a first key',
    description:
      'Only an admin may give `role`, `permissions`, `metadata`, `enabled` and `emailVerified`, ' +
      'or leave out `password`: such a user cannot log in until it has set one with a token.',
    body: signUpSchema(deps.passwordMinLength, true),
    bodyFor: (caller) => signUpSchema(deps.passwordMinLength, caller?.role === 'admin'),
    bodySentence: 'Invalid user syntax',
    replies: {
      201: {
        says: 'The user and its key, shown this once',
        body: createdUser,
        headers: ['Location', 'ETag'],
        creates: { id: 'id' },
      },
    },
    fails: ['invalid_email', 'invalid_password', 'email_in_use'],
    async handle({ caller, body: { email, password, ...reserved }, origin }) {
      const isAdmin = caller?.role === 'admin'
      const isReserved = Object.keys(differing(reservedDefaults, reserved)).length > 0
      if (isReserved && !isAdmin) throw new AppError('forbidden')
      if (isAdmin) requireFresh(caller, deps.freshSeconds)
      const passwordHash =
        password === undefined ? null : await deps.hasher.hash(password, origin.client)
      return deps.db.transaction(async (tx) => {
        const maker = caller === null ? null : await requireStill(tx, caller)
        const created = await insertUser(tx, { email, passwordHash, ...reserved })
        const { id: keyId, key } = await insertKey(tx, {
          userId: created.id,
          kind: 'api',
          name: 'default',
          ...(maker !== null && powersOfNew(maker, created.id, {})),
        })
        await insertEvent(tx, {
          action: 'user.created',
          actor: caller?.userId ?? created.id,
          subject: created.id,
          keyId,
          origin,
        })
        const headers = { ETag: etag(created), Location: `./users/${created.id}` }
        return { body: { ...payload(created, [key]), keyId }, headers }
      })
    },
  }),
  route('GET /users', {
    operationId: 'listUsers',
    tag: 'users',
    access: 'admin',
    summary: 'List users in the order of creation',
    query: listQuery,
    replies: {
      200: pageOf('Ids or, with `view=full`, users', userOrId),
    },
    async handle({ query }) {
      const show = (row: User) => (query.view === 'full' ? payload(row) : row.id)
      if (query.email === undefined) {
        return paged(query, (page) => listUsers(deps.db, page), show)
      }
      const found = await findUserByEmail(deps.db, query.email)
      return { body: found === null ? [] : [show(found)] }
    },
  }),
  route('GET /users/{id}', {
    operationId: 'getUser',
    tag: 'users',
    access: 'self',
    enrols: true,
    summary: 'Read a user',
    replies: {
      200: { says: 'The user', body: user, headers: ['ETag'] },
      304: { says: 'The user is as `If-None-Match` has it', headers: ['ETag'] },
    },
    fails: ['user_not_found'],
    async handle({ caller, params: { id } }) {
      const isKnown = id === caller.userId && caller.keyPermissions === null
      const found = isKnown ? userOf(caller) : await findUser(deps.db, id)
      if (found === null) throw new AppError('user_not_found')
      return reply(found)
    },
  }),
  route('PATCH /users/{id}', {
    operationId: 'updateUser',
    tag: 'users',
    access: 'self',
    summary: 'Change a user',
    description:
      'To change the own password, send `currentPassword` too; all other sessions end. Another ' +
      'address is unverified again. Only an admin may change `role`, `permissions`, `metadata`, ' +
      '`enabled` and `emailVerified`. With `If-Match`: only that version.',
    body: object(
      {},
      {
        email: omittable(emailSchema),
        password: omittable(newPassword(deps.passwordMinLength)),
        currentPassword: omittable(anyPasswordSchema),
        ...reservedMembers,
      },
    ),
    bodySentence: 'Invalid user syntax',
    replies: { 200: { says: 'The user as it is now', body: user, headers: ['ETag'] } },
    fails: [
      'invalid_email',
      'invalid_password',
      'invalid_credentials',
      'user_not_found',
      'email_in_use',
      'last_admin',
      'stale_version',
      'login_throttled',
    ],
    async handle({ body, params: { id }, ...rest }) {
      const { password, currentPassword, ...given } = body
      const change = { id, given, ...rest }
      if (password === undefined) return deps.db.transaction((tx) => applyChange(tx, deps, change))
      return changePassword(deps, change, { password, currentPassword })
    },
  }),
  route('DELETE /users/{id}', {
    operationId: 'deleteUser',
    tag: 'users',
    access: 'self',
    fresh: true,
    summary: 'Delete a user with its keys and sessions',
    replies: { 204: { says: 'It is gone' } },
    fails: ['user_not_found', 'last_admin', 'stale_version'],
    handle: (call) =>
      audited(deps.db, { action: 'user.deleted', ...call }, async (tx) => {
        const deleted = await lockVersion(tx, call.params.id, call.headers)
        if (deleted.role === 'admin' && deleted.enabled) await requireAnotherAdmin(tx, deleted.id)
        await deleteTokens(tx, deleted.id)
        await deleteUser(tx, deleted)
      }),
  }),
]
