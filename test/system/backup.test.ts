// Needs, of Debian: awscli, swift-proxy, swift-account, swift-container, swift-object, memcached,
// postgresql (with its client programs), util-linux. It starts the rest: PostgreSQL and the S3
// server.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import type { Env } from '../../src/environment.ts'
import { startPrivatePostgres } from '../../src/database/private.ts'
import { readMigrations } from '../../src/database/migrate.ts'
import { findPostgresBin } from '../../src/database/programs.ts'
import {
  freePort,
  listProcesses,
  root,
  runCommand,
  startCommand,
  startProgram,
  succeed,
  until,
} from '../support/process.ts'
import { startS3 } from '../support/s3.ts'
import { startService } from '../support/service.ts'

const undo: (() => unknown)[] = []
const undoAll = async () => {
  for (const each of undo.splice(0).reverse()) await each()
}
after(undoAll)

const folder = mkdtempSync(join(tmpdir(), 'backup-test-'))
undo.push(() => rmSync(folder, { recursive: true, force: true }))
chmodSync(folder, 0o755)
for (const name of ['home/.aws', 'tmp', 'small', 'empty', 's3'])
  mkdirSync(join(folder, name), { recursive: true })
const s3 = await startS3(join(folder, 's3'))
undo.push(() => s3.stop())

const passwords = {
  ADMIN_PASSWORD: 'admins-s3cret',
  MANAGER_PASSWORD: 'managers-s3cret',
  USER_PASSWORD: 'users-s3cret',
}
writeFileSync(
  join(folder, 'pg_hba.conf'),
  'local all postgres trust\nhost all postgres all reject\nhost all all 127.0.0.1/32 ' +
    'scram-sha-256\n',
)
const bin = findPostgresBin('pg_dump')
assert.ok(bin, 'These tests need pg_dump')

/** A PostgreSQL with passwords where only the roles and the empty database are. */
async function startInstance(name: string) {
  const port = String(await freePort())
  const server = await startPrivatePostgres({
    directory: join(folder, name),
    say: () => {},
    settings: {
      listen_addresses: '127.0.0.1',
      port,
      fsync: 'off',
      hba_file: join(folder, 'pg_hba.conf'),
    },
  })
  undo.push(() => server.stop())
  const socket = {
    PATH: '/usr/bin:/bin',
    DATABASE_HOST: server.socketDirectory,
    DATABASE_PORT: port,
  }
  const created = await runCommand('database', ['create'], { ...socket, ...passwords })
  assert.equal(created.status, 0, created.stderr)
  return {
    at: { DATABASE_HOST: '127.0.0.1', DATABASE_PORT: port },
    /** psql as the superuser; of several rows, as COPY writes them. */
    async sql(text: string) {
      const { status, stdout, stderr } = await startProgram(
        join(bin!, 'psql'),
        [
          '-XAtq',
          '-v',
          'ON_ERROR_STOP=1',
          '-h',
          server.socketDirectory,
          '-p',
          port,
          '-U',
          'postgres',
          '-d',
          'db_user_service',
          '-c',
          text,
        ],
        { PGOPTIONS: '-c search_path=user_service_schema' },
      ).ended
      assert.equal(status, 0, stderr)
      return stdout
    },
  }
}

const main = await startInstance('main')
const base: Env = {
  ...main.at,
  ...s3.env,
  PATH: '/usr/bin:/bin',
  HOME: join(folder, 'home'),
  TMPDIR: join(folder, 'tmp'),
  AWS_MAX_ATTEMPTS: '1',
}
const reads: Env = { ...base, DATABASE_PASSWORD: passwords.USER_PASSWORD }
const owns: Env = { ...base, DATABASE_PASSWORD: passwords.ADMIN_PASSWORD }
// Uploads that last: 4 MB at 1 MB/s.
writeFileSync(
  join(folder, 'slow'),
  '[default]\ns3 =\n  max_bandwidth = 1MB/s\n  multipart_chunksize = 5MB\n',
)
const slowly: Env = { ...reads, AWS_CONFIG_FILE: join(folder, 'slow') }

await runCommand('migrate', ['up'], owns)
await main
  .sql(
    `
  insert into users (email, email_lower, password_hash, permissions)
    select 'Ünï' || i || E'\\t\\\\n@example.org', 'ünï' || i,
      case when i % 3 > 0 then md5(i::text) end,
      case when i % 5 = 0 then array['a b', '"c,d"', ''] else '{}' end
    from generate_series(1, 100000) as i;
  insert into api_keys (user_id, digest, kind, name)
    select id, sha256(convert_to(email, 'UTF8')), 'api', E'line\\nbreak' from users limit 1000;
  insert into audit_events (action, subject) select 'user.created', id from users limit 5000`,
  )
  .catch(async (error: unknown) => {
    await undoAll()
    throw error
  })
await succeed(
  '/usr/bin/aws',
  ['s3', 'mb', 's3://user-service-database-dumps', `--endpoint-url=${s3.env.AWS_ENDPOINT_URL}`],
  { ...s3.env, PATH: '/usr/bin:/bin' },
)

