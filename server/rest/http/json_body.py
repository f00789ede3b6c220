"""Reads small JSON bodies: those of requests that make or change something other than events."""

from functools import partial
from typing import TypeVar

import msgspec
from litestar.types import Receive

from server.core.arrivals import STALLED, Arrivals
from server.core.errors import InvalidParameter, MalformedJson, RequestTimeout, UnsupportedMediaType
from server.core.events.explain import explain
from server.rest.http.body import BYTE_ORDER_MARK, receive_body
from server.rest.http.headers import IDENTITY, Headers, body_format_of

MAX_BYTES = 64 * 1024
"""The largest of these bodies: many times a usual one."""

MAX_ARRIVING_BYTES = 4 * 1024 * 1024
"""What all of them that are still arriving may hold."""

TOO_LARGE = f"The body is over {MAX_BYTES >> 10} KiB"

Shape = TypeVar("Shape")


class JsonBodies:
    """Reads the small bodies of all requests to this worker."""

    def __init__(self) -> None:
        self._arrivals = Arrivals(MAX_ARRIVING_BYTES, partial(RequestTimeout, STALLED))

    async def read(self, headers: Headers, receive: Receive, shape: type[Shape]) -> Shape:
        """The body of a request in the shape that it must have.

        Raises InvalidParameter, which names the field, MalformedJson, PayloadTooLarge, RequestTimeout, ClientGone,
        UnsupportedMediaType, and Unavailable if there is no capacity for what is arriving.
        """
        if body_format_of(headers).encoding != IDENTITY:
            raise UnsupportedMediaType("Content-Encoding must be identity here")
        body = await receive_body(receive, self._arrivals, MAX_BYTES, TOO_LARGE)
        return decode(body.removeprefix(BYTE_ORDER_MARK), shape)


def decode(body: bytes, shape: type[Shape]) -> Shape:
    """A body in the shape that it must have. Raises InvalidParameter, which names the field, and MalformedJson."""
    try:
        return msgspec.json.Decoder(shape, float_hook=float).decode(body)  # it makes 1e999 infinite: its field says so
    except msgspec.ValidationError as error:
        path, message = explain(error, "")
        raise InvalidParameter(f"{path or 'body'}: {message}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise MalformedJson("The body is not JSON in UTF-8") from None
