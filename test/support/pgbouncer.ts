// PgBouncer in transaction mode: Debian 12's refuses prepared statements, Debian 13's keeps them.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import pg from 'pg'

import { until } from './process.ts'

/** The versions of Debian 12 and 13. */
export const versions = ['1.18', '1.24'] as const

/** The command of a version; that of Debian 13 lies in the folder DEBIAN_13, with its libraries. */
function commandOf(version: (typeof versions)[number]): string[] {
  if (version === '1.18') return ['/usr/sbin/pgbouncer']
  const folder = process.env['DEBIAN_13']
  assert.ok(folder, 'DEBIAN_13 is not set: where debootstrap made a trixie with its pgbouncer')
  const lib = join(folder, 'usr/lib')
  const loaders = ['../lib64/ld-linux-x86-64.so.2', 'ld-linux-aarch64.so.1']
  const loader = loaders.map((name) => join(lib, name)).find((path) => existsSync(path))!
  const libraries = readdirSync(lib).find((name) => name.endsWith('-linux-gnu'))!
  const program = join(folder, 'usr/sbin/pgbouncer')
  return [loader, '--library-path', join(lib, libraries), program]
}

/**
 * Starts one before the PostgreSQL whose socket is in the folder `host`, with three connections to
 * it. Returns the settings of a service that uses it.
 */
export async function startBouncer(
  version: (typeof versions)[number],
  { directory, host, uid, gid }: { directory: string; host: string; uid: number; gid: number },
) {
  const folder = join(directory, `pgbouncer-${version}`)
  mkdirSync(folder)
  chownSync(folder, uid, gid)
  const write = (name: string, text: string) =>
    writeFileSync(join(folder, name), text, { mode: 0o644 })
  write('users.txt', '"user_service_manager" ""\n"observer" ""\n')
  write(
    'pgbouncer.ini',
    `[databases]
* = host=${host} port=5432
[pgbouncer]
listen_addr =
unix_socket_dir = ${folder}
listen_port = 6432
pool_mode = transaction
default_pool_size = 3
auth_type = trust
auth_file = ${folder}/users.txt
stats_users = observer
`,
  )
  const [program, ...args] = commandOf(version)
  const child = spawn(program!, [...args, '-q', join(folder, 'pgbouncer.ini')], {
    uid,
    gid,
    cwd: '/',
    stdio: 'ignore',
  })
  const ended = once(child, 'exit')
  await until('PgBouncer listens', () => existsSync(join(folder, '.s.PGSQL.6432')))
  return {
    env: { DATABASE_HOST: folder, DATABASE_PORT: '6432' },
    pid: child.pid!,
    /** How often a statement that was prepared has been executed. */
    async countBinds() {
      const client = new pg.Client({
        host: folder,
        port: 6432,
        user: 'observer',
        database: 'pgbouncer',
      })
      await client.connect()
      const { rows } = await client.query<{ total_bind_count: string }>({ text: 'show stats' })
      await client.end()
      return rows.reduce((sum, row) => sum + Number(row.total_bind_count), 0)
    },
    async stop() {
      child.kill('SIGKILL')
      await ended
    },
  }
}