const sha256 = (data: Buffer) => createHash('sha256').update(data).digest('hex')
const listed = await main.sql(
  `select tablename from pg_tables where schemaname = 'user_service_schema' order by 1`,
)
const tables = listed.trim().split('\n')

/** The rows of each table. */
async function countAll(): Promise<Record<string, number>> {
  const counts: Record<string, number> = {}
  for (const table of tables)
    counts[table] = Number(await main.sql(`select count(*) from ${table}`))
  return counts
}

/** Every row of every table. */
async function readAll({ sql } = main): Promise<string[]> {
  const rows: string[] = []
  for (const table of tables) {
    const text = await sql(`copy (select * from ${table} order by 1) to stdout`)
    rows.push(...text.split('\n').map((row) => `${table}: ${row}`))
  }
  return rows
}

/** Fails with the first row that differs from what was backed up. */
async function assertSameRows(instance = main) {
  const rows = await readAll(instance)
  const different = rows.findIndex((row, index) => row !== everything[index])
  assert.equal(rows[different], everything[different])
  assert.equal(rows.length, everything.length)
}

/** The commands' own directories; the loader of Node 20 keeps one, too. */
const listLeft = () =>
  readdirSync(join(folder, 'tmp')).filter((name) => name.startsWith('user-service-'))

/** What must be so after a command, however it ended: nothing left, neither files nor processes. */
function assertNothingLeft() {
  assert.deepEqual(listLeft(), [])
  const left = listProcesses().filter(
    ({ command }) =>
      command.includes('user-service-database-dumps') || /pg_dump|pg_restore/.test(command),
  )
  assert.deepEqual(left, [])
}

const aws = (...args: string[]) =>
  succeed('/usr/bin/aws', [...args, `--endpoint-url=${s3.env.AWS_ENDPOINT_URL}`], {
    ...s3.env,
    PATH: '/usr/bin:/bin',
  })
const bucket = 's3://user-service-database-dumps'
const count = async () =>
  (await runCommand('backup', ['list'], reads)).stdout.split('complete\n').length - 1
const everything = await readAll()
let first = ''

test('a backup of 100,000 users prints a line, and no process list has the password', async () => {
  const seen = new Set<string>()
  const { child, ended } = startCommand('backup', [], reads)
  while (child.exitCode === null) {
    for (const { command } of listProcesses()) seen.add(command)
    await sleep(2)
  }
  const { status, stdout, stderr } = await ended

  assert.equal(stderr, '')
  const [line = '', target, name = ''] = /^.* (s3:\S+)\/(\S+): \d+\.\d\d MB\n$/.exec(stdout) ?? []
  assert.match(line, /^Backed up 100000 users to s3:/)
  assert.equal(target, 's3://user-service-database-dumps')
  assert.match(name, /^db_user_service_dump_\d{4}-\d\d-\d\d-\d\d_\d\d_\d\d\.bck$/)
  assert.equal(status, 0)
  first = /dumps\/(\S+\.bck)/.exec(stdout)![1]!
  const commands = [...seen].join('\n')
  for (const program of ['pg_dump', 'pg_restore', 'aws'])
    assert.match(commands, new RegExp(program))
  assert.doesNotMatch(commands, /s3cret|backup-secret/)
  assertNothingLeft()
})

test('the manifest says what is in the dump', async () => {
  const manifest = JSON.parse(await aws('s3', 'cp', `${bucket}/${first}.json`, '-'))
  const { sha256, size, at, server, pgDump, ...rest } = manifest

  assert.deepEqual(rest, {
    name: first,
    database: 'db_user_service',
    schema: readMigrations().at(-1)!.name,
    rows: { ...(await countAll()), api_keys: 1000, audit_events: 5000, users: 100000 },
  })
  assert.match(sha256, /^[0-9a-f]{64}$/)
  assert.ok(size > 1_000_000 && Date.now() - Date.parse(at) < 120_000)
  assert.deepEqual(
    [server, pgDump].map((version) => Number.parseInt(version) >= 15),
    [true, true],
  )
})

test('list shows the dumps, and an alarm when the newest complete one is too old', async () => {
  const young = await runCommand('backup', ['list', '--max-age', '1h'], reads)
  const quiet = await runCommand('backup', ['list', '--max-age', '1h', '--quiet'], reads)
  await sleep(1100)
  const old = await runCommand('backup', ['list', '--max-age', '1s', '--quiet'], reads)
  const none = await runCommand('backup', ['list', '--max-age', '1h'], {
    ...reads,
    S3_BUCKET: `${bucket}/another`,
  })

  assert.match(young.stdout, new RegExp(`^${first}\\t0\\.\\d h\\t\\d+\\.\\d\\d MB\\tcomplete\\n$`))
  assert.equal(young.status, 0)
  assert.deepEqual(quiet, { status: 0, stdout: '', stderr: '' })
  assert.deepEqual([old.status, old.stdout], [4, ''])
  assert.match(
    old.stderr,
    new RegExp(`^backup: the newest complete dump in ${bucket}, ${first}, is 0\\.\\d h old\\n$`),
  )

  assert.deepEqual(none, {
    status: 4,
    stdout: '',
    stderr: `backup: there is no complete dump of db_user_service in ${bucket}/another\n`,
  })
})

