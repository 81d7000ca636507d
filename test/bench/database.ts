import { readFileSync } from 'node:fs'
import { join } from 'node:path'

import { createKey, digestKey } from '../../src/keys/format.ts'
import { privateDatabase, type DatabaseConfig } from '../../src/config.ts'
import { startPrivatePostgres } from '../../src/database/private.ts'
import { migrate } from '../../src/database/migrate.ts'
import { type Database, withDatabase } from '../../src/database/pool.ts'
import { createDatabase } from '../../src/database/setup.ts'
import type { Env } from '../../src/environment.ts'

export const password = 'correct horse battery staple'
export const passwordHash =
  '$scrypt$ln=14,r=8,p=5$AAECAwQFBgcICQoLDA0ODw$D7lSJtJDGLLVcrxL7dWjkoRxbs+pMvcVYIJ+gbuyltk'

export interface KnownUser {
  id: string
  email: string
  key: string
}

export interface Filled {
  name: string
  /** Settings that make a service use it. */
  env: Env
  as(user: string): DatabaseConfig
  /** Users whose key is known, spread evenly over all, in a shuffled order. */
  known: KnownUser[]
}

export type Postgres = Awaited<ReturnType<typeof startPostgres>>

/** A PostgreSQL that keeps its promises: fsync and synchronous_commit are on. */
export async function startPostgres(directory: string) {
  const postgres = await startPrivatePostgres({
    directory,
    say: console.error,
    settings: { max_connections: '100', shared_buffers: '1GB', max_wal_size: '4GB' },
  })
  const pid = Number(
    readFileSync(join(directory, 'postgres/postmaster.pid'), 'utf8').split('\n')[0],
  )
  return { ...postgres, pid }
}

/** Makes a database of `users` users with a key each, `knownCount` of which can be presented. */
export async function fillDatabase(
  { socketDirectory, port }: Postgres,
  users: number,
  knownCount: number,
): Promise<Filled> {
  const name = `bench_${users}`
  const as = (user: string) => privateDatabase({ socketDirectory, port }, user, name)
  await createDatabase(as('postgres'))
  await withDatabase(as('user_service_admin'), (db) => migrate(db, 'up'))
  const known = await withDatabase(as('postgres'), (db) =>
    fill(db, users, Math.min(knownCount, users)),
  )
  return {
    name,
    as,
    known,
    env: { DATABASE_HOST: socketDirectory, DATABASE_PORT: String(port), DATABASE_NAME: name },
  }
}

async function fill(db: Database, users: number, knownCount: number): Promise<KnownUser[]> {
  await db.query(
    `insert into users (email, email_lower, password_hash)
     select 'user' || i || '@example.org', 'user' || i || '@example.org', $2
     from generate_series(1, $1::int) as i`,
    [users, passwordHash],
  )
  await db.query('create unlogged table known_keys (i int primary key, digest bytea)')
  const keys = new Map<number, string>()
  for (let i = 0; i < knownCount; i++)
    keys.set(Math.floor((i * users) / knownCount) + 1, createKey())
  const numbers = [...keys.keys()]
  for (let from = 0; from < numbers.length; from += 50_000) {
    const part = numbers.slice(from, from + 50_000)
    await db.query('insert into known_keys select * from unnest($1::int[], $2::bytea[])', [
      part,
      part.map((i) => digestKey(keys.get(i)!)),
    ])
  }
  await db.query(
    `insert into api_keys (user_id, kind, name, digest)
     select u.id, 'api', 'bench', coalesce(k.digest, sha256(convert_to(u.email, 'UTF8')))
     from users u left join known_keys k on u.email = 'user' || k.i || '@example.org'
     order by u.id`,
  )
  const rows = await db.query<{ i: number; id: string; email: string }>(
    `select k.i, u.id, u.email from known_keys k
       join users u on u.email_lower = 'user' || k.i || '@example.org'
     order by random()`,
  )
  await db.query('drop table known_keys')
  await db.query('vacuum analyze')
  await db.query('checkpoint')
  return rows.map(({ i, id, email }) => ({ id, email, key: keys.get(i)! }))
}
