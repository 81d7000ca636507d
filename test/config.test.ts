import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'

import { readConfig, sslModeOf } from '../src/config.ts'
import { ExitError } from '../src/errors.ts'
import { isUnread, type Env } from '../src/environment.ts'
import { createCertificate } from './support/certificate.ts'

const directory = mkdtempSync(join(tmpdir(), 'user-service-config-'))
after(() => rmSync(directory, { recursive: true }))

test('without any setting the service runs privately on loopback', () => {
  const { database, host, port, basePath, rateLimit, rateLimitBurst, accounts } = readConfig({})
  const { signup, sessionSeconds } = accounts
  assert.deepEqual(
    { database, host, port, basePath, rateLimit, rateLimitBurst, signup, sessionSeconds },
    {
      database: null,
      host: '127.0.0.1',
      port: 60_001,
      basePath: '/v1',
      rateLimit: 10,
      rateLimitBurst: 10,
      signup: 'open',
      sessionSeconds: 10_800,
    },
  )
})

test('with a database it listens on all interfaces, as the manager', () => {
  const { database, host } = readConfig({ ENV_DATABASE_HOST: 'a, b', ENV_DATABASE_PASSWORD: 'x' })
  assert.equal(host, undefined)
  assert.deepEqual(database, {
    hosts: ['a', 'b'],
    port: 5432,
    name: 'db_user_service',
    user: 'user_service_manager',
    password: 'x',
    ssl: false,
    poolSize: 10,
  })
})

test('DATABASE_URL says it all in one', () => {
  const { database } = readConfig({
    DATABASE_URL: 'postgres://me:p%40ss%2F@[::1]:5433/db',
    DATABASE_SSL: 'require',
  })
  assert.deepEqual(database, {
    hosts: ['::1'],
    port: 5433,
    name: 'db',
    user: 'me',
    password: 'p@ss/',
    ssl: { rejectUnauthorized: false },
    poolSize: 10,
  })
  for (const url of [
    'postgres://u@%2Ftmp%2Fsocket/db',
    'postgres://u@localhost/db?host=/tmp/socket',
  ]) {
    assert.deepEqual(readConfig({ DATABASE_URL: url }).database?.hosts, ['/tmp/socket'])
  }
})

test('DATABASE_URL is understood as providers hand it out', () => {
  const said = 'application_name=a&connect_timeout=9&channel_binding=require&pgbouncer=true'
  const url = `postgresql://me@a/db?${said}&target_session_attrs=read-write`
  const read = (env: Env) => readConfig(env).database
  assert.deepEqual(read({ DATABASE_URL: url })?.ssl, false)
  const modes = ['disable', 'require', 'verify-full'] as const
  for (const mode of modes) {
    const database = read({ DATABASE_URL: `${url}&sslmode=${mode}`, DATABASE_SSL: mode })
    assert.ok(database)
    assert.equal(sslModeOf(database), mode)
    assert.deepEqual(read({ DATABASE_URL: `${url}&sslmode=${mode}` }), database)
  }
  for (const hosts of ['postgres://u:p@a,b/d', 'postgres://u:p@c/d?host=a,b']) {
    assert.deepEqual(read({ DATABASE_URL: hosts })?.hosts, ['a', 'b'])
  }
  const twice = { DATABASE_URL: 'postgres://u:p@c/d?host=a&host=b' }
  assert.match(failure(twice).message, /: DATABASE_URL must be /)
})

test('a proxy without a length of its network is one address', () => {
  const { trustedProxies } = readConfig({ TRUSTED_PROXIES: '10.1.2.3, fd00::1' })
  const trusted = ['10.1.2.3', '10.1.2.4', '10.9.9.9'].map((each) => trustedProxies!.check(each))
  assert.deepEqual(trusted, [true, false, false])
  const six = ['fd00::1', 'fd00::2'].map((each) => trustedProxies!.check(each, 'ipv6'))
  assert.deepEqual(six, [true, false])
})

