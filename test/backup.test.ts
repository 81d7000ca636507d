// What needs neither an S3 server nor pg_dump; the rest is in test/system.
import assert from 'node:assert/strict'
import { hash } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import pg from 'pg'

import { parseDuration } from '../src/commands/command.ts'
import { dumpName, parseDumpName, parseManifest } from '../src/commands/dumps.ts'
import { findForeign } from '../src/commands/foreign.ts'
import { postgresEnv } from '../src/commands/programs.ts'
import { locks } from '../src/database/codes.ts'
import { readMigrations } from '../src/database/migrate.ts'
import { connectTo, createTestDatabase, undo } from './support/helpers.ts'
import { root, runCommand, startCommand, until } from './support/process.ts'

const folder = mkdtempSync(join(tmpdir(), 'backup-test-'))
undo.push(() => rmSync(folder, { recursive: true }))
const { db, env } = await createTestDatabase()
const base = { ...env, PATH: `${folder}:/usr/bin:/bin` }

/** Puts a program in the place of another. */
const fake = (name: string, script: string) =>
  writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
const fakeAws = (script: string) => fake('aws', script)

/** What the AWS CLI lists: dumps, stored when made or at another time, and manifests. */
const listed = (...dumps: [name: string, size: number, storedAt?: string][]) =>
  JSON.stringify(
    dumps.flatMap(([key, size, storedAt = parseDumpName(key.split('/').at(-1)!)!.toJSON()]) => [
      { key, size, storedAt },
      { key: `${key}.json`, size: 1, storedAt },
    ]),
  )

test('words and options that are not understood are misuse', async () => {
  const calls = [
    ['backup', 'now'],
    ['backup', 'list', 'all'],
    ['backup', '--max-age', '1h'],
    ['backup', '--timeout', '15'],
    ['backup', 'list', '--max-age', '0s'],
    ['backup', '--force'],
    ['restore'],
    ['restore', 'latest', 'again'],
    ['restore', '../db_dump_2024-04-25-22_20_01.bck'],
    ['restore', '-x_dump_2024-04-25-22_20_01.bck'],
    ['restore', 'a_dump_2024-04-25-22_20_01.bck.json'],
    ['restore', 'a_dump_2024-13-25-22_20_01.bck'],
    ['backup', 'list', '--yes'],
    ['restore', 'latest', '--quiet'],
  ] as const
  await Promise.all(
    calls.map(async ([name, ...args]) => {
      const { status, stdout, stderr } = await runCommand(name, args, base)
      assert.deepEqual({ args, status, stdout }, { args, status: 2, stdout: '' })
      assert.match(stderr, new RegExp(`^${name}: .*\nSee --help\\.\n$`))
    }),
  )
})

test('a bucket is s3://name, with or without a prefix', async () => {
  for (const S3_BUCKET of [
    'bucket',
    's3://',
    's3://Bucket',
    's3://b/../c?',
    's3://bucket/a b',
    's3://--x',
  ]) {
    const { status, stderr } = await runCommand('backup', [], { ...base, S3_BUCKET })
    assert.deepEqual({ S3_BUCKET, status }, { S3_BUCKET, status: 2 })
    assert.equal(
      stderr,
      'backup: Configuration: S3_BUCKET must be s3://bucket or s3://bucket/prefix\n',
    )
  }
})

test('a dump is named for its database and instant, and nothing else is taken for one', () => {
  const at = new Date('2024-04-25T22:20:01.999Z')

  assert.equal(dumpName('db_user_service', at), 'db_user_service_dump_2024-04-25-22_20_01.bck')
  assert.equal(dumpName('my_db', at), 'my_db_dump_2024-04-25-22_20_01.bck')
  assert.equal(dumpName('my.db/"ü"', at), 'my.2edb.2f.22.c3.bc.22_dump_2024-04-25-22_20_01.bck')
  assert.deepEqual(parseDumpName(dumpName('-.x', at)), new Date('2024-04-25T22:20:01Z'))
  assert.deepEqual(parseDumpName(dumpName('x', at)), new Date('2024-04-25T22:20:01Z'))
  for (const name of [
    'x_dump_2024-04-25-25_20_01.bck',
    'x_dump_2024-04-25-22_20_01.bck.json',
    'x.bck',
    '_/x',
  ]) {
    assert.equal(parseDumpName(name), null)
  }
})

