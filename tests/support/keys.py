"""What tests of keys share: what `sluice keys` prints, and `Authorization`."""

import json
from base64 import b64encode

from tests.support.harness import Json, Server, sluice

EVENTS = "/api/v1/events"

CREATED = ["id", "key", "tenant", "tenant_id", "name", "scopes", "allowed_domains", "rate_limit", "created_at"]


def basic(user: str, password: str = "") -> str:
    """A value of `Authorization` with a user name and a password."""
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def listed(server: Server, *options: str) -> list[Json]:
    """The keys that `keys list --json` prints."""
    done = sluice("keys", "list", "--json", *options, *server.database_options)
    assert done.returncode == 0, done.stderr
    found: list[Json] = json.loads(done.stdout)
    return found


def rotated(server: Server, key: Json, *options: str) -> Json:
    """What `keys rotate --json` prints."""
    done = sluice("keys", "rotate", key["id"], "--json", *options, *server.database_options)
    assert done.returncode == 0, done.stderr
    found: Json = json.loads(done.stdout)
    return found


def status(server: Server, secret: str) -> int:
    """The status that a server gives a request with this key."""
    with server.client(secret) as client:
        return client.get(EVENTS, params={"limit": 1}).status_code


def statement(server: Server, database: str = "sluice") -> str:
    """The beginning of the line in which a command says which database it used."""
    return f"database: {database} embedded in {server.data_dir} (MongoDB "
