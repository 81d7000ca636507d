// Passwords hashed by the real programs: PostgreSQL's pgcrypto, packages of npm and PyPI, Django;
// and the recipes of src/foreign/README.md, run as they are there on what other systems export.
import assert from 'node:assert/strict'
import * as crypto from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { bcrypt, bcryptBase64 } from '../../src/foreign/bcrypt.ts'
import { findHashFault, verifyForeign } from '../../src/foreign/hashes.ts'
import { createTestDatabase, password, undo } from '../support/helpers.ts'
import { root, succeed } from '../support/process.ts'

const versions = {
  npm: ['better-auth@1.7.25', 'bcryptjs@3.0.3', '@node-rs/argon2@2.2.1'],
  python: ['django==5.2.19', 'argon2-cffi==25.1.0', 'bcrypt==5.0.0'],
}

const folder = mkdtempSync(join(tmpdir(), 'user-service-foreign-'))
undo.push(() => rmSync(folder, { recursive: true, force: true }))
const database = await createTestDatabase()
await database.db.query('create extension pgcrypto')

const typed = [password, 'µ² ﬁne', 'naïve 😀', 'p', 'x'.repeat(71), 'é'.repeat(36), 'x'.repeat(100)]
const argon2 = 'argon2Sync' in crypto

/** Fails unless the password, and no other, is that of the hash. */
function check(stored: string, given: string) {
  if (stored.startsWith('$argon2') && !argon2) {
    assert.equal(findHashFault(stored), 'must not be of argon2 before Node 24.7')
    return
  }
  assert.equal(findHashFault(stored), null, stored)
  assert.ok(verifyForeign(stored, given), `${stored} of ${given}`)
  assert.ok(!verifyForeign(stored, `y${given}`), `${stored} of another than ${given}`)
}

/** Any characters but NUL, which PostgreSQL's text has not, and surrogates. */
function randomPassword() {
  const below = [0x7f, 0x7f, 0x7ff, 0xd7ff, 0x10ffff]
  const length = crypto.randomInt(1, 81)
  const points = Array.from({ length }, () => {
    const point = 1 + crypto.randomInt(below[crypto.randomInt(below.length)]!)
    return point >= 0xd800 && point <= 0xdfff ? 0x20 : point
  })
  return String.fromCodePoint(...points)
}

const alphabet = './ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'

/** Encodes base64 in the order of characters that bcrypt has. */
function encode(bytes: Buffer) {
  const bits = [...bytes].map((byte) => byte.toString(2).padStart(8, '0')).join('')
  const groups = bits.match(/.{1,6}/g)!
  return groups.map((group) => alphabet[parseInt(group.padEnd(6, '0'), 2)]).join('')
}

test('of 1,000 random passwords, bcrypt is what pgcrypto computes, both ways', async () => {
  const passwords = Array.from({ length: 1000 }, randomPassword)
  const rows = await database.db.query<{ given: string; hash: string }>(
    `select given, crypt(given, gen_salt('bf', 4)) as hash from unnest($1::text[]) as given`,
    [passwords],
  )
  for (const [at, { given, hash }] of rows.entries()) {
    const prefix = ['$2a$', '$2b$', '$2y$'][at % 3]
    check(hash.replace('$2a$', prefix!), given)
    assert.equal(encode(bcryptBase64(hash.slice(29))), hash.slice(29))
  }
  const mine = passwords.map((given) => {
    const salt = crypto.randomBytes(16)
    return `$2a$04$${encode(salt)}${encode(bcrypt(Buffer.from(given), salt, 4))}`
  })
  // For other prefixes than `$2a$`, pgcrypto computes DES.
  const wrong = await database.db.query(
    `select from unnest($1::text[], $2::text[]) as both_of (given, hash)
     where crypt(given, hash) <> hash or crypt('x' || given, hash) = hash`,
    [passwords, mine],
  )
  assert.equal(wrong.length, 0)
})

