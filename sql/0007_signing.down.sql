drop table user_service_schema.signing_keys;