test('a drill restores the dump elsewhere, and leaves nothing', async () => {
  const { DATABASE_HOST, DATABASE_PORT, ...withoutDatabase } = base
  const { status, stdout, stderr } = await runCommand(
    'restore',
    ['latest', '--check'],
    withoutDatabase,
  )

  assert.equal(stderr, '')
  const counts = Object.entries(await countAll()).map(([table, count]) => `${table} ${count}`)
  assert.equal(stdout, `${first} can be restored: ${counts.join(', ')}\n`)
  assert.equal(status, 0)
  assertNothingLeft()
})

test('a restore refuses a database that holds data, or whose service is connected', async () => {
  const held = await runCommand('restore', ['latest'], owns)
  const empty = await startInstance('connected')
  const service = spawn(join(bin, 'psql'), ['-X', '-q'], {
    env: {
      PGHOST: '127.0.0.1',
      PGPORT: empty.at.DATABASE_PORT,
      PGDATABASE: 'db_user_service',
      PGUSER: 'user_service_manager',
      PGPASSWORD: passwords.MANAGER_PASSWORD,
    },
  })
  service.stdin.write('\\echo connected\nselect 1;\n')
  await once(service.stdout, 'data')
  const connected = await runCommand('restore', ['latest'], { ...owns, ...empty.at })
  const meant = await runCommand('restore', ['latest', '--yes'], { ...owns, ...empty.at })
  service.stdin.end()

  assert.deepEqual(held, {
    status: 1,
    stdout: '',
    stderr: 'restore: the database holds data (api_keys): pass --yes\n',
  })
  assert.deepEqual(connected, {
    status: 1,
    stdout: '',
    stderr: 'restore: the service is connected (stop it first): pass --yes\n',
  })
  assert.equal(meant.status, 0, meant.stderr)
  await assertSameRows(empty)
})

test('a restore brings every row back, with the rights and without what came later', async () => {
  const schema = () =>
    succeed(
      join(bin, 'pg_dump'),
      [
        '-s',
        '--restrict-key=x',
        '-h',
        main.at.DATABASE_HOST,
        '-p',
        main.at.DATABASE_PORT,
        '-U',
        'user_service_admin',
        'db_user_service',
      ],
      { PGPASSWORD: passwords.ADMIN_PASSWORD },
    )
  const before = await schema()
  await main.sql(`delete from users where email_lower > 'ünï5';
    update users set role = 'admin' where email_lower < 'ünï2';
    create table later (id text references schema_migrations);
    insert into later values ('0001_users')`)
  const { status, stdout, stderr } = await runCommand('restore', [first, '--yes'], owns)

  assert.equal(stderr, '')
  assert.match(
    stdout,
    new RegExp(
      '^Restored .* users 100000, webhook 1\n' +
        'Changes after .*Z are gone\\. Sessions, tokens and requests for one were deleted.*\n' +
        'All else is as it was then: API keys .*, passwords .* work again.*\n' +
        'Dropped, and in no dump: table user_service_schema\\.later\\.\n' +
        'Next: node bin/migrate\\.js up ',
    ),
  )
  assert.equal(status, 0)
  await assertSameRows()
  assert.equal(await schema(), before)
  assertNothingLeft()
})

test('a new instance, with the roles and an empty database, gets everything back', async () => {
  const fresh = await startInstance('fresh')
  const { status, stderr } = await runCommand('restore', ['latest'], { ...owns, ...fresh.at })

  assert.deepEqual({ status, stderr }, { status: 0, stderr: '' })
  await assertSameRows(fresh)
  const again = await runCommand('migrate', ['status'], { ...owns, ...fresh.at })
  assert.equal(
    again.stdout,
    readMigrations()
      .map(({ name }) => `${name} applied\n`)
      .join(''),
  )
  const backup = await runCommand('backup', ['--quiet'], {
    ...reads,
    ...fresh.at,
    S3_BUCKET: `${bucket}/fresh`,
  })
  assert.deepEqual(backup, { status: 0, stdout: '', stderr: '' })
})

test('a wrong password, and none, are said in one sentence', async () => {
  const wrong = await runCommand('backup', [], { ...base, DATABASE_PASSWORD: 'wr0ng' })
  const none = await runCommand('backup', [], base)

  assert.deepEqual(wrong, {
    status: 1,
    stdout: '',
    stderr:
      'backup: password authentication failed for user "user_service_user": ' +
      'see DATABASE_PASSWORD, DATABASE_PASSWORD_FILE or DATABASE_URL\n',
  })
  assert.deepEqual(none, {
    status: 1,
    stdout: '',
    stderr: 'backup: there is no DATABASE_PASSWORD, nor one in ~/.pgpass\n',
  })
  assertNothingLeft()
})

