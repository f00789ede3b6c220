"""Load for the tests: callers that post batches until told to stop, and keep the books on every answer."""

import threading
from collections import Counter
from types import TracebackType
from typing import Self

import httpx

from tests.support.harness import Json, Server, event


class Callers:
    """Threads that send batches until told to stop. Every event they send carries a number of its own, its `mark`."""

    def __init__(self, count: int, events: int) -> None:
        self.events = events
        self.sent: set[int] = set()
        self.acknowledged_marks: set[int] = set()
        self._marks = iter(range(10**9))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def finish(self) -> None:
        """Let every caller come to its end."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _new_marks(self) -> list[int]:
        """The marks of a batch that is about to be sent."""
        with self._lock:
            marks = [next(self._marks) for _ in range(self.events)]
            self.sent.update(marks)
        return marks

    def _run(self) -> None:
        raise NotImplementedError


class Load(Callers):
    """Callers posting batches over keep-alive connections."""

    def __init__(self, server: Server, secret: str, callers: int = 8, events: int = 10) -> None:
        super().__init__(callers, events)
        self.server = server
        self.secret = secret
        self.statuses: Counter[int] = Counter()
        self.acknowledged: set[str] = set()
        self.unanswered = 0
        self.bad_refusals: list[Json] = []

    def _run(self) -> None:
        with self.server.client(self.secret) as client:
            while not self._stop.is_set():
                self._post(client)

    def _post(self, client: httpx.Client) -> None:
        marks = self._new_marks()
        events = [event(mark, data={"mark": mark}) for mark in marks]
        try:
            answer = client.post("/api/v1/events", json={"source": "load", "events": events})
        except httpx.TransportError:
            with self._lock:
                self.unanswered += 1
            self._stop.wait(0.01)  # the server may be gone: do not spin
            return
        with self._lock:
            self.statuses[answer.status_code] += 1
            if answer.status_code == 201:
                self.acknowledged.update(item["id"] for item in answer.json()["events"])
                self.acknowledged_marks.update(marks)
            elif answer.status_code != 503 or int(answer.headers.get("Retry-After", 0)) < 1:
                self.bad_refusals.append(answer.json())
