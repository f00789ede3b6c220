"""Keys with a rate limit, and what responses say about it."""

import re
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

import httpx

from tests.support.harness import Json, MongoClient, Server
from tests.support.limited_clients import CLIENTS, MAX_WAIT_S, REJECTED, STORED, rest_response

LIMIT = 5

POLICY = "ratelimit-policy"

REMAINING = "ratelimit"

LIMIT_HEADER = re.compile(r'"default";r=(\d+);t=(\d+)')


SOON_S = 55
"""A test of exact counts takes no longer, so that none of its own permits stops counting meanwhile."""


def limited_key(server: Server, limit: int = LIMIT, *options: str) -> Json:
    """A fresh tenant's key with that limit."""
    return server.create_key(f"limited-{uuid.uuid4().hex}", "--rate-limit", str(limit), *options)


def stored_count(mongo: MongoClient, key: Json) -> int:
    """How many events are stored for the key's tenant."""
    return mongo.sluice.events.count_documents({"_id.tenant_id": uuid.UUID(key["tenant_id"])})


def remaining(response: httpx.Response, limit: int = LIMIT) -> int:
    """The requests left, as a response says. Fails if it lacks a header about the limit."""
    assert response.headers[POLICY] == f'"default";q={limit};w=60'
    found = LIMIT_HEADER.fullmatch(response.headers[REMAINING])
    assert found is not None, response.headers[REMAINING]
    assert 0 <= int(found[2]) <= MAX_WAIT_S
    return int(found[1])


def says_nothing(response: httpx.Response) -> bool:
    """Whether a response has no header about a limit."""
    return POLICY not in response.headers and REMAINING not in response.headers


def code_of(response: httpx.Response) -> str:
    """STORED, or the code of an error."""
    return rest_response(response.status_code, response.headers, response.json()).code


def use_up(server: Server, key: Json) -> None:
    """Use up the limit of a key with LIMIT."""
    with closing(CLIENTS["rest"](server, key["key"])) as client:
        assert [client().code for _ in range(LIMIT + 1)] == [STORED] * LIMIT + [REJECTED]


class Hosts(NamedTuple):
    """Two servers with two workers each, on one database."""

    servers: list[Server]
    mongo: MongoClient
    url: str


def limited_keys(server: Server, limits: Sequence[int]) -> list[Json]:
    """Fresh keys with these limits."""
    return [limited_key(server, limit) for limit in limits]


class Clock:
    """Checks that all requests admitted since its creation still count."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def check(self) -> None:
        assert time.monotonic() - self.started < SOON_S, "too slow: permits of this test may have stopped counting"
