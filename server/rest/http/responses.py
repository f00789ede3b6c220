"""Responses in JSON: whole, in chunks, and from Litestar's handlers."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from litestar import Response
from litestar.types import Send


async def send_json(send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    """Send a whole JSON response."""
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *((name.encode(), value.encode()) for name, value in headers.items()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_stream(send: Send, chunks: AsyncIterator[bytes]) -> None:
    """Send a JSON response chunk by chunk."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    async for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def json_response(body: Any) -> Response[bytes]:
    """`body` as JSON, for a Litestar handler to return."""
    return Response(msgspec.json.encode(body), media_type="application/json")
