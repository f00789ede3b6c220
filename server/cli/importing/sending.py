"""What sends the requests of a batch, whatever the protocol."""

import re
from typing import NamedTuple, Protocol

from msgspec import Struct

from server.cli.importing.batches import Request

GIVE_UP_AFTER_S = 300.0
"""How long nothing may succeed before the command ends. A restart of a server or of the database takes a minute."""

INDEX = re.compile(r"(?:items|events)\[(?P<index>\d+)\]\.?(?P<path>.*)", re.DOTALL)
"""The path of an error: which event of the request, and where in it."""


class Refusal(NamedTuple):
    """Why the server did not store an event: an index or a validator of its operator, which only it knows."""

    path: str
    reason: str


class Outcome(Struct):
    """What became of a request."""

    stored: int = 0
    replayed: bool = False
    """Whether the server knew it: an earlier run had sent it."""
    refused: dict[int, Refusal] = {}
    """The events that were not stored, by their index in the request; the server names the first 100."""


class Transport(Protocol):
    """Sends requests to a server."""

    async def __call__(self, request: Request) -> Outcome:
        """Return when the events are stored, or refused for good. It tries again where that may help.

        Raises RemoteError.
        """


def refusal(path: str, reason: str) -> tuple[int, Refusal] | None:
    """An event that was not stored, from the server's error; None if the error names no event."""
    match = INDEX.fullmatch(path)
    return None if match is None else (int(match["index"]), Refusal(match["path"], reason))