test('what packages of npm hash is verified', async () => {
  const quiet = ['--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
  await succeed('npm', ['install', '--prefix', folder, ...quiet, ...versions.npm])
  const program = join(folder, 'hash.mjs')
  writeFileSync(
    program,
    `import argon2 from '@node-rs/argon2'
import bcrypt from 'bcryptjs'
import { hashPassword } from 'better-auth/crypto'
const hashes = []
for (const typed of JSON.parse(process.argv[2])) {
  hashes.push([await hashPassword(typed), typed])
  hashes.push([bcrypt.hashSync(typed, 5), typed])
  for (const algorithm of [0, 1, 2])
    hashes.push([await argon2.hash(typed, { algorithm, memoryCost: 1024, parallelism: 2 }), typed])
}
console.log(JSON.stringify(hashes))`,
  )
  const hashes = JSON.parse(await succeed(process.execPath, [program, JSON.stringify(typed)]))
  assert.equal(hashes.length, 5 * typed.length)
  for (const [stored, given] of hashes) check(stored, given)
})

const readme = readFileSync(join(root, 'src/foreign/README.md'), 'utf8')

/** Runs the lines that are pasted for a system; returns the import's lines that they make. */
async function runRecipe(
  system: string,
  { env = {}, change = (lines: string) => lines }: Recipe = {},
) {
  const [, section] = readme.split(`\n### ${system}\n`)
  const [, lines] = /```sh\n([\s\S]*?)```/.exec(section!)!
  const outputs: string[] = []
  for (const shell of ['bash', 'zsh']) {
    const program = `cd '${join(folder, system)}' && ${change(lines!)}`
    outputs.push(await succeed(shell, ['-c', program], env))
  }
  assert.equal(outputs[0], outputs[1])
  return outputs[0]!.split('\n').map((line) => JSON.parse(line))
}

interface Recipe {
  env?: Record<string, string>
  change?: (lines: string) => string
}

/** Puts a file where the recipe of a system finds it. */
function put(system: string, name: string, content: unknown) {
  mkdirSync(join(folder, system), { recursive: true })
  const text = typeof content === 'string' ? content : JSON.stringify(content)
  writeFileSync(join(folder, system, name), text)
}

const createdAt = '2024-03-04T05:06:07Z'
const ms = Date.parse(createdAt)
const id = '018f3c1c-79a4-7c5e-8b6e-2f4d0c8b9a10'

test('Django: whatever its hashers make comes over', async () => {
  const venv = join(folder, 'venv')
  await succeed('python3', ['-m', 'venv', venv])
  const bin = join(venv, 'bin')
  const quiet = ['install', '--quiet', '--disable-pip-version-check', '--only-binary', ':all:']
  await succeed(join(bin, 'pip'), [...quiet, ...versions.python])
  mkdirSync(join(folder, 'Django'))
  await succeed(join(bin, 'django-admin'), ['startproject', 'site1', join(folder, 'Django')])
  const hashers = ['PBKDF2', 'PBKDF2SHA1', 'Argon2', 'BCrypt', 'Scrypt']
  const names = hashers.map((name) => `'django.contrib.auth.hashers.${name}PasswordHasher'`)
  const settings = join(folder, 'Django/site1/settings.py')
  writeFileSync(settings, `\nPASSWORD_HASHERS = [${names.join()}]\n`, { flag: 'a' })
  const manage = join(folder, 'Django/manage.py')
  await succeed(join(bin, 'python'), [manage, 'migrate'])
  const program = `
import json
from django.contrib.auth.models import User
from django.contrib.auth.hashers import make_password
for at, name in enumerate(['pbkdf2_sha256', 'pbkdf2_sha1', 'argon2', 'bcrypt', 'scrypt']):
    user = User.objects.create_user(f'u{at}', f'u{at}@example.org')
    user.password = make_password(${JSON.stringify(password)}, hasher=name)
    user.save()
User.objects.create_user('none', 'none@example.org', is_active=False)
User.objects.create_user('without address')`
  await succeed(join(bin, 'python'), [manage, 'shell', '-c', program])
  const env = { PATH: `${bin}:${process.env['PATH']}` }
  const lines = await runRecipe('Django', { env })
  assert.deepEqual(
    lines.map(({ email, enabled, passwordHash }) => [email, enabled, typeof passwordHash]),
    [
      ...hashers.map((_, at) => [`u${at}@example.org`, true, 'string']),
      ['none@example.org', false, 'undefined'],
    ],
  )
  for (const { passwordHash, createdAt: at } of lines) {
    assert.ok(Date.parse(at) > Date.now() - 600_000)
    if (passwordHash !== undefined) check(passwordHash, password)
  }
})

test('Keycloak: its hashes of PBKDF2 and argon2 come over, with the ids', async () => {
  const salt = Buffer.from('sixteen bytes it')
  function credential(algorithm: string, value: Buffer, hashIterations: number) {
    const additionalParameters =
      algorithm === 'argon2'
        ? {
            hashLength: ['32'],
            memory: ['7168'],
            type: ['id'],
            version: ['1.3'],
            parallelism: ['1'],
          }
        : {}
    const secret = { value: value.toString('base64'), salt: salt.toString('base64') }
    return {
      type: 'password',
      secretData: JSON.stringify({ ...secret, additionalParameters: {} }),
      credentialData: JSON.stringify({ hashIterations, algorithm, additionalParameters }),
    }
  }
  const pbkdf2 = (digest: string) => crypto.pbkdf2Sync(password, salt, 1000, 64, digest)
  const credentials = [
    [{ type: 'otp' }, credential('pbkdf2-sha512', pbkdf2('sha512'), 1000)],
    [credential('pbkdf2-sha256', pbkdf2('sha256'), 1000)],
    [credential('pbkdf2', pbkdf2('sha1'), 1000)],
    // As a Keycloak 25 exports it; the password is not known.
    [credential('argon2', Buffer.alloc(32), 5)],
    undefined,
  ]
  const users = credentials.map((each, at) => ({
    id,
    username: `u${at}`,
    email: `u${at}@example.org`,
    emailVerified: at === 0,
    enabled: at !== 1,
    createdTimestamp: ms + 89,
    ...(each && { credentials: each }),
  }))
  put('Keycloak', 'realm.json', { realm: 'x', users: [...users, { username: 'no address' }] })
  const lines = await runRecipe('Keycloak')
  assert.deepEqual(
    lines.map(({ passwordHash, ...rest }) => rest),
    users.map(({ email, emailVerified, enabled }) => ({
      id,
      email,
      emailVerified,
      enabled,
      createdAt,
    })),
  )
  for (const { passwordHash } of lines.slice(0, 3)) check(passwordHash, password)
  assert.match(lines[3].passwordHash, /^\$argon2id\$v=19\$m=7168,t=5,p=1\$[^$]{24}\$[^$]{44}$/)
  assert.equal(lines[4].passwordHash, undefined)
})

test('ASP.NET Identity: versions 2 and 3 of its hashes come over', async () => {
  // Of `my password`, from the tests of ASP.NET Core.
  const hashes = [
    'AQAAAAIAAYagAAAAEAABAgMEBQYHCAkKCwwNDg/Q8A0WMKbtHQJQ2DHCdoEeeFBrgNlldq6vH4qX/CGqGQ==',
    'AQAAAAIAACcQAAAAEAABAgMEBQYHCAkKCwwNDg9B0Oxwty+PGIDSp95gcCfzeDvA4sGapUIUov8usXfD6A==',
    'AQAAAAIAAAAyAAAAEOMwvh3+FZxqkdMBz2ekgGhwQ4B6pZWND6zgESBuWiHw',
    'AQAAAAIAAAD6AAAAIJbVi5wbMR+htSfFp8fTw8N8GOS/Sje+S/4YZcgBfU7EQuqv4OkVYmc4VJl9AGZzmRTxSkP7Lt' +
      'Vi9IWyUxX8IAAfZ8v+ZfhjCcudtC1YERSqE1OEdXLW9VukPuJWBBjLuw==',
  ]
  const salt = Buffer.from('sixteen bytes it')
  const version2 = crypto.pbkdf2Sync('my password', salt, 1000, 32, 'sha1')
  hashes.push(Buffer.concat([Buffer.alloc(1), salt, version2]).toString('base64'))
  const rows = [...hashes, null].map((PasswordHash, at) => ({
    Email: `u${at}@example.org`,
    EmailConfirmed: at === 0,
    PasswordHash,
  }))
  put('ASP.NET Identity', 'users.json', rows)
  const lines = await runRecipe('ASP.NET Identity')
  assert.deepEqual(
    lines.map(({ email, emailVerified }) => [email, emailVerified]),
    rows.map(({ Email, EmailConfirmed }) => [Email, EmailConfirmed]),
  )
  for (const { passwordHash } of lines.slice(0, -1)) check(passwordHash, 'my password')
  assert.equal(lines.at(-1).passwordHash, undefined)
})

const bcryptOf = async (given: string) =>
  (
    await database.db.query<{ hash: string }>(`select crypt($1, gen_salt('bf', 4)) as hash`, [
      given,
    ])
  )[0]!.hash

test('Auth0 and Firebase: their files come over', async () => {
  const hash = (await bcryptOf(password)).replace('$2a$', '$2b$')
  const exported = { _id: { $oid: 'x' }, email: 'u@example.org', email_verified: true }
  put('Auth0', 'users.json', `${JSON.stringify({ ...exported, passwordHash: hash })}\n`)
  const [fromAuth0] = await runRecipe('Auth0')
  assert.deepEqual(fromAuth0, { email: 'u@example.org', emailVerified: true, passwordHash: hash })
  check(fromAuth0.passwordHash, password)

  const signer =
    'jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA=='
  const user = {
    localId: 'x',
    email: 'u@example.org',
    emailVerified: true,
    passwordHash:
      'lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ==',
    salt: '42xEC+ixf3L2lw==',
    createdAt: String(ms + 89),
  }
  const federated = { localId: 'y', email: 'f@example.org', createdAt: String(ms), disabled: true }
  put('Firebase', 'users.json', { users: [user, federated, { localId: 'z' }] })
  const change = (lines: string) => lines.replace('BASE64_SIGNER_KEY', signer)
  const [one, two, ...others] = await runRecipe('Firebase', { change })
  const { passwordHash, ...rest } = one
  assert.deepEqual(rest, { email: user.email, emailVerified: true, enabled: true, createdAt })
  check(passwordHash, 'user1password')
  assert.deepEqual(two, {
    email: federated.email,
    emailVerified: false,
    enabled: false,
    createdAt,
  })
  assert.deepEqual(others, [])
})

/** The tables of systems that keep users in PostgreSQL. */
const tables: Record<string, string> = {
  Supabase: `
    create schema auth;
    create table auth.users (id uuid, email text, encrypted_password text, deleted_at timestamptz,
      email_confirmed_at timestamptz, banned_until timestamptz, created_at timestamptz);
    insert into auth.users values ('${id}', 'u@example.org', '$hash', null, now(), null, '$at'),
      ('${id}', 'n@example.org', '', null, null, now() + interval '1 day', '$at'),
      ('${id}', 'gone@example.org', '$hash', now(), now(), null, '$at')`,
  'better-auth': `
    create table "user" (id text, email text, "emailVerified" boolean, "createdAt" timestamptz);
    create table account ("userId" text, "providerId" text, password text, "createdAt" timestamptz);
    insert into "user" values ('a', 'u@example.org', true, '$at'),
      ('b', 'n@example.org', false, '$at');
    insert into account values ('a', 'credential', '$hash', now()), ('a', 'github', null, now()),
      ('b', 'github', null, now())`,
  Devise: `
    create table users (email text, encrypted_password text, confirmed_at timestamp,
      created_at timestamp);
    insert into users values ('u@example.org', '$hash', now(), '$at'),
      ('n@example.org', '', null, '$at')`,
  Laravel: `
    create table users (email text, email_verified_at timestamp, password text,
      created_at timestamp);
    insert into users values ('u@example.org', now(), '$hash', '$at'),
      ('n@example.org', null, null, '$at')`,
}
for (const [system, sql] of Object.entries(tables)) {
  test(`${system}: its tables come over`, async () => {
    const schema = system.replace('-', '_').toLowerCase()
    mkdirSync(join(folder, system), { recursive: true })
    const { DATABASE_HOST: host, DATABASE_PORT: port, DATABASE_NAME: name } = database.env
    const url = `postgresql:///${name}?host=${host}&port=${port}&user=postgres`
    const stored = (await bcryptOf(password)).replace('$2a$', '$2y$')
    const script = sql.replaceAll('$hash', () => stored).replaceAll('$at', createdAt)
    const env = { DATABASE_URL: url, PGOPTIONS: `-c search_path=${schema} -c timezone=Asia/Tokyo` }
    const quiet = [url, '-Xq', '-v', 'ON_ERROR_STOP=1', '-c']
    await succeed('psql', [...quiet, `create schema ${schema}; ${script}`], env)
    const lines = await runRecipe(system, { env })
    const hasIds = system === 'Supabase'
    const common = { ...(hasIds && { id }), createdAt }
    const [enabled, disabled] = hasIds ? [{ enabled: true }, { enabled: false }] : [{}, {}]
    const expected = [
      { ...common, email: 'u@example.org', emailVerified: true, ...enabled, passwordHash: stored },
      { ...common, email: 'n@example.org', emailVerified: false, ...disabled },
    ]
    assert.deepEqual(lines, expected)
    check(stored, password)
  })
}

test('PocketBase: its table comes over', async () => {
  const stored = await bcryptOf(password)
  mkdirSync(join(folder, 'PocketBase/pb_data'), { recursive: true })
  const file = join(folder, 'PocketBase/pb_data/data.db')
  await succeed('sqlite3', [
    file,
    `create table users (id text, email text, verified boolean, password text, created text);
     insert into users values ('a', 'u@example.org', true, '${stored}', '2024-03-04 05:06:07.089Z'),
       ('b', '', false, '${stored}', '2024-03-04 05:06:07.089Z')`,
  ])
  assert.deepEqual(await runRecipe('PocketBase'), [
    {
      email: 'u@example.org',
      emailVerified: true,
      passwordHash: stored,
      createdAt: '2024-03-04T05:06:07.089Z',
    },
  ])
  check(stored, password)
})