test('the password may lie in ~/.pgpass, for backup and restore', async () => {
  const line = (user: string, password: string) =>
    `127.0.0.1:*:db_user_service:${user}:${password}\n`
  const home = join(folder, 'home')
  writeFileSync(
    join(home, '.pgpass'),
    line('user_service_user', passwords.USER_PASSWORD) +
      line('user_service_admin', passwords.ADMIN_PASSWORD),
    { mode: 0o600 },
  )
  const backup = await runCommand('backup', [], base)
  const restore = await runCommand('restore', ['latest', '--yes'], base)
  rmSync(join(home, '.pgpass'))

  assert.deepEqual([backup.status, restore.status], [0, 0])
  assert.deepEqual([backup.stderr, restore.stderr], ['', ''])
  await assertSameRows()
})

test('a wrong key and a bucket that is not there are said in one sentence', async () => {
  const key = await runCommand('backup', [], { ...reads, AWS_SECRET_ACCESS_KEY: 'wr0ng' })
  const missing = await runCommand('backup', [], {
    ...reads,
    S3_BUCKET: 's3://no-such-bucket/here',
  })
  const list = await runCommand('backup', ['list'], { ...reads, S3_BUCKET: 's3://no-such-bucket' })
  const restore = await runCommand('restore', ['latest', '--yes'], {
    ...owns,
    S3_BUCKET: 's3://no-such-bucket',
  })

  assert.match(
    key.stderr,
    /^backup: cannot upload to s3:\S+: An error occurred \(SignatureDoesNotMatch\).*\n$/,
  )
  assert.match(missing.stderr, /^backup: cannot upload to s3:\/\/no-such-bucket\/here\/\S+: /)
  assert.match(missing.stderr, /^\S+ \S+ \S+ \S+ \S+ An error occurred \(NoSuchBucket\).*\n$/)
  assert.match(
    list.stderr,
    /^backup: cannot list s3:\/\/no-such-bucket: An error occurred \(NoSuchBucket\).*\n$/,
  )
  assert.match(
    restore.stderr,
    /^restore: cannot list s3:\/\/no-such-bucket: An error occurred \(NoSuchBucket\).*\n$/,
  )
  for (const { status, stdout } of [key, missing, list, restore]) {
    assert.deepEqual({ status, stdout }, { status: 1, stdout: '' })
  }
  assertNothingLeft()
})

test('a program that is missing is named', async () => {
  for (const name of ['pg_dump', 'pg_restore'])
    symlinkSync(join(bin, name), join(folder, 'empty', name))
  const { status, stderr } = await runCommand('backup', [], {
    ...reads,
    PATH: join(folder, 'empty'),
  })

  assert.match(stderr, /^backup: aws is not installed, or not in \/.*\n$/)
  assert.equal(status, 1)
  const neither = await runCommand('backup', [], { ...reads, PATH: '/nowhere' })
  assert.deepEqual(neither, {
    status: 1,
    stdout: '',
    stderr: 'backup: pg_dump is not installed, or not in /nowhere\n',
  })
  assertNothingLeft()
})

/** Runs a command where TMPDIR is a file system of 1 MB. */
async function runInSmallSpace(name: string, args: string[], env: Env) {
  const kilobytes = 1000
  const small = join(folder, 'small')
  const script =
    `mount -t tmpfs -o size=${kilobytes}k tmpfs "$TMPDIR" && node=$1 && shift && "$node" "$@"; ` +
    'status=$?; ls -d "$TMPDIR"/user-service-* 2>/dev/null; exit $status'
  const spaces = process.getuid?.() === 0 ? ['--mount'] : ['--mount', '--map-root-user']
  const all = [
    ...spaces,
    'sh',
    '-c',
    script,
    'sh',
    process.execPath,
    join(root, 'bin', `${name}.js`),
    ...args,
  ]
  return startProgram('unshare', all, { ...env, TMPDIR: small }).ended
}

test('a full disk fails the backup and the restore, and nothing is lost', async () => {
  const before = await count()
  const backup = await runInSmallSpace('backup', [], reads)
  const restore = await runInSmallSpace('restore', ['latest', '--yes'], owns)

  assert.match(backup.stderr, /^backup: pg_dump failed: .*No space left on device\n$/)
  assert.match(restore.stderr, /^restore: cannot download s3:\S+: .*No space left on device.*\n$/)
  for (const { status, stdout } of [backup, restore])
    assert.deepEqual({ status, stdout }, { status: 1, stdout: '' })
  await assertSameRows()
  assert.equal(await count(), before)
})

/** Resolves when the dump is on its way to the bucket. */
const uploading = (pid: number) =>
  until('an upload', () => {
    const all = listProcesses()
    return all.find(({ parent, command }) => parent === pid && command.includes('s3 cp'))
  })

