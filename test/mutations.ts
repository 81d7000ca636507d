// What the tests must notice: mistakes that somebody could make in a line, each with what it would
// mean. `npm run mutate` makes them, one at a time, in a copy of the tree.

/** One mistake. */
export interface Mutation {
  file: string
  /** What is there, exactly once. */
  text: string
  /** What a mistake would make of it. */
  replacement: string
  /** What that would mean. */
  meaning: string
  /** The tests that must notice, if they are not those of its room. */
  tests?: string[]
}

/** The tests of each room, those first that notice most. */
const rooms: Record<string, string[]> = {
  'src/gateway/': ['keys', 'powers', 'life', 'access'],
  'src/keys/': ['keys', 'access', 'powers', 'sessions', 'secrets', 'users', 'plans', 'faults'],
  'src/sessions/': ['sessions', 'access', 'powers', 'life'],
  'src/passwords/': ['sessions', 'guessing', 'users', 'secrets', 'life', 'abuse'],
  'src/users/': ['users', 'access', 'life', 'powers', 'sessions', 'commands', 'faults'],
  'src/tokens/': ['life', 'users', 'access', 'powers'],
  'src/audit/': ['sessions', 'life', 'users', 'access'],
  'src/http/': ['http', 'access', 'powers', 'users', 'throttle', 'tls', 'abuse', 'faults'],
  'src/database/': ['migrate', 'users', 'faults'],
  'sql/': ['migrate', 'users', 'life', 'plans'],
}

/** The paths of the test files that must notice a mutation. */
export function testsOf({ file, tests }: Mutation): string[] {
  const room = Object.keys(rooms).find((each) => file.startsWith(each))
  const names = tests ?? (room === undefined ? [] : rooms[room]!)
  return names.map((name) => `test/${name}.test.ts`)
}

