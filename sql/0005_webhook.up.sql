-- One row. Which events are told, so that each writer of one knows, whichever process it is; none:
-- the outbox stays empty. And when a receiver that fails is tried next; null: it works.
create table user_service_schema.webhook (
  one boolean primary key default true check (one),
  events text[] not null default '{}',
  probe_at timestamptz
);
insert into user_service_schema.webhook default values;

-- Events that the receiver has not taken, and requests for a token.
create table user_service_schema.outbox (
  id uuid primary key,
  action text not null,
  lane text collate "C" not null, -- goes one by one: events of a user, requests for an address
  subject uuid,
  address text, -- of a request: where the token goes, as addresses are compared
  data jsonb not null,
  created_at timestamptz not null default now(),
  next_at timestamptz not null default now(), -- infinity: given up
  tries integer not null default 0,
  last_failure text, -- null while it is sent
  give_up_at timestamptz not null,
  sent_at timestamptz -- of a request: kept for an hour, so that not too many are sent
);
create index outbox_lane on user_service_schema.outbox (lane);
create index outbox_waiting on user_service_schema.outbox (lane desc, id)
  where next_at < 'infinity' and sent_at is null;
create index outbox_subject on user_service_schema.outbox (subject);
create index outbox_next_at on user_service_schema.outbox (next_at);
create index outbox_requests on user_service_schema.outbox (next_at) where address is not null;
