"""HTTP/1.1 on one connection: uvicorn's httptools protocol, with limits on size and time.

Theory of operation. uvicorn parses requests and runs the application for each. This class adds what uvicorn leaves
open: whatever is not HTTP, or is larger than a head may be, gets a problem+json and ends the connection. No connection
holds more than a fixed amount of memory, or stays open without bringing a request or taking a response. Most of the
work is to decide which timer runs.

A connection is always in one of these states. The timer is `_read_timer`, of which at most one runs:

| state                                          | timer                 | when it expires                     |
|------------------------------------------------|-----------------------|-------------------------------------|
| new: nothing has arrived yet                   | HEAD_TIMEOUT_S (10)   | close, with no response             |
| head: some bytes of a request head have arrived| HEAD_TIMEOUT_S (10)   | 408, then lingering                 |
| body: the application reads it                 | none here             | `arrivals.py` cancels stalled bodies|
| answering: the request has arrived completely  | none here             | the request has its own deadline    |
| discarding: answered before its body arrived   | DISCARD_TIMEOUT_S (30)| close                               |
| idle: answered, and nothing new has arrived    | uvicorn's keep-alive  | close                               |
| lingering: rejected; input is read and dropped | LINGER_S (2)          | close                               |

`_write_timer` (WRITE_TIMEOUT_S, 30) is independent of these: it runs while the client does not read its response, and
resets the connection when it expires.

Example: a client sends the first half of a head at 0 s (head: until 10 s), the rest at 3 s (body: no timer here), and
its body by 4 s (answering). The response leaves at 4.01 s (idle: uvicorn waits). At 20 s one byte arrives (head: until
30 s). Nothing follows: at 30 s it gets a 408, and at 32 s the connection is closed.

An `Upgrade` header is ignored, as RFC 9110 allows. Left to itself, the parser would stop at one, and take the request's
body for a request of its own.
"""

import asyncio
import re
import resource
import socket
import struct
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from server.core.errors import HeadersTooLarge, MalformedRequest, RequestTimeout, SluiceError, Unavailable
from server.rest.http.problems import PROBLEM_JSON, problem_body, problem_headers
from server.status import refusal_of

MAX_HEAD_BYTES = 64 * 1024
"""A request line and headers: eight times what common proxies accept. The framing of a body may be as large."""

CHUNK_FRAMING_BYTES = 16
"""Bytes around a chunk of a body that are not counted: its length, line ends, and a short extension."""

STEP_BYTES = 16 * 1024
"""What is parsed at a time. It limits how many requests of one connection can wait, and has no measurable cost."""

HEAD_TIMEOUT_S = 10
"""A head arrives within this, counted from the connection or from the head's first byte. It is a packet or two."""

DISCARD_TIMEOUT_S = 30
"""How long the body of a request that was already answered is read, so that a client that sends first sees it."""

LINGER_S = 2
"""How long input is read and dropped after a rejection. An immediate reset would destroy the response on its way."""

WRITE_TIMEOUT_S = 30
"""A response that the client does not read for this long is dropped."""

CONNECTIONS_SHARE = 2
"""REST uses one in 2 of the file descriptors. The others are for gRPC, the database and files."""

RESET = struct.pack("ii", 1, 0)
"""For SO_LINGER: close at once, and drop what is not sent yet."""

HEAD_STALLED = f"The request line and headers did not arrive within {HEAD_TIMEOUT_S} s"
TOO_MANY = "This server has as many connections as it can hold: retry after the time in Retry-After"

UPGRADE = re.compile(rb"\nupgrade:", re.IGNORECASE)
IGNORED = b"\nignored:"

END_OF_HEAD = b"\r\n\r\n"
NOTHING = memoryview(b"")


