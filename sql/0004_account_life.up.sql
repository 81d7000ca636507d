-- Constant defaults: instant on any size. The indexes may be made before, by hand and concurrently,
-- under the same names: making them here stops writes for a while where there are many rows.
alter table user_service_schema.users
  add email_verified_at timestamptz,
  add metadata jsonb not null default '{}'
    check (jsonb_typeof(metadata) = 'object' and octet_length(metadata::text) <= 16384);
create index if not exists users_email_search
  on user_service_schema.users (email_lower collate "C", id);
create index if not exists users_email_domain
  on user_service_schema.users (split_part(email_lower, '@', 2), id);

alter table user_service_schema.api_keys
  add scope text not null default 'all' check (scope in ('all', 'read', 'auth', 'metrics')),
  add permissions text[], -- null: those of the user; a list: what both have
  add factors smallint not null default 1 check (factors in (1, 2)),
  add authenticated_at timestamptz, -- when a password was last proved for it; null: never
  add address text, -- where a session was started, and by what
  add agent text;

create index if not exists audit_events_action on user_service_schema.audit_events (action, id);

-- What is proved by having received something: hashed, used once, for a limited time.
create table user_service_schema.tokens (
  digest bytea primary key check (octet_length(digest) = 32),
  purpose text not null check (purpose in ('password-reset', 'email')),
  user_id uuid not null constraint tokens_user_id_fkey
    references user_service_schema.users on delete cascade,
  email text, -- the address that it proves
  valid_until timestamptz not null,
  created_at timestamptz not null default now()
);
create index tokens_user on user_service_schema.tokens (user_id);
create index tokens_valid_until on user_service_schema.tokens (valid_until);
grant select, insert, delete on user_service_schema.tokens to user_service_manager;
