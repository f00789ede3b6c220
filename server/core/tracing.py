"""The port to a tracing library: what the core and the APIs need to make spans. `server/runtime` implements it.

A worker that does not trace has no tracer, and its requests have no spans.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import NamedTuple, Protocol

TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
"""Later versions than 00 may add to its end (W3C Trace Context §3.2.4)."""

VERSION = "00"
"""The version that may add nothing."""

MAX_TRACEPARENT_CHARS = 512
"""What is looked at. A `traceparent` of version 00 has 55 characters."""

SAMPLED = 1
"""The flag of a trace that its client records."""

Attributes = Mapping[str, str | int]


class TraceParent(NamedTuple):
    """The span of a client to which a request belongs."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    is_sampled: bool


class Span(Protocol):
    """A span that is recorded: the work on one request."""

    trace_id: str
    """32 hexadecimal digits."""

    def add_step(self, name: str, duration_ns: int, attributes: Attributes | None = None) -> None:
        """Add a span within this one, for work that has just ended."""

    def end(self, attributes: Attributes, error: str | None) -> None:
        """End the span. `error` is why the server failed; None if it did not, also if it rejected a bad request."""


class Tracer(Protocol):
    """Starts spans."""

    def start_request(self, name: str, parent: TraceParent | None, attributes: Attributes) -> Span | None:
        """Start the span of a request; None if it is not sampled."""

    def insert(self, requests: Sequence[Span], event_count: int) -> AbstractContextManager[None]:
        """A span for an insert of these requests' events, at least one. It is linked to the spans of all of them."""


class NoSpan(AbstractContextManager[None]):
    """A block that is not traced. It takes half as long as `contextlib.nullcontext`."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


NO_SPAN = NoSpan()


def parse_traceparent(text: str | None) -> TraceParent | None:
    """The parent that a header `traceparent` names; None if it is no such header, which is no error of the request."""
    if not text or len(text) > MAX_TRACEPARENT_CHARS:
        return None
    found = TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == VERSION and more is not None:
        return None
    return TraceParent(trace_id, span_id, bool(int(flags, 16) & SAMPLED))
