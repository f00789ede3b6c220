"""Requests whose body breaks while a handler works on them end as they were answered, whatever their handler finds."""

import json
import socket
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import pytest

from tests.support.harness import Json, MongoClient, Server, batch, wait_until
from tests.support.metrics import Scrape, changes, received, scrape
from tests.support.mongod import Mongod, fail_point
from tests.support.wire import EVENTS, Response, connect, head, post, responses_in, rest_of

HANG_MS = 2_000
"""How long the database takes for what a handler waits for."""

BEGIN_S = 0.5
"""Long enough for a handler to begin, and shorter than HANG_MS."""

CHUNKED = "Transfer-Encoding: chunked"


class Host(NamedTuple):
    server: Server
    mongo: MongoClient


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    path = tmp_path_factory.mktemp("host")
    with ExitStack() as stack:
        mongod = stack.enter_context(Mongod(path / "db"))
        mongo = stack.enter_context(mongod.client())
        options = ("--mongodb-url", mongod.url, "--metrics-port", "0", "--log-format", "json")
        yield Host(stack.enter_context(Server(path / "data", *options)), mongo)


@pytest.fixture
def key(host: Host) -> Json:
    return host.server.create_key(uuid.uuid4().hex, "--rate-limit", "0")


@pytest.fixture
def before(host: Host) -> Scrape:
    return scrape(host.server.metrics)


@contextmanager
def slow(host: Host, command: str) -> Iterator[None]:
    """Let the database be slow with all commands of a name."""
    data: Json = {"failCommands": [command], "blockConnection": True, "blockTimeMS": HANG_MS, "appName": "sluice"}
    with fail_point(host.mongo, "failCommand", "alwaysOn", **data):
        yield


def break_body(host: Host, start: bytes) -> Response:
    """The only response to a request whose body breaks while its handler waits for the database."""
    with connect(host.server) as connection:
        connection.sendall(start)
        time.sleep(BEGIN_S)
        began = time.monotonic()
        connection.sendall(b"xyz\r\n")
        (answer,) = responses_in(rest_of(connection))
        assert time.monotonic() - began < HANG_MS / 1_000 - BEGIN_S, "it is answered before the database is"
        return answer


def get(key: str, path: str) -> bytes:
    return head(key, CHUNKED).replace(f"POST {EVENTS}".encode(), f"GET {path}".encode())


REQUESTS: dict[str, tuple[str, Callable[[str], bytes], str]] = {
    "a batch": ("find", lambda key: head(key, CHUNKED), "requests"),
    "a batch with a bad key": ("find", lambda _: head("slc_none", CHUNKED), "requests"),
    "a list": ("find", lambda key: get(key, EVENTS), "reads"),
    "an event": ("find", lambda key: get(key, f"{EVENTS}/{uuid.uuid4()}"), "reads"),
    "a list with a bad key": ("find", lambda _: get("slc_none", EVENTS), "reads"),
}


@pytest.mark.parametrize(("command", "start", "noun"), REQUESTS.values(), ids=REQUESTS)
def test_a_body_that_breaks_while_its_handler_waits(
    host: Host, key: Json, before: Scrape, command: str, start: Callable[[str], bytes], noun: str
) -> None:
    with slow(host, command):
        assert break_body(host, start(key["key"])).code == "malformed_request"
    time.sleep(HANG_MS / 1000)
    assert changes(host.server, before) == {
        f"{noun}_received rest": 1,
        f"{noun}_refused malformed_request rest": 1,
    }


def test_the_log_names_the_request_and_its_key(host: Host, key: Json) -> None:
    sent_id = uuid.uuid4().hex
    answer = break_body(host, head(key["key"], CHUNKED, f"X-Request-ID: {sent_id}"))
    assert answer.headers["x-request-id"] == sent_id
    wait_until(lambda: sent_id in host.server.stderr(), "the line")
    lines = [json.loads(line) for line in host.server.stderr().splitlines() if sent_id in line]
    assert [line["message"] for line in lines] == [f"rejected 1 request of key {key['id']}: malformed_request"]
    assert [line["tenant_id"] for line in lines] == [key["tenant_id"]]


def test_requests_whose_client_goes_away_before_their_turn(host: Host, key: Json, before: Scrape) -> None:
    with slow(host, "find"), connect(host.server) as connection:
        connection.sendall(post(key["key"], json.dumps(batch()).encode()) * 3)
        time.sleep(BEGIN_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(HANG_MS / 1000)
    assert changes(host.server, before) == {
        **received("rest", 3, 1),
        "requests_stored rest": 1,
        "events_stored rest": 1,
        "requests_refused client_gone rest": 2,
    }
