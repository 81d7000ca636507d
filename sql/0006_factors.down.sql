delete from user_service_schema.tokens where purpose = 'log-in';
alter table user_service_schema.tokens
  drop constraint tokens_purpose_check,
  add constraint tokens_purpose_check check (purpose in ('password-reset', 'email'));
drop trigger api_keys_second_factor on user_service_schema.api_keys;
drop function user_service_schema.require_second_factor();
alter table user_service_schema.users
  drop factor_confirmed_at,
  drop factor_secret,
  drop factor_step,
  drop factor_recovery;
