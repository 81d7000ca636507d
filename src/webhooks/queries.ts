// The webhook: the outbox, and who sends what is in it. An event comes there with its change, by
// the audit; a request for a token stays there until the receiver has taken the token.
import { first, one, type Db } from '../database/pool.ts'
import type { Action } from '../events.ts'
import type { Failure } from './post.ts'

/** A row of the outbox that is being sent. */
export interface Taken {
  id: string
  action: Action
  /** Of a request for a token: where it goes, folded. */
  address: string | null
  data: object
  created_at: string
  /** This one included. */
  tries: number
  /** The user as it is now. */
  user: { id: string } | null
}

/** Has every writer of events tell of these from now on; requests are told with their token. */
export const tellOf = (db: Db, events: Action[]): Promise<unknown> =>
  db.query('update webhook set events = $1::text[]', [events])

/** Of a row of the outbox: the user whom it is about, or who has its address. */
const isHolder = '(users.id = subject or (subject is null and email_lower = address))'
const isWaiting = "next_at < 'infinity' and sent_at is null"

/**
 * One statement, so that all of it sees the same.
 *
 * `turn`: how many rows may be sent; while the receiver fails, one a second of all instances. A
 * probe that is further away was set before the clock was set back.
 * `vain`: removes requests after an hour, and those of an address that nobody has.
 * `head`: the first of each lane, requests before events, found one by one until there are enough,
 * whatever waits behind them. The rest leases them for 20 s.
 */
export const take = `
  with recursive turn as (
    update webhook set probe_at = case when probe_at is not null then now() + interval '1 s' end
    where (probe_at between now() and now() + interval '1 s') is not true
      and (select min(next_at) from outbox) <= now()
    returning case when probe_at is null then $1::int else 1 end as places),
  vain as (
    delete from outbox
    where address is not null and next_at <= now()
      and (give_up_at <= now() or not exists (select from users where enabled and ${isHolder}))
    returning id),
  head as (
    (select id, lane, next_at from outbox where ${isWaiting} order by lane desc, id limit 1)
    union all
    select next.* from head, lateral (
      select id, lane, next_at from outbox where ${isWaiting} and lane < head.lane
      order by lane desc, id limit 1) as next)
  update outbox set tries = tries + 1, last_failure = null, next_at = now() + interval '20 s'
  where id = any(array(
    select id from head where next_at <= now() and id not in (select id from vain)
    limit coalesce((select places from turn), 0))) and next_at <= now()
  returning *, (
    select to_jsonb(holder) from (
      select id, email, email_verified_at is not null as "emailVerified", role, permissions,
        enabled, version
      from users where ${isHolder}) as holder) as user`

/** Leases what is to be sent now: at most `most`, or one a second while the receiver fails. */
export const takeDue = (db: Db, most: number): Promise<Taken[]> => db.query(take, [most], true)

/** Whether the last one for the same was sent a moment ago. */
const isTooSoon = "max(sent_at) filter (where lane = asked.lane) > now() - interval '1 minute'"

/**
 * Who is to get the token that was asked for, and where. Null: the request has ended, or an address
 * or a user would get a second one within a minute, or a sixth within an hour. It and the user are
 * locked: nobody ends them in between.
 */
export const lockAsked = (tx: Db, id: string): Promise<{ subject: string; email: string } | null> =>
  first(
    tx,
    `select users.id as subject, coalesce(data->>'email', users.email) as email
     from outbox as asked join users on ${isHolder}
     where asked.id = $1 and give_up_at > now() and enabled and not exists (
       select from outbox where lane = asked.lane or subject = asked.subject
       having count(sent_at) >= 5 or ${isTooSoon})
     for share of asked, users`,
    [id],
  )

/** Removes a row. */
export const deleteRow = (db: Db, id: string): Promise<unknown> =>
  db.query('delete from outbox where id = $1', [id])

/** What a user asked for is in the audit already. */
const noteSent = `
  with sent as (
    update outbox set sent_at = now(), next_at = now() + interval '1 hour'
    where id = $1 returning action, data)
  insert into audit_events (action, subject, address, request_id)
  select action, $2::uuid, data->>'address', data->>'requestId' from sent
  where data->>'actor' is null`

/** In seconds: 5, doubling to an hour, a fifth more or less. */
const backOff = 'least(5 * 2 ^ (tries - 1), 3600) * (0.8 + 0.4 * random())'

/** What the receiver refused is due when it asks for it, or later each time. */
const putOff = `
  update outbox set last_failure = $2, next_at = case
    when address is null and give_up_at <= now() then 'infinity'
    else least(give_up_at, now() + make_interval(secs => coalesce($3::float, ${backOff}))) end
  where id = $1`

/** What a receiver that works answers to an event that it does not want. */
const isOfEvent = /^status (400|413|422)$/

/** Notes that the receiver took it, or puts it off; gives up an event whose time has come. */
export async function settle(db: Db, taken: Taken, failure: Failure | null): Promise<void> {
  const { id, address, user } = taken
  if (failure !== null) {
    if (!isOfEvent.test(failure.reason))
      await db.query("update webhook set probe_at = now() + interval '1 s'")
    await db.query(putOff, [id, failure.reason, failure.seconds])
    return
  }
  await db.query('update webhook set probe_at = null where probe_at is not null')
  if (address === null) await deleteRow(db, id)
  else await db.query(noteSent, [id, user!.id])
}

/** What waits, for how long the oldest has, and what was given up, by the names of metrics. */
export const readOutbox = (db: Db): Promise<Record<string, number>> =>
  one(db, {
    text: `
      select count(*) filter (where ${isWaiting})::int as webhook_outbox,
        coalesce(extract(epoch from now() - min(created_at) filter (where ${isWaiting})), 0)::float
          as webhook_outbox_oldest_seconds,
        count(*) filter (where next_at = 'infinity')::int as webhook_given_up
      from outbox`,
  })