test('a duration has one unit', () => {
  const given = ['90s', '15m', '1h', '2d', '0s', '21d', '15', 'm', '1.5h', '-1h', '1h30m']
  assert.deepEqual(given.map(parseDuration), [90e3, 900e3, 3600e3, 172_800e3, ...Array(7)])
})

test('a manifest is taken only when it is sound', () => {
  const sound = {
    name: 'x',
    database: 'd',
    sha256: 'a'.repeat(64),
    size: 1,
    at: '2024-04-25T22:20:01Z',
    rows: { users: 1 },
    schema: readMigrations().at(-1)!.name,
    server: '15.18',
    pgDump: '15.18',
  }
  assert.deepEqual(parseManifest(JSON.stringify(sound), 'x'), sound)
  for (const change of [
    { name: 'y' },
    { sha256: 'A' },
    { rows: {} },
    { rows: null },
    { rows: { users: '1' } },
    { rows: { "'": 1 } },
    { rows: { users: 1e300 } },
    { pgDump: 'x' },
    { schema: '\u001b[2J' },
    { at: 'soon' },
    { at: '2024-04-25 (\u001b[2J)' },
  ])
    assert.throws(
      () => parseManifest(JSON.stringify({ ...sound, ...change }), 'x'),
      /^Error: the manifest x\.json is damaged/,
    )
  assert.throws(() => parseManifest('null', 'x'), /damaged/)
})

test('the AWS CLI gets endpoint and profile, and never the database’s password', async () => {
  const seen = join(folder, 'seen')
  fakeAws(
    `{ echo "$@"; env; } >'${seen}'; ` +
      `echo '${listed(['dumps/x_dump_2024-04-25-22_20_01.bck', 4200000])}'`,
  )
  const { status, stdout } = await runCommand('backup', ['list'], {
    ...base,
    DATABASE_NAME: 'x',
    DATABASE_PASSWORD: 's3cret',
    S3_BUCKET: 's3://bucket/dumps/',
    IAM_ROLE: 'db-backup',
    AWS_ENDPOINT_URL: 'http://127.0.0.1:1',
    AWS_ENDPOINT_URL_S3: 'http://127.0.0.1:2',
    https_proxy: 'http://p',
    OTHER: 'x',
  })

  assert.match(stdout, /^x_dump_2024-04-25-22_20_01\.bck\t\d+\.\d h\t4\.20 MB\tcomplete\n$/)
  assert.equal(status, 0)
  const [args, ...variables] = readFileSync(seen, 'utf8').trim().split('\n')
  assert.equal(
    args,
    's3api list-objects-v2 --bucket=bucket --prefix=dumps/x_dump_ ' +
      '--query=Contents[].{key:Key,size:Size,storedAt:LastModified} ' +
      '--output=json --profile=db-backup --endpoint-url=http://127.0.0.1:2',
  )
  const names = variables
    .map((line) => line.split('=')[0])
    .filter((name) => !['PWD', 'SHLVL', '_', 'OLDPWD'].includes(name!))
  assert.deepEqual(names.sort(), ['AWS_ENDPOINT_URL', 'AWS_ENDPOINT_URL_S3', 'PATH', 'https_proxy'])
  // Where the command runs, so that settings may name files from there.
  assert.ok(variables.includes(`PWD=${resolve(root)}`), variables.join())
})

test('pg_dump and psql check the certificate of the server as the service does', () => {
  const at = { ...connectTo('x', 'y'), hosts: ['db.example.org'] }
  const each = [false, { rejectUnauthorized: false }, { rejectUnauthorized: true }] as const
  const modes = each.map((ssl) => postgresEnv({ ...at, ssl })['PGSSLMODE'])
  assert.deepEqual(modes, ['disable', 'require', 'verify-full'])
})

