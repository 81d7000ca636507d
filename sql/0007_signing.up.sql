create table user_service_schema.signing_keys (
  kid text collate "C" primary key,
  box bytea not null, -- sealed, for this kid alone
  created_at timestamptz not null default clock_timestamp()
);
