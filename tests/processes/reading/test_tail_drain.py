"""A drain ends tails with a reason, and their last tokens resume on the server that comes next."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc

from tests.support.harness import Server, batch
from tests.support.logs import assert_no_internal_errors
from tests.support.reading import EVENTS
from tests.support.tail import FOLLOW, Message, code_of

LONG_AGO = "2020-01-01T00:00:00Z"
DRAIN_S = 10
"""Much less than a drain waits for requests: tails end at once."""


def store(server: Server, secret: str, count: int) -> list[str]:
    with server.client(secret) as client:
        response = client.post(EVENTS, json=batch(count))
    assert response.status_code == 201, response.text
    return [item["id"] for item in response.json()["events"]]


def read_to_the_end(messages: Iterator[Message]) -> tuple[list[Message], str]:
    """The messages that are left, and why the tail ended."""
    read: list[Message] = []
    try:
        for message in messages:
            if message.kind == "end":
                return read, message.data["code"]
            read.append(message)
    except grpc.RpcError as error:
        return read, code_of(error).lower()
    return read, "no reason"


def test_a_drain_ends_tails_that_resume(tmp_path: Path) -> None:
    with Server(tmp_path, "--workers", "1") as server:
        secret = server.create_key("tail", "--rate-limit", "0")["key"]
        ids = store(server, secret, 5)
        received: dict[str, list[Message]] = {}
        with ExitStack() as tails:
            opened = {name: tails.enter_context(FOLLOW[name](server, secret, since=LONG_AGO)) for name in FOLLOW}
            for name, messages in opened.items():
                received[name] = [next(messages) for _ in range(6)]
                assert received[name][-1].kind == "caught_up"
            ids += store(server, secret, 500)  # they are on their way when the drain begins
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            for name, messages in opened.items():
                rest, why = read_to_the_end(messages)
                assert why == "unavailable", name
                received[name] += rest
            stopping.join(DRAIN_S)
            assert not stopping.is_alive()
        assert_no_internal_errors(server)
    with Server(tmp_path, "--workers", "1") as server:
        ids += store(server, secret, 5)
        for name, before in received.items():
            with FOLLOW[name](server, secret, token=before[-1].token) as messages:
                shown = [message.data["id"] for message in before if message.kind == "event"]
                shown += [next(messages).data["id"] for _ in range(len(ids) - len(shown))]
                assert next(messages).kind == "caught_up"
                assert shown == ids, name