/** All of them. */
export const mutations: Mutation[] = [
  {
    file: 'src/gateway/routes.ts',
    text: `if (met === false) throw new AppError('forbidden')
`,
    replacement: '',
    meaning: 'require-role counts for nothing',
  },
  {
    file: 'src/gateway/routes.ts',
    text: `value === role || (value === 'user' && role === 'admin')`,
    replacement: `value === role || value === 'admin'`,
    meaning: 'a user passes where an admin is required',
  },
  {
    file: 'src/gateway/routes.ts',
    text: 'permissions.includes(name),',
    replacement: 'permissions.length > 0,',
    meaning: 'any permission stands for the required one',
  },
  {
    file: 'src/gateway/routes.ts',
    text: `value === 'true' && emailVerified,`,
    replacement: `value !== 'false',`,
    meaning: 'an unverified address passes require-verified',
  },
  {
    file: 'src/gateway/routes.ts',
    text: 'return factors >= Number(value) ||',
    replacement: 'return factors <= Number(value) ||',
    meaning: 'one factor passes require-factor=2',
  },
  {
    file: 'src/gateway/routes.ts',
    text: 'isRecent(caller, Number(value))',
    replacement: 'isRecent(caller, Number(value) + 86_400)',
    meaning: 'a log-in of yesterday passes require-max-age',
  },
  {
    file: 'src/gateway/routes.ts',
    text: `caller.keyKind === 'session' && `,
    replacement: '',
    meaning: 'an API key passes require-max-age',
  },
  {
    file: 'src/gateway/routes.ts',
    text: `if (isMisspelt(name)) throw new AppError('forbidden')
`,
    replacement: '',
    meaning: 'a misspelt requirement is ignored',
  },
  {
    file: 'src/gateway/routes.ts',
    text: 'of new URLSearchParams(search)) {',
    replacement: 'of new Map(new URLSearchParams(search))) {',
    meaning: 'only the last of repeated requirements counts',
  },
  {
    file: 'src/gateway/routes.ts',
    text: 'of new URLSearchParams(search)) {',
    replacement: 'of new Map([...new URLSearchParams(search)].reverse())) {',
    meaning: 'only the first of repeated requirements counts',
  },
  {
    file: 'src/gateway/routes.ts',
    text: 'text.replace(/[^!-$&-~]+/gu, encodeURIComponent)',
    replacement: 'text.replace(/[^\\\\r\\\\n!-~]+/gu, encodeURIComponent)',
    meaning: 'a permission breaks into a second header',
  },
  {
    file: 'src/gateway/routes.ts',
    text: `'X-Auth-Key-Kind': caller.keyKind,
`,
    replacement: '',
    meaning: 'a forged X-Auth-Key-Kind reaches the back end',
  },
  {
    file: 'src/keys/acting.ts',
    text: `if (maker === null) throw new AppError('key_invalid')`,
    replacement: `if (maker === null && caller.role === 'admin') throw new AppError('key_invalid')`,
    meaning: 'a key that ended during a request still acts',
  },
  {
    file: 'src/keys/acting.ts',
    text: `if (caller.role === 'admin' && maker.role !== 'admin') throw new AppError('forbidden')
`,
    replacement: '',
    meaning: 'an admin who was demoted during a request still acts as one',
  },
  {
    file: 'src/keys/acting.ts',
    text: 'if (hasChanged) {',
    replacement: 'if (changes?.length === 1) {',
    meaning: 'changes leave no event in the audit',
  },
  {
    file: 'src/keys/queries.ts',
    text: 'where k.id = $1::uuid and u.enabled and k.enabled',
    replacement: 'where k.id = $1::uuid and k.enabled',
    meaning: 'a user who was disabled during a request still acts',
  },
  {
    file: 'src/keys/queries.ts',
    text: 'where k.id = $1::uuid and u.enabled and k.enabled',
    replacement: 'where k.id = $1::uuid and u.enabled',
    meaning: 'a key that was disabled during a request still acts',
  },
  {
    file: 'src/keys/queries.ts',
    text: 'and (k.valid_until is null or k.valid_until > clock_timestamp())',
    replacement: `and (k.valid_until is null or k.valid_until > now() - interval '1 hour')`,
    meaning: 'a key that expired during a request still acts',
  },
  {
    file: 'src/keys/queries.ts',
    text: 'and k.enabled and u.enabled',
    replacement: 'and u.enabled',
    meaning: 'a disabled key is accepted',
  },
  {
    file: 'src/keys/queries.ts',
    text: 'and k.enabled and u.enabled',
    replacement: 'and k.enabled',
    meaning: 'a key of a disabled user is accepted',
  },
  {
    file: 'src/keys/queries.ts',
    text: 'and (k.valid_until is null or k.valid_until > now())',
    replacement: '',
    meaning: 'an expired key is accepted',
  },
  {
    file: 'src/keys/queries.ts',
    text: `and (k.kind = 'api' or $2::int = 0 or greatest(k.last_used_at, k.created_at)
           > now() - ($2::int + 60) * interval '1 second')`,
    replacement: 'and ($2::int >= 0)',
    meaning: 'an idle session does not end',
  },
  {
    file: 'src/keys/identify.ts',
    text: 'caller.permissions.filter((name) => keyPermissions.includes(name))',
    replacement: 'keyPermissions',
    meaning: 'a key has permissions that its user lost',
  },
  {
    file: 'src/keys/identify.ts',
    text: "return { ...caller, role: 'user', permissions }",
    replacement: 'return { ...caller, permissions }',
    meaning: 'a narrow key of an admin is an admin',
  },
  {
    file: 'src/keys/queries.ts',
    text: 'from users where id = $1::uuid for key share returning',
    replacement: 'from users where id = $1::uuid returning',
    meaning: 'a user deleted at that moment leaves a key, or an error',
  },
  {
    file: 'src/keys/queries.ts',
    text: 'where user_id = $1::uuid and id = $2::uuid for update',
    replacement: 'where id = $2::uuid for update',
    meaning: 'a user changes and rotates the key of another',
  },
  {
    file: 'src/keys/queries.ts',
    text: 'user_id = $1::uuid and id = $2::uuid returning id',
    replacement: '$1::uuid is not null and id = $2::uuid returning id',
    meaning: 'a user deletes the key of another',
  },
  {
    file: 'src/keys/queries.ts',
    text: 'where user_id = $1::uuid and id > $2::uuid and kind = coalesce($4, kind)',
    replacement: 'where $1::uuid is not null and id > $2::uuid and kind = coalesce($4, kind)',
    meaning: 'a user lists the keys of all',
  },
  {
    file: 'src/keys/queries.ts',
    text: `and kind = 'session' and id is distinct from $2::uuid\``,
    replacement: `and kind = 'session' and $2::uuid is null\``,
    meaning: 'a new password leaves other sessions alive',
  },
  {
    file: 'src/keys/queries.ts',
    text: `and kind = 'session' and id is distinct from $2::uuid\``,
    replacement: 'and id is distinct from $2::uuid`',
    meaning: 'logging out everywhere deletes API keys',
  },
  {
    file: 'src/keys/queries.ts',
    text: `set valid_until = least(valid_until, now() + $2::int * interval '1 second')`,
    replacement: `set valid_until = now() + $2::int * interval '1 second'`,
    meaning: 'a rotated key lives on past its end',
  },
  {
    file: 'src/keys/queries.ts',
    text: 'select count(*)::int from api_keys where user_id',
    replacement: 'select count(*)::int from api_keys where enabled and user_id',
    meaning: 'disabled keys do not count for the limit of keys',
  },
  {
    file: 'src/keys/queries.ts',
    text: `\`kind = 'session' and valid_until < now() - interval '1 hour'\``,
    replacement: `\`valid_until < now() - interval '1 hour'\``,
    meaning: 'cleaning deletes expired API keys, whose end may be moved',
  },
  {
    file: 'src/keys/queries.ts',
    text: `where (select set_config('synchronous_commit', 'off', true)) = 'off' and ctid`,
    replacement: 'where ctid',
    meaning: 'noting the use of a key waits for the disk',
    tests: ['keys', 'plans', 'faults'],
  },
  {
    file: 'src/keys/format.ts',
    text: 'return decode(text.slice(4 + randomLength)) === crc32(randomPart)',
    replacement: 'return secret.length === secretLength',
    meaning: 'made-up keys reach the database',
  },
  {
    file: 'src/keys/format.ts',
    text: 'randomBytes(32)',
    replacement: 'randomBytes(4)',
    meaning: 'keys can be guessed',
    tests: ['secrets'],
  },
  {
    file: 'src/keys/format.ts',
    text: 'usk: /^usk_',
    replacement: 'usk: /^us._',
    meaning: 'a token has the form of a key',
  },
  {
    file: 'src/keys/format.ts',
    text: `hash('sha256', key, 'buffer')`,
    replacement: `hash('sha256', key.toLowerCase(), 'buffer')`,
    meaning: 'another case of a key is the same key',
  },
  {
    file: 'src/keys/identify.ts',
    text: `if (caller === undefined) throw new AppError('key_invalid')`,
    replacement: `if (caller === undefined) throw new AppError('key_missing')`,
    meaning: 'unknown keys are told from malformed ones',
  },
  {
    file: 'src/keys/identify.ts',
    text: `if (bearer !== undefined && bearer !== key) throw new AppError('key_invalid')
`,
    replacement: '',
    meaning: 'of two different keys one is chosen',
  },
  {
    file: 'src/keys/identify.ts',
    text: 'if (caller.isUnmarked) mark(',
    replacement: 'if (!caller.isUnmarked) mark(',
    meaning: 'every use of a key is a write',
  },
  {
    file: 'src/keys/identify.ts',
    text: 'callers[caller.asked] = narrowed(caller)',
    replacement: 'callers.push(narrowed(caller))',
    meaning: 'a key is taken for that of another who asks at the same time',
  },
  {
    file: 'src/keys/rules.ts',
    text: `if (!isSubset(permissions, limits.permissions)) throw new AppError('forbidden')
`,
    replacement: '',
    meaning: 'a narrow key makes a wide one',
  },
  {
    file: 'src/keys/rules.ts',
    text: `  if (isLater(validUntil, limits.validUntil)) throw new AppError('forbidden')
`,
    replacement: '',
    meaning: 'a key that ends makes one that does not',
  },
  {
    file: 'src/keys/rules.ts',
    text: 'permissions: intersect(old.permissions, limits.permissions),',
    replacement: 'permissions: old.permissions,',
    meaning: 'rotating widens what a narrow key may do',
  },
  {
    file: 'src/keys/rules.ts',
    text: 'factors: Math.min(old.factors, maker.factors),',
    replacement: 'factors: Math.max(old.factors, maker.factors),',
    meaning: 'a session of one factor rotates a key of two into its hands',
  },
  {
    file: 'src/keys/rules.ts',
    text: 'isLater(old.validUntil, limits.validUntil) ? limits.validUntil : old.validUntil',
    replacement: 'old.validUntil',
    meaning: 'rotating outlives the key that rotates',
  },
  {
    file: 'src/keys/routes.ts',
    text: `if (old.hasEnded) throw new AppError('key_not_found')
`,
    replacement: '',
    meaning: 'an ended key is rotated back to life',
  },
  {
    file: 'src/keys/routes.ts',
    text: `if (!isApi && old.id !== caller.keyId) throw new AppError('forbidden')
`,
    replacement: '',
    meaning: 'any key takes over a session by rotating it',
  },
  {
    file: 'src/keys/routes.ts',
    text: 'else await deleteKey(tx, params.id, old.id)',
    replacement: '',
    meaning: 'a rotated key goes on working',
  },
  {
    file: 'src/keys/routes.ts',
    text: `if (isRevived) requireFresh(call.caller, freshSeconds)
`,
    replacement: '',
    meaning: 'an old session revives disabled keys',
  },
  {
    file: 'src/keys/routes.ts',
    text: `before.kind === 'session' && isLater(`,
    replacement: `before.kind !== 'session' && isLater(`,
    meaning: 'a session is prolonged for ever',
  },
  {
    file: 'src/keys/routes.ts',
    text: 'if (validUntil !== null && validUntil <= createdAt) {',
    replacement: `if (validUntil !== null && validUntil < '2') {`,
    meaning: 'a key is made that has ended',
  },
  {
    file: 'src/keys/routes.ts',
    text: '(await countKeys(tx, userId)) >= limit)',
    replacement: '(await countKeys(tx, userId)) > limit)',
    meaning: 'a user has a key more than the limit',
  },
  {
    file: 'src/keys/acting.ts',
    text: '    await lockOwner(tx, params.id)\n',
    replacement: '',
    meaning: 'racing requests make more keys than the limit',
  },
  {
    file: 'src/keys/acting.ts',
    text: '  await holdOwner(tx, caller.userId)\n',
    replacement: '',
    meaning: 'a key that ends meanwhile makes another that does not',
    tests: ['life'],
  },
  {
    file: 'src/keys/rules.ts',
    text: 'Math.min(old.factors, maker.factors)',
    replacement: 'maker.factors',
    meaning: 'rotating by a key of two factors makes one of two of a key of one',
  },
  {
    file: 'src/keys/rules.ts',
    text: 'return isLater(one, other) ? other : one',
    replacement: 'return one',
    meaning: 'rotating makes a proof later than it was',
  },
  {
    file: 'src/users/routes.ts',
    text: '          ...(maker !== null && powersOfNew(maker, created.id, {})),\n',
    replacement: '',
    meaning: 'the first key of a user has no proof of who made it',
    tests: ['powers'],
  },
  {
    file: 'src/keys/routes.ts',
    text: `        if (isRevived && !mayRevive(maker, id, before)) throw new AppError('forbidden')
`,
    replacement: '',
    meaning: 'a narrow key switches on a wide one',
  },
  {
    file: 'src/sessions/routes.ts',
    text: `if (keyKind === 'api') throw new AppError('not_a_session')
`,
    replacement: '',
    meaning: 'logging out deletes an API key',
  },
  {
    file: 'src/sessions/routes.ts',
    text: `query.others === 'true' ? call.caller.keyId : undefined`,
    replacement: 'call.caller.keyId',
    meaning: 'logging out everywhere spares the calling session',
  },
  {
    file: 'src/sessions/routes.ts',
    text: 'await deleteSurplusSessions(tx, userId, deps.sessionsPerUser - 1)',
    replacement: 'await deleteSurplusSessions(tx, userId, deps.sessionsPerUser)',
    meaning: 'a user has a session more than the limit',
  },
  {
    file: 'src/sessions/routes.ts',
    text: `        await insertEvent(tx, {
          action: 'session.started',`,
    replacement: `        if (made.key === '') await insertEvent(tx, {
          action: 'session.started',`,
    meaning: 'log-ins are not in the audit',
  },
  {
    file: 'src/passwords/check.ts',
    text: 'const mayPass = isRight && account !== null && account.enabled',
    replacement: 'const mayPass = isRight && account !== null',
    meaning: 'a disabled user logs in, or learns that the password is right',
  },
  {
    file: 'src/passwords/check.ts',
    text: `    await refuseWaiting(db, guess)
    return { account`,
    replacement: '    return { account',
    meaning: 'a throttled guess costs a hash',
  },
  {
    file: 'src/passwords/check.ts',
    text: `  // Right or wrong, so that the wait says nothing about the password.
  await refuseWaiting(tx, guess)
`,
    replacement: '',
    meaning: 'guesses at once are not bounded by the wait',
  },
  {
    file: 'src/passwords/check.ts',
    text: `  await lockGuess(tx, guess)
`,
    replacement: '',
    meaning: 'guesses at once are settled at once',
  },
  {
    file: 'src/passwords/check.ts',
    text: `    await countFailure(tx, guess)
`,
    replacement: '',
    meaning: 'failures are not counted',
  },
  {
    file: 'src/passwords/check.ts',
    text: 'const isHashed = next !== undefined || (mayPass && renew)',
    replacement: 'const isHashed = mayPass && (next !== undefined || renew)',
    meaning: 'the time of a change of password tells whether the guess was right',
  },
  {
    file: 'src/passwords/check.ts',
    text: `if (!isStored) return 'changed'
`,
    replacement: '',
    meaning: 'a log-in with a password that was just changed succeeds',
  },
  {
    file: 'src/passwords/check.ts',
    text: `await clearFailures(tx, guess)
`,
    replacement: '',
    meaning: 'a success leaves the failures in place',
  },
  {
    file: 'src/passwords/check.ts',
    text: `await insertEvent(tx, { action: 'session.failed', actor: null, subject, origin })
`,
    replacement: '',
    meaning: 'failed log-ins are not in the audit',
  },
  {
    file: 'src/passwords/queries.ts',
    text: '$2::text, 5)',
    replacement: '$2::text, 50)',
    meaning: 'fifty guesses at an account are free',
  },
  {
    file: 'src/passwords/queries.ts',
    text: `'', 100)`,
    replacement: `'', 1000000)`,
    meaning: 'guessing from many addresses is not bounded',
  },
  {
    file: 'src/passwords/queries.ts',
    text: '$2, 50)',
    replacement: '$2, 1000000)',
    meaning: 'one client guesses at any number of accounts',
  },
  {
    file: 'src/passwords/guessing.ts',
    text: 'digest(`address ${folded}`)',
    replacement: 'digest(`user ${folded}`)',
    meaning: 'an address that is an id shares the count of that user',
  },
  {
    file: 'src/passwords/queries.ts',
    text: 'if (retryAfterSeconds > 0) throw',
    replacement: 'if (retryAfterSeconds > 900) throw',
    meaning: 'nobody waits after failures',
  },
  {
    file: 'src/passwords/queries.ts',
    text: 'least(2 ^ (count - free)',
    replacement: 'least(2 * (count - free)',
    meaning: 'the wait does not double',
  },
  {
    file: 'src/passwords/queries.ts',
    text: '`greatest(0, failures - greatest(0, ${quietSeconds} / ${forgetSeconds}))`',
    replacement: `'failures'`,
    meaning: 'failures are never forgotten',
  },
  {
    file: 'src/passwords/guessing.ts',
    text: `  await copyFailures(tx, accountOfAddress(folded), accountOfUser(userId))
`,
    replacement: '',
    meaning: 'a change of address gives new guesses, or tells who has an account',
  },
  {
    file: 'src/passwords/queries.ts',
    text: '${quietSeconds} > -${maxClockSkewSeconds}',
    replacement: '${quietSeconds} > -1e9',
    meaning: 'a clock that was set back keeps owners out',
    tests: ['sessions', 'system/database-clock'],
  },
  {
    file: 'src/passwords/queries.ts',
    text: 'where id = $1::uuid and enabled and password_hash = $2 returning id`',
    replacement: 'where id = $1::uuid and password_hash = $2 returning id`',
    meaning: 'a user who is disabled during the hashing logs in',
  },
  {
    file: 'src/passwords/queries.ts',
    text: 'where id = $1::uuid and enabled and password_hash = $2 returning id`',
    replacement: `where id = $1::uuid and enabled and $2 <> '' returning id\``,
    meaning: 'a password that was replaced during the hashing still logs in',
  },
  {
    file: 'src/passwords/queries.ts',
    text: 'delete from login_failures where account = $1 and client = $2',
    replacement: `delete from login_failures where account = $1 and $2 <> 'x'`,
    meaning: 'a success of one client clears the count of all',
  },
  {
    file: 'src/passwords/hash.ts',
    text: `if (p > maxPasses || 128 * 2 ** ln * r > maxBytes) return null
`,
    replacement: '',
    meaning: 'one stored row takes a gigabyte',
  },
  {
    file: 'src/passwords/hash.ts',
    text: 'return ln < cost.ln || 2 ** ln * r * p < 2 ** cost.ln * cost.r * cost.p',
    replacement: 'return ln < 1 && p < cost.p',
    meaning: 'a password stored with less work stays so',
  },
  {
    file: 'src/passwords/hash.ts',
    text: 'export const cost = { ln: 14, r: 8, p: 5 }',
    replacement: 'export const cost = { ln: 10, r: 8, p: 1 }',
    meaning: 'passwords are hashed cheaply',
  },
  {
    file: 'src/passwords/hasher.ts',
    text: 'isRight: isEqual && known !== null,',
    replacement: 'isRight: isEqual || known === null,',
    meaning: 'an account without a password is open to any',
  },
  {
    file: 'src/passwords/hasher.ts',
    text: 'const isEqual = timingSafeEqual(computed, parameters.hash)',
    replacement: `const isEqual = computed.equals(parameters.hash) || password === ''`,
    meaning: 'an empty password opens every account',
  },
  {
    file: 'src/passwords/hasher.ts',
    text: 'parameters: known ?? newParameters() }',
    replacement: 'parameters: known ?? { ...newParameters(), ln: 1 } }',
    meaning: 'the time tells whether an account exists',
  },
  {
    file: 'src/passwords/hasher.ts',
    text: 'salt: randomBytes(16),',
    replacement: 'salt: Buffer.alloc(16),',
    meaning: 'all passwords have the same salt',
  },
  {
    file: 'src/passwords/hasher.ts',
    text: 'void refuseInTurn(loser)',
    replacement: 'void loser.isReady',
    meaning: 'a flood of log-ins is never refused',
  },
  {
    file: 'src/passwords/hasher.ts',
    text: 'if (queue.length() > maxPlaces || queue.countOf(client) > maxPlacesPerClient) {',
    replacement: 'if (queue.length() > maxPlaces) {',
    meaning: 'one client fills the queue of hashes',
  },
  {
    file: 'src/queue.ts',
    text: 'if (byClient.delete(client)) byClient.set(client, items)',
    replacement: '',
    meaning: 'clients do not take turns',
    tests: ['secrets'],
  },
  {
    file: 'src/queue.ts',
    text: 'if (items.length > itemsOf(most).length) most = client',
    replacement: 'if (items.length < itemsOf(most).length) most = client',
    meaning: 'a client with one log-in loses its place to a flood',
    tests: ['secrets'],
  },
  {
    file: 'src/passwords/rules.ts',
    text: 'if (commonPasswords.has(password.toLowerCase())) {',
    replacement: 'if (commonPasswords.has(password)) {',
    meaning: 'a common password in capitals is allowed',
  },
  {
    file: 'src/passwords/rules.ts',
    text: 'if (length < minLength || length > maxLength)',
    replacement: 'if (value.length < minLength || length > maxLength)',
    meaning: 'four emoji are a password',
  },
  {
    file: 'src/passwords/rules.ts',
    text: 'if (value.length > maxNormalizedLength) {',
    replacement: 'if (value.length > 16_384) {',
    meaning: 'one password holds up everybody',
  },
  {
    file: 'src/users/rules.ts',
    text: 'trimmed.slice(0, maxNormalizedLength)',
    replacement: 'trimmed',
    meaning: 'one address holds up everybody',
  },
  {
    file: 'src/users/rules.ts',
    text: `  if (levels === 0) return false
`,
    replacement: '',
    meaning: 'metadata overflow the stack',
  },
  {
    file: 'src/passwords/rules.ts',
    text: `password.normalize('NFKC')`,
    replacement: 'password',
    meaning: 'the same characters in another form are another password',
  },
  {
    file: 'src/users/change.ts',
    text: '  refuseEmailAsPassword(password, change.given.email ?? found.email)',
    replacement: '',
    meaning: 'a password may be changed to the address',
  },
  {
    file: 'src/users/change.ts',
    text: '  if (caller.userId === id && found.passwordHash !== null) {',
    replacement: '  if (caller.userId === id && found.passwordHash === null) {',
    meaning: 'an owner changes the password without proving it',
  },
  {
    file: 'src/users/change.ts',
    text: 'if (isUnproved && before.passwordHash !== null)',
    replacement: 'if (false)',
    meaning: 'a password that was set during the hashing is replaced without proof',
  },
  {
    file: 'src/users/change.ts',
    text: `  requireFresh(caller, deps.freshSeconds)
  const passwordHash`,
    replacement: '  const passwordHash',
    meaning: 'an old admin session sets passwords',
  },
  {
    file: 'src/users/change.ts',
    text: `  if (isSensitive(wanted)) requireFresh(caller, deps.freshSeconds)
`,
    replacement: '',
    meaning: 'an old admin session promotes others',
  },
  {
    file: 'src/users/change.ts',
    text: `  if (endsAdmin(before, wanted)) await requireAnotherAdmin(tx, id)
`,
    replacement: '',
    meaning: 'the last admin can be demoted',
  },
  {
    file: 'src/users/change.ts',
    text: `  if (isPasswordNew) await deleteSessions(tx, id, caller.keyId)
`,
    replacement: '',
    meaning: 'a new password ends no session',
  },
  {
    file: 'src/users/change.ts',
    text: `  if (isPasswordNew || wanted.email !== undefined) await deleteTokens(tx, id)
`,
    replacement: '',
    meaning: 'a reset that was sent before still works after a new password',
  },
  {
    file: 'src/users/change.ts',
    text: `return { emailVerified: caller.role === 'admin' && given.emailVerified === true }`,
    replacement: 'return {}',
    meaning: 'another address is still verified',
  },
  {
    file: 'src/users/change.ts',
    text: 'if (wantsConfirmation || Object.keys(reserved).length > 0)',
    replacement: 'if (false)',
    meaning: 'a user gives itself a role',
  },
  {
    file: 'src/users/change.ts',
    text: `  await requireStill(tx, caller)
`,
    replacement: '',
    meaning: 'a caller that lost its rights during a request still changes users',
  },
  {
    file: 'src/users/change.ts',
    text: `if (!matches(headers, etag(found))) throw new AppError('stale_version')
`,
    replacement: '',
    meaning: 'If-Match is not looked at',
  },
  {
    file: 'src/users/queries.ts',
    text: `where role = 'admin' and enabled and id <> $1::uuid limit 1\``,
    replacement: `where role = 'admin' and id <> $1::uuid limit 1\``,
    meaning: 'the last enabled admin goes while a disabled one is left',
  },
  {
    file: 'src/users/queries.ts',
    text: `  await tx.query('select pg_advisory_xact_lock($1)', [locks.lastAdmin])
  await one(`,
    replacement: '  await one(',
    meaning: 'two admins demote each other at once',
  },
  {
    file: 'src/users/queries.ts',
    text: 'where id = $1::uuid for update`,',
    replacement: 'where id = $1::uuid`,',
    meaning: 'changes at once overwrite each other',
  },
  {
    file: 'src/users/queries.ts',
    text: `constraint === 'users_email_key'`,
    replacement: `constraint === 'users_pkey'`,
    meaning: 'a taken address is an error 500',
  },
  {
    file: 'src/users/queries.ts',
    text: 'version = version + 1, updated_at',
    replacement: 'version = version, updated_at',
    meaning: 'a change leaves the version and the ETag',
  },
  {
    file: 'src/users/queries.ts',
    text: 'when $9::boolean then coalesce(email_verified_at, now()) end,',
    replacement: 'when $9::boolean then now() else email_verified_at end,',
    meaning: 'an address stays verified when that is withdrawn',
  },
  {
    file: 'src/users/routes.ts',
    text: `if (isReserved && !isAdmin) throw new AppError('forbidden')
`,
    replacement: '',
    meaning: 'a stranger signs up as an admin',
  },
  {
    file: 'src/users/routes.ts',
    text: `access: deps.signup === 'open' ? 'optional' : 'admin',`,
    replacement: `access: 'optional',`,
    meaning: 'SIGNUP=admin lets strangers sign up',
  },
  {
    file: 'src/users/routes.ts',
    text: `    operationId: 'listUsers',
    tag: 'users',
    access: 'admin',`,
    replacement: `    operationId: 'listUsers',
    tag: 'users',
    access: 'key',`,
    meaning: 'any user lists all users',
  },
  {
    file: 'src/users/routes.ts',
    text: `    operationId: 'getUser',
    tag: 'users',
    access: 'self',`,
    replacement: `    operationId: 'getUser',
    tag: 'users',
    access: 'key',`,
    meaning: 'any user reads another',
  },
  {
    file: 'src/users/routes.ts',
    text: `if (deleted.role === 'admin' && deleted.enabled)`,
    replacement: 'if (false)',
    meaning: 'the last admin can be deleted',
  },
  {
    file: 'src/users/rules.ts',
    text: `email.trim().normalize('NFC').toLowerCase().normalize('NFC').replaceAll('\\0', ' ')`,
    replacement: `email.trim().normalize('NFC').replaceAll('\\0', ' ')`,
    meaning: 'another case of an address is another account',
  },
  {
    file: 'src/users/rules.ts',
    text: `foldEmail(password) === foldEmail(email.normalize('NFKC'))`,
    replacement: 'password === email',
    meaning: 'the address in another case is a password',
  },
  {
    file: 'src/users/first-admin.ts',
    text: `      if (await hasAdmin(tx)) return false
`,
    replacement: '',
    meaning: 'each start makes another first admin',
  },
  {
    file: 'src/users/first-admin.ts',
    text: `      await lockFirstAdmin(tx)
`,
    replacement: '',
    meaning: 'two instances make two first admins',
  },
  {
    file: 'src/users/first-admin.ts',
    text: `{ mode: 0o600, flag: 'wx' }`,
    replacement: `{ mode: 0o644, flag: 'wx' }`,
    meaning: 'others read the key of the first admin',
  },
  {
    file: 'src/users/first-admin.ts',
    text: 'if (!isKey(key)) throw unusable',
    replacement: `if (key === '') throw unusable`,
    meaning: 'a weak word becomes the key of the admin',
  },
  {
    file: 'src/tokens/queries.ts',
    text: 'and purpose = $2 and valid_until > clock_timestamp()',
    replacement: 'and purpose = $2',
    meaning: 'an expired token works',
  },
  {
    file: 'src/tokens/queries.ts',
    text: 'digest = $1::bytea and purpose = $2',
    replacement: `digest = $1::bytea and $2 <> ''`,
    meaning: 'a token that proves an address sets a password',
  },
  {
    file: 'src/tokens/queries.ts',
    text: 'users.id = user_id and enabled`',
    replacement: 'users.id = user_id`',
    meaning: 'a token of a disabled user works',
  },
  {
    file: 'src/tokens/routes.ts',
    text: `        await deleteSessions(tx, id)
`,
    replacement: '',
    meaning: 'a reset leaves the sessions of an intruder',
  },
  {
    file: 'src/tokens/routes.ts',
    text: `        await deleteTokens(tx, id)
        await forgetFailures`,
    replacement: '        await forgetFailures',
    meaning: 'another reset that was sent still works',
  },
  {
    file: 'src/tokens/routes.ts',
    text: 'const mayBeAStrangers = user.passwordHash !== null && !emailVerified',
    replacement: 'const mayBeAStrangers = false',
    meaning: 'a stranger who signed up with the address of another keeps a key',
  },
  {
    file: 'src/tokens/queries.ts',
    text: `delete from tokens using holder where digest = $1::bytea and user_id = holder.id
     returning user_id as "userId", email`,
    replacement: `select user_id as "userId", email from tokens, holder
     where digest = $1::bytea and user_id = holder.id`,
    meaning: 'a token works twice',
  },
  {
    file: 'src/tokens/routes.ts',
    text: `    access: 'admin',
    fresh: true,`,
    replacement: `    access: 'admin',`,
    meaning: 'an old admin session makes reset tokens',
  },
  {
    file: 'src/tokens/routes.ts',
    text: `    operationId: 'createToken',
    tag: 'tokens',
    access: 'admin',`,
    replacement: `    operationId: 'createToken',
    tag: 'tokens',
    access: 'self',`,
    meaning: 'a user makes its own proof of an address',
  },
  {
    file: 'src/audit/routes.ts',
    text: `if (!isAdmin && query.user !== caller.userId) throw new AppError('forbidden')
`,
    replacement: '',
    meaning: 'a user reads the audit of others',
  },
  {
    file: 'src/audit/routes.ts',
    text: 'isAdmin || row.actor === caller.userId ? row : { ...row, address: null }',
    replacement: 'row',
    meaning: 'a user sees the address of an admin',
  },
  {
    file: 'src/audit/queries.ts',
    text: `newest('subject = $3::uuid and action = coalesce($4, action)')`,
    replacement: `newest('$3::uuid is not null and action = coalesce($4, action)')`,
    meaning: 'the events of one user are those of all',
  },
  {
    file: 'src/http/access.ts',
    text: `if (access === 'admin' && !isAdmin) throw`,
    replacement: `if (access === 'admin' && !isAdmin && !isSelf) throw`,
    meaning: 'a user calls routes of admins about itself',
  },
  {
    file: 'src/http/access.ts',
    text: `if (access === 'self' && !isAdmin && !isSelf) throw`,
    replacement: `if (access === 'self' && !isAdmin && !isSelf && isRead(method)) throw`,
    meaning: 'a user changes another',
  },
  {
    file: 'src/http/access.ts',
    text: `if (!isInScope(route, caller, method)) throw new AppError('forbidden')
`,
    replacement: '',
    meaning: 'a key of scope auth does everything',
  },
  {
    file: 'src/http/access.ts',
    text: `if (isNarrow && isChange && !route.changesKeys) throw new AppError('forbidden')
`,
    replacement: '',
    meaning: 'a narrow key changes its user',
  },
  {
    file: 'src/http/access.ts',
    text: `if (route.fresh) requireFresh(caller, freshSeconds)
`,
    replacement: '',
    meaning: 'a session of last week deletes the account',
  },
  {
    file: 'src/http/access.ts',
    text: 'provedSeconds >= 0 && provedSeconds <= seconds',
    replacement: 'provedSeconds <= seconds',
    meaning: 'a proof from the future counts',
  },
  {
    file: 'src/http/access.ts',
    text: `if (scope === 'read') return isRead(method) || route.scope === 'auth'`,
    replacement: `if (scope === 'read') return true`,
    meaning: 'a key of scope read writes',
  },
  {
    file: 'src/http/address.ts',
    text: `    if (!isTrusted(peer.address)) {
      warn(peer.address)
      return peer
    }
`,
    replacement: '',
    meaning: 'anybody chooses the address that is throttled',
  },
  {
    file: 'src/http/address.ts',
    text: `forwarded.split(',').reverse()`,
    replacement: `forwarded.split(',')`,
    meaning: 'a client behind a proxy chooses its address',
  },
  {
    file: 'src/http/address.ts',
    text: 'client: isIP(address) === 6 ? network64(address) : address,',
    replacement: 'client: address,',
    meaning: 'one IPv6 network has as many buckets as addresses',
  },
  {
    file: 'src/http/address.ts',
    text: 'if (isIP(named) === 0) break',
    replacement: 'if (isIP(named) === 0) continue',
    meaning: 'an entry that is no address does not end the search',
  },
  {
    file: 'src/http/body.ts',
    text: `if (length > maxBytes) reject(new AppError('body_too_large'))
      else chunks.push(chunk)`,
    replacement: 'chunks.push(chunk)',
    meaning: 'a chunked body fills the memory',
  },
  {
    file: 'src/http/body.ts',
    text: 'if (!/^application\\/json\\s*(;|$)/i.test(type) || encoding !== undefined) {',
    replacement: 'if (encoding !== undefined) {',
    meaning: 'a form of another site is a body',
  },
  {
    file: 'src/http/connections.ts',
    text: 'if (waiting.size >= maxWaiting) {',
    replacement: 'if (waiting.size >= maxWaiting * 1000) {',
    meaning: 'one connection queues thousands of requests',
  },
  {
    file: 'src/http/connections.ts',
    text: 'if (pending.length > 0) setImmediate(handleNext)',
    replacement: 'while (pending.length > 0) handle(pending.shift()!)',
    meaning: 'pipelined requests hold up everybody else',
    tests: ['abuse', 'throttle'],
  },
  {
    file: 'src/http/etag.ts',
    text: 'return tags.includes(etag)',
    replacement: `return tags.some((tag) => tag.replace(/^W\\//, '') === etag)`,
    meaning: 'If-Match compares weakly',
  },
  {
    file: 'src/http/token-bucket.ts',
    text: 'const allowed = tokens >= 1',
    replacement: 'const allowed = tokens >= 0',
    meaning: 'a client gets a request more than its burst',
  },
  {
    file: 'src/http/token-bucket.ts',
    text: 'else if (value[1] <= time || fullAt.size > maxClients) fullAt.delete(value[0])',
    replacement: 'else if (value[1] <= time) fullAt.delete(value[0])',
    meaning: 'many addresses fill the memory',
  },
  {
    file: 'src/http/pipeline.ts',
    text: `    if (match.throttled) throttleClient(exchange)
`,
    replacement: '',
    meaning: 'nobody is throttled',
  },
  {
    file: 'src/http/pipeline.ts',
    text: 'from !== undefined && corsOrigins.includes(from)',
    replacement: 'from !== undefined && corsOrigins.some((each) => from.startsWith(each))',
    meaning: 'an origin that begins like an allowed one is allowed',
  },
  {
    file: 'src/http/pipeline.ts',
    text: `    if (caller !== null) authorize({ route, caller, method, params, freshSeconds })
`,
    replacement: '',
    meaning: 'every key opens everything',
  },
  {
    file: 'src/http/pipeline.ts',
    text: `if (access !== 'optional') return access !== 'anyone'`,
    replacement: `return access !== 'optional' && access !== 'anyone'`,
    meaning: 'a bad key at sign-up is ignored',
  },
  {
    file: 'src/http/pipeline.ts',
    text: `typeof given === 'string' && /^[\\w.-]{1,64}$/.test(given)`,
    replacement: `typeof given === 'string'`,
    meaning: 'a client writes what it likes into the log and the headers',
  },
  {
    file: 'src/http/pipeline.ts',
    text: `log('error', 'request', { ...fields, ...describeError(cause) })`,
    replacement: `log('error', 'request', fields)`,
    meaning: 'the log does not say why an answer is a 500',
  },
  {
    file: 'src/http/pipeline.ts',
    text: `{ ...fields, reason: explain(failure) }`,
    replacement: '{ ...fields, ...describeError(cause) }',
    meaning: 'operators are shown stacks',
  },
  {
    file: 'src/http/pipeline.ts',
    text: `isOurs ? error : new AppError('internal', { cause: error })`,
    replacement: `isOurs ? error : new AppError('not_found', { cause: error })`,
    meaning: 'an error of ours is told as something else',
  },
  {
    file: 'src/http/pipeline.ts',
    text: 'given[name] = name in given ? [] : value',
    replacement: 'given[name] = value',
    meaning: 'the last of repeated parameters counts',
  },
  {
    file: 'src/http/pipeline.ts',
    text: 'params[name] = id.toLowerCase()',
    replacement: 'params[name] = id',
    meaning: 'an id in capitals is not the own one',
  },
  {
    file: 'src/http/pipeline.ts',
    text: `'Cache-Control': 'no-store',`,
    replacement: `'Cache-Control': 'private',`,
    meaning: 'caches keep keys',
  },
  {
    file: 'src/http/refusals.ts',
    text: 'if (limiter.take(client).allowed) {',
    replacement: `if (client !== '') {`,
    meaning: 'a flood of refusals washes the log away',
  },
  {
    file: 'src/http/router.ts',
    text: `.replace(/\\{(\\w+)\\}/g, '(?<$1>[^/]+)')`,
    replacement: `.replace(/\\{(\\w+)\\}/g, '(?<$1>.+)')`,
    meaning: 'a path of two segments is taken for one',
  },
  {
    file: 'src/http/server.ts',
    text: 'maxHeaderSize: 16 * 1024,',
    replacement: 'maxHeaderSize: 64 * 1024,',
    meaning: 'headers of 64 KiB are taken',
  },
  {
    file: 'src/http/server.ts',
    text: 'requestTimeout: 15_000,',
    replacement: 'requestTimeout: 0,',
    meaning: 'a body may take for ever',
    tests: ['abuse', 'system/slow'],
  },
  {
    file: 'src/http/server.ts',
    text: `    if (connection === undefined || connection.waiting.size === 0) finish()
    else connection.onAnswered ??= finish`,
    replacement: '    finish()',
    meaning: 'a malformed request cuts off the answers before it',
  },
  {
    file: 'src/http/rfc9112.ts',
    text: `  if (hosts.length > 1) return false
`,
    replacement: '',
    meaning: 'two Host headers are accepted',
  },
  {
    file: 'src/http/rfc9112.ts',
    text: `return coding.toLowerCase() === 'chunked' && httpVersion === '1.1'`,
    replacement: 'return true',
    meaning: 'a transfer coding that another reads otherwise is accepted',
  },
  {
    file: 'src/http/rfc9112.ts',
    text: `if (!/^[!"$-~]+$/.test(url)) return false
`,
    replacement: '',
    meaning: 'a request target with a fragment is accepted',
  },
  {
    file: 'src/http/tls.ts',
    text: `minVersion: 'TLSv1.2',`,
    replacement: `minVersion: 'TLSv1',`,
    meaning: 'TLS 1.0 is spoken',
  },
  {
    file: 'src/http/tls.ts',
    text: `  if (Date.parse(validTo) < Date.now()) throw new Error(\`it expired on \${validTo}\`)
`,
    replacement: '',
    meaning: 'an expired certificate is served',
  },
  {
    file: 'src/commands/command.ts',
    text: 'of findMistyped(process.env, settings))',
    replacement: 'of findMistyped({}, settings))',
    meaning: 'a command is silent about a mistyped setting of TLS',
    tests: ['commands'],
  },
  {
    file: 'src/database/pool.ts',
    text: `  sqlState.undefinedTable,
`,
    replacement: '',
    meaning: 'a database that was restored in part is a 500 of ours, which gateways pass on',
    tests: ['http'],
  },
  {
    file: 'src/users/rules.ts',
    text: ', 0xe0000]',
    replacement: ']',
    meaning: 'addresses differ by what nobody sees',
    tests: ['openapi'],
  },
  {
    file: 'src/database/pool.ts',
    text: 'if (hosts.length > 1 && !acceptsWrites) throw',
    replacement: 'if (hosts.length > 5 && !acceptsWrites) throw',
    meaning: 'a standby is written to',
    tests: ['system/failover'],
  },
  {
    file: 'src/database/pool.ts',
    text: 'let close = true',
    replacement: 'let close = false',
    meaning: 'a dead connection goes back to the pool',
    tests: ['faults'],
  },
  {
    file: 'src/database/pool.ts',
    text: `await tx.query('rollback')`,
    replacement: `await tx.query('commit')`,
    meaning: 'a failed transaction is committed',
    tests: ['users', 'faults'],
  },
  {
    file: 'src/database/pool.ts',
    text: 'if (attempt === attempts || !lostRace.includes(codeOf(error))) throw error',
    replacement: 'throw error',
    meaning: 'a deadlock is an error 500',
    tests: ['faults'],
  },
  {
    file: 'src/database/session.ts',
    text: `  idle_in_transaction_session_timeout: '10s',
`,
    replacement: `  idle_in_transaction_session_timeout: '0',
`,
    meaning: 'a transaction that hangs holds its locks for ever',
    tests: ['faults', 'migrate'],
  },
  {
    file: 'src/database/session.ts',
    text: `  default_transaction_isolation: 'read committed',
`,
    replacement: '',
    meaning: 'two admins demote each other where the database is set otherwise',
    tests: ['faults', 'migrate'],
  },
  {
    file: 'src/database/session.ts',
    text: `statement_timeout: '1800ms',`,
    replacement: `statement_timeout: '60s',`,
    meaning: 'a statement outlives its request',
    tests: ['faults'],
  },
  {
    file: 'src/database/session.ts',
    text: `enable_seqscan: 'off',`,
    replacement: `enable_seqscan: 'on',`,
    meaning: 'a look-up of a key may scan the table',
    tests: ['faults'],
  },
  {
    file: 'src/database/setup.ts',
    text: `    revoke all on database \${name} from public;
`,
    replacement: '',
    meaning: 'anybody on the server connects to the database',
    tests: ['migrate'],
  },
  {
    file: 'src/database/setup.ts',
    text: `    revoke all on schema public from public;
`,
    replacement: '',
    meaning: 'anybody creates tables in the schema public',
    tests: ['migrate'],
  },
  {
    file: 'src/database/setup.ts',
    text: 'revoke all on tables from public, user_service_manager, user_service_user',
    replacement: 'revoke all on tables from public',
    meaning: 'default privileges of another service let it change the audit',
    tests: ['migrate'],
  },
  {
    file: 'src/database/setup.ts',
    text: `alter role \${role} password '\${verifier(password)}'`,
    replacement: `alter role \${role} password '\${password}'`,
    meaning: 'passwords are in the log of the database',
    tests: ['faults'],
  },
  {
    file: 'src/database/grants.ts',
    text: `audit_events: ['select',`,
    replacement: `audit_events: ['select', 'update',`,
    meaning: 'the service may change the audit',
    tests: ['migrate'],
  },
  {
    file: 'src/database/grants.ts',
    text: `'insert (action, actor,`,
    replacement: `'insert (action, at, actor,`,
    meaning: 'the service may date events as it likes',
    tests: ['migrate'],
  },
  {
    file: 'src/database/grants.ts',
    text: 'if (missing.length > 0) {',
    replacement: 'if (missing.length > 99) {',
    meaning: 'a service without a table starts',
    tests: ['migrate'],
  },
  {
    file: 'src/database/grants.ts',
    text: 'and indisprimary)',
    replacement: ')',
    meaning: 'a service whose keys and addresses need not be unique starts',
    tests: ['migrate'],
  },
  {
    file: 'src/database/grants.ts',
    text: `replication !== 'origin'`,
    replacement: `replication === ''`,
    meaning: 'keys outlive their users',
    tests: ['migrate'],
  },
  {
    file: 'src/database/migrate.ts',
    text: `    await tx.query(grantStatements)
`,
    replacement: '',
    meaning: 'a new database lets the service date events as it likes',
    tests: ['migrate'],
  },
  {
    file: 'src/operation/routes.ts',
    text: '    await checkTables(db)\n',
    replacement: '',
    meaning: 'a service without a table is healthy',
    tests: ['faults'],
  },
  {
    file: 'src/database/session.ts',
    text: `when 'off' then set_config('synchronous_commit', 'on', false) end`,
    replacement: `when 'off' then null end`,
    meaning: 'a change that was acknowledged is lost in a crash',
    tests: ['faults'],
  },
  {
    file: 'src/database/session.ts',
    text: `when 'off' then`,
    replacement: `when current_setting('synchronous_commit') then`,
    meaning: 'a change is lost that a standby should have had',
    tests: ['faults'],
  },
  {
    file: 'src/database/session.ts',
    text: `  exit_on_error: 'off',
`,
    replacement: '',
    meaning: 'an address that is taken costs a connection',
    tests: ['faults'],
  },
  {
    file: 'src/database/grants.ts',
    text: `has_table_privilege(pg_class.oid, 'update, delete, truncate')`,
    replacement: `has_table_privilege(pg_class.oid, 'truncate')`,
    meaning: 'a service that may rewrite the audit does not warn',
    tests: ['migrate', 'start'],
  },
  {
    file: 'src/database/migrate.ts',
    text: `[migration.hash, onWindows].includes(found) ? 'applied' : 'edited'`,
    replacement: `'applied'`,
    meaning: 'an edited migration is taken for the applied one',
    tests: ['migrate'],
  },
  {
    file: 'src/database/migrate.ts',
    text: `await tx.query('select pg_advisory_xact_lock($1)', [locks.migrations])
`,
    replacement: '',
    meaning: 'two instances apply a migration twice',
    tests: ['migrate'],
  },
  {
    file: 'src/database/migrate.ts',
    text: `set local lock_timeout = '1100ms'`,
    replacement: `set local lock_timeout = '60s'`,
    meaning: 'a migration that waits holds up all requests',
    tests: ['migrate'],
  },
  {
    file: 'src/database/private.ts',
    text: `listen_addresses: '',`,
    replacement: `listen_addresses: '127.0.0.1',`,
    meaning: 'the private PostgreSQL listens on a port, without passwords',
    tests: ['private'],
  },
  {
    file: 'src/database/private.ts',
    text: `'--auth-host=reject'`,
    replacement: `'--auth-host=trust'`,
    meaning: 'the private PostgreSQL trusts all addresses',
    tests: ['private'],
  },
  {
    file: 'src/database/private.ts',
    text: 'if (owner !== ourselves.uid && ourselves.uid !== 0)',
    replacement: 'if (owner === 4_294_967_295)',
    meaning: 'the data of another account is taken over',
    tests: ['private'],
  },
  {
    file: 'src/config.ts',
    text: `if (mode === 'disable') return false
  return { rejectUnauthorized: mode === 'verify-full',`,
    replacement: `if (mode === 'disable') return false
  return { rejectUnauthorized: false,`,
    meaning: 'the certificate of the database is not verified',
    tests: ['config'],
  },
  {
    file: 'src/config.ts',
    text: `if (given.includes('*')) return false
`,
    replacement: '',
    meaning: 'CORS with an asterisk is taken for an origin',
    tests: ['config'],
  },
  {
    file: 'src/config.ts',
    text: `Number(bits ?? (family === 'ipv4' ? 32 : 128))`,
    replacement: 'Number(bits ?? 8)',
    meaning: 'a trusted proxy makes its whole network trusted',
    tests: ['config', 'throttle'],
  },
  {
    file: 'src/config.ts',
    text: `if (isPrivate && env['NODE_ENV'] === 'production')`,
    replacement: `if (isPrivate && env['NODE_ENV'] === 'x')`,
    meaning: 'production runs on a database of its own',
    tests: ['config'],
  },
  {
    file: 'src/config.ts',
    text: `'SIGNUP', ['open', 'admin']`,
    replacement: `'SIGNUP', ['open', 'admin', 'closed' as 'open']`,
    meaning: 'a mistyped SIGNUP is silently open',
    tests: ['config'],
  },
  {
    file: 'src/config.ts',
    text: `if (text('DATABASE_CA_FILE') !== undefined && mode !== 'verify-full')`,
    replacement: `if (text('DATABASE_CA_FILE') === '' && mode !== 'verify-full')`,
    meaning: 'a CA file without verify-full is silently unused',
    tests: ['config'],
  },
  {
    file: 'src/app.ts',
    text: 'of await checkRights(pools.db, database.hosts))',
    replacement: 'of [])',
    meaning: 'a useless or dangerous role is not noticed at the start',
    tests: ['commands'],
  },
  {
    file: 'src/app.ts',
    text: `    await checkSchema(pools.db)
`,
    replacement: '',
    meaning: 'a service starts on a schema it does not know',
    tests: ['commands'],
  },
  {
    file: 'src/app.ts',
    text: 'secure: config.tls !== null,',
    replacement: 'secure: false,',
    meaning: 'there is no HSTS over TLS',
    tests: ['tls'],
  },
  {
    file: 'src/log.ts',
    text: `if (levels[at] > levels[level]) return
`,
    replacement: '',
    meaning: 'health checks fill the log',
    tests: ['http', 'config', 'commands', 'abuse'],
  },
  {
    file: 'src/errors.ts',
    text: 'super(failures[code].sentence, { cause })',
    replacement:
      'super(cause instanceof Error ? cause.message : failures[code].sentence, { cause })',
    meaning: 'answers show what the database said',
    tests: ['faults', 'http'],
  },
  {
    file: 'src/commands/restore.ts',
    text: ', `--restrict-key=${key}`',
    replacement: '',
    meaning: 'a dump runs commands of psql, where pg_restore is old',
    tests: ['backup'],
  },
  {
    file: 'src/commands/restore.ts',
    text: 'if ((await hashFile(file)) === manifest.sha256) return manifest',
    replacement: `if ((await hashFile(file)) !== '') return manifest`,
    meaning: 'a dump that was altered is restored',
    tests: ['system/backup'],
  },
  {
    file: 'sql/0003_collation.up.sql',
    text: `alter table user_service_schema.users alter column email_lower type text collate "C";
`,
    replacement: '',
    meaning: 'addresses are unique by the operating system’s rules',
    tests: ['migrate'],
  },
  {
    file: 'sql/0001_users.up.sql',
    text: '  email_lower text not null constraint users_email_key unique,',
    replacement: '  email_lower text not null,',
    meaning: 'two accounts have one address',
    tests: ['users', 'migrate'],
  },
  {
    file: 'sql/0001_users.up.sql',
    text: 'digest bytea not null unique check (octet_length(digest) = 32)',
    replacement: 'digest bytea not null',
    meaning: 'look-ups of keys scan the table',
    tests: ['plans'],
  },
  {
    file: 'sql/0004_account_life.up.sql',
    text: `references user_service_schema.users on delete cascade,
  email text`,
    replacement: `references user_service_schema.users,
  email text`,
    meaning: 'a user with a token cannot be deleted',
    tests: ['life'],
  },
  {
    file: 'bin/deploy.sh',
    text: 'words="--roll-back( --yes)?|$image_words"',
    replacement: 'words="--roll-back( --yes)?|.*"',
    meaning: 'an image name reaches the shell of the instance',
    tests: ['system/deploy'],
  },
  {
    file: 'bin/ec2-open-db-tunnel.sh',
    text: 'forward=127.0.0.1:$port:127.0.0.1:${DATABASE_PORT:-5432}',
    replacement: 'forward=0.0.0.0:$port:127.0.0.1:${DATABASE_PORT:-5432}',
    meaning: 'the tunnel to the database is open to the network',
    tests: ['system/deploy'],
  },
  {
    file: 'bin/ec2-open-db-tunnel.sh',
    text: `  [[ "$arguments " == *" $target "* ]] ||
    fail 'a tunnel to another host is open: close it first with bin/ec2-close-db-tunnel.sh'
`,
    replacement: '',
    meaning: 'a tunnel to another host is taken for this one',
    tests: ['system/deploy'],
  },
]