test('SIGNUP is open or admin, and nothing else', () => {
  assert.equal(readConfig({ SIGNUP: 'admin' }).accounts.signup, 'admin')
  for (const SIGNUP of ['closed', 'Admin', 'off', 'false']) {
    assert.match(failure({ SIGNUP }).message, /SIGNUP must be/, SIGNUP)
  }
})

test('the password may lie in a file, without the line’s end', () => {
  const path = join(directory, 'password')
  writeFileSync(path, ' p#/ss \n')
  const { database } = readConfig({ DATABASE_HOST: 'a', DATABASE_PASSWORD_FILE: path })
  assert.equal(database?.password, ' p#/ss ')
})

test('a client’s certificate goes with its key, and with TLS', () => {
  const own = createCertificate()
  const files = {
    DATABASE_CERT_FILE: join(directory, 'client.pem'),
    DATABASE_KEY_FILE: join(directory, 'client-key.pem'),
  }
  writeFileSync(files.DATABASE_CERT_FILE, own.cert)
  writeFileSync(files.DATABASE_KEY_FILE, own.key)
  const env = { DATABASE_HOST: 'a', DATABASE_SSL: 'require', ...files }
  assert.deepEqual(readConfig(env).database?.ssl, { rejectUnauthorized: false, ...own })
  assert.match(
    failure({ ...env, DATABASE_SSL: 'disable' }).message,
    /DATABASE_CERT_FILE is of use with TLS only$/,
  )
  const { DATABASE_CERT_FILE, DATABASE_KEY_FILE } = files
  const swapped = { DATABASE_CERT_FILE: DATABASE_KEY_FILE, DATABASE_KEY_FILE: DATABASE_CERT_FILE }
  assert.match(
    failure({ ...env, ...swapped }).message,
    /DATABASE_CERT_FILE and DATABASE_KEY_FILE must be a certificate and its key, in PEM$/,
  )
  assert.match(failure({ ...env, DATABASE_KEY_FILE: '' }).message, /must be set together$/)
})

test('certificates of an authority are used, and only to verify', () => {
  const path = join(directory, 'ca.pem')
  const text = createCertificate().cert
  writeFileSync(path, text)
  const env = { DATABASE_HOST: 'a', DATABASE_CA_FILE: path }
  const { database } = readConfig({ ...env, DATABASE_SSL: 'verify-full' })
  assert.deepEqual(database?.ssl, { rejectUnauthorized: true, ca: text })
  for (const DATABASE_SSL of [undefined, 'disable', 'require']) {
    const rule = 'is of use with DATABASE_SSL=verify-full only'
    assert.equal(
      failure({ ...env, DATABASE_SSL }).message,
      `Configuration: DATABASE_CA_FILE ${rule}`,
    )
  }
  writeFileSync(path, '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n')
  const rule = 'must name a file with certificates in PEM'
  assert.equal(
    failure({ ...env, DATABASE_SSL: 'verify-full' }).message,
    `Configuration: DATABASE_CA_FILE ${rule}`,
  )
})

test('origins of applications that are no web sites may be named', () => {
  const origins = ['capacitor://localhost', 'chrome-extension://abcdef', 'http://localhost:8080']
  assert.deepEqual(readConfig({ CORS_ORIGINS: origins.join(' , ') }).corsOrigins, origins)
})

const secretsFile = join(directory, 'secrets')
const webhook = { WEBHOOK_URL: 'https://a.example', WEBHOOK_SECRET_FILE: secretsFile }
const secretOf = (bytes: number) => `whsec_${Buffer.alloc(bytes, 7).toString('base64')}`
writeFileSync(secretsFile, `${secretOf(24)}\r\n${secretOf(64)}\n${secretOf(33)}\n\n`)

