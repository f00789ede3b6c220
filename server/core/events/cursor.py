"""Signs cursors: the place in a list of events where its next page starts, as text for the client.

A cursor belongs to one tenant and one filter. Its signature covers them, so a cursor that was changed, or is used with
another key or other filters, is rejected. All servers of a database sign with one secret, so a cursor is good on each.
"""

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from uuid import UUID

import msgspec

from server.core.errors import InvalidParameter
from server.core.events.model import EventFilter
from server.core.events.store import Position

SIGNATURE_BYTES = 16
"""128 bits: as many as the ids of tenants have, and no more, because links should be short."""

SKIP_BYTES = 4


class Cursors:
    """Makes cursors, and checks those that clients send."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def encode(self, tenant_id: UUID, where: EventFilter, position: Position) -> str:
        """The cursor for a position in the list of a tenant's events that match."""
        payload = position.skip.to_bytes(SKIP_BYTES, "big") + (position.below or b"")
        return text_of(self._sign(tenant_id, where, payload) + payload)

    def decode(self, tenant_id: UUID, where: EventFilter, cursor: str) -> Position:
        """The position that a cursor stands for. Raises InvalidParameter."""
        try:
            decoded = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        except (binascii.Error, ValueError):
            decoded = b""
        signature, payload = decoded[:SIGNATURE_BYTES], decoded[SIGNATURE_BYTES:]
        is_ours = hmac.compare_digest(signature, self._sign(tenant_id, where, payload))
        if not is_ours or text_of(decoded) != cursor:
            raise InvalidParameter(
                "cursor: belongs to another list: take it from the Link header of a page, with the same key and filters"
            )
        return Position(int.from_bytes(payload[:SKIP_BYTES], "big"), payload[SKIP_BYTES:] or None)

    def _sign(self, tenant_id: UUID, where: EventFilter, payload: bytes) -> bytes:
        """What ties a cursor to its tenant, its filter and this database."""
        covered = tenant_id.bytes + msgspec.json.encode(where) + payload
        return hmac.digest(self._secret, covered, "sha256")[:SIGNATURE_BYTES]


def text_of(encoded: bytes) -> str:
    """Bytes as text that needs no escape in a URL."""
    return urlsafe_b64encode(encoded).rstrip(b"=").decode()