test('a backup puts a dump into the bucket, and then what is in it', async () => {
  const bucket = mkdtempSync(join(folder, 'bucket-'))
  fake(
    'pg_dump',
    `for each; do case $each in --file=*) echo dump >"\${each#--file=}";; ` +
      `--version) echo 'pg_dump 15.1'; esac; done`,
  )
  fake('pg_restore', '')
  fakeAws(
    `case $1 in s3) cp "$4" "${bucket}/\${5##*/}";; *) ` +
      `for each; do case $each in --key=*) wc -c <"${bucket}/\${each#--key=}"; esac; done; esac`,
  )
  const { status, stdout, stderr } = await runCommand('backup', [], {
    ...base,
    S3_BUCKET: 's3://bucket',
  })
  for (const name of ['pg_dump', 'pg_restore']) rmSync(join(folder, name))

  assert.match(
    `${status} ${stderr}${stdout}`,
    /^0 Backed up 0 users to s3:\/\/bucket\/test_\w+_dump_[\d_-]{19}\.bck: /,
  )
  const [dump, manifest] = readdirSync(bucket).sort()
  const { name, at, rows, pgDump, schema } = parseManifest(
    readFileSync(join(bucket, manifest!), 'utf8'),
    dump!,
  )
  assert.deepEqual(
    [name, pgDump, schema, rows['users']],
    [dump, '15.1', readMigrations().at(-1)!.name, 0],
  )
  assert.equal(dumpName(env['DATABASE_NAME']!, new Date(at)), name)
})

test('a dump of which the bucket has only a part is no backup', async () => {
  fake(
    'pg_dump',
    `for each; do case $each in --file=*) echo >"\${each#--file=}"; esac; done; echo 15`,
  )
  fake('pg_restore', '')
  fakeAws('case $1 in s3api) echo 0; esac')
  const { status, stdout, stderr } = await runCommand('backup', [], base)
  for (const name of ['pg_dump', 'pg_restore']) rmSync(join(folder, name))

  assert.deepEqual([status, stdout], [1, ''])
  assert.match(stderr, /^backup: s3:\S+\.bck does not have the 1 bytes that were sent\n$/)
})

test('while a backup uploads it holds no snapshot, and a lost lock is no failure', async () => {
  fake(
    'pg_dump',
    `for each; do case $each in --file=*) echo >"\${each#--file=}"; esac; done; echo 15`,
  )
  fake('pg_restore', '')
  const asked = join(folder, 'asked')
  const go = join(folder, 'go')
  fakeAws(
    `case $1 in s3) touch '${asked}'; until [ -e '${go}' ]; do sleep 0.1; done; ` +
      `wc -c <"$4" >'${asked}';; *) cat '${asked}'; esac`,
  )
  const { ended } = startCommand('backup', [], base)
  await until('an upload', () => existsSync(asked))
  const sessions = await db.query<{ holds: boolean; ended: boolean }>(
    `select backend_xmin is not null as holds, pg_terminate_backend(pid) as ended
      from pg_stat_activity
      where datname = current_database() and usename = 'user_service_user'`,
  )
  writeFileSync(go, '')
  const { status, stdout, stderr } = await ended
  for (const name of ['pg_dump', 'pg_restore']) rmSync(join(folder, name))

  assert.deepEqual(sessions, [{ holds: false, ended: true }])
  assert.deepEqual([status, stderr], [0, ''])
  assert.match(stdout, /^Backed up 0 users to [^\n]+\n$/)
})

test('a bucket without dumps is said to be empty, and an alarm', async () => {
  fakeAws('echo null')
  const list = await runCommand('backup', ['list'], base)
  const alarm = await runCommand('backup', ['list', '--max-age', '1h'], base)

  assert.deepEqual(list, {
    status: 0,
    stdout: `There is no dump of ${env['DATABASE_NAME']} in s3://user-service-database-dumps\n`,
    stderr: '',
  })
  assert.equal(alarm.status, 4)
})

test('the time limit and a signal end a program and all its children, willing or not', async () => {
  const left = join(folder, 'left')
  fakeAws(
    `trap '' INT; (trap '' INT; while sleep 0.1; do echo >>'${left}'; done) & ` +
      'while sleep 0.1; do :; done',
  )
  const late = await runCommand('backup', ['list', '--timeout', '1s'], base)
  assert.deepEqual(late, { status: 1, stdout: '', stderr: 'backup: given up after 1 s\n' })
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGHUP'] as const) {
    rmSync(left, { force: true })
    const { child, ended } = startCommand('backup', ['list'], base)
    await until('the program', () => existsSync(left))
    child.kill(signal)
    assert.deepEqual(await ended, { status: 1, stdout: '', stderr: `backup: got ${signal}\n` })
  }
  const size = () => readFileSync(left, 'utf8').length
  const before = size()
  await sleep(500)
  assert.equal(size(), before)
})

