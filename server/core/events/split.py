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

CHUNK_BYTES = 64 * 1024
"""JSON whose values are counted in one step, which takes some 1 ms."""


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


def counting_values(text: bytes, most: int) -> Steps[int]:
    """How many values a JSON text has, or a number over `most` if they are more. An empty list counts as two."""
    plain = text.replace(rb"\\", b"").replace(rb"\"", b"")  # so that every quote begins or ends a string
    count, inside = 0, 0
    for start in range(0, len(plain), CHUNK_BYTES):
        parts = plain[start : start + CHUNK_BYTES].split(b'"')
        outside = b"".join(parts[inside::2])
        count += sum(map(outside.count, SEPARATORS))
        if count > most:
            break
        inside = (inside + len(parts) - 1) % 2
        yield
    return count
