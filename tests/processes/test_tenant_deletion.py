"""Deletion of a tenant: nothing is left in any collection, others notice nothing, and it survives `kill -9`."""

import random
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import httpx
import pytest

from server.core.errors import ConfigurationError
from tests.support.activity import rejections, usage_sums
from tests.support.exports import LINES
from tests.support.grpc_client import Stream, channel_to, code_of
from tests.support.harness import Json, MongoClient, Server, sluice, wait_until
from tests.support.load import RestLoad
from tests.support.many_events import insert_events
from tests.support.raw import post_raw
from tests.support.reading import EVENTS
from tests.support.tail import follow_grpc, follow_rest
from tests.support.tenants import events_of, insert_old, left_of, tenants

BODY = {"source": "mobile", "events": [{"type": "signup", "data": {"plan": "pro"}}]}
IDEMPOTENCY = {"Idempotency-Key": "once"}

EVENTS_OF_ALL_KINDS = 1 + 2_500 + 2_500 + 20_000
"""Of the tenant that is deleted whole. It also has records, types and a key."""

KILLS = 4

GOES_ON_S = 90
"""How soon a server goes on with a deletion: it looks every 30 s."""


def new_tenant(server: Server, name: str) -> Json:
    """The key of a tenant whose name is nowhere else."""
    return server.create_key(f"{name}-{uuid.uuid4().hex}", "--rate-limit", "0")


def fill(server: Server, mongo: MongoClient, key: Json) -> None:
    """Give a tenant something in every collection that may have some."""
    with server.client(key["key"]) as client:
        assert client.post(EVENTS, json=BODY, headers=IDEMPOTENCY).status_code == 201
        assert client.post(EVENTS, json={**BODY, "events": [{}]}).status_code == 400
        lines = b'{"a":1}\n' * 2_500
        assert post_raw(client, "source=raw&type=t&dedupe=content", lines).status_code == 201
        rejections(client, 1)
        usage_sums(client, 3)  # all of it: what is saved after a deletion would be left
    sluice("keys", "rotate", key["id"], "--overlap", "1h", *server.database_options)
    insert_old(mongo, key, 2_500, 40)
    mongo.sluice["events.too_large"].insert_one({"_id": uuid.uuid4(), "tenant_id": uuid.UUID(key["tenant_id"])})
    assert tenants(server, "set-retention", "--", key["tenant"], "9000").exit_code == 0


@pytest.fixture(scope="module")
def abandoned(server: Server, mongo: MongoClient) -> Json:
    """A tenant whose deletion was killed a minute ago, when the keys were revoked."""
    key = new_tenant(server, "abandoned")
    insert_old(mongo, key, 1_500, 40)
    then = datetime.now(UTC) - timedelta(minutes=1)
    deletion = {"worked_at": then, "keys_revoked_at": then}
    mongo.sluice.tenants.update_one({"_id": key["tenant"]}, {"$set": {"deletion": deletion}})
    return key


def test_a_tenant_that_is_being_deleted_cannot_be_used(server: Server, mongo: MongoClient) -> None:
    key = new_tenant(server, "being-deleted")
    later = datetime.now(UTC) + timedelta(hours=1)  # so that the server leaves it to whoever works on it
    mongo.sluice.tenants.update_one({"_id": key["tenant"]}, {"$set": {"deletion": {"worked_at": later}}})
    done = sluice("keys", "create", "--tenant", key["tenant"], *server.database_options)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is being deleted" in done.stderr
    refused = tenants(server, "set-retention", key["tenant"], "1")
    assert isinstance(refused.exception, ConfigurationError)