test('a missing AWS CLI is named', async () => {
  const { status, stderr } = await runCommand('backup', ['list'], { ...base, PATH: '/nowhere' })

  assert.deepEqual(
    { status, stderr },
    { status: 1, stderr: 'backup: aws is not installed, or not in /nowhere\n' },
  )
})

test('a backup while another one runs says so: 3', async () => {
  await db.transaction(async (tx) => {
    await tx.query('select pg_advisory_xact_lock($1)', [locks.backup])
    const result = await runCommand('backup', ['--timeout', '20s'], base)

    assert.deepEqual(result, {
      status: 3,
      stdout: '',
      stderr: 'backup: another backup is still running\n',
    })
  })
})

test('a backup whose database does not answer gives up after --timeout', async () => {
  await db.transaction(async (tx) => {
    await tx.query('lock table users')
    const result = await runCommand('backup', ['--timeout', '1s'], base)

    assert.deepEqual(result, { status: 1, stdout: '', stderr: 'backup: given up after 1 s\n' })
  })
})

test('a database without our tables is not backed up, but an error', async () => {
  const { status, stderr } = await runCommand('backup', [], {
    ...base,
    DATABASE_NAME: 'postgres',
    DATABASE_USER: 'postgres',
  })

  assert.deepEqual(
    { status, stderr },
    {
      status: 1,
      stderr: 'backup: the database holds nothing: node bin/migrate.js up was never run\n',
    },
  )
})

test('tables that belong to another role are named as what a backup would leave out', async () => {
  const own = await createTestDatabase()
  await own.db.query(`alter table users owner to postgres`)
  const { status, stderr } = await runCommand('backup', [], { ...base, ...own.env })

  assert.equal(status, 1)
  assert.match(
    stderr,
    /^backup: the tables belong to postgres: .* owner to user_service_admin\)\n$/,
  )
})

test('a restore touches neither data nor a connected service without --yes', async () => {
  fakeAws('exit 1')
  const service = new pg.Client({
    host: env['DATABASE_HOST']!,
    port: Number(env['DATABASE_PORT']),
    database: env['DATABASE_NAME']!,
    user: 'user_service_manager',
  })
  await service.connect()
  const connected = await runCommand('restore', ['latest'], base)
  await service.end()
  await db.query(`insert into audit_events (action) values ('x')`)
  const held = await runCommand('restore', ['latest'], base)
  await db.query('create table notes ()')
  const both = await runCommand('restore', ['latest'], base)
  await db.query('drop table notes')

  assert.match(both.stderr, /holds data \(audit_events\); this would also drop table \S+\.notes:/)
  assert.deepEqual(connected, {
    status: 1,
    stdout: '',
    stderr: 'restore: the service is connected (stop it first): pass --yes\n',
  })
  assert.deepEqual(held, {
    status: 1,
    stdout: '',
    stderr: 'restore: the database holds data (audit_events): pass --yes\n',
  })
})

/** The name of a dump of this test's database, that many hours ago. */
const dumpOf = (hours: number) =>
  dumpName(env['DATABASE_NAME']!, new Date(Date.now() - hours * 3_600_000))
const hoursAgo = (hours: number) => new Date(Date.now() - hours * 3_600_000).toJSON()

