"""One request, from its arrival to its end: a call of one of the APIs, or a batch of a stream.

Each part of the way adds what it learns. An API says how the request is named and traced, admission whose it is, and
`ingest/ingest.py` which events it brought, what became of them, and how long the steps took. Log lines, spans and
errors show whose it was. Listeners, such as metrics, are told what became of it: `requests.py` says when.
"""

import secrets
from time import perf_counter_ns
from types import TracebackType
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from msgspec import Struct, field

from server.core.errors import ClientGone, Code, SluiceError, Unavailable
from server.core.tracing import Attributes, Span, TraceParent

PROCESS = secrets.token_hex(8)
"""The first half of the ids of this process's requests."""

Api = Literal["rest", "grpc"]

Outcome = Literal["stored", "replayed", "served", "refused", "unknown"]
"""What became of a request. `replayed`: an earlier request had the same idempotency key. `served`: a read."""

EventOutcome = Literal["stored", "replayed", "refused", "unknown"]
"""What became of an event. `replayed`: it was stored before, by another request."""

CLIENT_GONE = "client_gone"
"""The code of a request whose client went away before its batch was decoded. No client sees it."""


class Ending(NamedTuple):
    """What became of a request or an event, and the code of the error if it was refused."""

    outcome: Outcome
    code: str | None = None


STORED, REPLAYED, SERVED, UNKNOWN = Ending("stored"), Ending("replayed"), Ending("served"), Ending("unknown")


class EndListener(Protocol):
    """Is told how every request ends. It must be fast, because it is called on the hot path, and must not raise."""

    def on_ended(self, request: "Request", ending: Ending, error: SluiceError | None) -> None:
        """A request has its response, or nobody waits for it any more. `error` is why it was rejected."""


class Listener(EndListener, Protocol):
    """Is told of every request, from its arrival to its end."""

    def on_received(self, request: "Request") -> None:
        """A request has arrived."""

    def on_events(self, request: "Request", count: int) -> None:
        """Events of a request are decoded: its batch, or a piece of a raw body."""

    def on_settled(self, request: "Request", outcome: EventOutcome, count: int, code: str | None) -> None:
        """It is known what became of some events, or that nobody will know. `code` is why they were refused."""


class Listeners(Struct):
    """Who is told."""

    of_all: list[Listener] = field(default_factory=list)
    of_ends: list[EndListener] = field(default_factory=list)
    """Those of all, too."""


class Request(Struct, eq=False):
    """One request, or all requests of a key if it has no number. Times are in nanoseconds.

    `Requests.open` opens it. As a context manager, it ends when its block does.
    """

    number: int = 0
    """The number of the request in this process, from 1."""
    sent_id: str | None = None
    """The id that the client or a proxy gave it."""
    parent: TraceParent | None = None
    span: Span | None = None
    """None if it is not traced."""
    key_id: str | None = None
    tenant_id: UUID | None = None
    code: Code | None = None
    """Why it was rejected."""
    answered_with: SluiceError | None = None
    """The error that the API's protocol has answered it with. What a handler makes of it then reaches nobody."""
    api: Api = "rest"
    listeners: Listeners | None = None
    """None until it is opened."""
    is_read: bool = False
    is_replayed: bool = False
    completes_ms: int | None = None
    """When the batch was received whose events are being settled, if an earlier request had begun to store it. In
    milliseconds since 1970."""
    partly_rejected: SluiceError | None = None
    """Why a part was rejected, if the rest was stored."""
    size: int = 0
    """Bytes of the body or message, as it was decoded."""
    events: int = 0
    """That were decoded."""
    settled: dict[str, int] = field(default_factory=dict)
    """Its events by what became of them: the outcome, or the code if they were refused."""
    started_ns: int = field(default_factory=perf_counter_ns)
    admit_ns: int = 0
    """The check of the key, and the permit."""
    wait_ns: int = 0
    """Of its batches, until their inserts began."""
    insert_ns: int = 0
    """The inserts, which are shared with other requests."""
    ended_ns: int = 0

    @property
    def request_id(self) -> str | None:
        """The id of the request: that which was sent, or one that is unique among all processes."""
        return self.sent_id or (f"{PROCESS}{self.number:016x}" if self.number else None)

    def fields(self) -> dict[str, str]:
        """The fields of a line about it."""
        trace_id = self.span.trace_id if self.span else self.parent.trace_id if self.parent else None
        fields = {"request_id": self.request_id, "tenant_id": self.tenant_id, "key_id": self.key_id}
        return {name: str(value) for name, value in {**fields, "trace_id": trace_id}.items() if value is not None}

    def end_step(self, name: str, started_ns: int, attributes: Attributes | None = None) -> int:
        """How long a part of the work on it took, which has just ended. It gets a span if the request is traced."""
        duration_ns = perf_counter_ns() - started_ns
        if self.span is not None:
            self.span.add_step(name, duration_ns, attributes)
        return duration_ns

    def end_span(self, attributes: Attributes, error: str | None) -> None:
        """End its span, with what became known of the request since its start."""
        if self.span is not None:
            known = {"request_id": "sluice.request.id", "tenant_id": "sluice.tenant.id", "key_id": "sluice.key.id"}
            fields = {known[name]: value for name, value in self.fields().items() if name in known}
            code = {} if self.code is None else {"sluice.error.code": self.code.value}
            self.span.end({**attributes, **fields, **code}, error)

    def add_events(self, count: int) -> None:
        """Note that events are decoded."""
        self.events += count
        for listener in self.listeners.of_all if self.listeners else ():
            listener.on_events(self, count)

    def settle(self, outcome: EventOutcome, count: int, code: str | None = None) -> None:
        """Note what became of events. `code` is why they were refused."""
        label = code or outcome
        self.settled[label] = self.settled.get(label, 0) + count
        for listener in self.listeners.of_all if self.listeners else ():
            listener.on_settled(self, outcome, count, code)

    def settle_failed(self, count: int, error: BaseException) -> None:
        """Note what became of events whose batch was not stored because of `error`. A bug may have left some."""
        ending = ending_of(error, has_events=True) if isinstance(error, SluiceError) else UNKNOWN
        self.settle("unknown" if ending is UNKNOWN else "refused", count, ending.code)

    def __enter__(self) -> "Request":
        for listener in self.listeners.of_all if self.listeners else ():
            listener.on_received(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ended_ns = perf_counter_ns()
        if self.answered_with is not None:
            error = self.answered_with
        if error is not None and not (self.is_read and is_gone(error)):
            ending = ending_of(error, has_events=self.events > 0)
        elif self.is_read:
            ending = SERVED
        else:
            ending = REPLAYED if self.is_replayed else STORED
        rejection = error if isinstance(error, SluiceError) else None
        for listener in self.listeners.of_ends if self.listeners else ():
            listener.on_ended(self, ending, rejection)


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