class ParsingFlowControl(FlowControl):
    """Flow control that also stops reading while there is input left to parse."""

    holds_back = False

    def resume_reading(self) -> None:
        """Read on, unless input is left to parse."""
        if not self.holds_back:
            super().resume_reading()


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.flow: ParsingFlowControl
        self._unparsed = NOTHING
        self._in_head = True
        self._framing = 0  # bytes of the head so far; inside a body, bytes that are neither body nor usual framing
        self._rejected = False
        self._running: RequestResponseCycle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, unless there are too many connections."""
        super().connection_made(transport)
        self.flow = ParsingFlowControl(transport)
        if len(self.connections) > resource.getrlimit(resource.RLIMIT_NOFILE)[0] // CONNECTIONS_SHARE:
            self._reject(Unavailable("not_stored", TOO_MANY))
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers, and tell the running request that its client is gone."""
        self._start_read_timer(None)
        self.resume_writing()
        self.pipeline.clear()
        if self._running is not None:  # uvicorn tells only the last request, which may be another one
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse input. At the start of a request, replace an `Upgrade` header by one with no meaning."""
        if self._rejected:
            return
        if self.cycle is None or self.cycle.response_complete:
            end = data.find(END_OF_HEAD)
            end = len(data) if end < 0 else end
            if UPGRADE.search(data, 0, end):
                data = UPGRADE.sub(IGNORED, data[:end]) + data[end:]
        self._unparsed = memoryview(bytes(self._unparsed) + data if self._unparsed else data)
        self._parse()

    def on_headers_complete(self) -> None:
        """Start a request, whose body may follow."""
        super().on_headers_complete()
        self._in_head, self._framing = False, 0
        self._start_read_timer(None)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header, without the white space around its value. Trailers are not headers."""
        if self._in_head:
            super().on_header(name, value.strip(b" \t"))

    def on_chunk_header(self) -> None:
        """Do not count the framing of this chunk."""
        self._framing -= CHUNK_FRAMING_BYTES

    def on_body(self, body: bytes) -> None:
        """Add a piece of a body."""
        self._framing -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Complete the request. The next may begin."""
        super().on_message_complete()
        self._in_head, self._framing = True, 0
        self._start_read_timer(None)

    def on_response_complete(self) -> None:
        """Parse what has arrived meanwhile."""
        super().on_response_complete()
        self._parse()

    def pause_writing(self) -> None:
        """Start the write timer: the client reads its response more slowly than it is written."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self._reset)

    def resume_writing(self) -> None:
        """Stop the write timer: the client reads again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()

    def send_400_response(self, msg: str) -> None:
        """Reject what is not HTTP."""
        self._reject(MalformedRequest(msg))

    def _unsupported_upgrade_warning(self) -> None:
        """Reject an `Upgrade` that came in pieces: the parser has stopped at it, and would misread what follows."""
        self._in_head = False  # this request is rejected, not what follows it
        self.send_400_response("Upgrade is not supported")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Let the application answer the next request."""
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _parse(self) -> None:
        """Parse input, but stop while earlier requests wait to be answered."""
        while self._unparsed and not self.pipeline and not self._rejected and not self.transport.is_closing():
            size = min(STEP_BYTES, MAX_HEAD_BYTES - self._framing)
            step, self._unparsed = self._unparsed[:size], self._unparsed[size:]  # views, which copy nothing
            self._framing += len(step)
            super().data_received(step)  # type: ignore[arg-type]  # the parser takes any bytes-like object
            self._framing = max(0, self._framing)  # a body may have been subtracted in an earlier step
            if self._framing >= MAX_HEAD_BYTES:
                self._reject(HeadersTooLarge(MAX_HEAD_BYTES))
        self._hold_back(bool(self._unparsed))
        self._watch()

    def _hold_back(self, holds_back: bool) -> None:
        """Stop or resume reading."""
        if holds_back:
            self.flow.pause_reading()
        resumes, self.flow.holds_back = self.flow.holds_back and not holds_back, holds_back
        if resumes:
            self.flow.resume_reading()

    def _watch(self) -> None:
        """Start the read timer of the current state, unless it runs."""
        if self._rejected or self._read_timer is not None:
            return
        if self._in_head and (self._framing or self.cycle is None):
            self._start_read_timer(HEAD_TIMEOUT_S, self._on_head_stalled)
        elif not self._in_head and self.cycle.response_complete:
            self._start_read_timer(DISCARD_TIMEOUT_S, self.transport.close)

    def _start_read_timer(self, seconds: float | None, then: Callable[[], None] = lambda: None) -> None:
        """Replace the read timer by one that calls `then`; None stops it."""
        if self._read_timer is not None:
            self._read_timer.cancel()
        self._read_timer = None if seconds is None else self.loop.call_later(seconds, then)

    def _on_head_stalled(self) -> None:
        """Reject a head that does not arrive. If nothing of it has arrived, there is no request to answer."""
        if self._framing:
            self._reject(RequestTimeout(HEAD_STALLED))
        else:
            self.transport.close()

    def _reject(self, error: SluiceError) -> None:
        """Take no more input: answer with `error` once earlier requests are answered, and end the connection."""
        self._rejected, self._unparsed = True, NOTHING
        self._hold_back(False)
        current = None if self._in_head else self.cycle
        if current is not None and self.pipeline:
            self.pipeline.popleft()  # it was not started yet
        before = self.pipeline[0][0] if self.pipeline else self._running
        if before is not None and before is not current and not before.response_complete:
            before.keep_alive = False  # the connection ends with the response to the earlier request
        elif current is None:
            self._end(error)
        else:
            current.disconnected = True
            current.message_event.set()
            self._end(None if current.response_started else error)

    def _end(self, error: SluiceError | None) -> None:
        """End the connection, with a response unless `error` is None."""
        if error is not None:
            self.transport.write(raw_response(error))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._start_read_timer(LINGER_S, self.transport.close)

    def _reset(self) -> None:
        """Drop a response that the client does not read, and what the kernel holds of it."""
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()


def raw_response(error: SluiceError) -> bytes:
    """A whole error response as it is sent, after which the connection ends."""
    refusal = refusal_of(error)
    status, body = refusal.status.http, problem_body(refusal)
    headers = {
        "content-type": PROBLEM_JSON,
        "content-length": str(len(body)),
        **{name.lower(): value for name, value in problem_headers(refusal).items()},
        "connection": "close",
    }
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{fields}\r\n".encode() + body