test('of a dump dated in the future no alarm is silent, and latest is refused', async () => {
  const ahead = dumpOf(-24)
  const real = dumpOf(2)
  fakeAws(`echo '${listed([ahead, 1, hoursAgo(3)], [real, 1])}'`)
  const list = await runCommand('backup', ['list', '--max-age', '1h'], base)
  const young = await runCommand('backup', ['list', '--max-age', '3h', '--quiet'], base)
  const latest = await runCommand('restore', ['latest', '--yes'], base)
  fakeAws(`echo '${listed([dumpOf(0), 1, hoursAgo(24)])}'`)
  const come = await runCommand('backup', ['list', '--max-age', '1h'], base)
  assert.deepEqual([come.status, come.stdout.split('\t')[1]], [4, '24.0 h'])
  fakeAws(`echo '${listed([ahead, 1, hoursAgo(0)])}'`)
  const alone = await runCommand('backup', ['list', '--max-age', '1h', '--quiet'], base)

  assert.equal(
    list.stdout,
    `${real}\t2.0 h\t0.00 MB\tcomplete\n${ahead}\t-24.0 h\t0.00 MB\tIN THE FUTURE\n`,
  )
  const bucket = 's3://user-service-database-dumps'
  assert.deepEqual(
    [list.status, list.stderr],
    [4, `backup: the newest complete dump in ${bucket}, ${real}, is 2.0 h old\n`],
  )
  assert.deepEqual(young, { status: 0, stdout: '', stderr: '' })
  assert.deepEqual(latest, {
    status: 1,
    stdout: '',
    stderr: `restore: ${ahead} is dated in the future: name it, or ${real}\n`,
  })
  assert.deepEqual([alone.status, alone.stdout], [4, ''])
  assert.match(alone.stderr, /there is no complete dump of \w+ in \S+\n$/)
})

test('a dump of another database is neither listed nor restored', async () => {
  const name = dumpOf(1)
  const others = [`${env['DATABASE_NAME']}_dump_${name}`, name.replace(/^./, 'x')]
  const manifest = {
    name,
    database: 'my.db',
    sha256: 'a'.repeat(64),
    at: '2024-04-25T22:20:01Z',
    rows: { users: 1 },
    schema: 'x',
    pgDump: '15',
  }
  const all = listed(...others.map((each): [string, number] => [each, 1]))
  fakeAws(`case $1 in s3) echo '${JSON.stringify(manifest)}' >"$5";; *) echo '${all}'; esac`)
  const list = await runCommand('backup', ['list', '--max-age', '20d'], base)
  const restore = await runCommand('restore', [name, '--yes'], base)

  assert.deepEqual([list.status, list.stdout], [4, ''])
  assert.deepEqual(restore, {
    status: 1,
    stdout: '',
    stderr: `restore: ${name} is a dump of "my.db", not of ${env['DATABASE_NAME']}\n`,
  })
})

test('a pg_restore too old to keep psql from running programs restores nothing', async () => {
  const name = dumpOf(1)
  const manifest = {
    name,
    database: env['DATABASE_NAME'],
    sha256: hash('sha256', 'a dump'),
    at: '2024-04-25T22:20:01Z',
    rows: { users: 0 },
    schema: 'x',
    pgDump: '15',
  }
  fakeAws(
    `case $4 in *.json) echo '${JSON.stringify(manifest)}' >"$5";; *) printf 'a dump' >"$5"; esac`,
  )
  fake(
    'pg_restore',
    'for each; do case $each in --restrict-key=*) ' +
      'echo "unrecognized option" >&2; exit 1; esac; done',
  )
  fake('psql', 'cat >/dev/null')
  const restore = await runCommand('restore', [name, '--yes'], base)
  for (const program of ['pg_restore', 'psql']) rmSync(join(folder, program))

  assert.deepEqual(restore, {
    status: 1,
    stdout: '',
    stderr: 'restore: the restore failed and nothing was changed: unrecognized option\n',
  })
})

/** Entries of a table of contents, and lines of SQL. */
const ours = [
  '; a comment',
  '217; 1259 16400 TABLE user_service_schema users user_service_admin',
  '3256; 1259 16414 INDEX user_service_schema users_admins user_service_admin',
  '3401; 0 0 COMMENT user_service_schema INDEX users_admins user_service_admin',
  '3273; 2606 16426 FK CONSTRAINT user_service_schema api_keys x user_service_admin',
]
const others = [
  'INDEX user_service_schema users_likes',
  'TRIGGER user_service_schema users users_likes',
  'POLICY user_service_schema users reading all',
  'COMMENT user_service_schema POLICY reading ON users',
  'ROW SECURITY user_service_schema users',
  'RULE user_service_schema users quiet',
]
const lines = [
  'GRANT SELECT ON TABLE user_service_schema.users TO grafana;',
  'SET default_tablespace = fast;',
]
const sql = [
  `SET default_tablespace = '';`,
  ...lines,
  'GRANT SELECT ON TABLE user_service_schema.users TO user_service_user WITH GRANT OPTION;',
  'GRANT SELECT ON TABLE user_service_schema.users TO PUBLIC;',
  'SET default_tablespace = fast;',
]

