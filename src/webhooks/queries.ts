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
  /** What `performance.now()` counts from, by the database's clock. */
  timeOrigin: number
}

/**
 * Has every writer of events tell of these from now on; requests are told with their token. Returns
 * a sentence if others were told until now, and none are any more.
 */
export async function tellOf(db: Db, events: Action[] = []) {
  const { told } = await one<{ told: Action[] }>(db, {
    text: 'select events as told from webhook',
  })
  // A database that is read-only is served, too.
  if (told.join() !== events.join())
    await db.query('update webhook set events = $1::text[]', [events])
  return told.length > 0 && events.length === 0
    ? ['Events are told no more: WEBHOOK_URL is not set']
    : []
}

/** Of a row of the outbox: the user whom it is about, or who has its address. */
const isHolder = '(users.id = subject or (subject is null and email_lower = address))'
const isWaiting = "next_at < 'infinity' and sent_at is null"

/** The first of the next lane of events, from the newest down. */
const below = (lane: string) => `
  select id, lane, next_at from outbox where ${isWaiting} and lane < ${lane}
  order by lane desc, id limit 1`

/** The first of the lane of events below one, and round. */
const next = (lane: string) => `((${below(lane)}) union all (${below("'g'")}) limit 1) as next`

/**
 * One statement, so that all of it sees the same.
 *
 * `events`: the first of each user's, found one by one from $2 down and round; its lane is an id.
 * `fresh`: of the 30 that became due last, those that are the first of their user: few of them wait
 * until the look comes round.
 * `turn`: how many rows may be sent, two of them requests alone; while the receiver fails, one a
 * second of all instances, by chance an event or a request first. A probe that is further away was
 * set before the clock was set back.
 * `vain`: removes requests after an hour, and those of an address that nobody has.
 * `taken`: the first of each lane, leased for 20 s: requests, then of 200 users and the fresh, the
 * longest due.
 * A request that is put off holds up no later one.
 */
export const take = `
  with recursive events as (
    select * from ${next('$2')} union select next.* from events, lateral ${next('events.lane')}),
  fresh as (
    select id, lane, next_at from outbox where next_at <= now() and lane < 'g'
    order by next_at desc limit 30),
  turn as (
    update webhook set probe_at = case when probe_at is not null then now() + interval '1 s' end
    where (probe_at between now() and now() + interval '1 s') is not true
      and (select min(next_at) from outbox) <= now()
    returning case when probe_at is null then $1::int else 1 end as places,
      case when probe_at is null then 2 else 0 end as kept,
      probe_at is not null and random() < 0.5 as turned,
      (select lane from events limit 1 offset 199) as place),
  vain as (
    delete from outbox
    where address is not null and next_at <= now()
      and (give_up_at <= now() or not exists (select from users where enabled and ${isHolder}))
    returning id),
  taken as (
    update outbox set tries = tries + 1, last_failure = null, next_at = now() + interval '20 s'
    where id = any(array(
      select id from (
        select id, places - case when lane < 'g' then kept else 0 end as places,
          row_number() over (order by (lane < 'g') <> turned, next_at) as row
        from turn, (
          (select distinct on (lane) id, lane, next_at from outbox
          where ${isWaiting} and lane > 'g' and (next_at <= now() or last_failure is null)
          order by lane desc, tries > 0 and last_failure is null desc, id) union all
          (select * from events limit 200) union
          select * from fresh where not exists (
            select from outbox where ${isWaiting} and lane = fresh.lane and id < fresh.id)) as head
        where next_at <= now() and id not in (select id from vain)) as due
      where row <= places)) and next_at <= now()
    returning *, (
      select to_jsonb(holder) from (
        select id, email, email_verified_at is not null as "emailVerified", role, permissions,
          enabled, version
        from users where ${isHolder}) as holder) as user)
  select *, extract(epoch from clock_timestamp())::float * 1000 as now
  from turn left join taken on true`

/**
 * Leases what is to be sent now: at most `most`, or one a second while the receiver fails. Looks at
 * 200 users from `place` on, and moves it to where the next look begins.
 */
export async function takeDue(db: Db, most: number, place: { lane: string }) {
  const rows = await db.query<Taken & { place: string; now: number }>(
    take,
    [most, place.lane],
    true,
  )
  place.lane = rows[0]?.place ?? place.lane
  const taken = rows.filter(({ id }) => id !== null)
  return taken.map((row) => ({ ...row, timeOrigin: row.now - performance.now() }))
}

/** Whether the last one for the same was sent a moment ago. */
const isTooSoon = "max(sent_at) filter (where lane = asked.lane) > now() - interval '1 minute'"

const asked = `
  select users.id as subject, coalesce(data->>'email', users.email) as email
  from outbox as asked join users on ${isHolder}
  where asked.id = $1 and give_up_at > now() and enabled and not exists (
    select from outbox where lane = asked.lane or subject = asked.subject
    having count(sent_at) >= 5 or ${isTooSoon})
  for share of users`

/**
 * Who is to get the token that was asked for, and where. Null: the request has ended, or an address
 * or a user would get a second one within a minute, or a sixth within an hour. The user is locked,
 * as by everything that ends the request; what ended while this waited is seen the second time.
 */
export async function lockAsked(tx: Db, id: string) {
  await tx.query(asked, [id])
  return first<{ subject: string; email: string }>(tx, asked, [id])
}

/** As it was taken: its lease may have ended, and another sender have it. */
const isStill = 'id = $1 and tries = $2'

/** Removes a row that was taken. */
export const deleteRow = (db: Db, { id, tries }: Taken) =>
  db.query(`delete from outbox where ${isStill}`, [id, tries])

/** What a user asked for is in the audit already. What is put off for the same is not needed. */
const noteSent = `
  with sent as (
    update outbox set sent_at = now(), next_at = now() + interval '1 hour'
    where ${isStill} returning action, data, lane, subject),
  put_off as (
    delete from outbox using sent
    where outbox.lane = sent.lane and outbox.subject is not distinct from sent.subject
      and last_failure is not null)
  insert into audit_events (action, subject, address, request_id)
  select action, $3::uuid, data->>'address', data->>'requestId' from sent
  where data->>'actor' is null`

/** In seconds: 5, doubling to an hour, a fifth more or less. */
const backOff = 'least(5 * 2 ^ (tries - 1), 3600) * (0.8 + 0.4 * random())'

/** What the receiver refused is due when it asks for it, or later each time. */
const putOff = `
  update outbox set last_failure = $3, next_at = case
    when address is null and give_up_at <= now() then 'infinity'
    else least(give_up_at, now() + make_interval(secs => coalesce($4::float, ${backOff}))) end
  where ${isStill}`

/** What a receiver that works answers to an event that it does not want. */
const isOfEvent = /^status (400|413|422)$/

/** Notes that the receiver took it, or puts it off; gives up an event whose time has come. */
export async function settle(db: Db, taken: Taken, failure: Failure | null) {
  const { id, tries, address, user } = taken
  if (failure !== null) {
    if (!isOfEvent.test(failure.reason))
      await db.query("update webhook set probe_at = now() + interval '1 s'")
    await db.query(putOff, [id, tries, failure.reason, failure.seconds])
    return
  }
  await db.query('update webhook set probe_at = null where probe_at is not null')
  if (address === null) await deleteRow(db, taken)
  else await db.query(noteSent, [id, tries, user!.id])
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
