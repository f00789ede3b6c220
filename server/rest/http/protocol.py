"""HTTP/1.1 on one connection: uvicorn's httptools protocol, with limits on size and time.

Theory of operation. uvicorn parses requests and runs the application for each. `ParsingProtocol`, `EndingProtocol` and
this class add what uvicorn leaves open: whatever is not HTTP, or is larger than a head may be, gets a problem+json and
ends the connection (`ending.py`). No connection holds more than a fixed amount of memory, or stays open without
bringing a request or taking a response. Most of the work is to decide which timer runs.

A connection is always in one of these states. The timer is `_read_timer`, of which at most one runs:

| state                                          | timer                 | when it expires                      |
|------------------------------------------------|-----------------------|--------------------------------------|
| handshake: over TLS only, see `tls.py`         | HEAD_TIMEOUT_S (10)   | close, with no response              |
| new: nothing has arrived but empty lines       | HEAD_TIMEOUT_S (10)   | close, with no response              |
| head: some bytes of a request head have arrived| HEAD_TIMEOUT_S (10)   | 408, then lingering                  |
| body: the application reads it                 | none here             | `arrivals.py` cancels stalled bodies |
| answering: the request has arrived completely  | none here             | the request has its own deadline     |
| discarding: answered before its body arrived   | DISCARD_TIMEOUT_S (30)| close                                |
| idle: answered, and only empty lines since     | IDLE_TIMEOUT_S (95)   | close (this timer is uvicorn's)      |
| lingering: no more responses; input is dropped | LINGER_S (2)          | close, unless input arrived meanwhile|

Lingering takes at most DISCARD_TIMEOUT_S. It follows a rejection, and a last response whose request has not arrived
completely: closing at once would destroy the response on its way.

`WriteWatch` is independent of these: it resets a connection whose client takes nothing of its response for 30 s.

When the server drains, the next response on each connection is its last, and says so. A connection without a request is
closed after LAST_REQUEST_S, so a request that is on its way is answered.

Example: a client sends the first half of a head at 0 s (head: until 10 s), the rest at 3 s (body: no timer here), and
its body by 4 s (answering). The response leaves at 4.01 s (idle: uvicorn waits). At 20 s one byte arrives (head: until
30 s). Nothing follows: at 30 s it gets a 408, and at 32 s the connection is closed.

A client that shuts down its side after a whole request still gets the response, and then the connection is closed. TLS
has no such half-closed connections.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from server.core.errors import HeadersTooLarge, RequestTimeout, Unavailable
from server.rest.http.body import HAS_ARRIVED
from server.rest.http.capacity import is_full, is_overfull
from server.rest.http.disconnect import ABORT
from server.rest.http.ending import DISCARD_TIMEOUT_S, EndingProtocol, ParsingFlowControl
from server.rest.http.response_writing import (
    KEEP_ALIVE,
    ResponseTransport,
    WriteWatch,
    last_unless_continued,
    without_chunks,
)

MAX_HEAD_BYTES = 64 * 1024
"""A request line and headers: eight times what common proxies accept. The framing of a body may be as large."""

STEP_BYTES = 16 * 1024
"""What is parsed at a time. It limits how many requests of one connection can wait, and has no measurable cost."""

HEAD_TIMEOUT_S = 10
"""A head arrives within this, counted from the connection or from the head's first byte. It is a packet or two."""

IDLE_TIMEOUT_S = 95
"""How long an idle connection is kept. Common load balancers keep theirs for 60 s, and must close first."""

LAST_REQUEST_S = 0.5
"""How long a connection without a request stays open in a drain. A client in use sends its next request meanwhile."""

HEAD_STALLED = f"The request line and headers did not arrive within {HEAD_TIMEOUT_S} s"
TOO_MANY = "This server has as many connections as it can hold: retry after the time in Retry-After"

EMPTY_LINES = b"\r\n"


