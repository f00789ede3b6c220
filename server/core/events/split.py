"""Splits the JSON of a batch into its parts, without making their values: those may take 30 times the memory."""

from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from server.core.events.model import MAX_BATCH_EVENTS
from server.core.slow_work import Steps

FirstEvents = msgspec.defstruct(
    "FirstEvents", [(f"event_{index}", Raw, None) for index in range(MAX_BATCH_EVENTS + 1)], array_like=True
)
"""A list of events. The decoder passes over those after the first MAX_BATCH_EVENTS + 1."""


RawBatch = msgspec.defstruct(
    "RawBatch",
    [("source", Raw), ("events", FirstEvents), ("source_id", Raw, Raw(b"null"))],
    forbid_unknown_fields=True,
)
"""The parts of a batch, of which only is known that they are JSON."""

decode_raw = msgspec.json.Decoder(RawBatch).decode

SEPARATORS = (b",", b"[", b"{")

CHUNK_BYTES = 32 * 1024
"""JSON whose values are counted in one step, which takes some 2 ms."""


class BatchParts(NamedTuple):
    """The JSON of the parts of a batch. Of too many events it has the first MAX_BATCH_EVENTS + 1."""

    source: Raw
    source_id: Raw
    events: list[Raw]


def split_batch(text: bytes) -> BatchParts:
    """The parts of the batch in `text`. Raises ValidationError if it is not an object with their names."""
    batch: Any = decode_raw(text)
    events = [event for event in msgspec.structs.astuple(batch.events) if event is not None]
    return BatchParts(batch.source, batch.source_id, events)


def having_more_values(text: bytes, most: int, has_equal_keys: bool) -> Steps[bool]:
    """Whether the value of a JSON text has more than `most` values. If that is not sure, the answer is no.

    With `has_equal_keys`, an object may have a key several times, of which the last counts. So the members of objects
    are counted by their different keys; lists, their items, and objects are all counted.
    """
    if sum(map(text.count, SEPARATORS)) <= most:  # those in strings count too
        return False
    plain = text.replace(rb"\\", b"").replace(rb"\"", b"")  # so that every quote begins or ends a string
    items, keys, inside = 0, set[bytes](), 0
    for start in range(0, len(plain), CHUNK_BYTES):
        parts = plain[start : start + CHUNK_BYTES].split(b'"')
        strings, others = parts[1 - inside :: 2], parts[inside::2]
        outside = b"".join(others)
        items += sum(map(outside.count, SEPARATORS))
        if has_equal_keys:
            items += outside.count(b"{") - outside.count(b":")  # a member has one colon
            followed = zip(strings, others[1 - inside :], strict=False)
            keys.update(string for string, other in followed if other.lstrip().startswith(b":"))
        if items > most or len(keys) > most:
            return True
        inside = (inside + len(parts) - 1) % 2
        yield
    return False
