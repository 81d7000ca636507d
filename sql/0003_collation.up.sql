-- Addresses are unique by their bytes. The operating system's collation may change with an update
-- of it, and an index in its order may then hold an address twice. This rebuilds the index, in
-- about a second for 500,000 users, and requests wait for it.
alter table user_service_schema.users alter column email_lower type text collate "C";
alter table user_service_schema.login_failures alter column client type text collate "C";

-- A service that used the database before may have left default privileges, and with them the
-- service could change the audit.
alter default privileges
  revoke all on tables from public, user_service_manager, user_service_user;
alter default privileges in schema user_service_schema
  revoke all on tables from public, user_service_manager;
revoke all on
  user_service_schema.users, user_service_schema.api_keys, user_service_schema.login_failures,
  user_service_schema.audit_events, user_service_schema.schema_migrations
  from public, user_service_manager;
grant select, insert, update, delete on
  user_service_schema.users, user_service_schema.api_keys, user_service_schema.login_failures
  to user_service_manager;
grant select, insert on user_service_schema.audit_events to user_service_manager;
grant select on user_service_schema.schema_migrations to user_service_manager;
