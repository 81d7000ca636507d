import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { readMigrations } from '../src/database/migrate.ts'
import { connectTo, createTestDatabase, startTestApp, undo } from './support/helpers.ts'
import { launch, loader } from './support/process.ts'

const names = readMigrations().map(({ name }) => name)
const bin = fileURLToPath(new URL('../bin/', import.meta.url))
const directory = mkdtempSync(join(tmpdir(), 'user-service-commands-'))
undo.push(() => rmSync(directory, { recursive: true }))
const {
  hosts: [host = ''],
  port,
} = connectTo('', '')
const server = { DATABASE_HOST: host, DATABASE_PORT: String(port) }
const passwords = { ADMIN_PASSWORD: 'pw-a', MANAGER_PASSWORD: 'pw-m', USER_PASSWORD: 'pw-u' }

interface Ended {
  status: number
  stdout: string
  stderr: string
}

/** Runs a command as cron does: another directory, and nothing in the environment. */
function run(file: string, args: string[], env: Record<string, string> = {}): Promise<Ended> {
  return new Promise((resolve) => {
    const options = { cwd: directory, env: { HOME: '/', PATH: '/usr/bin:/bin', ...env } }
    execFile(
      process.execPath,
      [...(file.startsWith('/') ? [...loader, file] : launch(file)), ...args],
      options,
      (error, stdout, stderr) =>
        resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr }),
    )
  })
}

const commands = 'migrate database admin backup restore monitor audit import export'.split(' ')
for (const name of commands) {
  test(`${name} --help says how it is used`, async () => {
    const { status, stdout, stderr } = await run(`${name}.js`, ['--help'])
    assert.deepEqual([status, stderr], [0, ''])
    assert.match(stdout, new RegExp(`^Usage: node bin/${name}\\.js`))
    assert.match(stdout, /Exit status/i)
  })
}

test('a command ends if its reader goes away, and says so if the disk is full', async () => {
  for (const [output, said] of [
    ['pipe', ''],
    [openSync('/dev/full', 'w'), 'migrate: ENOSPC: no space left on device, write\n'],
  ] as const) {
    const child = spawn(process.execPath, [...launch('migrate.js'), '--help'], {
      stdio: ['ignore', output, 'pipe'],
    })
    child.stdout?.destroy()
    const [stderr, [status]] = await Promise.all([text(child.stderr!), once(child, 'close')])
    assert.deepEqual([status, stderr], [1, said])
  }
})

const elsewhere = {
  DATABASE_HOST: '127.0.0.1',
  DATABASE_PORT: '1',
  SERVICE_URL: 'http://127.0.0.1:1',
  ...passwords,
}
const right = {
  AWS_REGION: 'x',
  BACKUP_DIRECTORY: 'x',
  PGPASSFILE: 'x',
  SIGNUP: 'open',
  S3_BUCKET: 's3://bucket',
  USER: 'x',
}
for (const [name, ...args] of [
  ['migrate', 'status'],
  ['database', 'create'],
  ['admin', 'create', 'a@b'],
  ['backup', 'list'],
  ['restore', 'latest'],
  ['monitor'],
  ['audit', 'prune', '1', '--yes'],
] as const) {
  test(`${name} warns of a name that is nearly a setting, and of no other`, async () => {
    const { stderr } = await run(`${name}.js`, [...args], {
      ...elsewhere,
      ...right,
      DATABASE_SSLMODE: 'secret',
    })
    const lines = stderr.split('\n')
    assert.equal(
      lines[0],
      `${name}: DATABASE_SSLMODE is no setting and has no effect; the nearest one is DATABASE_SSL`,
    )
    assert.doesNotMatch(lines.slice(1).join('\n'), /is no setting/)
  })
}