test('a second backup at the same time says so and exits 3', async () => {
  const one = startCommand('backup', [], slowly)
  await uploading(one.child.pid!)
  const other = await runCommand('backup', [], reads)

  assert.deepEqual(other, {
    status: 3,
    stdout: '',
    stderr: 'backup: another backup is still running\n',
  })
  assert.equal((await one.ended).status, 0)
})

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  test(`a backup that gets ${signal} while it uploads leaves nothing that counts`, async () => {
    const before = await count()
    const { child, ended } = startCommand('backup', [], slowly)
    await uploading(child.pid!)
    await sleep(500)
    child.kill(signal)

    assert.deepEqual(await ended, { status: 1, stdout: '', stderr: `backup: got ${signal}\n` })
    assertNothingLeft()
    assert.equal(await count(), before)
  })
}

test('a backup removes what a killed one of its account left, and nothing of others', async () => {
  const dead = startProgram('true', [], {})
  await dead.ended
  const own = `user-service-${dead.child.pid}-owned1`
  const others = `user-service-${dead.child.pid}-other1`
  for (const name of [own, others]) mkdirSync(join(folder, 'tmp', name))
  const asRoot = (...args: string[]) =>
    process.getuid!() === 0 ? succeed(args[0]!, args.slice(1)) : succeed('sudo', args)
  await asRoot('chown', '65533', join(folder, 'tmp', others))

  assert.equal((await runCommand('backup', [], reads)).status, 0)
  assert.deepEqual(listLeft(), [others])
  await asRoot('rmdir', join(folder, 'tmp', others))
  assertNothingLeft()
})

test('a backup that gets SIGTERM while pg_dump runs ends pg_dump and leaves nothing', async () => {
  const { child, ended } = startCommand('backup', [], reads)
  await until('pg_dump', () =>
    listProcesses().find(({ parent, command }) => parent === child.pid && /pg_dump/.test(command)),
  )
  child.kill('SIGTERM')

  assert.deepEqual(await ended, { status: 1, stdout: '', stderr: 'backup: got SIGTERM\n' })
  assertNothingLeft()
})

test('a backup whose database does not answer gives up after --timeout', async () => {
  const locker = spawn(join(bin, 'psql'), ['-X', '-q'], {
    env: {
      PGHOST: main.at.DATABASE_HOST,
      PGPORT: main.at.DATABASE_PORT,
      PGDATABASE: 'db_user_service',
      PGUSER: 'user_service_admin',
      PGPASSWORD: passwords.ADMIN_PASSWORD,
    },
  })
  locker.stdin.write(
    'begin; lock table users in access exclusive mode;\n\\echo locked\nselect 1;\n',
  )
  await once(locker.stdout, 'data')
  const result = await runCommand('backup', ['--timeout', '2s'], reads)
  locker.stdin.end()

  assert.deepEqual(result, { status: 1, stdout: '', stderr: 'backup: given up after 2 s\n' })
  assertNothingLeft()
})

test('the next backup removes what a killed one left, and is not locked out', async () => {
  const { child, ended } = startCommand('backup', [], slowly)
  const upload = await uploading(child.pid!)
  child.kill('SIGKILL')
  await ended
  process.kill(upload!.pid, 'SIGKILL')
  assert.equal(listLeft().length, 1)
  const next = await runCommand('backup', [], reads)

  assert.equal(next.status, 0, next.stderr)
  assertNothingLeft()
})

test('an S3 server that dies half-way fails the backup, and nothing counts', async () => {
  const before = await count()
  const { child, ended } = startCommand('backup', [], slowly)
  await uploading(child.pid!)
  await sleep(1000)
  s3.kill()
  const { status, stdout, stderr } = await ended
  const list = await runCommand('backup', ['list', '--max-age', '1h'], reads)
  await s3.start()

  assert.deepEqual({ status, stdout }, { status: 1, stdout: '' })
  assert.match(
    stderr,
    // As it is cut while it is used, or while it is tried again.
    /^backup: cannot upload to s3:\S+: (Could not connect|Connection was closed) .*URL.*\n$/,
  )
  assert.match(
    list.stderr,
    /^backup: cannot list s3:\S+: Could not connect to the endpoint URL.*\n$/,
  )
  assert.equal(list.status, 1)
  assertNothingLeft()
  assert.equal(await count(), before)
})

test('an S3 server that comes back in time does not even fail the backup', async () => {
  const { child, ended } = startCommand('backup', [], slowly)
  await uploading(child.pid!)
  await sleep(1000)
  s3.kill()
  await s3.start()
  const { status, stderr } = await ended

  assert.deepEqual({ status, stderr }, { status: 0, stderr: '' })
  assert.equal((await runCommand('restore', ['latest', '--check'], owns)).status, 0)
})

/** Puts a copy of the first dump into the bucket under another day, after `change`. */
async function putChanged(
  day: string,
  change: (parts: { dump: Buffer; manifest: any }) => { dump?: Buffer; manifest?: any },
) {
  const name = first.replace(/\d{4}-\d\d-\d\d/, day)
  const original = join(folder, 'original')
  const changed = join(folder, day)
  mkdirSync(changed)
  if (!existsSync(original))
    await aws('s3', 'cp', '--recursive', '--exclude=*', `--include=${first}*`, bucket, original)
  const manifest = { ...JSON.parse(readFileSync(join(original, `${first}.json`), 'utf8')), name }
  const made = change({ dump: readFileSync(join(original, first)), manifest })
  if (made.dump) writeFileSync(join(changed, name), made.dump)
  if (made.manifest) writeFileSync(join(changed, `${name}.json`), JSON.stringify(made.manifest))
  await aws('s3', 'cp', '--recursive', changed, bucket)
  return name
}