test('a receiver is at https, or at http on this machine or in its network', () => {
  const urls = [
    'https://user-service.example:8443/hook?of=us',
    'https://192.0.2.1/',
    'https://[2001:db8::1]/',
    'http://localhost:3000/',
    'http://receiver/',
    'http://127.1.2.3/',
    'http://[::1]:3000/',
    'http://[::ffff:7f00:1]/',
  ]
  for (const WEBHOOK_URL of urls) {
    const { url, secrets } = readConfig({ ...webhook, WEBHOOK_URL }).webhook!
    assert.equal(url, WEBHOOK_URL)
    assert.deepEqual(
      secrets.map(({ length }) => length),
      [24, 64, 33],
    )
  }
  assert.equal(readConfig({}).webhook, null)
})

for (const url of [
  'http://secret.example/',
  'http://secret.localhost./',
  'http://192.0.2.1/',
  'http://[2001:db8::1]/',
  'ftp://secret/',
  'secret',
  'https://user@secret.example/',
  'https://:secret@a.example/',
  'http://2852039166/',
  'http://0xa9.0xfe.0xa9fe/',
  'http://0251.0376.0251.0376/',
  'https://169.254.169.254/secret',
  'https://169.254.1/',
  'https://169.254.169.254./',
  'https://[fe80::1]/',
  'https://[febf::1]/',
  'http://[::ffff:169.254.169.254]/',
  'https://[::ffff:a9fe:a9fe]/',
  'https://[::169.254.169.254]/',
  'https://[64:ff9b::169.254.169.254]/',
  'https://[2002:a9fe:a9fe::1]/',
  'https://[64:ff9b:1:a9fe:a9:fe00::]/',
  'https://[64:ff9b:1::169.254.169.254]/',
  'https://[::ffff:0:169.254.169.254]/',
  'https://[fd00:ec2::254]/',
  'http://０/',
  'http://127.0.0.1:6000/secret',
  'https://secret.example:22/',
  'https://secret.example:10080/',
]) {
  test(`the receiver cannot be ${url}, and the message does not say so`, () => {
    const { message, status } = failure({ ...webhook, WEBHOOK_URL: url })
    assert.match(message, /^Configuration: WEBHOOK_URL must be https:, or http:/)
    assert.doesNotMatch(message, /secret|169|a9fe/)
    assert.equal(status, 2)
  })
}

test('which events are told are names or families', () => {
  const eventsOf = (env: Env) => readConfig({ ...webhook, ...env }).webhook?.events
  const all = eventsOf({})!
  assert.ok(all.includes('user.created') && all.includes('email.verified'))
  assert.ok(!all.includes('session.failed') && !all.includes('key.created'))
  const some = 'user.deleted, session.*,factor.*'
  assert.deepEqual(eventsOf({ WEBHOOK_EVENTS: some }), [
    'user.deleted',
    'session.started',
    'session.failed',
    'session.ended',
    'factor.added',
    'factor.removed',
    'factor.recovery_used',
    'factor.codes_renewed',
  ])
})

test('a name that is nearly a setting is warned of, with the nearest one', () => {
  const nearest = {
    SIGN_UP: 'SIGNUP',
    TRUSTED_PROXYS: 'TRUSTED_PROXIES',
    RATE_LIMT: 'RATE_LIMIT',
    DATABASE_SSLMODE: 'DATABASE_SSL',
    ENV_SESSION_SECOND: 'SESSION_SECONDS',
    CORS_ORIGIN: 'CORS_ORIGINS',
    TLS_CERTIFICATE_FILE: 'TLS_CERT_FILE',
    database_url: 'DATABASE_URL',
    REQUIRE_SECOND_FACTOR: 'REQUIRE_FACTOR',
  }
  const env = Object.fromEntries(Object.keys(nearest).map((name) => [name, 'secret']))
  const right = {
    PATH: '/bin',
    HOME: '/',
    SESSION_MANAGER: 'x',
    ENV_SIGNUP: 'open',
    SERVER_HOTS: '',
  }
  assert.deepEqual(
    readConfig({ ...right, ...env }).warnings,
    Object.entries(nearest).map(
      ([name, setting]) => `${name} is no setting and has no effect; the nearest one is ${setting}`,
    ),
  )
})

