"""HTTP/1.1 as it comes off the wire: uvicorn's httptools protocol, with the things it leaves open. Imports uvicorn.

What is not HTTP, or is more than a head may be, gets a problem+json like any other error, and ends the connection. No
connection holds more than a bounded amount of memory, nor stays for good without bringing a request or taking an
answer. An `Upgrade` is ignored, as RFC 9110 allows: left to itself, the parser would stop at one, and read the
request's body as a request of its own.
"""

import asyncio
import re
import resource
import socket
import struct
from collections.abc import Callable
from typing import Any

import msgspec
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from server.core.errors import HeadersTooLarge, MalformedRequest, RequestTimeout, SluiceError, Unavailable
from server.rest.problems import PROBLEM_JSON, problem_of
from server.status import STATUS

MAX_HEAD_BYTES = 64 * 1024
"""A request line and headers: eight times what common proxies let through. A body's framing may be as much."""

CHUNK_FRAMING_BYTES = 16
"""What a chunk of a body may have around it uncounted: its length, line ends, and a short extension."""

STEP_BYTES = 16 * 1024
"""What is parsed at a time: it bounds the requests that one connection can have waiting, and costs next to nothing."""

HEAD_TIMEOUT_S = 10
"""A head arrives within this, counted from the connection or from the head's first byte: it is a packet or two."""

DISCARD_TIMEOUT_S = 30
"""A body that was answered before it was read is read for so long, so that callers who send first see their answer."""

LINGER_S = 2
"""After a refusal, what still arrives is read and dropped for so long: a reset would destroy the answer on its way."""

WRITE_TIMEOUT_S = 30
"""An answer that the caller does not take for so long is given up."""

CONNECTIONS_SHARE = 2
"""REST takes one in so many of the file descriptors: gRPC, the database and the files have the others."""

RESET = struct.pack("ii", 1, 0)
"""For SO_LINGER: close at once, and keep nothing that is yet to be sent."""

HEAD_STALLED = f"The request line and headers did not arrive within {HEAD_TIMEOUT_S} s"
TOO_MANY = "This server has as many connections as it can hold: retry after a moment"

UPGRADE = re.compile(rb"\nupgrade:", re.IGNORECASE)
IGNORED = b"\nignored:"

END_OF_HEAD = b"\r\n\r\n"
NOTHING = memoryview(b"")