test('of a dump all that is ours is restored; what others added is left out and told', async () => {
  const own = await createTestDatabase()
  const name = dumpName(own.name, new Date())
  const contents = [...ours, ...others.map((each) => `1; 2 3 ${each} user_service_admin`)]
  const manifest = {
    name,
    database: own.name,
    sha256: hash('sha256', 'a dump'),
    at: '2024-04-25T22:20:01Z',
    rows: { users: 0 },
    schema: readMigrations()[0]!.name,
    pgDump: '15',
  }
  fakeAws(`case $4 in *.json) cat '${folder}/manifest' >"$5";; *) printf 'a dump' >"$5"; esac`)
  writeFileSync(join(folder, 'contents'), contents.join('\n'))
  writeFileSync(join(folder, 'sql'), sql.join('\n'))
  fake(
    'pg_restore',
    `for each; do case $each in --list) cat '${folder}/contents';; ` +
      `--use-list=*) cp "\${each#--use-list=}" '${folder}/used';; ` +
      `--schema-only) cat '${folder}/sql';; ` +
      `--no-privileges) echo "$@" >'${folder}/asked'; esac; done`,
  )
  fake('psql', 'cat >/dev/null')
  const restoreOf = (schema: string) => {
    writeFileSync(join(folder, 'manifest'), JSON.stringify({ ...manifest, schema }))
    return runCommand('restore', [name, '--yes'], { ...base, ...own.env })
  }
  const restored = await restoreOf(manifest.schema)
  const used = readFileSync(join(folder, 'used'), 'utf8')
  const later = await restoreOf('9999_later')
  const usedLater = readFileSync(join(folder, 'used'), 'utf8')
  for (const program of ['pg_restore', 'psql']) rmSync(join(folder, program))

  assert.deepEqual([restored.status, restored.stderr], [0, ''])
  assert.deepEqual(used.split(/\n+/).filter(Boolean), ours)
  const told = (...lines: string[]) =>
    `\nNot restored, since it is not ours:\n${lines.join('\n')}\nNext: `
  assert.ok(restored.stdout.includes(told(...others, ...lines)), restored.stdout)
  assert.match(readFileSync(join(folder, 'asked'), 'utf8'), / --no-tablespaces /)
  // What a later version may have made is not left out.
  assert.deepEqual(usedLater.split('\n'), contents)
  assert.ok(later.stdout.includes(told(...lines)), later.stdout)
})

test('a refused upload is not tried again', async () => {
  fake(
    'pg_dump',
    `for each; do case $each in --file=*) echo >"\${each#--file=}"; esac; done; echo 15`,
  )
  fake('pg_restore', '')
  const tries = join(folder, 'tries')
  fakeAws(
    `echo >>'${tries}'; echo 'upload failed: x to s3://b/x An error occurred (AccessDenied)' ` +
      `'when calling the PutObject operation: Access Denied' >&2; exit 1`,
  )
  const { status, stderr } = await runCommand('backup', [], base)
  for (const name of ['pg_dump', 'pg_restore']) rmSync(join(folder, name))

  assert.match(stderr, /An error occurred \(AccessDenied\)/)
  assert.deepEqual([status, readFileSync(tries, 'utf8')], [1, '\n'])
})

test('what others put into our schema is found; a restore drops it only when told to', async () => {
  assert.deepEqual(await findForeign(db), [])
  await db.query(`
    create table user_service_schema."a b" (id int primary key);
    create type user_service_schema.mood as enum ('good');
    create schema reports;
    create view reports.emails as select email from user_service_schema.users;
    create table reports.notes (id int, author uuid constraint notes_author
      references user_service_schema.users, mood user_service_schema.mood);
    create publication copies for table user_service_schema.users`)
  const found = await findForeign(db)
  await db.query('truncate user_service_schema.audit_events')
  const restore = await runCommand('restore', ['latest'], base)

  assert.deepEqual(found, [
    'publication relation user_service_schema.users in publication copies',
    'table column reports.notes.mood',
    'table constraint notes_author on reports.notes',
    'table user_service_schema."a b"',
    'type user_service_schema.mood',
    'view reports.emails',
  ])
  assert.equal(restore.status, 1)
  assert.match(restore.stderr, /^restore: this would also drop .*view reports\.emails: pass --yes/)
})