test('commands know what each of them reads', async () => {
  const folder = fileURLToPath(new URL('../src/commands/', import.meta.url))
  const all = readdirSync(folder).map((file) => readFileSync(folder + file, 'utf8'))
  const reads = /(?:text|read|integer|password)\('([A-Z][A-Z0-9_]+)'/g
  const names = new Set([...all.join('').matchAll(reads)].map(([, name = '']) => name))
  const mistyped = Object.fromEntries([...names].map((name) => [`${name}X`, 'x']))
  const { stderr } = await run('migrate.js', ['status'], { ...elsewhere, ...mistyped })
  const nearest = [...stderr.matchAll(/(\w+)X is no setting .* nearest one is (\w+)/g)]
  assert.ok(names.size > 10)
  assert.deepEqual(
    nearest.map(([, name, setting]) => [name, setting]),
    [...names].map((name) => [name, name]),
  )
})

for (const name of ['run', 'mutate', 'soak/run', 'bench/run']) {
  test(`test/${name}.js --help says how it is used, and starts nothing`, async () => {
    const script = fileURLToPath(new URL(`${name}.js`, import.meta.url))
    const { status, stdout, stderr } = await run(script, ['--help'])
    assert.deepEqual([status, stderr], [0, ''])
    assert.match(stdout, /^npm (test|run \w+) -- \[/)
    if (name === 'run') return
    const misused = await run(script, ['--no-such-option'])
    assert.deepEqual([misused.status, misused.stdout], [2, ''])
    assert.ok(misused.stderr.endsWith(`\n${stdout}`), misused.stderr)
    assert.doesNotMatch(misused.stderr, /^ +at /m)
  })
}

test('-h is --help', async () => {
  assert.deepEqual(await run('audit.js', ['-h']), await run('audit.js', ['--help']))
})

for (const words of [
  ['migrate', 'down'],
  ['migrate', 'up', '--force'],
  ['migrate', 'up', '--timeout', 'soon'],
  ['database', 'drop'],
  ['database', 'drop', '--yes'],
  ['database', 'drop', 'a'],
  ['database', 'create'],
  ['admin', 'create'],
  ['migrate', 'down', '0', '--yes'],
  ['migrate', 'status', '--check'],
  ['database', 'drop', 'a', 'b', '--yes'],
  ['admin', 'create', 'a', 'b'],
]) {
  test(`${words.join(' ')} is misuse`, async () => {
    const { status, stdout, stderr } = await run(`${words[0]}.js`, words.slice(1), server)
    assert.deepEqual([status, stdout], [2, ''])
    assert.match(stderr, new RegExp(`^${words[0]}: `))
  })
}

test('start --help says how it is used, and a word is misuse, whatever the settings', async () => {
  const env = { SERVER_PORT: 'x' }
  const { status, stdout, stderr } = await run('start.js', ['--help'], env)
  assert.deepEqual([status, stderr], [0, ''])
  assert.match(stdout, /^Usage: node bin\/start\.js\n[^]*Exit status/)
  const misused = await run('start.js', ['--port=80'], env)
  assert.deepEqual(
    [misused.status, misused.stdout, misused.stderr],
    [
      2,
      '',
      'user-service: takes no arguments; settings are in the environment, as in: ' +
        'SERVER_PORT=80 npm start\n',
    ],
  )
})

test('from an empty server to an admin’s key, through a symbolic link, twice', async () => {
  const name = `test_commands_${process.pid}`
  const env = { ...server, DATABASE_NAME: name }
  const link = join(directory, 'linked.js')
  symlinkSync(`${bin}migrate.js`, link)
  const drop = () => run('database.js', ['drop', name, '--yes'], server)
  try {
    for (let i = 0; i < 2; i++)
      assert.equal((await run('database.js', ['create'], { ...env, ...passwords })).status, 0)
    const before = await run('admin.js', ['create', 'root@example.org'], env)
    assert.deepEqual([before.status, before.stdout], [1, ''])
    assert.match(before.stderr, /Run: node bin\/migrate\.js up/)

    assert.equal(
      (await run(link, ['status'], env)).stdout,
      names.map((name) => `${name} pending\n`).join(''),
    )
    assert.equal(
      (await run(link, ['up'], env)).stdout,
      names.map((name) => `${name} applied\n`).join(''),
    )
    assert.equal((await run(link, ['up'], env)).stdout, 'Nothing to do\n')

    const made = await run('admin.js', ['create', 'root@example.org'], env)
    assert.deepEqual([made.status, made.stderr], [0, ''])
    const again = await run('admin.js', ['create', 'ROOT@example.org'], env)
    assert.deepEqual(
      [again.status, again.stdout, again.stderr],
      [1, '', 'admin: Email already in use\n'],
    )
    const further = await run('admin.js', ['key', 'root@example.org'], env)
    const app = await startTestApp(env, { env, name, db: null as never })
    const body = { email: 'user@example.org' }
    await app.request('POST', '/users', { key: made.stdout.trim(), body })
    for (const email of [body.email, 'nobody@example.org']) {
      const refused = await run('admin.js', ['key', email], env)
      assert.deepEqual(
        [refused.status, refused.stdout, refused.stderr],
        [1, '', 'admin: There is no admin of that address\n'],
      )
    }
    for (const { stdout } of [made, further]) {
      const key = stdout.trim()
      assert.equal((await app.request('GET', '/users', { key })).status, 200)
      const { headers } = await app.request('GET', '/users/auth', { key })
      assert.equal(headers.get('x-auth-factors'), '2')
    }
    await app.stop()
    assert.equal(
      (await run('migrate.js', ['down', '--yes'], env)).stdout,
      `${names.at(-1)} rolled back\n`,
    )
  } finally {
    const dropped = await drop()
    const again = await drop()
    const roles = ['admin', 'manager', 'user'].map((role) => `user_service_${role}`)
    const kept = roles.map((role) => `Kept, since another database needs it: ${role}\n`).join('')

    assert.deepEqual(dropped, { status: 0, stdout: `Dropped ${name}\n${kept}`, stderr: '' })
    const none = `There is no database ${name}\n${kept}`
    assert.deepEqual(again, { status: 0, stdout: none, stderr: '' })
  }
})

test('create makes db_user_service where the URL names the database postgres', async () => {
  const DATABASE_URL = `postgres://postgres@localhost:${port}/postgres?host=${host}`
  const name = `test_named_${process.pid}`
  for (const [made, env] of [
    ['db_user_service', { DATABASE_URL }],
    [name, { DATABASE_URL, DATABASE_NAME: name }],
  ] as const) {
    const created = await run('database.js', ['create'], { ...env, ...passwords })
    const dropped = await run('database.js', ['drop', made, '--yes'], env)
    assert.equal(created.stderr, '')
    assert.match(created.stdout, new RegExp(`^${made} is there`))
    assert.match(dropped.stdout, new RegExp(`^Dropped ${made}\n`))
  }
})

test('drop refuses a database without our schema, and a role that could not finish', async () => {
  const { name, db } = await createTestDatabase()
  const drop = (which: string, DATABASE_USER: string) =>
    run('database.js', ['drop', which, '--yes'], { ...server, DATABASE_NAME: name, DATABASE_USER })

  assert.deepEqual(await drop('postgres', 'postgres'), {
    status: 1,
    stdout: '',
    stderr:
      'database: there is no schema user_service_schema in that database: ' +
      'it is not one of this service; nothing was dropped\n',
  })
  assert.deepEqual(await drop(name, 'user_service_admin'), {
    status: 1,
    stdout: '',
    stderr:
      'database: user_service_admin may not drop the database and its roles: connect as a ' +
      'superuser, or as the role that created them; nothing was dropped\n',
  })
  assert.deepEqual(await db.query('select count(*)::int as n from users'), [{ n: 0 }])
})

test('a service with the role of the backup or of the owner does not go unnoticed', async () => {
  const database = await createTestDatabase()
  await assert.rejects(startTestApp({ DATABASE_USER: 'user_service_user' }, database), /may not/)
  const owner = await startTestApp({ DATABASE_USER: 'user_service_admin' }, database)
  await owner.request('GET', '/healthcheck')
  assert.ok(owner.log.some((line) => line.includes('may change the audit')))
})

test('a service does not start on a schema that is behind or ahead', async () => {
  const database = await createTestDatabase()
  await database.db.query(`insert into schema_migrations (name, hash) values ('9999_later', '')`)
  await assert.rejects(startTestApp({}, database), /9999_later is not known/)
  const last = [names.at(-1), '9999_later']
  await database.db.query('delete from schema_migrations where name = any($1)', [last])
  await assert.rejects(startTestApp({}, database), /The database is behind/)
})

test('a host that is not this one is a wrong setting, and not echoed', async () => {
  const database = await createTestDatabase()
  for (const SERVER_HOST of ['192.0.2.1', 'secret!!']) {
    await assert.rejects(startTestApp({ SERVER_HOST }, database), {
      message: 'SERVER_HOST is no address of this machine',
      status: 2,
    })
  }
})

test('who starts as the owner is warned, and the service runs', async () => {
  const app = await startTestApp({ DATABASE_USER: 'user_service_admin' })
  assert.equal((await app.request('GET', '/healthcheck')).status, 200)
  const warnings = app.log.map((line) => JSON.parse(line)).filter(({ level }) => level === 'warn')
  assert.deepEqual(
    warnings.map(({ message }) => message),
    [
      'user_service_admin may change the audit: have the service connect as ' +
        'user_service_manager, which owns nothing, is no superuser and in no other role. ' +
        'Run: node bin/database.js create',
    ],
  )
})

test('the first admin has the key in the file, is made once, and needs no file later', async () => {
  const database = await createTestDatabase()
  const file = join(directory, 'first-key')
  const env = { BOOTSTRAP_ADMIN_EMAIL: 'first@example.org', BOOTSTRAP_ADMIN_KEY_FILE: file }
  const start = () => startTestApp(env, database)
  const refused = (reason: string) => ({
    status: 2,
    message: `BOOTSTRAP_ADMIN_KEY_FILE cannot be used: ${reason}`,
  })
  await assert.rejects(start(), refused('ENOENT'))
  writeFileSync(file, 'no key')
  await assert.rejects(
    start(),
    refused('the file must hold a key: node bin/admin.js generate > FILE'),
  )

  writeFileSync(file, (await run('admin.js', ['generate'])).stdout)
  await assert.rejects(startTestApp({ ...env, BOOTSTRAP_ADMIN_EMAIL: 'first' }, database), {
    status: 2,
    message:
      'BOOTSTRAP_ADMIN_EMAIL cannot be used: Invalid email: ' +
      'must have one @ with something on both sides',
  })
  const key = readFileSync(file, 'utf8').trim()
  const apps = await Promise.all([start(), start(), start()])
  rmSync(file)
  for (const app of [...apps, await start()]) {
    const { details } = await app.request('GET', '/users?view=full', { key })
    assert.deepEqual(
      details.map(({ email, role }: any) => [email, role]),
      [['first@example.org', 'admin']],
    )
    assert.ok(!app.log.join().includes(key))
  }
})

test('a server that is not there is one clear sentence, with stacks at debug alone', async () => {
  const env = { DATABASE_HOST: '127.0.0.1', DATABASE_PORT: '1' }
  const { status, stdout, stderr } = await run('migrate.js', ['up'], env)
  assert.deepEqual([status, stdout], [1, ''])
  const see = 'see DATABASE_HOST, DATABASE_PORT or DATABASE_URL'
  assert.equal(stderr, `migrate: Database unavailable: connect ECONNREFUSED 127.0.0.1:1: ${see}\n`)
  const unknown = await run('migrate.js', ['up'], { DATABASE_HOST: 'database.invalid' })
  assert.match(
    unknown.stderr,
    RegExp(`^migrate: Database unavailable: getaddrinfo E\\w+ database\\.invalid: ${see}\n$`),
  )
  const debugged = await run('migrate.js', ['up'], { ...env, LOG_LEVEL: 'debug' })
  const stacks = debugged.stderr.replace(stderr, '')
  assert.match(
    stacks,
    /^Error: Database unavailable\n +at [^]*\nCaused by Error: connect EC.*\n +at /,
  )
})

test('old audit events are removed by the owner’s command', async () => {
  const app = await startTestApp()
  await app.db.query(
    `insert into audit_events (action, at) select 'x', now() - n * interval '1 day' ` +
      'from generate_series(0, 9) n',
  )
  const env = app.database.env as Record<string, string>
  const pruned = await run('audit.js', ['prune', '3', '--yes'], env)
  assert.deepEqual([pruned.status, pruned.stderr], [0, ''])
  const left = await app.db.query<{ days: number }>(
    'select extract(day from now() - at)::int as days from audit_events order by 1',
  )
  assert.deepEqual(
    left.map(({ days }) => days),
    [0, 1, 2],
  )
})
