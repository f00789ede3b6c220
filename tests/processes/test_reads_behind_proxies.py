"""Tails, exports and lists through nginx and HAProxy, as the README configures them: nothing is kept back or lost."""

import http.client
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sluice.v1 import event_service_pb2 as pb

from tests.support.exports import LINES, decoder, events_of, export
from tests.support.grpc_client import channel_to, metadata, stub_of
from tests.support.harness import Json, Server, batch, wait_until
from tests.support.many_events import insert_random_events
from tests.support.proxies import Proxy, proxy, through
from tests.support.raw import lines_of, post_raw
from tests.support.reading import EVENTS
from tests.support.tail import FOLLOW

AT_ONCE_S = 1

ATTEMPTS = 3
"""The best one counts: other tests run at the same time."""

LARGE_EVENTS, LARGE_BYTES = 160, 500_000
"""80 MB, or 40 MB compressed: more than the connections on both sides of a proxy hold, if the client does not read."""

PAUSE_S = 2
"""How long the client does not read: an export of 80 MB takes less."""

PROXY_BYTES = 24 * 1024 * 1024
"""By how much the memory of a proxy may grow for one export."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of one worker, which a test kills."""
    with Server(tmp_path_factory.mktemp("own") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def large(own: Server) -> Json:
    """A key of a tenant with 80 MB of events."""
    key = own.create_key("large", "--rate-limit", "0")
    with own.mongo() as mongo:
        insert_random_events(mongo, key, LARGE_EVENTS, LARGE_BYTES)
    return key


@pytest.fixture
def via(own: Server, tmp_path: Path, name: str) -> Iterator[Proxy]:
    with proxy(name, tmp_path / "proxy", own) as running:
        yield running


class Export:
    """An export that is read when the test says so."""

    def __init__(self, via: Proxy, key: Json, encoding: str = "identity") -> None:
        self._connection = http.client.HTTPConnection(via.rest, timeout=60)
        headers = {"X-API-Key": key["key"], "Accept-Encoding": encoding, **LINES}
        self._connection.request("GET", f"{EVENTS}?order=asc", headers=headers)
        self._response = self._connection.getresponse()
        assert self._response.status == 200

    def chunk(self) -> bytes:
        """What has arrived; nothing at the end. Raises ConnectionError or IncompleteRead for a broken export."""
        return self._response.read1(1_000_000)

    def read_to_the_end(self, into: bytearray) -> None:
        """Append all that is left. Raises what `chunk` does."""
        while chunk := self.chunk():
            into += chunk

    def close(self) -> None:
        self._response.close()
        self._connection.close()


@through
@pytest.mark.parametrize("protocol", FOLLOW)
def test_a_tail_begins_at_once_and_brings_events_at_once(own: Server, via: Proxy, name: str, protocol: str) -> None:
    key = own.create_key(f"tail-{name}-{protocol}", "--rate-limit", "0")
    starts, waits = list[float](), list[float]()
    for _ in range(ATTEMPTS):
        starts.append(time.monotonic())
        with FOLLOW[protocol](via, key["key"]) as messages:
            assert next(messages).kind == "caught_up"
            starts[-1] = time.monotonic() - starts[-1]
    assert min(starts) < AT_ONCE_S
    with FOLLOW[protocol](via, key["key"]) as messages, via.client(key["key"]) as client:
        assert next(messages).kind == "caught_up"
        for _ in range(ATTEMPTS):
            began = time.monotonic()
            (sent,) = client.post(EVENTS, json=batch()).json()["events"]
            message = next(messages)
            assert (message.kind, message.data["id"]) == ("event", sent["id"])
            waits.append(time.monotonic() - began)
        assert min(waits) < AT_ONCE_S
        (missed,) = client.post(EVENTS, json=batch()).json()["events"]
    with FOLLOW[protocol](via, key["key"], token=message.token) as messages:
        assert next(messages).data["id"] == missed["id"]


@through
def test_an_export_is_passed_on_as_it_is_read(large: Json, via: Proxy) -> None:
    before = via.memory()
    reading = Export(via, large)
    body = bytearray(reading.chunk())
    assert body
    end = time.monotonic() + PAUSE_S
    while time.monotonic() < end:
        assert via.memory() - before < PROXY_BYTES
        assert via.files() == []
        time.sleep(0.1)
    reading.read_to_the_end(body)
    assert len(events_of(body)) == LARGE_EVENTS
    reading.close()


@through
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_a_cut_export_is_cut_and_goes_on(own: Server, large: Json, via: Proxy, encoding: str) -> None:
    with own.client(large["key"]) as client:
        whole = export(client, {"order": "asc"})
    reading = Export(via, large, encoding)
    body = bytearray(reading.chunk())
    (worker,) = own.worker_pids()
    os.kill(worker, signal.SIGKILL)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        reading.read_to_the_end(body)
    reading.close()
    if encoding != "identity":
        decoding = decoder(encoding)
        body = bytearray(decoding.decompress(bytes(body)))
        assert not decoding.eof
    wait_until(lambda: own.worker_pids() not in ([], [worker]), "another worker")
    had = events_of(body[: body.rfind(b"\n") + 1])
    assert len(had) < len(whole)
    with via.client(large["key"]) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200, "the other worker to accept")
        assert had + export(client, {"order": "asc", **({"after": had[-1]["id"]} if had else {})}) == whole


@through
def test_raw_bodies_of_10_mib(own: Server, via: Proxy, name: str) -> None:
    key = own.create_key(f"raw-{name}", "--rate-limit", "0")
    body = lines_of([{"index": index, "text": "x" * 100_000} for index in range(104)])
    with via.client(key["key"]) as client:
        response = post_raw(client, "source=s&type=t&dedupe=content", body)
        assert (response.status_code, response.json()["events_received"]) == (201, 104)
        chunked = post_raw(client, "source=s&type=t&dedupe=content", iter([body[:5_000_000], body[5_000_000:]]))
        assert chunked.headers["idempotent-replayed"] == "true"


@through
def test_lists_over_grpc(large: Json, via: Proxy) -> None:
    ids, token = list[str](), ""
    with channel_to(via.grpc) as channel, via.client(large["key"]) as client:
        while not ids or token:
            request = pb.ListEventsRequest(page_size=100, page_token=token)
            page = stub_of(channel).ListEvents(request, metadata=metadata(large["key"]), timeout=30)
            ids, token = ids + [event.id for event in page.events], page.next_page_token
        listed = client.get(EVENTS, params={"limit": 1000})
    assert ids == [event["id"] for event in listed.json()]
