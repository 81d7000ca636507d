import { setTimeout as sleep } from 'node:timers/promises'

import { withDatabase } from '../../src/database/pool.ts'
import type { OwnPostgres } from '../support/postgres.ts'
import type { Proxy } from '../support/proxy.ts'
import type { Random } from '../support/random.ts'
import type { Receiver } from '../support/receiver.ts'
import type { Slot } from './client.ts'

/** The instances that may answer 503 during the fault, and what brings it about and ends it. */
export type Fault = [troubled: Slot[], run: () => Promise<unknown>]

interface Faulty {
  postgres: OwnPostgres
  proxy: Proxy
  slots: Slot[]
  /** The slots whose way to PostgreSQL is the proxy. */
  behind: Slot[]
  /** Waits as long as a fault lasts. */
  wait(): Promise<unknown>
}

/**
 * What goes wrong with the database, for all `slots`, and with the way to it, for those behind the
 * `proxy`.
 */
export function databaseFaults({
  postgres,
  proxy,
  slots,
  behind,
  wait,
}: Faulty): Record<string, Fault> {
  const superuser = <T>(work: Parameters<typeof withDatabase<T>>[1]) =>
    withDatabase(postgres.as('postgres'), work)
  const set = (how: string) =>
    superuser(async (db) => {
      for (const text of [
        'set default_transaction_read_only = off',
        `alter system ${how}`,
        'select pg_reload_conf()',
      ])
        await db.query(text)
    })
  const limit = (connections: number) =>
    postgres.sql(`alter role user_service_manager connection limit ${connections}`)
  const cutAll = () =>
    postgres.sql(
      'select pg_terminate_backend(pid) from pg_stat_activity ' +
        `where usename = 'user_service_manager'`,
    )

  return {
    'connections ended by PostgreSQL': [slots, cutAll],
    'PostgreSQL stopped at once, and started': [
      slots,
      async () => {
        await postgres.crash('SIGQUIT')
        await wait()
        await postgres.start()
      },
    ],
    'PostgreSQL killed, and started': [
      slots,
      async () => {
        await postgres.crash('SIGKILL')
        await postgres.start()
      },
    ],
    'PostgreSQL frozen': [
      slots,
      async () => {
        postgres.freeze()
        await wait()
        postgres.thaw()
      },
    ],
    'PostgreSQL read-only': [
      slots,
      async () => {
        await set('set default_transaction_read_only = on')
        await wait()
        await set('reset default_transaction_read_only')
      },
    ],
    'no connections left': [
      slots,
      async () => {
        await limit(0)
        await cutAll()
        await wait()
        await limit(-1)
      },
    ],
    'tables locked by another session': [
      slots,
      () =>
        superuser((db) =>
          db.transaction(async (tx) => {
            await tx.query(
              'lock table user_service_schema.users, ' +
                'user_service_schema.api_keys in exclusive mode',
            )
            await wait()
          }),
        ),
    ],
    'way to PostgreSQL cut': [
      behind,
      async () => {
        proxy.cut()
        await wait()
        proxy.up()
      },
    ],
    'way to PostgreSQL frozen': [
      behind,
      async () => {
        proxy.freeze()
        await wait()
        proxy.thaw()
      },
    ],
    'way to PostgreSQL frozen, then cut': [
      behind,
      async () => {
        proxy.freeze()
        await wait()
        proxy.cut()
        proxy.thaw()
        proxy.up()
      },
    ],
    'way to PostgreSQL slow': [
      [],
      async () => {
        proxy.delay(20)
        await wait()
        proxy.delay(0)
      },
    ],
  }
}

/** What goes wrong with the receiver of the webhook, which no request notices. */
export const receiverFaults = (receiver: Receiver, r: Random): Record<string, Fault> => ({
  'receiver of the webhook refuses, hangs or resets': [
    [],
    async () => {
      receiver.react(r.pick([503, 301, 'hang', 'reset'] as const))
      await sleep(3000 + r.below(5000))
      receiver.react(204)
    },
  ],
  'receiver of the webhook switched off, and on': [
    [],
    async () => {
      await receiver.close()
      await sleep(3000 + r.below(5000))
      await receiver.open()
    },
  ],
})
