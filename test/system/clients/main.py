"""One user's day with the client that openapi-generator makes for Python."""
import json
import os
import uuid

import openapi_client as api
from openapi_client.rest import ApiException

base = os.environ["BASE"]
email = os.environ["EMAIL"]
password = "correct horse battery staple"


def client(key=None):
    configuration = api.Configuration(host=base)
    if key:
        configuration.api_key["apiKey"] = key
    return api.ApiClient(configuration)


def code_of(call):
    try:
        call()
    except ApiException as error:
        return [error.status, error.data.code]


anyone = api.UsersApi(client())
made = anyone.create_user(api.CreateUserBody(email=email, password=password)).details
user = str(made.id)
own = api.UsersApi(client(made.api_keys[0]))
admin = api.UsersApi(client(os.environ["ADMIN_KEY"]))
keys = api.KeysApi(client(made.api_keys[0]))

read = own.get_user(user).details
allowed = admin.update_user(
    user, api.UpdateUserBody(permissions=["orders:read"]), if_match='"1"'
)
renamed = own.update_user(user, api.UpdateUserBody(email="x" + email), if_match='"2"').details
listed = admin.list_users(email="x" + email, view="full").details
sessions = api.SessionsApi(client())
session = sessions.log_in(api.LogInBody(email="x" + email, password=password)).details
step = sessions.log_in(
    api.LogInBody(email=os.environ["PROTECTED"], password=password)
).details
finished = sessions.log_in(
    api.LogInBody(token=step.token, code=os.environ["CODE"])
).details
key = keys.list_keys("me").details[0]
rotated = keys.rotate_key("me", key.id, api.RotateKeyBody(overlap_seconds=60)).details

print(
    json.dumps(
        {
            "read": read.email,
            "allowed": allowed.details.permissions,
            "renamed": [renamed.email, renamed.permissions, renamed.version],
            "listed": [each.actual_instance.email for each in listed],
            "session": [str(session.user) == user, session.key[:4]],
            "twoSteps": [
                step.key is None,
                step.token[:4],
                finished.key[:4],
                finished.token is None,
            ],
            "rotated": [rotated.name, rotated.key != made.api_keys[0], rotated.key[:4]],
            "refused": code_of(lambda: api.UsersApi(client("usk_wrong")).get_user(user)),
            "missing": code_of(lambda: admin.get_user(str(uuid.uuid4()))),
            "faulty": code_of(
                lambda: admin.create_user(api.CreateUserBody(email=email, password="password1"))
            ),
        }
    )
)
