"""Bodies and messages that would take very many values in memory, some of each at once, and single events beside them.

Each has one clear error, or is stored. None raises the memory of a worker over its limit.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import pytest

from tests.support.bodies import JSON, MIB
from tests.support.grpc_client import TIMEOUT_S, UNARY, metadata
from tests.support.harness import Server
from tests.support.messages import field
from tests.support.pressure import memory_mib

AT_ONCE = 6
STORED_AT_ONCE = 2
"""Good ones: on a busy machine, more take longer than a request may."""

SLOWEST_GOOD_S = 3
"""What a single event may take on a busy machine: 0.3 s on a quiet one."""
ATTEMPTS = 3
"""The best one counts: other tests run at the same time, and the machine may stand still for as long."""
MAX_MEMORY_MIB = 400

SIZE = 10 * MIB - 1_000
LISTS = b"[" + b"[]," * (SIZE // 3) + b"1]"
NULL = b"\x08\x00"
"""A serialized Value that is null."""

GOOD = b'{"source":"s","events":[{"type":"a","data":{}}]}'
STORED = ""
TOO_LARGE = "events[0]: More than 1048576 bytes as BSON"
TOO_MANY = "events: over 1000 given"


class Heavy(NamedTuple):
    """A body or message, most of 10 MiB, and the beginning of the detail of its error, or STORED."""

    make: Callable[[], bytes]
    detail: str

    @property
    def at_once(self) -> int:
        """How many are sent at once."""
        return STORED_AT_ONCE if self.detail == STORED else AT_ONCE


def batch(*events: bytes) -> bytes:
    """A body of these events."""
    return b'{"source":"s","events":[' + b",".join(events) + b"]}"


def event(value: bytes) -> bytes:
    """An event with this value in its data."""
    return b'{"type":"a","data":{"a":' + value + b"}}"


def message(*events: bytes) -> bytes:
    """An IngestEventsRequest of these serialized events."""
    return field(1, field(1, b"s") + b"".join(field(3, each) for each in events))


def struct(size: int, item: bytes = NULL) -> bytes:
    """A serialized event with a Struct of about this size: a list of equal values."""
    items = field(1, item) * (size // (len(item) + 2))
    return field(1, b"a") + field(3, field(1, field(1, b"a") + field(2, field(6, items))))


BODIES = {
    "numbers for events": Heavy(lambda: batch(b"5," * (SIZE // 2) + b"5"), TOO_MANY),
    "event of lists": Heavy(lambda: batch(event(LISTS)), TOO_LARGE),
    "event of commas": Heavy(lambda: batch(event(b'"' + b"," * SIZE + b'"')), "events[0]: "),
    "half of a pair": Heavy(lambda: batch(event(rb'"\ud800"'), event(LISTS)), "events[0].data.a: Holds half"),
    "lists with no end": Heavy(lambda: batch(event(LISTS))[:-1], "JSON is malformed: it ends too early"),
    "members": Heavy(lambda: b"{" + b'"a":1,' * (SIZE // 6) + b'"a":1}', "a: Object contains unknown field"),
    "source of lists": Heavy(lambda: b'{"events":[],"source":' + LISTS + b"}", "source: Expected `string`"),
    "events of lists": Heavy(lambda: batch(*[event(b"[" + b"[]," * 2_000 + b"1]")] * 250), STORED),
}

MESSAGES = {
    "events without a byte": Heavy(lambda: field(1, b"\x1a\x00" * (SIZE // 2)), TOO_MANY),
    "events, and too large": Heavy(lambda: field(1, b"\x1a\x00" * (15 * MIB // 2)), "The message is over 10 MiB"),
    "unknown fields": Heavy(lambda: field(1, b"\x78\x00" * (SIZE // 2)), "The message is not a sluice.v1"),
    "no message": Heavy(lambda: field(1, b"\x1a\x00" * 500_000 + b"\xff"), TOO_MANY),
    "event that is no message": Heavy(lambda: message(struct(3 * MIB), b"\xff" * MIB), "The message is not a"),
    "event of lists": Heavy(lambda: message(field(1, b"a") + field(2, event(LISTS))), TOO_LARGE),
    "Struct": Heavy(lambda: message(struct(SIZE)), TOO_LARGE),
    "Struct of 4 MiB": Heavy(lambda: message(struct(4 * MIB - 1_000)), TOO_LARGE),
    "Struct of lists": Heavy(lambda: message(struct(4 * MIB - 1_000, b"\x32\x00")), TOO_LARGE),
    "Structs": Heavy(lambda: message(*[struct(8_000)] * 260), STORED),
}


@pytest.fixture(scope="module")
def heavy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one worker."""
    with Server(tmp_path_factory.mktemp("heavy")) as server:
        yield server


