"""JSON responses: in chunks, with a known length, and whole for Litestar's handlers."""

from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Response
from litestar.types import HTTPResponseBodyEvent, Send

from server.rest.http.headers import NO_STORE

CHUNK_BYTES = 64 * 1024
"""How much is sent at a time, and so what a connection holds of a response: as much as the server buffers for it."""

NO_STORE_HEADER = (b"cache-control", b"no-store")
JSON_HEADERS = [(b"content-type", b"application/json"), NO_STORE_HEADER]


async def send_stream(send: Send, chunks: AsyncIterator[bytes], headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Send a JSON response chunk by chunk, at the client's pace."""
    await send_chunks(send, chunks, [*JSON_HEADERS, *headers])


async def send_chunks(send: Send, chunks: AsyncIterator[bytes], headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Send a response chunk by chunk, at the client's pace. If `chunks` raises, the response has no end."""
    await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": headers})
    async for chunk in chunks:
        await send_pieces(send, chunk)
        await send(body_event(b"", more_body=True))  # the server waits here until the client has taken the chunk
    await send(body_event(b"", more_body=False))


async def send_json(
    send: Send, body: bytes, status: HTTPStatus = HTTPStatus.OK, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Send a JSON response, at the client's pace."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*JSON_HEADERS, *headers, length]})
    await send_pieces(send, body)
    await send(body_event(b"", more_body=False))


async def send_nothing(send: Send) -> None:
    """Send a response without a body: what was asked for is done."""
    await send({"type": "http.response.start", "status": HTTPStatus.NO_CONTENT, "headers": [NO_STORE_HEADER]})
    await send(body_event(b"", more_body=False))


async def send_pieces(send: Send, body: bytes) -> None:
    """Send part of a body in pieces. Each waits until the client has taken those before it."""
    for start in range(0, len(body), CHUNK_BYTES):
        await send(body_event(body[start : start + CHUNK_BYTES], more_body=True))


def body_event(body: bytes, *, more_body: bool) -> HTTPResponseBodyEvent:
    """A piece of a body."""
    return {"type": "http.response.body", "body": body, "more_body": more_body}


def json_response(body: Any) -> Response[bytes]:
    """`body` as JSON, for a Litestar handler to return."""
    return Response(msgspec.json.encode(body), headers=NO_STORE, media_type="application/json")
