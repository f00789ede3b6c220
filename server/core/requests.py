"""Requests from their arrival to their end: the one place that learns what became of each, over both APIs.

An API opens a request when it arrives, and the request ends with its response. A batch on a stream is a request of its
own. Meanwhile `ingest/ingest.py` notes whose request it is, which events it brought, what became of them, and how long
the steps took. `Requests` tells all of this to its listeners, such as metrics.

Two sums hold at every moment, in requests and in events:

    received = stored + replayed + refused + unknown + in flight

A request that is rejected before its batch is decoded brings no events. Reads are counted apart: they end as `served`
or `refused`.

Example: a lenient batch of 10 events, 2 of them bad, arrives with an idempotency key.

    open                 a request is received
    add_events(10)       10 events are received, once the batch is decoded
    settle               8 events are stored and 2 refused as `invalid_batch`, once the database has confirmed
    end                  the request is stored

If the client cancels the call while the insert runs, nobody learns what it did: the 10 events and the request are
`unknown`. So the number of events in the database is at least what is counted as stored, and at most that and unknown.
"""

from contextlib import suppress
from time import perf_counter_ns
from types import TracebackType
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from server.core.errors import ClientGone, Code, SluiceError, Unavailable

Api = Literal["rest", "grpc"]

Outcome = Literal["stored", "replayed", "served", "refused", "unknown"]
"""What became of a request. `replayed`: an earlier request had the same idempotency key. `served`: a read."""

CLIENT_GONE = "client_gone"
"""The code of a request whose client went away before its batch was decoded. No client sees it."""


class Ending(NamedTuple):
    """What became of a request or an event, and the code of the error if it was refused."""

    outcome: Outcome
    code: str | None = None


class SettledEvents(NamedTuple):
    """What became of events that were received."""

    stored: int = 0
    replayed: int = 0
    """Stored before, by another request."""
    refused: int = 0
    unknown: int = 0
    code: str | None = None
    """Why events were refused."""


class Listener(Protocol):
    """Is told of every request. It must be fast, because it is called on the hot path, and must not raise."""

    def on_received(self, request: "Request") -> None:
        """A request has arrived."""

    def on_events(self, request: "Request", count: int) -> None:
        """Events of a request are decoded: its batch, or a piece of a raw body."""

    def on_settled(self, request: "Request", events: SettledEvents) -> None:
        """It is known what became of events of a request, or that nobody will know."""

    def on_ended(self, request: "Request", ending: Ending, error: SluiceError | None) -> None:
        """A request has its response, or nobody waits for it any more. `error` is why it was rejected."""


class Request:
    """One request. Use it as a context manager: leaving it ends the request. Times are in nanoseconds."""

    __slots__ = (
        "_listeners",
        "admit_ns",
        "api",
        "ended_ns",
        "events",
        "insert_ns",
        "is_read",
        "is_replayed",
        "key_id",
        "partly_rejected",
        "size",
        "started_ns",
        "tenant_id",
        "wait_ns",
    )

    def __init__(self, listeners: list[Listener], api: Api, *, is_read: bool) -> None:
        self._listeners = listeners
        self.api: Api = api
        self.is_read = is_read
        self.is_replayed = False
        self.tenant_id: UUID | None = None
        self.key_id: str | None = None
        self.partly_rejected: SluiceError | None = None  # why a part was rejected, if the rest was stored
        self.size = 0  # bytes of the body or message, as it was decoded
        self.events = 0  # that were decoded
        self.started_ns = perf_counter_ns()
        self.admit_ns = 0  # the check of the key, and the permit
        self.wait_ns = 0  # of its batches, until their inserts began
        self.insert_ns = 0  # the inserts, which are shared with other requests
        self.ended_ns = 0

    def identify(self, tenant_id: UUID, key_id: str) -> None:
        """Note whose request it is, once its key is admitted."""
        self.tenant_id, self.key_id = tenant_id, key_id

    def add_events(self, count: int) -> None:
        """Note that events are decoded."""
        self.events += count
        for listener in self._listeners:
            listener.on_events(self, count)

    def settle(self, events: SettledEvents) -> None:
        """Note what became of events."""
        for listener in self._listeners:
            listener.on_settled(self, events)

    def settle_failed(self, count: int, error: BaseException) -> None:
        """Note what became of events whose batch was not stored because of `error`. A bug may have left some."""
        outcome, code = ending_of(error, has_events=True) if isinstance(error, SluiceError) else UNKNOWN
        unknown = count if outcome == "unknown" else 0
        self.settle(SettledEvents(refused=count - unknown, unknown=unknown, code=code))

    def __enter__(self) -> "Request":
        for listener in self._listeners:
            listener.on_received(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ended_ns = perf_counter_ns()
        if error is not None and not (self.is_read and is_gone(error)):
            ending = ending_of(error, has_events=self.events > 0)
        elif self.is_read:
            ending = SERVED
        else:
            ending = REPLAYED if self.is_replayed else STORED
        rejection = error if isinstance(error, SluiceError) else None
        for listener in self._listeners:
            listener.on_ended(self, ending, rejection)


STORED, REPLAYED, SERVED, UNKNOWN = Ending("stored"), Ending("replayed"), Ending("served"), Ending("unknown")


class Requests:
    """The requests of a worker."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def add_listener(self, listener: Listener) -> None:
        """Tell `listener` of all requests that arrive from now on."""
        self._listeners.append(listener)

    def open(self, api: Api, *, is_read: bool = False) -> Request:
        """A request that has arrived."""
        return Request(self._listeners, api, is_read=is_read)

    def refuse(self, api: Api, error: SluiceError) -> None:
        """Note a request that is rejected before any code handles it: no route, no HTTP, no capacity for a stream."""
        request = self.open(api)
        with suppress(SluiceError), request:
            raise error


def ending_of(error: BaseException, *, has_events: bool) -> Ending:
    """What becomes of a request, or of events, because of an error. Anything but a SluiceError is a bug."""
    if is_gone(error):
        return UNKNOWN if has_events else Ending("refused", CLIENT_GONE)
    if isinstance(error, Unavailable) and error.outcome == "unknown":
        return UNKNOWN
    return Ending("refused", error.code if isinstance(error, SluiceError) else Code.INTERNAL)


def is_gone(error: BaseException) -> bool:
    """Whether an error only means that the client is gone, or has cancelled its call."""
    return isinstance(error, ClientGone) or not isinstance(error, Exception)
