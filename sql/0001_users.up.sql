-- What is applied. Taking 0001 back leaves it, to be written to.
create table if not exists user_service_schema.schema_migrations (
  name text primary key,
  hash text not null,
  applied_at timestamptz not null default now()
);

-- Version 7 (RFC 9562, 6.2 method 3): milliseconds, then 12 bits of their fraction, so that ids
-- sort in the order of creation by the database's clock.
create function user_service_schema.uuid_v7() returns uuid language sql volatile parallel safe as $$
  select (lpad(to_hex(micros / 1000), 12, '0') || '7' || lpad(to_hex(micros % 1000 * 4096 / 1000), 3, '0')
    || substr(gen_random_uuid()::text, 20))::uuid
  from (select (extract(epoch from clock_timestamp()) * 1000000)::bigint as micros) as clock
$$;

-- Pages with room: a change that no index knows of writes to none (HOT).
create table user_service_schema.users (
  id uuid primary key default user_service_schema.uuid_v7(),
  email text not null,
  -- What addresses are compared by: lower case by Unicode's rules, whatever the database's locale.
  email_lower text not null constraint users_email_key unique,
  password_hash text, -- PHC string; null for a user who was made with a key alone and cannot log in
  role text not null default 'user' check (role in ('user', 'admin')),
  permissions text[] not null default '{}',
  enabled boolean not null default true,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
) with (fillfactor = 80);
-- Few rows: for the questions whether there is an admin, and another one.
create index users_admins on user_service_schema.users (id) where role = 'admin';

create table user_service_schema.api_keys (
  id uuid primary key default user_service_schema.uuid_v7(),
  user_id uuid not null constraint api_keys_user_id_fkey references user_service_schema.users on delete cascade,
  digest bytea not null unique check (octet_length(digest) = 32), -- SHA-256: 32 random bytes need no slow hash
  kind text not null check (kind in ('api', 'session')),
  name text not null,
  enabled boolean not null default true,
  valid_until timestamptz,
  last_used_at timestamptz,
  created_at timestamptz not null default now()
) with (fillfactor = 80);
create index api_keys_user on user_service_schema.api_keys (user_id, id);
create index api_keys_sessions on user_service_schema.api_keys (valid_until) where kind = 'session';

grant select on user_service_schema.schema_migrations to user_service_manager;
grant select, insert, update, delete on user_service_schema.users, user_service_schema.api_keys to user_service_manager;
