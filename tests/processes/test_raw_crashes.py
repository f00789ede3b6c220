"""A worker is killed, or the database fails, in the middle of a raw body: a retry completes it, and doubles nothing."""

import os
import signal
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

from tests.support.crashes import HANG_MS, Crashing, accepts
from tests.support.harness import MongoClient, sluice, wait_until
from tests.support.mongod import fail_point, failing_inserts
from tests.support.raw import NDJSON, numbered, post_raw, progress_of, stored_of
from tests.support.wire import EVENTS, connect

COUNT = 6_500
INSERTS = 3
"""Inserts before a fault. Each stores a piece of 1,000, or two that waited at the same time: fewer than all."""

MANY, BAD = 12_500, 2
"""Items of a body with more pieces, and bad ones."""

SLOW_MS = 6_000
"""How long an insert takes after the first ones, so that the client goes away meanwhile."""

QUERY = "source=s&type=t"
NOT_PRIMARY = 10107

LONGER_THAN_A_CHECK_HOLDS_MS = 3_000
"""How long an insert takes, so that the key is checked again before the next one."""

RESET = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
"""Closes a connection both ways at once. One that is closed in the usual way could still take a response."""

WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "key": (QUERY, {"Idempotency_Key": "k"}),
    "content": (f"{QUERY}&dedupe=content", {}),
}


def after_inserts(mongo: MongoClient, **data: Any) -> AbstractContextManager[None]:
    """Inside, inserts of events do what `data` says, but for the first INSERTS."""
    where = {"failCommands": ["insert"], "appName": "sluice", "namespace": "sluice.events"}
    return fail_point(mongo, "failCommand", {"skip": INSERTS}, **where, **data)


@pytest.mark.parametrize("way", WAYS)
def test_kill_9_of_a_worker_in_the_middle_of_a_body(crashing: Crashing, way: str) -> None:
    server, _, mongo = crashing
    query, headers = WAYS[way]
    key = server.create_key(f"killed-{way}", "--rate-limit", "0")
    hanging = after_inserts(mongo, blockConnection=True, blockTimeMS=HANG_MS)
    with server.client(key["key"]) as client, ThreadPoolExecutor() as threads, hanging:
        cut = threads.submit(post_raw, client, query, numbered(COUNT), **headers)
        wait_until(lambda: len(stored_of(mongo, key)) >= INSERTS * 1_000, "the first pieces")
        (worker,) = server.worker_pids()
        os.kill(worker, signal.SIGKILL)
        assert isinstance(cut.exception(), httpx.TransportError)
    assert len(stored_of(mongo, key)) < COUNT
    wait_until(lambda: server.worker_pids() not in ([], [worker]), "another worker")
    with server.client(key["key"]) as client:
        wait_until(lambda: accepts(client), "the other worker to accept")
        response = post_raw(client, query, numbered(COUNT), **headers)
    assert response.json() == {"success": True, "events_received": COUNT}
    assert response.headers["idempotent-replayed"] == "true"
    assert [each["data"]["index"] for each in stored_of(mongo, key)] == list(range(COUNT))


def test_a_database_that_fails_in_the_middle(crashing: Crashing) -> None:
    server, _, mongo = crashing
    query, headers = WAYS["key"]
    key = server.create_key("failed", "--rate-limit", "0")
    with server.client(key["key"]) as client:
        with after_inserts(mongo, errorCode=NOT_PRIMARY):
            response = post_raw(client, query, numbered(COUNT), **headers)
        problem = response.json()
        assert (response.status_code, problem["outcome"]) == (503, "unknown")
        received = problem["events_received"]
        assert 1_000 <= received <= len(stored_of(mongo, key)) < COUNT, "what is certainly stored"
        assert int(response.headers["retry-after"]) >= 1
        wait_until(lambda: accepts(client), "the database to be writable")
        with failing_inserts(mongo, errorCode=NOT_PRIMARY):
            repeat = post_raw(client, query, numbered(COUNT), **headers)
        assert (repeat.status_code, repeat.json()["events_received"]) == (503, received), "it never falls"
        wait_until(lambda: accepts(client), "the database to be writable")
        again = post_raw(client, query, numbered(COUNT), **headers)
    assert again.json() == {"success": True, "events_received": COUNT}
    assert [each["data"]["index"] for each in stored_of(mongo, key)] == list(range(COUNT))


