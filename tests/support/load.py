"""Load for the tests: clients that send batches until they are told to stop, and record every response."""

import threading
from collections import Counter
from types import TracebackType
from typing import Self

import grpc
import httpx
from google.rpc import status_pb2

from tests.support.grpc_client import Stream, channel_to, good_batch
from tests.support.harness import Json, Server, event


class LoadClients:
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
        """Tell the clients to stop, and wait until they have."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def next_mark(self) -> int:
        """The lowest mark that was not given to a batch yet."""
        with self._lock:
            return len(self.sent)

    def acknowledged_from(self, mark: int) -> list[int]:
        """The marks that were acknowledged, from this one on."""
        with self._lock:
            return [each for each in self.acknowledged_marks if each >= mark]

    def _new_marks(self) -> list[int]:
        """The marks of a batch that is about to be sent."""
        with self._lock:
            marks = [next(self._marks) for _ in range(self.events)]
            self.sent.update(marks)
        return marks

    def _run(self) -> None:
        raise NotImplementedError


class RestLoad(LoadClients):
    """Clients that post batches over keep-alive connections."""

    def __init__(self, server: Server, secret: str, clients: int = 8, events: int = 10) -> None:
        super().__init__(clients, events)
        self.server = server
        self.secret = secret
        self.statuses: Counter[int] = Counter()
        self.acknowledged: set[str] = set()
        self.unanswered = 0
        self.bad_rejections: list[Json] = []

    def _run(self) -> None:
        with self.server.client(self.secret) as client:
            while not self._stop.is_set():
                self._post(client)

    def _post(self, client: httpx.Client) -> None:
        marks = self._new_marks()
        events = [event(mark, data={"mark": mark}) for mark in marks]
        try:
            response = client.post("/api/v1/events", json={"source": "load", "events": events})
        except httpx.TransportError:
            with self._lock:
                self.unanswered += 1
            self._stop.wait(0.01)  # the server may be gone: do not spin
            return
        with self._lock:
            self.statuses[response.status_code] += 1
            if response.status_code == 201:
                self.acknowledged.update(item["id"] for item in response.json()["events"])
                self.acknowledged_marks.update(marks)
            elif response.status_code != 503 or int(response.headers.get("Retry-After", 0)) < 1:
                self.bad_rejections.append(response.json())


class StreamLoad(LoadClients):
    """Streams that send batches until told to stop or ended by the server."""

    def __init__(self, target: str, secret: str, streams: int = 4, events: int = 5, window: int = 8) -> None:
        super().__init__(streams, events)
        self.target = target
        self.secret = secret
        self.window = window
        self.errors: list[status_pb2.Status] = []
        self.endings: list[grpc.RpcError | None] = []
        self.answered_streams = 0
        """Streams that have had a response. The others may not have connected yet."""

    def _run(self) -> None:
        with channel_to(self.target) as channel, Stream(channel, self.secret) as stream:
            unanswered = [self._send(stream, sequence) for sequence in range(self.window)]
            ending = None
            try:
                for answered, response in enumerate(stream.call):
                    assert response.sequence == answered
                    marks = unanswered.pop(0)
                    with self._lock:
                        self.answered_streams += answered == 0
                        if response.HasField("receipt"):
                            self.acknowledged_marks.update(marks)
                        else:
                            self.errors.append(response.error)
                    if self._stop.is_set():
                        stream.half_close()
                    else:
                        unanswered.append(self._send(stream, answered + self.window))
                assert not unanswered, "the stream ended well, with batches unanswered"
            except grpc.RpcError as error:
                ending = error
            with self._lock:
                self.endings.append(ending)

    def _send(self, stream: Stream, sequence: int) -> list[int]:
        marks = self._new_marks()
        stream.send(sequence, good_batch(marks))
        return marks
