"""Keys with a rate limit, and what responses say about it."""

import re
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import httpx

from tests.support.harness import Json, MongoClient, Server
from tests.support.limited_clients import MAX_WAIT_S, REFUSED, STORED, WAYS, rest_said

LIMIT = 5

POLICY = "ratelimit-policy"

REMAINING = "ratelimit"

LIMIT_HEADER = re.compile(r'"default";r=(\d+);t=(\d+)')


def limited_key(server: Server, limit: int = LIMIT, *options: str) -> Json:
    """A fresh tenant's key with that limit."""
    return server.create_key(f"limited-{uuid.uuid4().hex}", "--rate-limit", str(limit), *options)


def stored_count(mongo: MongoClient, key: Json) -> int:
    """How many events are stored for the key's tenant."""
    return mongo.sluice.events.count_documents({"tenant_id": uuid.UUID(key["tenant_id"])})


def remaining(answer: httpx.Response, limit: int = LIMIT) -> int:
    """What an answer says is left; it says all that an answer to a limited key must."""
    assert answer.headers[POLICY] == f'"default";q={limit};w=60'
    found = LIMIT_HEADER.fullmatch(answer.headers[REMAINING])
    assert found is not None, answer.headers[REMAINING]
    assert 0 <= int(found[2]) <= MAX_WAIT_S
    return int(found[1])


def says_nothing(answer: httpx.Response) -> bool:
    """Whether an answer has no header about a limit."""
    return POLICY not in answer.headers and REMAINING not in answer.headers


def code_of(answer: httpx.Response) -> str:
    """What came of a POST."""
    return rest_said(answer.status_code, answer.headers, answer.json()).code


def use_up(server: Server, key: Json) -> None:
    """Leave a key of LIMIT with nothing."""
    with closing(WAYS["rest"](server, key["key"])) as caller:
        assert [caller().code for _ in range(LIMIT + 1)] == [STORED] * LIMIT + [REFUSED]


SOON_S = 55
"""Within which a test of exact counts is over, so that nothing admitted in it is forgotten in it."""


class Hosts(NamedTuple):
    """Two servers with two workers each, on one database."""

    servers: list[Server]
    mongo: MongoClient
    url: str


def limited_keys(server: Server, limits: Sequence[int]) -> list[Json]:
    """Fresh keys with these limits."""
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(lambda limit: limited_key(server, limit), limits))


# --- exact counts


class Clock:
    """Says whether all that was admitted since it was made still counts."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def check(self) -> None:
        assert time.monotonic() - self.started < SOON_S, "too slow to tell anything"
