"""A list is followed to its end while others write: every event that existed at its start is shown once.

Once with the embedded database, and once with three nodes, whose primary steps down in each walk.
Set SLUICE_LONG=1 for more walks.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import httpx
import pytest

from tests.support.exports import export
from tests.support.harness import Json, Server, batch
from tests.support.mongod import ReplicaSet
from tests.support.reading import EVENTS, walk

WRITERS = 4
WALKS = 3 if os.environ.get("SLUICE_LONG") else 2


class Host(NamedTuple):
    server: Server
    elect: Callable[[], object]
    """Makes another member the primary, if there are others."""


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with Server(tmp_path_factory.mktemp("walk"), "--workers", "2") as server:
        yield Host(server, lambda: None)


@pytest.fixture(scope="module")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    path = tmp_path_factory.mktemp("walk")
    with (
        ReplicaSet(path / "db") as replicas,
        Server(path / "data", "--workers", "2", "--mongodb-url", replicas.url) as server,
    ):
        yield Host(server, replicas.step_down)


@pytest.fixture(params=["embedded", pytest.param("three_nodes", marks=pytest.mark.slow)])
def host(request: pytest.FixtureRequest) -> Host:
    found: Host = request.getfixturevalue(request.param)
    return found


class Written:
    """The ids of all acknowledged events."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._lock = threading.Lock()

    def add(self, response: httpx.Response) -> None:
        assert response.status_code == 201, response.text
        with self._lock:
            self._ids += [event["id"] for event in response.json()["events"]]

    def all(self) -> set[str]:
        with self._lock:
            return set(self._ids)


@contextmanager
def writing(server: Server, key: Json, written: Written) -> Iterator[None]:
    """Writers that send batches of all sizes inside."""
    stop = threading.Event()

    def write(number: int) -> None:
        size = 1
        with server.client(key["key"]) as client:
            while not stop.is_set():
                response = client.post(EVENTS, json=batch(size, source=f"writer {number}"))
                if response.status_code != 503:  # an election may take longer than a request
                    written.add(response)
                size = size * 3 % 97

    with ThreadPoolExecutor(WRITERS) as pool:
        running = [pool.submit(write, number) for number in range(WRITERS)]
        try:
            yield
        finally:
            stop.set()
        for each in running:
            each.result()


@pytest.mark.parametrize("query", [{"limit": "500"}, {"source": "writer 2", "limit": "70"}], ids=["all", "a source"])
def test_every_event_that_existed_at_the_start_is_shown_once(host: Host, query: dict[str, str]) -> None:
    server = host.server
    key, written = server.create_key(f"walk-{len(query)}", "--rate-limit", "0"), Written()
    with server.client(key["key"]) as reader:
        for number in range(WRITERS):
            for _ in range(5):
                written.add(reader.post(EVENTS, json=batch(200, source=f"writer {number}")))
        source = query.get("source")
        existed = {event["id"] for page in walk(reader, {**query, "limit": "1000"}) for event in page}
        assert existed == written.all() if source is None else len(existed) == 1_000
        with writing(server, key, written):
            for _ in range(WALKS):
                before = written.all() if source is None else existed
                shown = Counter[str]()
                for number, page in enumerate(walk(reader, query)):
                    shown.update(event["id"] for event in page)
                    if number == 1:
                        host.elect()
                assert before <= shown.keys()
                assert set(shown.values()) == {1}


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("source", [None, "writer 2"])
def test_every_event_that_existed_at_the_start_is_exported_once(host: Host, order: str, source: str | None) -> None:
    server, query = host.server, {"order": order, **({} if source is None else {"source": source})}
    key, written = server.create_key(f"export-{order}-{len(query)}", "--rate-limit", "0"), Written()
    with server.client(key["key"]) as reader:
        existed = set[str]()
        for number in range(WRITERS):
            for _ in range(5):
                response = reader.post(EVENTS, json=batch(200, source=f"writer {number}"))
                written.add(response)
                if source in (None, f"writer {number}"):
                    existed |= {event["id"] for event in response.json()["events"]}
        with writing(server, key, written):
            for _ in range(WALKS):
                before = existed if source is not None else written.all()
                shown = Counter(event["id"] for event in export(reader, query))
                assert before <= shown.keys()
                assert set(shown.values()) == {1}
