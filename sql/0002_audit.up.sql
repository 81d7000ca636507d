-- Append-only by grant. No foreign keys: an event outlives its user.
create table user_service_schema.audit_events (
  id uuid primary key default user_service_schema.uuid_v7(),
  at timestamptz not null default now(),
  action text not null,
  actor uuid, -- whose key acted; null: nobody's, or a command of the operator
  subject uuid, -- the user acted upon; null: none that exists
  key_id uuid,
  changes text[] not null default '{}', -- names of the members that were changed
  address text,
  request_id text
);
create index audit_events_subject on user_service_schema.audit_events (subject, id);
create index audit_events_actor on user_service_schema.audit_events (actor, id);
grant select, insert on user_service_schema.audit_events to user_service_manager;

-- Failed log-ins in a row, per account and client; the empty client counts those from anywhere.
create table user_service_schema.login_failures (
  account bytea not null, -- SHA-256 of the lower-cased address: what strangers type is not kept
  client text not null,
  failures integer not null,
  wait_until timestamptz not null,
  updated_at timestamptz not null default now(),
  primary key (account, client)
);
create index login_failures_updated_at on user_service_schema.login_failures (updated_at);
grant select, insert, update, delete on user_service_schema.login_failures to user_service_manager;
