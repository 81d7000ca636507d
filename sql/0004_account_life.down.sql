drop table user_service_schema.tokens;
drop index user_service_schema.audit_events_action;
alter table user_service_schema.api_keys
  drop scope,
  drop permissions,
  drop factors,
  drop authenticated_at,
  drop address,
  drop agent;
alter table user_service_schema.users
  drop email_verified_at,
  drop metadata;
drop index user_service_schema.users_email_domain;
drop index user_service_schema.users_email_search;