class Served(NamedTuple):
    """The details of heavy requests, how long single events took beside them, and the memory of the worker."""

    details: list[str]
    seconds: list[float]
    memory_mib: float


def new_key(server: Server) -> str:
    """A key of a new tenant with no rate limit."""
    key: str = server.create_key(f"tenant-{uuid.uuid4().hex}", "--rate-limit", "0")["key"]
    return key


async def serve(
    server: Server, key: str, at_once: int, send: Callable[[httpx.AsyncClient], Coroutine[Any, Any, str]]
) -> Served:
    """`send` heavy requests at once, and single events with `key` meanwhile."""
    (pid,) = server.worker_pids()
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the highest memory begins with that of now
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=TIMEOUT_S) as client:
        heavy = [asyncio.create_task(send(client)) for _ in range(at_once)]
        seconds = list[float]()
        while not all(each.done() for each in heavy):
            began = time.monotonic()
            response = await client.post("/api/v1/events", content=GOOD, headers={**JSON, "X-API-Key": key})
            assert response.status_code == 201, response.text
            seconds.append(time.monotonic() - began)
        return Served([await each for each in heavy], seconds, memory_mib(pid, "VmHWM"))


def check(serve_once: Callable[[], Served], detail: str) -> None:
    """Every heavy request gets its detail, and nothing else suffers."""
    slowest = list[float]()
    while not slowest or (slowest[-1] >= SLOWEST_GOOD_S and len(slowest) < ATTEMPTS):
        served = serve_once()
        assert all(each == STORED if detail == STORED else each.startswith(detail) for each in served.details), served
        assert served.memory_mib < MAX_MEMORY_MIB
        slowest.append(max(served.seconds))
    assert min(slowest) < SLOWEST_GOOD_S, slowest


@pytest.mark.parametrize("name", BODIES)
def test_heavy_bodies(heavy_server: Server, name: str) -> None:
    heavy = BODIES[name]
    content, key = heavy.make(), new_key(heavy_server)

    async def send(client: httpx.AsyncClient) -> str:
        response = await client.post("/api/v1/events", content=content, headers={**JSON, "X-API-Key": key})
        detail: str = STORED if response.status_code == 201 else response.json()["detail"]
        return detail

    check(lambda: asyncio.run(serve(heavy_server, new_key(heavy_server), heavy.at_once, send)), heavy.detail)


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", MESSAGES)
def test_heavy_messages(heavy_server: Server, name: str, compression: grpc.Compression) -> None:
    heavy = MESSAGES[name]
    content, key = heavy.make(), new_key(heavy_server)

    async def send(_: httpx.AsyncClient) -> str:
        async with grpc.aio.insecure_channel(heavy_server.grpc) as channel:
            try:
                call: Any = channel.unary_unary(UNARY)
                await call(content, metadata=metadata(key), timeout=TIMEOUT_S, compression=compression)
            except grpc.aio.AioRpcError as error:
                return error.details() or ""
        return STORED

    check(lambda: asyncio.run(serve(heavy_server, new_key(heavy_server), heavy.at_once, send)), heavy.detail)
