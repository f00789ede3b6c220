"""How a connection ends: after a last response, with a rejection, or by being closed.

A rejection is the response to a request that is not HTTP, is too large or does not arrive. It is sent once the requests
before it are answered, and nothing that comes after it is read. `protocol.py` decides when a connection ends.

Only the part that a client is still sending can be rejected here. If a handler works on that request already, it learns
that its client is gone, and the request ends with the rejection (`Request.answered_with`).
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from server.core.errors import ClientGone, SluiceError
from server.core.request import Request
from server.core.request_context import continue_request
from server.core.requests import Requests
from server.rest.http.begin import REQUEST, REQUEST_ID_HEADER, begin_http_request, unparsed_ids
from server.rest.http.parsing import Fields, ParsingProtocol
from server.rest.http.problems import raw_response
from server.rest.http.response_writing import WriteWatch

DISCARD_TIMEOUT_S = 30
"""How long the body of a request that was already answered is read, so that a client that sends first sees it."""

LINGER_S = 2
"""How long a connection that ends waits for more input to drop. An immediate reset would destroy the last response."""

NOTHING = memoryview(b"")


class ParsingFlowControl(FlowControl):
    """Flow control that also stops reading while there is input left to parse."""

    holds_back = False

    def resume_reading(self) -> None:
        """Read on, unless input is left to parse."""
        if not self.holds_back:
            super().resume_reading()


class EndingProtocol(ParsingProtocol):
    """One connection, and how it ends."""

    def __init__(self, *args: Any, requests: Requests, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._requests = requests
        self.flow: ParsingFlowControl
        self._write_watch: WriteWatch
        self._unparsed = NOTHING
        self._running: RequestResponseCycle | None = None
        self._last: RequestResponseCycle | None = None  # the last request that is answered by the application
        self._rejection: bytes | None = None  # the response after that of the last request
        self._sends_more = True  # whether the client may send more
        self._lingers_until: float | None = None
        self._dropped = False  # whether input has arrived since the last look while lingering
        self._read_timer: asyncio.TimerHandle | None = None

    def is_answered(self) -> bool:
        """Whether no request is left to answer. The head of one may be arriving."""
        return self.cycle is None or self.cycle.response_complete

    def _start_read_timer(self, seconds: float | None, then: Callable[[], None] = lambda: None) -> None:
        """Replace the read timer by one that calls `then`; None stops it."""
        if self._read_timer is not None:
            self._read_timer.cancel()
        self._read_timer = None if seconds is None else self.loop.call_later(seconds, then)

    def _hold_back(self, holds_back: bool) -> None:
        """Stop or resume reading."""
        if holds_back:
            self.flow.pause_reading()
        resumes, self.flow.holds_back = self.flow.holds_back and not holds_back, holds_back
        if resumes:
            self.flow.resume_reading()

    def reject(self, error: SluiceError) -> None:
        """Take no more input: answer with `error` once earlier requests are answered, and end the connection."""
        self.rejected, self._unparsed = True, NOTHING
        self._hold_back(False)
        is_answered = not self.in_head and self.cycle.response_started
        response = b"" if is_answered else Context().run(self._answer, error)
        self._drop_incomplete()
        if self._last is None:
            self._end_with(response)
        else:
            self._rejection = response

    def _answer(self, error: SluiceError) -> bytes:
        """The response to the request that is arriving, which is rejected. It has the id that the request was sent.

        The request ends with `error`: at once, or with the handler that has opened it.
        """
        request = self._begin_arriving()
        response = raw_response(error, self.server_state.default_headers, is_head=self.is_head_request())
        self._requests.refuse("rest", error)
        request.answered_with = error
        return response

    def _begin_arriving(self) -> Request:
        """The request that is arriving, which the current context works on from now on."""
        extensions: Any = {} if self.in_head else self.cycle.scope.setdefault("extensions", {})
        if REQUEST in extensions:
            continue_request(extensions[REQUEST])
        else:
            begin_http_request(self._arriving_headers(), extensions)
        request: Request = extensions[REQUEST]
        return request

    def _arriving_headers(self) -> Fields:
        """The headers of the request that is arriving, as far as they are known."""
        if not self.in_head:
            return self.cycle.scope["headers"]
        if not self.begun:
            return ()
        if any(name == REQUEST_ID_HEADER for name, _ in self.headers):
            return self.headers
        return [*self.headers, *unparsed_ids(self.head_so_far() or b"")]

    def _note_gone(self) -> None:
        """Note that a request ends whose client goes away before its turn comes."""
        Context().run(self._requests.refuse, "rest", ClientGone())

    def _drop_incomplete(self) -> None:
        """Drop a request that has not arrived completely. The one before is the last, if it is not answered yet."""
        current = None if self.in_head else self.cycle
        if current is not None:
            if self.pipeline:
                self.pipeline.popleft()  # it was not started yet
            current.disconnected = True
            current.message_event.set()
        before = self.pipeline[0][0] if self.pipeline else self._running
        if before is not None and before is not current and not before.response_complete:
            self._last = before

    def _end_with(self, response: bytes) -> None:
        """Send a last response, and end the connection."""
        self._unset_keepalive_if_required()
        if not self.transport.is_closing():
            self.transport.write(response)
            self._end_after_response()

    def _end_after_response(self) -> None:
        """End the connection after its last response. If the client may still be sending, it must see that first."""
        if self._sends_more and (self.rejected or self._unparsed or not self.in_head):
            self._linger()
        else:
            self._close()

    def _linger(self) -> None:
        """Say that no more responses come, and drop what still arrives."""
        self.rejected, self._unparsed = True, NOTHING
        self.pipeline.clear()
        self._hold_back(False)
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._lingers_until = self.loop.time() + DISCARD_TIMEOUT_S
        self._start_read_timer(LINGER_S, self._on_lingered)

    def _on_lingered(self) -> None:
        """Close the connection, or linger on if input has arrived meanwhile."""
        assert self._lingers_until is not None  # noqa: S101
        if self._dropped and self.loop.time() < self._lingers_until:
            self._dropped = False
            self._start_read_timer(LINGER_S, self._on_lingered)
        else:
            self._close()

    def _close(self) -> None:
        """Close the connection. What is not sent yet is watched to its end."""
        unsent = self.transport.get_write_buffer_size()
        self.transport.close()
        if unsent:
            self._write_watch.start()
