import assert from 'node:assert/strict'
import { randomBytes, scryptSync } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, mock } from 'node:test'

import pg from 'pg'

import { startApp } from '../../src/app.ts'
import { type Config, type DatabaseConfig, readConfig } from '../../src/config.ts'
import { type Database, openDatabase } from '../../src/database/pool.ts'
import type { Env } from '../../src/environment.ts'
import { insertKey } from '../../src/keys/queries.ts'
import { createLog } from '../../src/log.ts'
import { cost, formatHash } from '../../src/passwords/hash.ts'
import { createKeyLine } from '../../src/secrets/keys.ts'
import { insertUser, type NewUser } from '../../src/users/queries.ts'
import { checkDocumented } from './documented.ts'
import { makeFolder, until } from './process.ts'
import { undo, undoAll } from './undo.ts'

/** A password that all rules allow, and its stored form. */
export const password = 'correct horse battery staple'
export const passwordHash =
  '$scrypt$ln=14,r=8,p=5$AAECAwQFBgcICQoLDA0ODw$D7lSJtJDGLLVcrxL7dWjkoRxbs+pMvcVYIJ+gbuyltk'

/** Makes a file of keys that seal secrets: of these lines, or of a new one. */
export function makeKeyFile(lines = [createKeyLine()], mode = 0o600): string {
  const path = join(makeFolder('keys'), 'secrets-key')
  writeFileSync(path, `${lines.join('\n')}\n`, { mode })
  return path
}
const keyFile = makeKeyFile()

/** Settings of a service that signs who its callers are. */
export const signing = {
  TOKEN_ISSUER: 'https://users.example.org/v1',
  TOKEN_AUDIENCES: 'orders, billing',
}

/** The JSON that has no envelope. */
const isBare = /^\/(openapi|jwks|\.well-known)/

/** Has the process believe that so much time has passed, while `work` is done. */
export async function later<T>(ms: number, work: () => Promise<T>): Promise<T> {
  const { now } = performance
  mock.method(performance, 'now', () => now.call(performance) + ms)
  try {
    return await work()
  } finally {
    mock.restoreAll()
  }
}

/** An id that nobody and nothing has. */
export const nobody = '0190b8a0-6f1c-7cc3-98c4-dc0c0c07398f'

const storedHash = { now: passwordHash }

/**
 * Has this file's passwords be hashed with a thousandth of the work (`ln` less, see `cost`), where
 * that is not the point.
 */
export function hashCheaply(ln = 4) {
  cost.ln = ln
  const salt = Buffer.alloc(16)
  const hash = scryptSync(password, salt, 32, { N: 2 ** cost.ln, r: cost.r, p: cost.p })
  storedHash.now = formatHash({ ...cost, salt, hash })
}

/** Runs `work` at another cost than the rest of the file. */
export async function atCost(ln: number, work: () => Promise<unknown>) {
  const before = cost.ln
  hashCheaply(ln)
  await work()
  hashCheaply(before)
}

export interface Answer {
  status: number
  headers: Headers
  /** The envelope, or undefined. */
  body: any
  /** The payload of a success. */
  details: any
  text: string
  /** The path of the next page, from `Link`. */
  next: string | undefined
}

/** Of an answer: what most refusals are compared by; no code if it is a success. */
export const brief = ({ status, body }: Pick<Answer, 'status' | 'body'>) => ({
  status,
  ...(body?.code !== undefined && { code: body.code as string }),
})

export interface Ask {
  key?: string
  body?: unknown
  headers?: Record<string, string>
}

export interface TestDatabase {
  /** Settings that make a service use it. */
  env: Env
  name: string
  /** As the superuser. */
  db: Database
}

const host = process.env['TEST_DATABASE_SOCKET'] ?? ''
const port = Number(process.env['TEST_DATABASE_PORT'])

/** How to reach a database of the run's server. */
export const connectTo = (name: string, user: string): DatabaseConfig => ({
  hosts: [host],
  port,
  name,
  user,
  password: undefined,
  ssl: false,
  poolSize: 4,
})