class HttpProtocol(EndingProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._drains = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, unless there are too many connections."""
        super().connection_made(transport)
        self.flow = ParsingFlowControl(transport)
        self._responses: Any = ResponseTransport(self.loop, transport, self._end_after_response)
        self._write_watch = WriteWatch(self.loop, transport)
        if is_overfull(self.connections):
            transport.abort()
        elif is_full(self.connections):
            self.reject(Unavailable("not_stored", TOO_MANY))
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers, and tell the running request that its client is gone."""
        self._start_read_timer(None)
        self.flow.resume_writing()
        self._write_watch.stop()
        for _ in self.pipeline:
            self._note_gone()
        self.pipeline.clear()
        if self._running is not None:  # uvicorn tells only the last request, which may be another one
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse input."""
        if self.rejected:
            self._dropped = True
            return
        self._unparsed = memoryview(bytes(self._unparsed) + data if self._unparsed else data)
        self._parse()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer what has arrived completely. Returns whether there is anything to answer before the end."""
        if not self.rejected:
            self.rejected = True
            if self.pipeline and not self.in_head:
                self._note_gone()
            self._drop_incomplete()
            if self._last is not None:
                self._last.keep_alive = False
        self._sends_more = False
        return self._last is not None and not self._last.response_complete and self.scheme == "http"

    def on_headers_complete(self) -> None:
        """Let the response of the new request end as `_end_after_response` says."""
        super().on_headers_complete()
        if not self.in_head:
            self.cycle.transport = self._responses
            if self._drains:
                self.cycle.keep_alive = False
            if self.cycle.keep_alive:
                self.cycle.default_headers = [*self.cycle.default_headers, KEEP_ALIVE]
            if self._read_timer is not None:
                self._start_read_timer(None)

    def on_message_complete(self) -> None:
        """Stop the timer of a body that is discarded."""
        super().on_message_complete()
        if self._read_timer is not None:
            self._start_read_timer(None)

    def on_response_complete(self) -> None:
        """Parse what has arrived meanwhile."""
        if self._lingers_until is None:
            super().on_response_complete()
            if self._rejection is not None and self._last is not None and self._last.response_complete:
                self._end_with(self._rejection)
            elif self._unparsed:
                self._parse()
            else:
                self._watch()

    def pause_writing(self) -> None:
        """Watch the client: it reads its response more slowly than it is written."""
        super().pause_writing()
        self._write_watch.start()

    def resume_writing(self) -> None:
        """Stop watching: the client has read nearly all."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._write_watch.stop()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        self._close()

    def shutdown(self) -> None:
        """Let the next response be the last one, because the server drains."""
        self._drains = True
        if self.is_answered():
            self.loop.call_later(LAST_REQUEST_S, self._close_without_request)
        else:
            self.cycle.keep_alive = False

    def _close_without_request(self) -> None:
        """Close the connection, unless a request has begun to arrive since the drain began."""
        if self.is_answered() and not self.begun and not self.transport.is_closing():
            self._close()

    def _has_arrived(self) -> bool:
        """Whether the whole body of the request that is answered has arrived.

        The scope holds this, not the request itself, which holds the scope: such a cycle would keep each in memory.
        """
        return self._running is not None and not self._running.more_body

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Let the application answer the next request."""
        self._running = cycle
        cycle.scope["extensions"] = {ABORT: self.transport.abort, HAS_ARRIVED: self._has_arrived}  # type: ignore[dict-item]
        if cycle.scope["http_version"] == "1.0":
            app = without_chunks(app, cycle)
        elif cycle.waiting_for_100_continue:
            app = last_unless_continued(app, cycle)
        super()._start_asgi_task(cycle, app)

    def _parse(self) -> None:
        """Parse input, but stop while earlier requests wait to be answered."""
        while self._unparsed and not self.pipeline and not self.rejected and not self.transport.is_closing():
            size = min(STEP_BYTES, MAX_HEAD_BYTES - self.framing)
            step, self._unparsed = self._unparsed[:size], self._unparsed[size:]  # views, which copy nothing
            self.framing += len(step)
            if self.in_head and not self.begun and step[0] in EMPTY_LINES:
                step = memoryview(bytes(step).lstrip(EMPTY_LINES))
            self.feed(step)
            if self.framing < 0:  # a body was subtracted
                self.framing = 0
            if self.begun and not self.framing:  # a head begins in the middle of this step: at most all of it counts
                self.framing = len(step)
            if self.framing >= MAX_HEAD_BYTES and not self.rejected:
                self._check_size()
        if self._unparsed or self.flow.holds_back:
            self._hold_back(bool(self._unparsed))
        self._watch()

    def _check_size(self) -> None:
        """Reject a head that is too large, or the framing of a body. Requests before a head were counted with it."""
        head = self.head_so_far() if self.begun else None
        if head is not None:
            self.framing = len(head)
        if self.framing >= MAX_HEAD_BYTES:
            self.reject(HeadersTooLarge(MAX_HEAD_BYTES))

    def _watch(self) -> None:
        """Start the read timer of the current state, unless it runs."""
        if self.rejected or self._read_timer is not None:
            return
        if self.in_head and not self._unparsed and (self.begun or self.cycle is None):
            self._start_read_timer(HEAD_TIMEOUT_S, self._on_head_stalled)
        elif not self.in_head and self.cycle.response_complete:
            self._start_read_timer(DISCARD_TIMEOUT_S, self._close)

    def _on_head_stalled(self) -> None:
        """Reject a head that does not arrive. If nothing of it has arrived, there is no request to answer."""
        if self.begun:
            self.reject(RequestTimeout(HEAD_STALLED))
        else:
            self._close()
