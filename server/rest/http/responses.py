"""JSON responses: in chunks, and whole for Litestar's handlers."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from litestar import Response
from litestar.types import Send


async def send_stream(send: Send, chunks: AsyncIterator[bytes]) -> None:
    """Send a JSON response chunk by chunk."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    async for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def json_response(body: Any) -> Response[bytes]:
    """`body` as JSON, for a Litestar handler to return."""
    return Response(msgspec.json.encode(body), media_type="application/json")
