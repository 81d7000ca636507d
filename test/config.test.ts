import assert from 'node:assert/strict'
import { test } from 'node:test'

import { readConfig } from '../src/config.ts'
import type { Env } from '../src/config.ts'
import { ExitError } from '../src/errors.ts'

test('without any setting the service runs privately on loopback', () => {
  const { database, host, port, basePath, rateLimit, rateLimitBurst, signup, sessionSeconds } =
    readConfig({})
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

const mistakes: [string, Env][] = [
  ['DATABASE_URL', { DATABASE_URL: 'mysql://root:secret@x/y' }],
  ['DATABASE_URL', { DATABASE_URL: 'postgres://u:secret@h/d?sslmode=require' }],
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
  ['SESSION_SECONDS', { SESSION_SECONDS: '1h' }],
  ['PASSWORD_MIN_LENGTH', { PASSWORD_MIN_LENGTH: '7' }],
  ['BOOTSTRAP_ADMIN_EMAIL and BOOTSTRAP_ADMIN_KEY_FILE', { BOOTSTRAP_ADMIN_EMAIL: 'secret@x' }],
  ['DRAIN_SECONDS', { DRAIN_SECONDS: '-1' }],
  ['SHUTDOWN_SECONDS', { SHUTDOWN_SECONDS: '' + 1e9 }],
  ['LOG_LEVEL', { LOG_LEVEL: 'secret' }],
  ['DATABASE_URL or DATABASE_HOST', { NODE_ENV: 'production' }],
  ['DATABASE_HOST', { DATABASE_HOST: ' , ' }],
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
