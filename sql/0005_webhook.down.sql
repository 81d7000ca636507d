drop table user_service_schema.outbox, user_service_schema.webhook;
