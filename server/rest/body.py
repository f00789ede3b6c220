"""Reading a request's body: its type, its encoding, its size and its pace. Imports Litestar and the core's errors.

Nothing is held beyond MAX_BODY_BYTES, compressed or not, and no caller keeps a request open by sending nothing.
"""

from litestar.types import Receive

from server.core.errors import MalformedRequest, PayloadTooLarge, UnsupportedMediaType
from server.core.events import MAX_BODY_BYTES
from server.rest.arrivals import Arrivals
from server.rest.headers import Headers, only
from server.rest.inflate import DECODERS, Inflater

JSON = "application/json"
TOO_LARGE = f"The body is over {MAX_BODY_BYTES >> 20} MiB: send fewer events at a time"


class ClientGone(Exception):
    """The caller closed the connection before its request was complete."""


class BodyReader:
    """Reads the bodies of all requests to this worker."""

    def __init__(self) -> None:
        self._arrivals = Arrivals()
        self._inflate = Inflater()

    async def __call__(self, headers: Headers, receive: Receive) -> bytes:
        """The body of a request, decompressed.

        Raises MalformedRequest, InvalidHeader, UnsupportedMediaType, PayloadTooLarge, RequestTimeout, MalformedJson for
        an encoding that does not decode, ClientGone, and Unavailable where there is no room for what is arriving.
        """
        if "transfer-encoding" in headers and [*map(str.lower, headers["transfer-encoding"])] != ["chunked"]:
            raise MalformedRequest(
                "Transfer-Encoding may be chunked only: a compressed body is named by Content-Encoding"
            )
        check_content_type(only(headers, "content-type") or "")
        encoding = (only(headers, "content-encoding") or "identity").lower()
        if encoding != "identity" and encoding not in DECODERS:
            raise UnsupportedMediaType(f"Content-Encoding may be identity, {' or '.join(DECODERS)}")
        body = await receive_body(headers, receive, self._arrivals)
        return body if encoding == "identity" else await self._inflate(body, encoding)


def check_content_type(content_type: str) -> None:
    """Raises UnsupportedMediaType unless the header says JSON, which is always UTF-8."""
    if content_type == JSON:  # as nearly all callers send it
        return
    media_type, *parameters = (part.strip().lower() for part in content_type.split(";"))
    charsets = {part.partition("=")[2].strip('"') for part in parameters if part.startswith("charset=")}
    if media_type != JSON or not charsets <= {"utf-8"}:
        raise UnsupportedMediaType("Content-Type must be application/json, in UTF-8")


async def receive_body(headers: Headers, receive: Receive, arrivals: Arrivals) -> bytes:
    """The body as it was sent, counted as it arrives.

    Raises PayloadTooLarge as soon as that is known, RequestTimeout, ClientGone, and Unavailable where there is no room.
    """
    if int(only(headers, "content-length") or 0) > MAX_BODY_BYTES:
        raise PayloadTooLarge(TOO_LARGE)
    chunks: list[bytes] = []
    more = True
    with arrivals.arrival() as arrival:
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise ClientGone
            chunks.append(message["body"])
            arrival.add(len(message["body"]))
            if arrival.size > MAX_BODY_BYTES:
                raise PayloadTooLarge(TOO_LARGE)
            more = message["more_body"]
    return b"".join(chunks)
