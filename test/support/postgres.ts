import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

import { privateDatabase } from '../../src/config.ts'
import { startPrivatePostgres } from '../../src/database/private.ts'
import { migrate } from '../../src/database/migrate.ts'
import { withDatabase } from '../../src/database/pool.ts'
import { createDatabase } from '../../src/database/setup.ts'
import { familyOf } from './process.ts'
import { undo } from './undo.ts'

export type OwnPostgres = Awaited<ReturnType<typeof startOwnPostgres>>

/**
 * A PostgreSQL to do harm to, below `parent`, with the service's database; `settings` beside those
 * of production.
 */
export async function startOwnPostgres(settings: Record<string, string> = {}, parent = tmpdir()) {
  const directory = mkdtempSync(join(parent, 'user-service-own-'))
  // Where it listens stays the same when it is started again.
  const host = join(directory, 'socket')
  mkdirSync(host)
  chmodSync(host, 0o1777)
  const start = () =>
    startPrivatePostgres({
      directory,
      say: () => {},
      settings: { unix_socket_directories: host, ...settings },
    })
  let running = await start()
  const readPid = () =>
    Number(readFileSync(join(directory, 'postgres/postmaster.pid'), 'utf8').split('\n')[0])
  let pid = readPid()
  const signal = (name: NodeJS.Signals, pids = familyOf(pid)) => {
    // One that has ended needs no signal.
    for (const each of pids)
      try {
        process.kill(each, name)
      } catch {}
  }
  const isAlive = () => {
    try {
      return process.kill(pid, 0)
    } catch {
      return false
    }
  }
  undo.push(async () => {
    signal('SIGCONT')
    if (isAlive()) await running.stop()
    rmSync(directory, { recursive: true, force: true })
  })

  const as = (user: string) => privateDatabase({ socketDirectory: host, port: 5432 }, user)
  await createDatabase(as('postgres'))
  await withDatabase(as('user_service_admin'), (db) => migrate(db, 'up'))

  return {
    directory,
    as,
    isAlive,
    env: { DATABASE_HOST: host },
    socket: join(host, '.s.PGSQL.5432'),
    /** Runs one statement as the superuser. */
    sql: <Row>(text: string) => withDatabase(as('postgres'), (db) => db.query<Row>(text)),
    /**
     * Ends it as a loss of power would: with SIGKILL for all of it, or with an immediate shutdown.
     */
    async crash(how: 'SIGKILL' | 'SIGQUIT' = 'SIGKILL') {
      signal(how, how === 'SIGKILL' ? familyOf(pid) : [pid])
      while (isAlive()) await sleep(10)
    },
    async start() {
      running = await start()
      pid = readPid()
    },
    freeze: () => signal('SIGSTOP'),
    thaw: () => signal('SIGCONT'),
  }
}
