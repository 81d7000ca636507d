"""One user's day with the client that openapi-python-client makes."""
import json
import os
import uuid

from client import AuthenticatedClient, Client
from client.api.keys import list_keys, rotate_key
from client.api.sessions import log_in
from client.api.users import create_user, get_user, list_users, update_user
from client.models import CreateUserBody, ListUsersView, LogInBody, RotateKeyBody, UpdateUserBody
from client.types import UNSET

base = os.environ["BASE"]
email = os.environ["EMAIL"]
password = "correct horse battery staple"


def holding(key):
    return AuthenticatedClient(base_url=base, token=key)


def code_of(reply):
    return [int(reply.status_code), reply.parsed.code]


anyone = Client(base_url=base)
made = create_user.sync(client=anyone, body=CreateUserBody(email=email, password=password)).details
user = str(made.id)
own = holding(made.api_keys[0])
admin = holding(os.environ["ADMIN_KEY"])

read = get_user.sync(user, client=own).details
allowed = update_user.sync(
    user, client=admin, body=UpdateUserBody(permissions=["orders:read"]), if_match='"1"'
)
renamed = update_user.sync(
    user, client=own, body=UpdateUserBody(email="x" + email), if_match='"2"'
).details
listed = list_users.sync(client=admin, email="x" + email, view=ListUsersView.FULL).details
session = log_in.sync(client=anyone, body=LogInBody(email="x" + email, password=password)).details
step = log_in.sync(
    client=anyone, body=LogInBody(email=os.environ["PROTECTED"], password=password)
).details
finished = log_in.sync(
    client=anyone, body=LogInBody(token=step.token, code=os.environ["CODE"])
).details
key = list_keys.sync("me", client=own).details[0]
rotated = rotate_key.sync(
    "me", key.id, client=own, body=RotateKeyBody(overlap_seconds=60)
).details

print(
    json.dumps(
        {
            "read": read.email,
            "allowed": allowed.details.permissions,
            "renamed": [renamed.email, renamed.permissions, renamed.version],
            "listed": [each.email for each in listed],
            "session": [str(session.user) == user, session.key[:4]],
            "twoSteps": [
                step.key is UNSET,
                step.token[:4],
                finished.key[:4],
                finished.token is UNSET,
            ],
            "rotated": [rotated.name, rotated.key != made.api_keys[0], rotated.key[:4]],
            "refused": code_of(get_user.sync_detailed(user, client=holding("usk_wrong"))),
            "missing": code_of(get_user.sync_detailed(str(uuid.uuid4()), client=admin)),
            "faulty": code_of(
                create_user.sync_detailed(
                    client=admin, body=CreateUserBody(email=email, password="password1")
                )
            ),
        }
    )
)
