-- Append-only by grant. No foreign keys: an event outlives its user.
create table user_service_schema.audit_events (
  id uuid primary key default user_service_schema.uuid_v7(),
  at timestamptz not null default now(),
  action text not null,
  -- Whose key acted; null: nobody's, or a command of the operator.
  actor uuid,
  -- The user acted upon; null: none that exists.
  subject uuid,
  key_id uuid,
  -- Names of the members that were changed.
  changes text[] not null default '{}',
  address text,
  request_id text
);

create index audit_events_subject on user_service_schema.audit_events (subject, id);
create index audit_events_actor on user_service_schema.audit_events (actor, id);

-- Failed log-ins in a row, per account and client; the empty client counts those from anywhere.
create table user_service_schema.login_failures (
  -- SHA-256 of the lower-cased address: what strangers type is not kept.
  account bytea not null,
  client text not null,
  failures integer not null,
  wait_until timestamptz not null,
  updated_at timestamptz not null default now(),
  primary key (account, client)
);

create index login_failures_updated_at on user_service_schema.login_failures (updated_at);

grant select, insert on user_service_schema.audit_events to user_service_manager;
grant select, insert, update, delete on user_service_schema.login_failures to user_service_manager;
