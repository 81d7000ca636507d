alter table user_service_schema.users alter column email_lower type text collate "default";
alter table user_service_schema.login_failures alter column client type text collate "default";
