drop table user_service_schema.login_failures;
drop table user_service_schema.audit_events;