const remove = (name: string) =>
  aws('s3', 'rm', '--recursive', '--exclude=*', `--include=${name}*`, bucket)

const damages: [string, string, Parameters<typeof putChanged>[1], RegExp][] = [
  [
    'was cut short',
    '2020-01-01',
    ({ dump, manifest }) => ({ dump: dump.subarray(0, -1000), manifest }),
    /is not the dump that was uploaded/,
  ],
  [
    'was tampered with',
    '2020-01-02',
    ({ dump, manifest }) => {
      const tampered = Buffer.from(dump)
      tampered[tampered.length - 5000]! ^= 1
      return { dump: tampered, manifest }
    },
    /is not the dump that was uploaded/,
  ],
  [
    'has no manifest',
    '2020-01-03',
    ({ dump }) => ({ dump }),
    /cannot download s3:\S+\.bck\.json: An error occurred \(404\)/,
  ],
  [
    'is not there though its manifest is',
    '2020-01-04',
    ({ manifest }) => ({ manifest }),
    /cannot download s3:\S+\.bck: An error occurred \(404\)/,
  ],
  [
    'has the manifest of another',
    '2020-01-05',
    ({ dump, manifest }) => ({ dump, manifest: { ...manifest, name: first } }),
    /the manifest \S+ is damaged/,
  ],
  [
    'has a manifest that names a table with a quote',
    '2020-01-06',
    ({ dump, manifest }) => ({
      dump,
      manifest: { ...manifest, rows: { "x'; drop table users; --": 1 } },
    }),
    /the manifest \S+ is damaged/,
  ],
  [
    'has fewer rows than its manifest says',
    '2020-01-07',
    ({ dump, manifest }) => ({
      dump,
      manifest: { ...manifest, rows: { ...manifest.rows, users: 100_001 } },
    }),
    /nothing was changed: users has 100000 rows, its manifest says 100001/,
  ],
  [
    'fails in the middle of the restore',
    '2020-01-08',
    ({ dump, manifest }) => {
      const broken = dump.subarray(0, -300_000)
      return {
        dump: broken,
        manifest: { ...manifest, size: broken.length, sha256: sha256(broken) },
      }
    },
    /nothing was changed: could not read from input file/,
  ],
]

for (const [what, day, change, sentence] of damages) {
  test(`a dump that ${what} is not restored, and the database stays as it was`, async () => {
    const name = await putChanged(day, change)
    const { status, stdout, stderr } = await runCommand('restore', [name, '--yes'], owns)
    await remove(name)

    assert.match(stderr, sentence)
    assert.match(stderr, /^restore: [^\n]+\n$/)
    assert.deepEqual({ status, stdout }, { status: 1, stdout: '' })
    await assertSameRows()
    assertNothingLeft()
  })
}

test('list tells an incomplete dump, and latest passes it over', async () => {
  const name = await putChanged('2030-01-01', ({ dump }) => ({ dump }))
  const list = await runCommand('backup', ['list'], reads)
  const latest = await runCommand('restore', ['latest', '--check'], owns)
  await remove(name)

  assert.match(
    list.stdout,
    new RegExp(`^${name}\\t.*\\tINCOMPLETE\\ndb_user_service_dump_.*\\tcomplete\\n`),
  )
  assert.equal(latest.status, 0, latest.stderr)
  assert.doesNotMatch(latest.stdout, /2030/)
})

test('a tampered dump, manifest and all, cannot make psql run a program', async () => {
  const stolen = join(folder, 'stolen')
  const name = await putChanged('2020-02-01', ({ dump, manifest }) => {
    const at = dump.indexOf('CREATE FUNCTION user_service_schema.uuid_v7')
    dump.write(`;\n\\! touch ${stolen}\n--`, at)
    return { dump, manifest: { ...manifest, sha256: sha256(dump) } }
  })
  const { status, stderr } = await runCommand('restore', [name, '--yes'], owns)
  await remove(name)

  assert.equal(
    stderr,
    'restore: the restore failed and nothing was changed: backslash commands are restricted; ' +
      'only \\unrestrict is allowed\n',
  )
  assert.equal(status, 1)
  assert.ok(!existsSync(stolen))
  await assertSameRows()
})

