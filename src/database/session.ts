// What a connection sets before it is used: everything that our SQL takes for granted and that
// ALTER DATABASE, ALTER ROLE or postgresql.conf may have changed.
import type { Client } from 'pg'

/** What our SQL takes for granted. Commands may take any time. */
export const commandSettings = {
  search_path: 'user_service_schema',
  client_encoding: 'UTF8',
  datestyle: 'ISO',
  // The zone in which timestamps are read fastest.
  timezone: 'UTC',
  intervalstyle: 'postgres',
  bytea_output: 'hex',
  extra_float_digits: '1',
  standard_conforming_strings: 'on',
  array_nulls: 'on',
  transform_null_equals: 'off',
  default_transaction_isolation: 'read committed',
  // With policies, rows would silently be missing; with this, the statement fails.
  row_security: 'off',
  // Since PostgreSQL 17. It could end a transaction whose statements are all within their time.
  transaction_timeout: '0',
  idle_session_timeout: '0',
  // It would make a lost connection of an address that is taken.
  exit_on_error: 'off',
  lock_timeout: '0',
  statement_timeout: '0',
  idle_in_transaction_session_timeout: '0',
}

/** For the service: its statements find a few rows by an index, and it waits 1.9 s for each. */
export const serviceSettings = {
  ...commandSettings,
  // Shorter than the service's own timeout; otherwise a statement waiting for a lock would outlive
  // its request and hold the session.
  statement_timeout: '1800ms',
  idle_in_transaction_session_timeout: '10s',
  // Planning the look-up of a key each time would cost more than the look-up.
  plan_cache_mode: 'force_generic_plan',
  // The planner prefers a scan of the table to a big index of few rows: after a million keys were
  // deleted, a look-up took 0.6 s.
  enable_seqscan: 'off',
  jit: 'off',
}

/** Applies the settings that the server knows; returns whether it accepts writes. */
export async function prepareSession(client: Client, settings: typeof commandSettings) {
  const { rows } = await client.query<{ accepts: boolean }>({
    text: `
      select current_setting('transaction_read_only') = 'off' as accepts,
        set_config(name, value, false),
        -- What was acknowledged must not be lost; remote_apply, say, is more than that.
        case current_setting('synchronous_commit')
          when 'off' then set_config('synchronous_commit', 'on', false) end
      from json_each_text($1::json) as wanted (name, value)
      where current_setting(name, true) is not null`,
    values: [JSON.stringify(settings)],
  })
  return rows[0]!.accepts
}