/** A database of its own for a test file, cloned from the migrated template; dropped at the end. */
export async function createTestDatabase(): Promise<TestDatabase> {
  const name = `test_${randomBytes(6).toString('hex')}`
  const server = new pg.Client({ host, port, user: 'postgres', database: 'postgres' })
  await server.connect()
  await server.query({ text: `create database ${name} template template_user_service` })
  await server.query({ text: `alter database ${name} set search_path = user_service_schema` })
  const db = openDatabase(connectTo(name, 'postgres'), () => {}, 0)
  undo.push(async () => {
    await db.stop()
    await server.query({ text: `drop database ${name} with (force)` })
    await server.end()
  })
  return {
    env: { DATABASE_HOST: host, DATABASE_PORT: String(port), DATABASE_NAME: name },
    name,
    db,
  }
}

/**
 * The answers to requests that come while something is locked, until all of them wait for that or
 * for another of them: with `table`, they have read before one of them writes to it.
 */
export async function collide<T>(
  db: Database,
  { table, lock = `lock table ${table} in share mode`, requests, inTurn = false }: Collision<T>,
): Promise<T[]> {
  const waiting = `select from pg_stat_activity where datname = current_database()
    and wait_event_type = 'Lock' and query not like '%last_used_at = %'`
  const started = await db.transaction(async (tx) => {
    await tx.query(lock)
    const answers: Promise<T>[] = []
    const allWait = async () => (await db.query(waiting)).length >= answers.length
    for (const request of requests) {
      answers.push(request())
      if (inTurn) await until('the request waits', allWait)
    }
    await until('all requests wait', allWait)
    return { answers }
  })
  return Promise.all(started.answers)
}

interface Collision<T> {
  table?: string
  /** The statement that locks. */
  lock?: string
  requests: (() => Promise<T>)[]
  /** Each comes when the one before waits. */
  inTurn?: boolean
}

export { undo }
// One hook for all fixtures of a file: node:test runs hooks in the order of registration.
after(undoAll)

export type TestApp = Awaited<ReturnType<typeof startTestApp>>

/** Starts the service on a free port of loopback, unthrottled unless `env` says otherwise. */
export async function startTestApp(env: Env = {}, database?: TestDatabase) {
  const { db, ...rest } = database ?? (await createTestDatabase())
  const config: Config = readConfig({
    SERVER_HOST: '127.0.0.1',
    SERVER_PORT: '0',
    RATE_LIMIT: '0',
    SHUTDOWN_SECONDS: '2',
    SECRETS_KEY_FILE: keyFile,
    ...rest.env,
    ...env,
  })
  const log: string[] = []
  const app = await startApp(
    config,
    createLog('debug', (text) => log.push(...text.trimEnd().split('\n'))),
  )
  undo.push(() => app.stop())
  const base = `${app.url}${config.basePath}`

  /** Calls the API and holds the answer against the contract's general part and the document. */
  async function request(
    method: string,
    path: string,
    { key, body, headers = {} }: Ask = {},
  ): Promise<Answer> {
    const response = await fetch(base + path, {
      method,
      headers: {
        ...(key !== undefined && { 'x-api-key': key }),
        ...(body !== undefined && { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    })
    const text = await response.text()
    const isJson = response.headers.get('content-type') === 'application/json' && !isBare.test(path)
    const parsed = isJson && text !== '' ? JSON.parse(text) : undefined
    if (parsed) assert.equal(parsed.requestId, response.headers.get('x-request-id'))
    assert.equal(response.headers.get('x-content-type-options'), 'nosniff')
    checkDocumented(method, path, { status: response.status, code: parsed?.code })
    const link = /<(.*)>; rel="next"/.exec(response.headers.get('link') ?? '')?.[1]
    return {
      status: response.status,
      headers: response.headers,
      next: link === undefined ? undefined : new URL(link, response.url).href.slice(base.length),
      body: parsed,
      details: parsed?.details,
      text,
    }
  }

  return {
    ...app,
    base,
    db,
    config,
    log,
    request,
    database: { db, ...rest } as TestDatabase,
    /** A user made in the database, with an API key; its password is `password`. */
    async user(options: Partial<NewUser> & { key?: string } = {}) {
      const { key, ...user } = options
      const email = `${randomBytes(6).toString('hex')}@example.org`
      const created = await insertUser(db, { email, passwordHash: storedHash.now, ...user })
      const made = await insertKey(db, {
        userId: created.id,
        kind: 'api',
        name: 'test',
        ...(key && { key }),
      })
      return { ...created, key: made.key, keyId: made.id }
    },
    admin() {
      return this.user({ role: 'admin' })
    },
  }
}