test('a restore ends sessions, and keeps grants between our roles, not others’', async () => {
  await main.sql(`
    insert into api_keys (user_id, digest, kind, name)
      select id, sha256('session'), 'session', 'x' from users limit 1;
    create role grafana;
    grant usage on schema user_service_schema to grafana;
    grant select on users to grafana;
    create table scratch as select 1 as n;
    create view public.emails as select email from users;
    create publication copies for table users`)
  const elsewhere: Env = { S3_BUCKET: `${bucket}/grants` }
  const backup = await runCommand('backup', [], { ...reads, ...elsewhere })
  const fresh = await startInstance('grants')
  const restored = await runCommand('restore', ['latest'], { ...owns, ...elsewhere, ...fresh.at })
  const drill = await runCommand('restore', ['latest', '--check'], { ...owns, ...elsewhere })
  const over = await runCommand('restore', ['latest', '--yes'], { ...owns, ...elsewhere })

  assert.equal(backup.stderr, '')
  const [foreign = '', ...others] = backup.stdout.split('\n')
  assert.match(foreign, /^Not backed up, since it is not ours: /)
  assert.match(foreign, / table user_service_schema\.scratch,/)
  assert.match(others.join('\n'), /^Backed up .*\n$/)
  assert.deepEqual([drill.status, drill.stderr], [0, ''])
  assert.deepEqual([restored.status, restored.stderr], [0, ''])
  assert.match(restored.stdout, /\nGRANT SELECT ON TABLE user_service_schema\.users TO grafana;\n/)
  assert.equal(over.stderr, '')
  const dropped =
    'publication relation user_service_schema.users in publication copies, ' +
    'table user_service_schema.scratch, view public.emails'
  assert.match(over.stdout, new RegExp(`\nDropped, and in no dump: ${dropped}\\.\n`))
  await main.sql('drop publication copies')
  await assertSameRows()
  await assertSameRows(fresh)
  const rights = `select string_agg(relname || relacl::text, ' ' order by relname) from pg_class
    where relnamespace = 'user_service_schema'::regnamespace and relacl is not null`
  assert.equal(await fresh.sql(rights), await main.sql(rights))
  assert.match(await fresh.sql(rights), /user_service_manager=arw/)
})

test('what others put on our tables is left out of a restore, which tells it', async () => {
  await main.sql('alter role postgres set allow_in_place_tablespaces = on')
  await main.sql(`create tablespace fast location ''`)
  await main.sql(`
    create role metabase;
    create policy reading on users to metabase using (true);
    comment on policy reading on users is 'of another';
    create function public.shout(text) returns text immutable return upper($1);
    create index users_shout on users (public.shout(email));
    create function public.look() returns trigger language plpgsql as 'begin return new; end';
    create trigger looking before insert on users for each row execute function public.look();
    create rule quiet as on delete to users where false do also select public.shout('x');
    alter table webhook set tablespace fast;
    grant select on users to user_service_user with grant option`)
  const elsewhere: Env = { S3_BUCKET: `${bucket}/others` }
  const backup = await runCommand('backup', [], { ...reads, ...elsewhere })
  const fresh = await startInstance('others')
  const restored = await runCommand('restore', ['latest'], { ...owns, ...elsewhere, ...fresh.at })
  const over = await runCommand('restore', ['latest', '--yes'], { ...owns, ...elsewhere })

  assert.deepEqual([backup.status, backup.stderr], [0, ''])
  assert.deepEqual([restored.status, restored.stderr], [0, ''])
  const [, told = ''] = /\nNot restored, since it is not ours:\n([^]*?)\nNext: /.exec(
    restored.stdout,
  )!
  assert.deepEqual(told.split('\n'), [
    'INDEX user_service_schema users_shout',
    'RULE user_service_schema users quiet',
    'TRIGGER user_service_schema users looking',
    'POLICY user_service_schema users reading',
    'COMMENT user_service_schema POLICY reading ON users',
    'SET default_tablespace = fast;',
  ])
  assert.deepEqual([over.status, over.stderr], [0, ''])
  await assertSameRows()
  await assertSameRows(fresh)
  const indexes = `select string_agg(indexname, ' ' order by indexname) from pg_indexes
    where schemaname = 'user_service_schema'`
  assert.equal(await fresh.sql(indexes), await main.sql(indexes))
  assert.match(await fresh.sql(indexes), / users_admins users_email_domain /)
  await main.sql('drop tablespace fast')
})

/** Resolves when psql is at work. */
const restoring = (pid: number) => {
  const isPsql = ({ parent, command }: { parent: number; command: string }) =>
    parent === pid && command.includes('psql --no-psqlrc')
  return until('psql', () => listProcesses().find(isPsql), 60)
}

test('a restore that gets SIGTERM leaves the database as it was', async () => {
  const { child, ended } = startCommand('restore', [first, '--yes'], owns)
  await restoring(child.pid!)
  await sleep(100)
  child.kill('SIGTERM')

  assert.deepEqual(await ended, { status: 1, stdout: '', stderr: 'restore: got SIGTERM\n' })
  await assertSameRows()
  assertNothingLeft()
})

test('a restore that is killed leaves the database as it was', async () => {
  const { child, ended } = startCommand('restore', [first, '--yes'], owns)
  await restoring(child.pid!)
  await sleep(100)
  child.kill('SIGKILL')
  await ended
  await until(
    'the end of psql',
    () => !listProcesses().some(({ command }) => /psql --no-psqlrc/.test(command)),
  )

  await assertSameRows()
})