test('SESSION_IDLE_SECONDS is 0 or two minutes and more', () => {
  assert.equal(readConfig({ SESSION_IDLE_SECONDS: '120' }).accounts.sessionIdleSeconds, 120)
  for (const SESSION_IDLE_SECONDS of ['1', '119']) {
    assert.match(failure({ SESSION_IDLE_SECONDS }).message, /must be 0 or at least 120/)
  }
})

test('a .env that nobody reads is noticed', () => {
  const path = join(directory, '.env')
  writeFileSync(path, '# a comment\nSIGNUP=admin\nexport DATABASE_HOST=a\n')
  assert.equal(isUnread(path, {}), true)
  assert.equal(isUnread(path, { SIGNUP: 'open', DATABASE_HOST: 'a' }), false)
  assert.equal(isUnread(join(directory, 'none'), {}), false)
})

const mistakes: [string, Env][] = [
  ['DATABASE_URL', { DATABASE_URL: 'mysql://root:secret@x/y' }],
  ['DATABASE_URL', { DATABASE_URL: 'postgres:/u:secret@h/d' }],
  ['DATABASE_URL', { DATABASE_URL: 'postgres:u:secret@h/d' }],
  ['DATABASE_URL', { DATABASE_URL: 'postgres://u:secret@h/d?sslmode=prefer' }],
  ['DATABASE_URL', { DATABASE_URL: 'postgres://u:p@h/d?options=secret' }],
  ['DATABASE_URL', { DATABASE_URL: 'postgres://u:12#secret@h/d' }],
  ['DATABASE_URL', { DATABASE_URL: 'postgres://u:12/secret@h/d' }],
  ['DATABASE_URL', { DATABASE_URL: 'postgres://u:12?secret@h/d' }],
  ['DATABASE_URL', { DATABASE_URL: 'postgres://u:secret#@h/d' }],
  ['DATABASE_URL', { DATABASE_URL: 'postgres://u:%secret@h/d' }],
  ['DATABASE_SSL', { DATABASE_URL: 'postgres://h/d?sslmode=require', DATABASE_SSL: 'disable' }],
  ['DATABASE_PASSWORD_FILE', { DATABASE_HOST: 'h', DATABASE_PASSWORD_FILE: '/secret' }],
  ['DATABASE_PASSWORD_FILE', { DATABASE_HOST: 'h', DATABASE_PASSWORD_FILE: '/dev/null' }],
  [
    'DATABASE_PASSWORD_FILE',
    { DATABASE_URL: 'postgres://u:secret@h/d', DATABASE_PASSWORD_FILE: '/etc/hostname' },
  ],
  ['DATABASE_CA_FILE', { DATABASE_CA_FILE: '/etc/passwd', DATABASE_SSL: 'verify-full' }],
  ['DATABASE_SSL', { DATABASE_SSL: 'secret' }],
  ['DATABASE_CA_FILE', { DATABASE_CA_FILE: '/secret/not/there' }],
  ['DATABASE_POOL', { DATABASE_POOL: '0' }],
  ['SERVER_PORT', { SERVER_PORT: 'secret' }],
  ['SERVER_PORT', { SERVER_PORT: '65536' }],
  ['SERVER_BASE_PATH', { SERVER_BASE_PATH: '/a b' }],
  ['TLS_CERT_FILE and TLS_KEY_FILE', { TLS_CERT_FILE: '/secret' }],
  ['TLS_CERT_FILE', { TLS_CERT_FILE: '/secret', TLS_KEY_FILE: '/etc/passwd' }],
  ['RATE_LIMIT', { RATE_LIMIT: '-1' }],
  ['RATE_LIMIT_BURST', { RATE_LIMIT_BURST: '0' }],
  ['TRUSTED_PROXIES', { TRUSTED_PROXIES: '10.0.0.0/8, secret' }],
  ['TRUSTED_PROXIES', { TRUSTED_PROXIES: '10.0.0.0/33' }],
  ['SIGNUP', { SIGNUP: 'secret' }],
  ['CORS_ORIGINS', { CORS_ORIGINS: 'https://secret.example/path' }],
  ['CORS_ORIGINS', { CORS_ORIGINS: 'https://*.secret.example' }],
  ['CORS_ORIGINS', { CORS_ORIGINS: '*' }],
  ['CORS_ORIGINS', { CORS_ORIGINS: 'capacitor://secret/path' }],
  ['HASH_THREADS', { HASH_THREADS: '0' }],
  ['SESSION_SECONDS', { SESSION_SECONDS: '1h' }],
  ['PASSWORD_MIN_LENGTH', { PASSWORD_MIN_LENGTH: '7' }],
  ['BOOTSTRAP_ADMIN_EMAIL and BOOTSTRAP_ADMIN_KEY_FILE', { BOOTSTRAP_ADMIN_EMAIL: 'secret@x' }],
  ['DRAIN_SECONDS', { DRAIN_SECONDS: '-1' }],
  ['WEBHOOK_URL and WEBHOOK_SECRET_FILE', { WEBHOOK_URL: 'https://secret.example' }],
  ['WEBHOOK_URL and WEBHOOK_SECRET_FILE', { WEBHOOK_SECRET_FILE: '/secret' }],
  ['WEBHOOK_SECRET_FILE', { ...webhook, WEBHOOK_SECRET_FILE: '/secret' }],
  ...[
    '',
    'secret',
    `${secretOf(24)}\nsecret`,
    secretOf(23),
    secretOf(65),
    `whsec_*${secretOf(32).slice(7)}`,
    Array(4).fill(secretOf(32)).join('\n'),
  ].map((text, index): [string, Env] => {
    const path = join(directory, `faulty-${index}`)
    writeFileSync(path, text)
    return ['WEBHOOK_SECRET_FILE', { ...webhook, WEBHOOK_SECRET_FILE: path }]
  }),
  ['WEBHOOK_EVENTS', { WEBHOOK_EVENTS: 'user.*,secret.*' }],
  ['WEBHOOK_EVENTS', { WEBHOOK_EVENTS: 'user.secret' }],
  ['SHUTDOWN_SECONDS', { SHUTDOWN_SECONDS: '' + 1e9 }],
  ['LOG_LEVEL', { LOG_LEVEL: 'secret' }],
  ['DATABASE_URL or DATABASE_HOST', { NODE_ENV: 'production' }],
  ['DATABASE_HOST', { DATABASE_HOST: ' , ' }],
  ['DATABASE_HOST', { DATABASE_HOST: 'a, secret:5432' }],
  ['DATABASE_HOST', { DATABASE_HOST: 'postgres://u:secret@h/d' }],
]

const failure = (env: Env) => {
  try {
    readConfig(env)
  } catch (error) {
    return error as ExitError
  }
  return assert.fail('no mistake found')
}

for (const [name, env] of mistakes) {
  test(`a mistake in ${Object.keys(env)} names ${name}, not the value`, () => {
    const { message, status } = failure(env)
    assert.ok(message.startsWith(`Configuration: ${name} `), message)
    assert.ok(!message.includes('secret'), message)
    assert.equal(status, 2)
  })
}

test('all mistakes are told in one message', () => {
  const { message } = failure({
    SERVER_PORT: 'x',
    RATE_LIMIT: 'x',
    SIGNUP: 'x',
    TLS_CERT_FILE: '/x',
    TLS_KEY_FILE: '/x',
  })
  assert.deepEqual(message.match(/SERVER_PORT|RATE_LIMIT|SIGNUP|TLS_\w+/g), [
    'RATE_LIMIT',
    'SERVER_PORT',
    'TLS_CERT_FILE',
    'TLS_KEY_FILE',
    'SIGNUP',
  ])
})
