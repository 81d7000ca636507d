import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { openDatabase } from '../src/database/pool.ts'
import { connectTo, startTestApp, undo } from './helpers.ts'

const app = await startTestApp()

test('who loses a deadlock is tried again', async () => {
  const user = await app.user()
  const rotating = { key: user.key, body: {} }
  const path = `/users/${user.id}/keys/${user.keyId}/rotate`
  let answer
  await app.db.transaction(async (tx) => {
    await tx.query(`set local deadlock_timeout = '1min'`)
    await tx.query('select from users where id = $1 for update', [user.id])
    answer = app.request('POST', path, rotating)
    // It holds the key and waits for the user; now this waits for the key.
    for (;;) {
      const [waits] = await app.db.query<{ n: number }>(`select count(*)::int as n from pg_stat_activity
        where wait_event_type = 'Lock' and query like 'insert into api_keys%' and datname = current_database()`)
      if (waits!.n > 0) break
      await sleep(10)
    }
    await tx.query('delete from api_keys where id = $1', [user.keyId])
    throw new Error('undone')
  }).catch(({ message }) => assert.equal(message, 'undone'))
  assert.equal((await answer!).status, 201)
})

test('statements that a pooler forgot are not prepared again, however many were under way', async () => {
  const db = openDatabase(connectTo(app.database.name, 'user_service_manager'), () => {})
  undo.push(() => db.stop())
  // One on each of its connections.
  const all = (text: string, name?: string) => Promise.all(Array.from({ length: 4 }, () => db.query(text, [], name)))
  await all('select 7 as answer', 'answer')
  await all('deallocate all')
  assert.deepEqual(await all('select 7 as answer', 'answer'), Array(4).fill([{ answer: 7 }]))
})
