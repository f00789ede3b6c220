"""Positions in MongoDB's log of changes, as bytes that sort as the log does.

A position is one of two:

1. A resume token of MongoDB: everything up to this entry of the log. MongoDB documents that tokens sort by time. They
   begin with the entry's cluster time: a byte 0x82, then seconds and a counter, 4 bytes each.
2. The same first 9 bytes alone: everything before this cluster time.

So one is before another if its bytes are.
"""

import struct
from collections.abc import Mapping
from typing import Any

from bson.timestamp import Timestamp

TIME = struct.Struct(">BII")
"""How a token begins: the type of a cluster time, its seconds since 1970, its counter."""

CLUSTER_TIME = 0x82

COUNTERS = 1 << 32


def position_after(time: Timestamp) -> bytes:
    """The position of everything up to a cluster time."""
    return pack(ticks(time) + 1)


def position_of(token: Mapping[str, Any]) -> bytes:
    """The position of a resume token."""
    data = bytes.fromhex(token["_data"])
    if len(token) > 1:  # an id that an operator made needs more than the bytes: everything of its time counts as read
        return position_after(time_of(data))
    return data


def time_of(position: bytes) -> Timestamp:
    """The cluster time with which a position begins."""
    _, seconds, counter = TIME.unpack_from(position)
    return Timestamp(seconds, counter)


def last_time(position: bytes) -> Timestamp:
    """The cluster time of the last entry that is before a position, or at it."""
    time = time_of(position)
    return from_ticks(ticks(time) - 1) if len(position) == TIME.size else time


def ticks(time: Timestamp) -> int:
    """A cluster time as one number."""
    return int(time.time) * COUNTERS + int(time.inc)


def from_ticks(number: int) -> Timestamp:
    """The cluster time of a number."""
    return Timestamp(*divmod(number, COUNTERS))


def pack(number: int) -> bytes:
    """The position of everything before a cluster time, given as a number."""
    return TIME.pack(CLUSTER_TIME, *divmod(number, COUNTERS))
