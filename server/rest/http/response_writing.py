"""What uvicorn leaves open about responses: clients that do not read, clients that still send, and HTTP/1.0.

A response that is written faster than its client reads it is watched. What counts is progress: a client that reads
slowly is served for hours, and one that takes nothing for 30 s is cut off.
"""

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

WRITE_TIMEOUT_S = 30
"""A response of which the client takes nothing for this long is dropped."""

CHECK_INTERVAL_S = 1
"""How often to look for progress. It limits how late a response is dropped."""

KEEP_ALIVE = (b"keep-alive", b"timeout=90")
"""Tells clients to close an idle connection before the server does, so that no request crosses the server's end."""

RESET = struct.pack("ii", 1, 0)
"""For SO_LINGER: close at once, and drop what is not sent yet."""


class WriteWatch:
    """The watch over one connection, which it resets."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = (0, 0)
        self._progressed = 0.0

    def start(self) -> None:
        """Begin to watch, unless it does already."""
        if self._timer is None:
            self._unsent, self._progressed = self._count_unsent(), self._loop.time()
            self._timer = self._loop.call_later(CHECK_INTERVAL_S, self._check)

    def stop(self) -> None:
        """Stop watching: the client has taken enough, or is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        """Reset the connection if nothing was taken for too long."""
        unsent = self._count_unsent()
        if unsent != self._unsent:
            self._unsent, self._progressed = unsent, self._loop.time()
        if self._loop.time() - self._progressed < WRITE_TIMEOUT_S:
            self._timer = self._loop.call_later(CHECK_INTERVAL_S, self._check)
        else:
            self._reset()

    def _count_unsent(self) -> tuple[int, int]:
        """Bytes of the response that wait in this process, and bytes that the kernel holds until the client has them.

        The kernel's number changes with every packet that the client takes. Ours may stay the same for a minute: the
        kernel takes more only if a third of its buffer is free.
        """
        queued = fcntl.ioctl(self._socket().fileno(), termios.TIOCOUTQ, bytes(4))
        return self._transport.get_write_buffer_size(), int.from_bytes(queued, "little")

    def _reset(self) -> None:
        """Drop the response, and what the kernel holds of it."""
        self._timer = None
        self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._transport.abort()

    def _socket(self) -> socket.socket:
        """The connection's socket."""
        found: socket.socket = self._transport.get_extra_info("socket")
        return found


class ResponseTransport:
    """What uvicorn writes responses to: the connection, but for `close`, which ends it as `close` says.

    uvicorn writes the head of a response and then its body. Here the head waits for the body, so that both leave in one
    packet: each costs the server a tenth of a request with a single event. If none comes, it leaves in the next turn of
    the event loop.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, close: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._close = close
        self._held: bytes | None = None
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Write `data`, together with what was held back. If nothing was, hold it back."""
        if self._held is None:
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.writelines((self._held, data))
            self._held = None

    def _flush(self) -> None:
        """Write what is held back, unless the client is gone."""
        held, self._held = self._held, None
        if held is not None and not self.is_closing():
            self._transport.write(held)

    def close(self) -> None:
        """End the connection, once all is written."""
        self._flush()
        self._close()


def without_chunks(app: Any, cycle: RequestResponseCycle) -> Any:
    """`app` for a request of HTTP/1.0, which has neither chunks nor `100 Continue`. A body ends with the connection."""
    cycle.waiting_for_100_continue = False

    async def app_of_1_0(scope: Any, receive: Any, send: Any) -> None:
        async def send_plain(message: Any) -> None:
            cycle.chunked_encoding = False
            cycle.expected_content_length = len(message.get("body", b""))  # so that uvicorn expects what there is
            await send(message)

        await app(scope, receive, send_plain)

    return app_of_1_0


def last_unless_continued(app: Any, cycle: RequestResponseCycle) -> Any:
    """`app` for a request whose client waits for `100 Continue` before it sends the body.

    If the response comes instead, nobody knows whether the body still does. So the connection ends with it, unless the
    whole body has arrived (RFC 9110 §10.1.1).
    """

    async def app_that_may_end(scope: Any, receive: Any, send: Any) -> None:
        async def send_last(message: Any) -> None:
            if cycle.waiting_for_100_continue and cycle.more_body:  # it waits until a response starts
                cycle.keep_alive = False
                cycle.default_headers = [field for field in cycle.default_headers if field != KEEP_ALIVE]
            await send(message)

        await app(scope, receive, send_last)

    return app_that_may_end