@pytest.mark.slow
@pytest.mark.usefixtures("abandoned")
def test_nothing_is_left(server: Server, mongo: MongoClient) -> None:
    key, other = new_tenant(server, "$odd..größe"), new_tenant(server, "other")
    fill(server, mongo, key)
    insert_events(mongo, key, 20_000, 1_000)  # more than the buffers between an export and its client hold
    with ExitStack() as stack:
        reading = stack.enter_context(server.client(key["key"]))
        export = stack.enter_context(reading.stream("GET", EVENTS, headers={**LINES, "Accept-Encoding": "identity"}))
        tail = stack.enter_context(follow_rest(server, key["key"]))
        grpc_tail = stack.enter_context(follow_grpc(server, key["key"]))
        stream = stack.enter_context(Stream(stack.enter_context(channel_to(server.grpc)), key["key"]))
        load = stack.enter_context(RestLoad(server, other["key"], clients=1))
        done = sluice("tenants", "delete", "--yes", *server.database_options, "--", key["tenant"])
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.split("(")[1].split()[0].replace(",", "")) > EVENTS_OF_ALL_KINDS
        check_ends(export, tail, grpc_tail, stream)
        load.finish()
    assert left_of(mongo, key) == []
    assert set(load.statuses) == {201}
    stored = {event["data"]["mark"] for event in events_of(mongo, other)}
    assert stored == load.acknowledged_marks
    check_new(server, mongo, server.create_key(key["tenant"]), key)


def check_ends(export: httpx.Response, tail: Iterator[Any], grpc_tail: Iterator[Any], stream: Stream) -> None:
    """What the tenant had open has ended, and says why."""
    with pytest.raises(httpx.RemoteProtocolError):
        for _ in export.iter_bytes():
            pass
    *_, end = tail
    assert (end.kind, end.data["code"]) == ("end", "unauthenticated")
    with pytest.raises(grpc.RpcError) as error:
        list(grpc_tail)
    assert code_of(error.value) is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as error:
        next(stream.call)
    assert code_of(error.value) is grpc.StatusCode.UNAUTHENTICATED


def check_new(server: Server, mongo: MongoClient, new: Json, old: Json) -> None:
    """A new tenant of the same name has nothing of the old one."""
    assert new["tenant_id"] != old["tenant_id"]
    with server.client(old["key"]) as client:
        assert client.get(EVENTS).status_code == 401
    with server.client(new["key"]) as client:
        assert client.get(EVENTS).json() == []
        assert client.get("/api/v1/event-types").json() == []
        response = client.post(EVENTS, json=BODY, headers=IDEMPOTENCY)
    assert response.status_code == 201
    assert "Idempotent-Replayed" not in response.headers
    assert len(list(events_of(mongo, new))) == 1
    (listed,) = [line for line in tenants(server, "list").stdout.splitlines() if line.startswith(new["tenant"])]
    assert " none " in listed


@pytest.mark.slow
def test_it_survives_kills_at_any_moment(server: Server, mongo: MongoClient) -> None:
    key = new_tenant(server, "killed")
    fill(server, mongo, key)
    command = [sys.executable, "-m", "server", "tenants", "delete", key["tenant"], "--yes", *server.database_options]
    for number in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.uniform(0.5, 2.5))  # when it is killed
        process.kill()
        process.wait()
        if number == 1:  # the wait for requests in flight is over
            past = datetime.now(UTC) - timedelta(minutes=1)
            query = {"_id": key["tenant"], "deletion": {"$exists": True}}
            mongo.sluice.tenants.update_one(query, {"$set": {"deletion.keys_revoked_at": past}})
    done = sluice(*command[3:])
    assert done.returncode == 0 or "No tenant has this name" in done.stderr
    assert left_of(mongo, key) == []


@pytest.mark.slow
def test_a_server_goes_on_with_a_deletion_that_was_killed(mongo: MongoClient, abandoned: Json) -> None:
    wait_until(lambda: not left_of(mongo, abandoned), "the end of the deletion", GOES_ON_S)


def test_a_slow_body_whose_key_is_revoked_is_not_stored(server: Server, mongo: MongoClient, key: Json) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"source": "slow", "events": [{"type": "t",'
        sluice("keys", "revoke", key["id"], *server.database_options)
        time.sleep(2.1)  # the check of the key must be as old as it may be
        yield b'"data": {}}]}'

    with server.client(key["key"]) as client:
        response = client.post(EVENTS, content=body(), headers={"Content-Type": "application/json"})
    assert response.status_code == 401, response.text
    assert list(events_of(mongo, key)) == []
