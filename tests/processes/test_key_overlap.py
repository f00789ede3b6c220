"""Keys rotated with an overlap: two secrets of one key, until the moment that is told, on every worker and protocol."""

import asyncio
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import NamedTuple

import grpc
import httpx
import pytest

from server.core.access.keys import digest_of
from server.core.deadline import Deadline
from storage.client import database, opened
from storage.keys import Keys
from tests.support.grpc_client import (
    Stream,
    channel_to,
    error_that_ends,
    good_batch,
    ingest,
    marks_stored_once,
    reason_of,
)
from tests.support.harness import Json, MongoClient, Server, embedded_url, sluice
from tests.support.keys import CREATED, EVENTS, listed, rotated, status

FIELD = "previous_secret_valid_until"

OVERLAP_S = 4

CONNECTIONS = 32
"""The kernel spreads connections over the two workers at random: of 32, some go to each."""


class Sent(NamedTuple):
    """A batch: when it was sent, when its response arrived, and the status."""

    begun: float
    ended: float
    status: int


def post(client: httpx.Client, secret: str, mark: int = 0) -> Sent:
    """Send a batch of one event with this mark."""
    batch = {"source": "ship", "events": [{"type": "row", "data": {"mark": mark}}]}
    begun = time.time()
    response = client.post(EVENTS, json=batch, headers={"X-API-Key": secret})
    return Sent(begun, time.time(), response.status_code)


