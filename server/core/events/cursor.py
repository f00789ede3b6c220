"""Cursors: the place in a list of events where its next page starts, as text for the client.

A cursor belongs to one tenant and one filter. Its checksum covers them, so a cursor that was changed, or is used with
another key or other filters, is rejected. The checksum is no secret and needs none: whoever makes a cursor reads no
other events with it than those of the own tenant.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from uuid import UUID

import msgspec

from server.core.errors import InvalidParameter
from server.core.events.model import EventFilter
from server.core.events.store import Position

CHECKSUM_BYTES = 12
"""96 bits: no change passes by chance."""

SKIP_BYTES = 4


def encode_cursor(tenant_id: UUID, where: EventFilter, position: Position) -> str:
    """The cursor for a position in the list of a tenant's events that match."""
    payload = position.skip.to_bytes(SKIP_BYTES, "big") + (position.below or b"")
    return text_of(checksum(tenant_id, where, payload) + payload)


def decode_cursor(tenant_id: UUID, where: EventFilter, cursor: str) -> Position:
    """The position that a cursor stands for. Raises InvalidParameter."""
    try:
        decoded = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except (binascii.Error, ValueError):
        decoded = b""
    sum_, payload = decoded[:CHECKSUM_BYTES], decoded[CHECKSUM_BYTES:]
    if text_of(decoded) != cursor or sum_ != checksum(tenant_id, where, payload):
        raise InvalidParameter(
            "cursor: belongs to another list: take it from the Link header of a page, with the same key and filters"
        )
    return Position(int.from_bytes(payload[:SKIP_BYTES], "big"), payload[SKIP_BYTES:] or None)


def checksum(tenant_id: UUID, where: EventFilter, payload: bytes) -> bytes:
    """What ties a cursor to its tenant and filter."""
    return sha256(tenant_id.bytes + msgspec.json.encode(where) + payload).digest()[:CHECKSUM_BYTES]


def text_of(encoded: bytes) -> str:
    """Bytes as text that needs no escape in a URL."""
    return urlsafe_b64encode(encoded).rstrip(b"=").decode()