/** Programs in place of the real ones, which write down how they were called, then become them. */
function makeSpies(...names: string[]) {
  const spies = join(folder, 'spies')
  mkdirSync(spies)
  for (const name of names) {
    const seen = `{ tr '\\0' ' ' </proc/$$/cmdline; echo; tr '\\0' '\\n' </proc/$$/environ; }`
    const script = `#!/bin/sh\n${seen} >'${spies}/${name}.'$$\nexec /usr/bin/${name} "$@"\n`
    writeFileSync(join(spies, name), script, { mode: 0o755 })
  }
  const readCalls = () =>
    readdirSync(spies)
      .filter((file) => file.includes('.'))
      .map((file) => {
        const [command = '', ...environment] = readFileSync(join(spies, file), 'utf8').split('\n')
        return { program: file.replace(/\..*/, ''), command, environment: environment.join('\n') }
      })
  return { PATH: `${spies}:/usr/bin:/bin`, readCalls }
}

test('a dump has digests of keys and tokens alone, and no program is told one', async () => {
  const manages = { ...base, DATABASE_PASSWORD: passwords.MANAGER_PASSWORD }
  const service = await startService(manages)
  undo.push(() => service.kill())
  const { stdout: adminKey } = await runCommand('admin', ['create', 'root@example.org'], manages)
  async function post(path: string, key: string, body: object) {
    const reply = await fetch(service.url + path, {
      method: 'POST',
      headers: { 'x-api-key': key, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
    assert.equal(reply.status, 201)
    return ((await reply.json()) as { details: any }).details
  }
  const admin = adminKey.trim()
  const account = { email: 'ada@example.org', password: 'correct horse battery' }
  const { id, apiKeys } = await post('/users', admin, account)
  const { key: session } = await post('/users/sessions', '', account)
  const { token } = await post(`/users/${id}/tokens`, admin, { purpose: 'password-reset' })
  const secrets: string[] = [admin, apiKeys[0], session, token]
  const isTold = (text: string) =>
    [...secrets, account.password].filter((each) => text.includes(each))

  const { PATH, readCalls } = makeSpies('pg_dump', 'pg_restore', 'psql', 'aws')
  const { stdout, stderr } = await runCommand('backup', [], { ...reads, PATH })
  assert.equal(stderr, '')
  const name = /dumps\/(\S+\.bck)/.exec(stdout)![1]!
  const drill = await runCommand('restore', [name, '--check'], { ...owns, PATH })
  assert.equal(drill.status, 0, drill.stderr)
  const calls = readCalls()
  assert.deepEqual([...new Set(calls.map(({ program }) => program))].sort(), [
    'aws',
    'pg_dump',
    'pg_restore',
    'psql',
  ])
  for (const { program, command, environment } of calls) {
    assert.deepEqual(isTold(command + environment), [], command)
    assert.doesNotMatch(command, /s3cret|backup-secret/)
    if (program === 'aws') assert.doesNotMatch(environment, /s3cret/)
  }

  const dump = join(folder, 'with-secrets.bck')
  await aws('s3', 'cp', '--only-show-errors', `${bucket}/${name}`, dump)
  const sql = await succeed('pg_restore', ['--file=-', dump])
  for (const each of secrets) assert.ok(sql.includes(sha256(Buffer.from(each))))
  assert.deepEqual(isTold(sql), [])
  const bytes = readFileSync(dump)
  assert.deepEqual(
    secrets.filter((each) => bytes.includes(each)),
    [],
  )
})

test('an extension in public and a lost search_path are in the way of no dump', async () => {
  await main.sql('create extension pgcrypto schema public')
  await main.sql('alter database db_user_service reset search_path')
  const before = await readAll()
  const { stdout, stderr } = await runCommand('backup', [], reads)
  assert.equal(stderr, '')
  const name = /dumps\/(\S+\.bck)/.exec(stdout)![1]!
  for (const how of ['--check', '--yes']) {
    const restored = await runCommand('restore', [name, how], owns)
    assert.deepEqual(
      { status: restored.status, stderr: restored.stderr },
      { status: 0, stderr: '' },
    )
    assert.doesNotMatch(restored.stdout, /pgcrypto|Dropped/)
  }
  const lasting = (row: string) => !/^api_keys: .*\tsession\t|^tokens: /.test(row)
  assert.deepEqual((await readAll()).filter(lasting), before.filter(lasting))
  const digest = await main.sql(`select length(public.digest('x', 'sha256'))`)
  assert.equal(digest.trim(), '32')
})

test('a restore deletes requests for a token, and leaves events to be told', async () => {
  await main.sql(`insert into outbox (id, action, lane, address, data, give_up_at)
    select uuid_v7(), 'user.changed', lane, address, '{}', now()
    from (values ('event', null), ('request', 'ada@example.org')) as given (lane, address)`)
  const { stdout } = await runCommand('backup', [], reads)
  const name = /dumps\/(\S+\.bck)/.exec(stdout)![1]!
  const { status } = await runCommand('restore', [name, '--yes'], owns)
  assert.equal(status, 0)
  assert.equal(await main.sql('select lane from outbox'), 'event\n')
})
