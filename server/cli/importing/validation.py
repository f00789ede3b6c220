"""Finds what is wrong with an event before it is sent, with the code of the server.

A good event is decoded once. Only what that call does not find, or what it rejects, takes the careful way, which also
encodes the event as BSON.
"""

from uuid import UUID

from server.core.errors import EventError
from server.core.events.decode import decode_good, is_doubtful
from server.core.events.ids import new_ids, new_seed
from server.core.events.model import MAX_NESTING, BatchInfo
from server.core.events.raw import ItemDecoder, RawQuery
from server.core.ingest.prepare import preparing_each
from server.core.slow_work import run_at_once
from storage.documents import encode

SMALL_BYTES = 128 * 1024
"""JSON of this size is below 1 MiB as BSON: a list of digits takes six times as much."""

PATH = "events[0]"
"""How the server's paths begin."""

DECODER = ItemDecoder(RawQuery("import"))


class LineError(Exception):
    """A line is no event that can be stored. `path` is the place in the line, empty for the line as a whole."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason


def check_event(text: bytes) -> None:
    """Raises LineError if JSON is no event that can be stored, with the server's path and message."""
    if not is_good(text) and (error := find_error(text)):
        raise LineError(error.path.removeprefix(PATH).removeprefix("."), error.message)


def is_good(text: bytes) -> bool:
    """Whether JSON is certainly an event that can be stored. It is quick."""
    return (
        len(text) <= SMALL_BYTES
        and decode_good(text)[0] is not None
        and not is_doubtful(text)
        and text.count(b"{") + text.count(b"[") <= MAX_NESTING
    )


def find_error(text: bytes) -> EventError | None:
    """What is wrong with the JSON of an event, or None."""
    batch = run_at_once(DECODER.decoding([text], 0, slowly=True))
    if batch.errors:
        return batch.errors[0]
    seed = new_seed(0)
    info = BatchInfo(UUID(int=0), batch.source, batch.source_id, seed.received_at_ms)
    errors = run_at_once(preparing_each(encode, info, seed, new_ids(0, 1), batch)).errors
    return errors[0] if errors else None