class Shipper:
    """Sends one batch after the other with its secret, which may be changed at any time."""

    def __init__(self, server: Server, secret: str) -> None:
        self.secret = secret
        self.sent: list[Sent] = []
        self._server = server

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send all the time."""
        stop = Event()

        def send() -> None:
            with self._server.client() as client:
                while not stop.is_set():
                    self.sent.append(post(client, self.secret, len(self.sent)))

        thread = Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def end_of(key: Json) -> float:
    """When the old secret of a rotated key stops, in seconds since 1970."""
    return datetime.fromisoformat(key[FIELD]).replace(tzinfo=UTC).timestamp()


def new_key(server: Server, *options: str) -> Json:
    """A key of a new tenant."""
    return server.create_key(f"overlap-{uuid.uuid4().hex}", *options)


def test_a_shipper_loses_nothing_and_the_old_secret_stops_everywhere(server: Server, mongo: MongoClient) -> None:
    """The tenant that switches has no 401. The one that is late has one from the told moment on, and not before."""
    switched, late = new_key(server, "--rate-limit", "1000000"), new_key(server, "--rate-limit", "1000000")
    shipper, polls = Shipper(server, switched["key"]), list[Sent]()
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(CONNECTIONS)]
        channel = stack.enter_context(channel_to(server.grpc))
        stream = stack.enter_context(Stream(channel, late["key"]))
        stack.enter_context(shipper.running())
        overlap = ("--overlap", f"{OVERLAP_S}s")
        new, newer = rotated(server, switched, *overlap), rotated(server, late, *overlap)
        shipper.secret = new["key"]
        stream.send(1, good_batch())
        assert stream.receive().HasField("receipt")
        while not polls or polls[-CONNECTIONS].begun <= end_of(newer):
            polls += [post(client, late["key"]) for client in clients]
        assert {post(client, newer["key"]).status for client in clients} == {201}
        stream.send(2, good_batch())
        assert reason_of(error_that_ends(stream)) == "UNAUTHENTICATED"
        with pytest.raises(grpc.RpcError) as rejected:
            ingest(channel, late["key"])
        assert reason_of(rejected.value) == "UNAUTHENTICATED"
        assert [status(server, key["key"]) for key in (switched, late, new, newer)] == [401, 401, 200, 200]
    assert {sent.status for sent in polls if sent.ended < end_of(newer)} == {201}
    assert {sent.status for sent in polls if sent.begun > end_of(newer)} == {401}
    assert min(sent.begun for sent in shipper.sent) < end_of(new) < max(sent.begun for sent in shipper.sent)
    assert {sent.status for sent in shipper.sent} == {201}
    assert marks_stored_once(mongo, switched) == set(range(len(shipper.sent)))


def test_both_secrets_are_one_key_with_one_rate_limit(server: Server) -> None:
    old = new_key(server, "--rate-limit", "6")
    begun = time.time()
    new = rotated(server, old, "--overlap", "7d")
    assert [*new] == [*CREATED, FIELD]
    assert 0 <= end_of(new) - begun - timedelta(days=7).total_seconds() < 60
    assert {**new, "key": old["key"], FIELD: None} == {**old, FIELD: None}
    with server.client() as client, channel_to(server.grpc) as channel:
        for secret in (old["key"], new["key"]) * 2:
            assert post(client, secret).status == 201
        for secret in (old["key"], new["key"]):
            ingest(channel, secret)
        assert [post(client, secret).status for secret in (old["key"], new["key"])] == [429, 429]


def test_list_shows_until_when_the_old_secret_works(server: Server, mongo: MongoClient) -> None:
    key = new_key(server)
    done = sluice("keys", "rotate", key["id"], "--overlap", "90m", *server.database_options)
    new, until = done.stdout.strip(), listed(server, "--tenant", key["tenant"])[0][FIELD]
    assert f"The old secret works until {until} UTC." in done.stderr
    assert new not in done.stderr
    assert table_of(server, key).endswith(f"active, old secret until {until[:19]}")
    assert [status(server, secret) for secret in (key["key"], new)] == [200, 200]
    moment = datetime.now(UTC) - timedelta(milliseconds=1)
    mongo.sluice["keys"].update_one({"_id": key["id"]}, {"$set": {"previous.valid_until": moment}})
    assert [status(server, secret) for secret in (key["key"], new)] == [401, 200]
    assert listed(server, "--tenant", key["tenant"])[0][FIELD] is None
    assert table_of(server, key).endswith("active")


def table_of(server: Server, key: Json) -> str:
    """The last line that `keys list` prints for the tenant of a key."""
    done = sluice("keys", "list", "--tenant", key["tenant"], *server.database_options)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("overlap", "expected"), [(("--overlap", "1h"), [401, 200, 200]), ((), [401, 401, 200])], ids=["overlap", "at once"]
)
def test_rotating_again_ends_the_oldest_secret_at_once(
    server: Server, overlap: tuple[str, ...], expected: list[int]
) -> None:
    keys = [new_key(server)]
    keys.append(rotated(server, keys[0], "--overlap", "1h"))
    keys.append(rotated(server, keys[0], *overlap))
    assert [status(server, key["key"]) for key in keys] == expected
    assert (FIELD in keys[-1]) == bool(overlap)


def test_revoking_ends_both_secrets_at_once(server: Server) -> None:
    old = new_key(server)
    new = rotated(server, old, "--overlap", "1h")
    assert [status(server, key["key"]) for key in (old, new)] == [200, 200]
    assert sluice("keys", "revoke", old["id"], *server.database_options).returncode == 0
    assert [status(server, key["key"]) for key in (old, new)] == [401, 401]
    (found,) = listed(server, "--tenant", old["tenant"])
    assert found["revoked_at"]
    assert found[FIELD] is None
    assert re.search("revoked$", table_of(server, old))


def test_the_use_of_an_old_secret_is_a_use_of_the_key(server: Server) -> None:
    key = new_key(server)
    new = rotated(server, key, "--overlap", "1h")

    async def use() -> list[str]:
        async with opened(embedded_url(server.data_dir), "pymongo") as client:
            keys = Keys(database(client, "sluice"))
            digests = [digest_of(item["key"]) for item in (key, new)]
            found = await keys.find([digests[0]], Deadline())
            await keys.save_usage(Deadline())
            found |= await keys.find(digests, Deadline())
            return [found[digest].id for digest in digests]

    assert asyncio.run(use()) == [key["id"]] * 2
    assert listed(server, "--tenant", key["tenant"])[0]["last_used_at"]
