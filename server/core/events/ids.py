"""Event ids: UUIDv7 (RFC 9562), made one batch at a time.

The first 48 bits are the batch's `received_at`, the 12 bits after the version count its events, and the last 62 bits
are random, drawn once per batch. So ids ascend in the order sent, and sort by time across workers.
"""

import secrets
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from server.core.events.model import MAX_BATCH_EVENTS

COUNTERS = [(0x7000 | index).to_bytes(2, "big") for index in range(MAX_BATCH_EVENTS)]
"""Version 7 and the counter of each event of a batch, as bytes."""

COUNTER_TEXTS = [counter.hex() for counter in COUNTERS]

COUNTER_DIGITS = slice(15, 18)
"""Where the counter is in the text of an id, behind the version."""

TIME_BYTES = 6
MAX_TIME_MS = (1 << 8 * TIME_BYTES) - 1

VARIANT = 0x8000_0000_0000_0000
RANDOM_BITS = 62


class Seed(Struct, frozen=True):
    """What the ids of a batch are made from. The same seed gives the same ids."""

    received_at_ms: int
    random: int
    """Of RANDOM_BITS."""


class BatchIds(NamedTuple):
    """The ids of a batch, each as its 16 bytes and as its usual text."""

    binary: list[bytes]
    text: list[str]


def new_seed(received_at_ms: int) -> Seed:
    """A seed for events received at this time, in milliseconds since 1970."""
    return Seed(received_at_ms, secrets.randbits(RANDOM_BITS))


def new_ids(received_at_ms: int, count: int) -> BatchIds:
    """`count` new ids for events received at this time, in milliseconds since 1970."""
    return ids_of(new_seed(received_at_ms), count)


def ids_of(seed: Seed, count: int) -> BatchIds:
    """The first `count` ids of a seed."""
    time = seed.received_at_ms.to_bytes(TIME_BYTES, "big")
    random = (VARIANT | seed.random).to_bytes(8, "big")
    time_text, random_text = time.hex(), random.hex()
    before, after = f"{time_text[:8]}-{time_text[8:]}-", f"-{random_text[:4]}-{random_text[4:]}"
    return BatchIds(
        [time + counter + random for counter in COUNTERS[:count]],
        [before + counter + after for counter in COUNTER_TEXTS[:count]],
    )


def with_seed(ids: Sequence[str], seed: Seed) -> list[str]:
    """The ids that the events with these ids have under another seed of their batch."""
    own = ids_of(seed, MAX_BATCH_EVENTS).text
    return [own[int(each[COUNTER_DIGITS], 16)] for each in ids]


def binary_id(text: str) -> bytes:
    """The 16 bytes of an id."""
    return bytes.fromhex(text.replace("-", ""))


def time_of(event_id: bytes) -> int:
    """When the event with an id was received, in milliseconds since 1970."""
    return int.from_bytes(event_id[:TIME_BYTES], "big")


def lowest_id(received_at_ms: int) -> bytes:
    """A lower bound for the ids of events received at or after this time, in milliseconds since 1970."""
    return max(0, min(received_at_ms, MAX_TIME_MS)).to_bytes(TIME_BYTES, "big") + bytes(16 - TIME_BYTES)