def test_a_client_that_is_too_impatient_comes_further_with_each_retry(crashing: Crashing) -> None:
    server, _, mongo = crashing
    query, headers = WAYS["content"]
    key = server.create_key("impatient", "--rate-limit", "0")
    body = b"x\n" * BAD + numbered(MANY)
    lines = [f"POST {EVENTS}?{query} HTTP/1.1", "Host: x", f"X-API-Key: {key['key']}", f"Content-Type: {NDJSON}"]
    request = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
    with after_inserts(mongo, blockConnection=True, blockTimeMS=SLOW_MS):
        with connect(server) as connection:
            connection.setsockopt(*RESET)
            connection.sendall(request)
            wait_until(lambda: len(stored_of(mongo, key)) >= INSERTS * 1_000, "the first pieces")
        wait_until(lambda: progress_of(mongo, key) is not None, "the request to end")
    progress = progress_of(mongo, key)
    assert progress is not None
    assert 1_000 < progress["items"] == progress["stored"] + BAD < MANY
    assert progress["stored"] <= len(stored_of(mongo, key)) < MANY, "inserts were on their way"
    with server.client(key["key"]) as client:
        wait_until(lambda: client.get("/api/v1/rejections").json(), "the rejection to be saved")
        (rejection,) = client.get("/api/v1/rejections").json()
        assert [error["path"] for error in rejection["errors"]] == ["items[0]", "items[1]"]
        assert post_raw(client, query, body, **headers).json()["events_received"] == MANY
    assert [each["data"]["index"] for each in stored_of(mongo, key)] == list(range(MANY))


@pytest.mark.parametrize("way", WAYS)
def test_a_replay_of_what_is_stored_inserts_nothing(crashing: Crashing, way: str) -> None:
    server, _, mongo = crashing
    query, headers = WAYS[way]
    key = server.create_key(f"stored-{way}", "--rate-limit", "0")
    with server.client(key["key"]) as client:
        first = post_raw(client, query, numbered(COUNT), **headers)
        with failing_inserts(mongo, errorCode=NOT_PRIMARY):
            again = post_raw(client, query, numbered(COUNT), **headers)
    assert again.json() == first.json() == {"success": True, "events_received": COUNT}
    assert again.headers["idempotent-replayed"] == "true"


def test_a_key_that_is_revoked_in_the_middle(crashing: Crashing) -> None:
    server, _, mongo = crashing
    query, headers = WAYS["key"]
    key = server.create_key("revoked", "--rate-limit", "0")
    slow = after_inserts(mongo, blockConnection=True, blockTimeMS=LONGER_THAN_A_CHECK_HOLDS_MS)
    with server.client(key["key"]) as client, ThreadPoolExecutor() as threads:
        with slow:
            cut = threads.submit(post_raw, client, query, numbered(MANY), **headers)
            wait_until(lambda: len(stored_of(mongo, key)) >= INSERTS * 1_000, "the first pieces")
            sluice("keys", "revoke", key["id"], *server.database_options)
            problem = cut.result().json()
        assert (problem["status"], problem["outcome"]) == (503, "unknown")
        assert 1_000 <= problem["events_received"] <= len(stored_of(mongo, key)) < MANY, "what is certainly stored"
        assert post_raw(client, query, numbered(MANY), **headers).status_code == 401


def test_a_database_that_fails_at_the_start(crashing: Crashing) -> None:
    server, _, mongo = crashing
    key = server.create_key("failed-at-once", "--rate-limit", "0")
    with server.client(key["key"]) as client, failing_inserts(mongo, errorCode=NOT_PRIMARY):
        problem = post_raw(client, QUERY, numbered(10)).json()
        assert (problem["status"], problem["outcome"], problem["events_received"]) == (503, "unknown", 0)
        assert stored_of(mongo, key) == []  # later, an attempt that was given up may still reach the database