class Flow(FlowControl):
    """Flow control that does not read on while there is something left to parse."""

    holds_back = False

    def resume_reading(self) -> None:
        """Read on, unless that has to wait."""
        if not self.holds_back:
            super().resume_reading()


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.flow: Flow
        self._unparsed = NOTHING
        self._in_head = True
        self._framing = 0  # bytes of the head so far; within a body, those that are neither body nor usual framing
        self._refused = False
        self._running: RequestResponseCycle | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._write_patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, unless there are too many who do."""
        super().connection_made(transport)
        self.flow = Flow(transport)
        if len(self.connections) > resource.getrlimit(resource.RLIMIT_NOFILE)[0] // CONNECTIONS_SHARE:
            self._refuse(Unavailable("not_stored", TOO_MANY))
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._lose_patience_after(None)
        self.resume_writing()
        self.pipeline.clear()
        if self._running is not None:  # uvicorn tells the request that came last, which may be another
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has arrived; at the start of a request, make its `Upgrade` header an unknown one."""
        if self._refused:
            return
        if self.cycle is None or self.cycle.response_complete:
            end = data.find(END_OF_HEAD)
            end = len(data) if end < 0 else end
            if UPGRADE.search(data, 0, end):
                data = UPGRADE.sub(IGNORED, data[:end]) + data[end:]
        self._unparsed = memoryview(bytes(self._unparsed) + data if self._unparsed else data)
        self._parse()

    def on_headers_complete(self) -> None:
        """Take a request, whose body is yet to come."""
        super().on_headers_complete()
        self._in_head, self._framing = False, 0
        self._lose_patience_after(None)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header without the white space around its value, which is not part of it; and no trailer for one."""
        if self._in_head:
            super().on_header(name, value.strip(b" \t"))

    def on_chunk_header(self) -> None:
        """A chunk of a body begins."""
        self._framing -= CHUNK_FRAMING_BYTES

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._framing -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete, and the next may begin."""
        super().on_message_complete()
        self._in_head, self._framing = True, 0
        self._lose_patience_after(None)

    def on_response_complete(self) -> None:
        """Go on with what has arrived meanwhile."""
        super().on_response_complete()
        self._parse()

    def pause_writing(self) -> None:
        """The caller does not read its answer as fast as it comes."""
        super().pause_writing()
        self._write_patience = self.loop.call_later(WRITE_TIMEOUT_S, self._reset)

    def resume_writing(self) -> None:
        """The caller goes on reading."""
        super().resume_writing()
        if self._write_patience is not None:
            self._write_patience.cancel()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(MalformedRequest(msg))

    def _unsupported_upgrade_warning(self) -> None:
        """The parser has stopped at an `Upgrade` that came in pieces, and would misread what follows."""
        self._in_head = False  # it is this request that is refused, not what comes after it
        self.send_400_response("Upgrade is not supported")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Let the application answer a request, whose turn it is."""
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _parse(self) -> None:
        """Parse what has arrived, but nothing ahead of requests that wait for their turn."""
        while self._unparsed and not self.pipeline and not self._refused and not self.transport.is_closing():
            size = min(STEP_BYTES, MAX_HEAD_BYTES - self._framing)
            step, self._unparsed = self._unparsed[:size], self._unparsed[size:]  # views, which copy nothing
            self._framing += len(step)
            super().data_received(step)  # type: ignore[arg-type]  # the parser takes any bytes-like object
            self._framing = max(0, self._framing)  # where bodies are in a step, it is not known whose the rest was
            if self._framing >= MAX_HEAD_BYTES:
                self._refuse(HeadersTooLarge(MAX_HEAD_BYTES))
        self._hold_back(bool(self._unparsed))
        self._watch()

    def _hold_back(self, holds_back: bool) -> None:
        """Stop reading where something is left to parse."""
        if holds_back:
            self.flow.pause_reading()
        resumes, self.flow.holds_back = self.flow.holds_back and not holds_back, holds_back
        if resumes:
            self.flow.resume_reading()

    def _watch(self) -> None:
        """See to it that what the caller owes now does not take for ever; an unread body is seen to by who reads it."""
        if self._refused or self._patience is not None:
            return
        if self._in_head and (self._framing or self.cycle is None):
            self._lose_patience_after(HEAD_TIMEOUT_S, self._on_head_stalled)
        elif not self._in_head and self.cycle.response_complete:
            self._lose_patience_after(DISCARD_TIMEOUT_S, self.transport.close)

    def _lose_patience_after(self, seconds: float | None, then: Callable[[], None] = lambda: None) -> None:
        """Wait for the caller for so long, and no longer; None: nothing is owed."""
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None if seconds is None else self.loop.call_later(seconds, then)

    def _on_head_stalled(self) -> None:
        """Refuse a request that does not come; where nothing of it has come, there is none to answer."""
        if self._framing:
            self._refuse(RequestTimeout(HEAD_STALLED))
        else:
            self.transport.close()

    def _refuse(self, error: SluiceError) -> None:
        """Take nothing more on this connection: answer with `error`, where it is this request's turn, and end it."""
        self._refused, self._unparsed = True, NOTHING
        self._hold_back(False)
        current = None if self._in_head else self.cycle
        if current is not None and self.pipeline:
            self.pipeline.popleft()  # it has not had its turn
        before = self.pipeline[0][0] if self.pipeline else self._running
        if before is not None and before is not current and not before.response_complete:
            before.keep_alive = False  # what came before has its answer to come, and the connection ends with that
        elif current is None:
            self._end(error)
        else:
            current.disconnected = True
            current.message_event.set()
            self._end(None if current.response_started else error)

    def _end(self, error: SluiceError | None) -> None:
        """End the connection, with an answer unless `error` is None."""
        if error is not None:
            self.transport.write(answer(error))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._lose_patience_after(LINGER_S, self.transport.close)

    def _reset(self) -> None:
        """Give up an answer that is not taken, and what the kernel holds of it."""
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()


def answer(error: SluiceError) -> bytes:
    """A whole answer, as it goes over the wire, after which the connection ends."""
    row = STATUS[error.code]
    body = msgspec.json.encode(problem_of(error))
    retry_after = f"retry-after: {error.retry_after_s}\r\n" if row.retryable else ""
    return (
        f"HTTP/1.1 {row.http.value} {row.http.phrase}\r\ncontent-type: {PROBLEM_JSON}\r\n"
        f"content-length: {len(body)}\r\n{retry_after}connection: close\r\n\r\n"
    ).encode() + body
