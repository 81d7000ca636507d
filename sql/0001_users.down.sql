drop table user_service_schema.api_keys, user_service_schema.users;
drop function user_service_schema.uuid_v7();
