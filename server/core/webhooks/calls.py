"""The port to the receivers of webhooks. `runtime/webhook_calls.py` implements it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


class Response(NamedTuple):
    """What came of a call."""

    status: int | None
    """None if there was no response."""
    body: bytes = b""
    """Its first MAX_RESPONSE_BYTES."""
    retry_after: str | None = None
    """Its header of that name."""
    error: str = ""
    """Why there was no response."""


class Calls(Protocol):
    """Calls receivers, at public addresses and those that are allowed."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Send a body, and follow no redirect. Raises nothing: whatever goes wrong is in the response."""


class Resolver(Protocol):
    """Finds the addresses of hosts."""

    async def addresses(self, name: str) -> Sequence[str] | None:
        """The addresses of a name; empty if it has none, None if that is not known now."""
