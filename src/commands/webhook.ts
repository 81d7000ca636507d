import { randomUUID } from 'node:crypto'

import { readWebhook } from '../config.ts'
import { withDatabase } from '../database/pool.ts'
import { createReader } from '../environment.ts'
import { ExitError } from '../errors.ts'
import { post } from '../webhooks/post.ts'
import { command, misuse, readCommandDatabase } from './command.ts'

const usage = `  status  what waits: webhook-id, event, tries, next try (or infinity), last failure
  retry   sends an event, or all that were given up, again
  drop    removes an event
  test    sends a webhook.test; fails unless the receiver takes it

Connects as the server does.`

const waiting = 'where sent_at is null and id::text = coalesce($1, id::text)'
/** Each returns the lines to print; $1 is the id, or null. */
const statements: Record<string, string> = {
  status: `select concat_ws(' ', id, action, tries, next_at, last_failure) as line
    from outbox ${waiting} order by id`,
  retry: `update outbox set next_at = now(), tries = 0,
      give_up_at = case when address is null then now() + interval '3 days' else give_up_at end
    ${waiting} and ($1 is not null or next_at = 'infinity') returning id as line`,
  drop: `delete from outbox ${waiting} returning id as line`,
}

await command({
  name: 'webhook',
  synopsis: 'status | retry [ID] | drop ID --yes | test',
  usage,
  pattern: /^ (status|retry( \S+)?|drop \S+ --yes|test)$/,
  async run({ positionals: [action = '', id] }) {
    if (action === 'test') return test()
    const config = readCommandDatabase('user_service_manager')
    const rows = await withDatabase(config, (db) =>
      db.query<{ line: string }>(statements[action]!, [id]),
    )
    for (const { line } of rows) console.log(line)
    if (id !== undefined && rows.length === 0) throw new ExitError(`there is no event ${id}`)
  },
})

async function test() {
  const reader = createReader(process.env)
  const webhook = readWebhook(reader)
  reader.finish()
  if (webhook === null) throw misuse('WEBHOOK_URL must be set')
  const { timeOrigin } = performance
  const payload = { type: 'webhook.test', timestamp: new Date(), data: { user: null } }
  const failure = await post(webhook, { id: randomUUID(), timeOrigin }, payload)
  if (failure !== null) throw new ExitError(`the receiver did not take it: ${failure.reason}`)
}
