"""Reads the body of a request: its size, its pace, and its decompression.

No more than MAX_BODY_BYTES of a body are held, compressed or not. No client keeps a request open by sending nothing.
"""

from functools import partial
from typing import Any

from litestar.types import HTTPScope, Receive

from server.core.arrivals import STALLED, Arrivals
from server.core.decompression import Decompressor
from server.core.errors import ClientGone, PayloadTooLarge, RequestTimeout
from server.core.events.model import MAX_BODY_BYTES
from server.core.ingest.ingest import AdmittedRequest
from server.rest.http.disconnect import unless_gone
from server.rest.http.headers import IDENTITY, BodyFormat

MAX_ARRIVING_BYTES = 64 * 1024 * 1024
"""What all bodies that are still arriving may hold: 6 of the largest size, or hundreds of usual large ones."""

HAS_ARRIVED = "sluice.has_arrived"
"""The extension of a scope that tells whether the whole body has arrived."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some editors and shells of Windows write before UTF-8. RFC 8259 lets those who read JSON ignore it."""

TOO_LARGE = f"The body is over {MAX_BODY_BYTES >> 20} MiB: send fewer events at a time"


class BodyReader:
    """Reads the bodies of all requests to this worker."""

    def __init__(self) -> None:
        self._arrivals = Arrivals(MAX_ARRIVING_BYTES, partial(RequestTimeout, STALLED))
        self._decompress = Decompressor(MAX_BODY_BYTES)

    async def __call__(
        self, request: AdmittedRequest, body_format: BodyFormat, scope: HTTPScope, receive: Receive
    ) -> bytes:
        """The body of a request, decompressed, and without a byte order mark at its start.

        The deadline does not count the time that the client takes to send it.

        Raises PayloadTooLarge, RequestTimeout, ClientGone, MalformedJson for an encoding that does not decode, and
        Unavailable if there is no capacity for what is arriving.
        """
        if (body_format.length or 0) > MAX_BODY_BYTES:
            raise PayloadTooLarge(TOO_LARGE)
        if is_whole(scope):
            body = await receive_whole_body(receive)
        else:
            with request.slot.released(paused=request.deadline):
                body = await receive_body(receive, self._arrivals)
        if body_format.encoding != IDENTITY:
            with request.slot.released():  # while it waits for bodies of others
                decompressing = self._decompress(body, body_format.encoding, request.tenant_id, request.deadline)
                body = await unless_gone(decompressing, receive)
        return body.removeprefix(BYTE_ORDER_MARK)


def is_whole(scope: HTTPScope) -> bool:
    """Whether the whole body has come with the head, as most do. Then uvicorn holds it: 64 KiB, or one read more."""
    has_arrived: Any = (scope["extensions"] or {})[HAS_ARRIVED]
    return bool(has_arrived())


async def receive_whole_body(receive: Receive) -> bytes:
    """A body that has arrived, so that nothing has to be counted while it does. Raises ClientGone."""
    message = await receive()
    if message["type"] != "http.request":
        raise ClientGone
    return message["body"]


async def receive_body(
    receive: Receive, arrivals: Arrivals, limit: int = MAX_BODY_BYTES, too_large: str = TOO_LARGE
) -> bytes:
    """The body as it was sent, at most `limit` bytes, counted as it arrives.

    Raises PayloadTooLarge as soon as that is known, RequestTimeout, ClientGone, and Unavailable.
    """
    chunks: list[bytes] = []
    more = True
    with arrivals.arrival() as arrival:
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise ClientGone
            chunks.append(message["body"])
            arrival.add(len(message["body"]))
            if arrival.size > limit:
                raise PayloadTooLarge(too_large)
            more = message["more_body"]
    return b"".join(chunks)
