import { deleteAll, first, type Db } from '../database/pool.ts'
import { locks } from '../database/codes.ts'

/** One failure is forgotten in this time. */
export const forgetSeconds = 15 * 60

/** Which failures a row counts: those of a client at an account; the empty client: of anybody. */
export interface Counter {
  account: Buffer
  client: string
}

/** A row as it is stored; `quietSeconds`: how long ago the last failure was. */
export interface Failures extends Counter {
  failures: number
  waitSeconds: number
  quietSeconds: number
}

const columns = `account, client, failures,
  case when wait_until > now() then ceil(extract(epoch from wait_until - now()))::int else 0 end
    as "waitSeconds",
  extract(epoch from now() - updated_at)::int as "quietSeconds"`

/** Waits for the locks of a client and an account, which the transaction then holds. */
export const lockGuesses = (tx: Db, clientHash: number, accountHash: number): Promise<unknown> =>
  tx.query('select pg_advisory_xact_lock($1, $2::int), pg_advisory_xact_lock($3, $4::int)', [
    locks.client,
    clientHash,
    locks.account,
    accountHash,
  ])

/** The stored rows of these counters. */
export const findFailures = (db: Db, counters: Counter[]): Promise<Failures[]> =>
  db.query(
    `select ${columns} from unnest($1::bytea[], $2::text[]) as wanted (account, client)
       join login_failures using (account, client)`,
    [counters.map(({ account }) => account), counters.map(({ client }) => client)],
  )

/** Stores rows, replacing those that exist. */
export const saveFailures = (tx: Db, rows: Omit<Failures, 'quietSeconds'>[]): Promise<unknown> =>
  tx.query(
    `insert into login_failures (account, client, failures, wait_until)
     select account, client, failures,
       case when wait = 0 then '-infinity' else now() + wait * interval '1 second' end
     from unnest($1::bytea[], $2::text[], $3::int[], $4::int[])
       as counted (account, client, failures, wait)
     on conflict (account, client) do update set failures = excluded.failures,
       wait_until = excluded.wait_until, updated_at = now()`,
    [
      rows.map(({ account }) => account),
      rows.map(({ client }) => client),
      rows.map(({ failures }) => failures),
      rows.map(({ waitSeconds }) => waitSeconds),
    ],
  )

/** Deletes one row and returns it, or null. */
export const deleteFailures = (tx: Db, { account, client }: Counter): Promise<Failures | null> =>
  first(tx, `delete from login_failures where account = $1 and client = $2 returning ${columns}`, [
    account,
    client,
  ])

/** Takes failures off a row, if there is one. */
export const subtractFailures = (tx: Db, counter: Counter, count: number): Promise<unknown> =>
  tx.query(
    `update login_failures set failures = greatest(0, failures - $3::int)
     where account = $1 and client = $2`,
    [counter.account, counter.client, count],
  )

/** Deletes all rows of an account. */
export const deleteFailuresOf = (tx: Db, account: Buffer): Promise<unknown> =>
  tx.query('delete from login_failures where account = $1', [account])

/** Adds the rows of one account to those of another; where both have one, the greater counts. */
export const copyFailures = (tx: Db, from: Buffer, to: Buffer): Promise<unknown> =>
  tx.query(
    `insert into login_failures as old (account, client, failures, wait_until, updated_at)
     select $2, client, failures, wait_until, updated_at from login_failures where account = $1
     on conflict (account, client) do update set
       failures = greatest(old.failures, excluded.failures),
       wait_until = greatest(old.wait_until, excluded.wait_until),
       updated_at = greatest(old.updated_at, excluded.updated_at)`,
    [from, to],
  )

/** Deletes the counts that are forgotten by now. */
export const deleteForgottenFailures = (db: Db): Promise<void> =>
  deleteAll(
    db,
    'login_failures',
    // The first condition can use the index; the second cannot.
    `updated_at < now() - interval '${forgetSeconds} s'
     and updated_at + failures * interval '${forgetSeconds} s' < now()`,
  )

/** Replaces the password `before`, if the user is enabled and still has it; returns whether. */
export async function replacePassword(
  tx: Db,
  id: string,
  { before, after }: { before: string; after: string },
): Promise<boolean> {
  const rows = await tx.query(
    `update users set password_hash = $3
     where id = $1::uuid and enabled and password_hash = $2 returning id`,
    [id, before, after],
  )
  return rows.length > 0
}
