-- Instant on any size, but for the index, which may be made before, by hand and concurrently.
alter table user_service_schema.users
  add if not exists factor_confirmed_at timestamptz, -- null: none, or it waits for its first code
  add factor_secret bytea, -- sealed, for this user alone
  add factor_step integer not null default 0, -- of 30 s each: no code of it, or before, counts
  add factor_recovery bytea[] not null default '{}'; -- SHA-256: 120 random bits need no slow hash
create index if not exists users_factors on user_service_schema.users (id)
  where factor_confirmed_at is not null;

-- For every writer: an older version, an instance without the key file, a log-in that began before
-- the factor was confirmed. The lock comes first, whatever the row was: after the wait for a
-- transaction that confirms, what is read is what that one wrote; and that one waits for this one,
-- so that it sees the session that it has to end.
create function user_service_schema.require_second_factor() returns trigger language plpgsql as $$
declare confirmed_at timestamptz;
begin
  select factor_confirmed_at into confirmed_at from user_service_schema.users
    where id = new.user_id for share;
  if confirmed_at is not null then
    raise check_violation using constraint = 'api_keys_second_factor',
      message = 'a session of one factor, of a user who has two';
  end if;
  return new;
end
$$;
create trigger api_keys_second_factor
  before insert or update of user_id, kind, factors on user_service_schema.api_keys
  for each row when (new.kind = 'session' and new.factors < 2)
  execute function user_service_schema.require_second_factor();

alter table user_service_schema.tokens
  drop constraint tokens_purpose_check,
  add constraint tokens_purpose_check check (purpose in ('password-reset', 'email', 'log-in'));
