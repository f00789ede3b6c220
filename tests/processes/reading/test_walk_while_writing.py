"""A list is followed to its end while others write: every event that existed at its start is shown once."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.support.harness import Json, Server, batch
from tests.support.reading import EVENTS, walk

WRITERS = 4
WALKS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("walk"), "--workers", "2") as started:
        yield started


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
                written.add(client.post(EVENTS, json=batch(size, source=f"writer {number}")))
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
def test_every_event_that_existed_at_the_start_is_shown_once(server: Server, query: dict[str, str]) -> None:
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
                shown = Counter(event["id"] for page in walk(reader, query) for event in page)
                assert before <= shown.keys()
                assert set(shown.values()) == {1}
