"""Signs resume tokens: the place that a follower has come to, as text for the client.

A token belongs to one tenant and one filter. All servers of a database sign with one secret, so a token is good on
each. The error for one that is used elsewhere says what is wrong. Its parts:

| bytes | what                                                     |
|-------|----------------------------------------------------------|
| 16    | the signature over all others                            |
| 1     | the version of this form                                 |
| 8     | a hash of the tenant, with the secret                    |
| 8     | a hash of the filter, with the secret                    |
| 2     | the length of the position in the log                    |
| any   | the position, then the id up to which events were read   |
"""

import binascii
import hmac
from base64 import urlsafe_b64decode
from uuid import UUID

import msgspec

from server.core.errors import InvalidHeader
from server.core.events.cursor import text_of
from server.core.events.model import EventFilter
from server.core.tail.store import Place

VERSION = 1

SIGNATURE_BYTES = 16
"""128 bits: as many as the ids of tenants have."""

TAG_BYTES = 8
LENGTH_BYTES = 2

TAIL = b"tail"
"""What makes the hashes differ from those of cursors, which have the same secret."""

TOKEN = "Last-Event-ID or resume_token: "
NOT_OURS = TOKEN + "is not a token of this server, or was changed: send one as it was received"
OTHER_VERSION = TOKEN + "was made by another version of Sluice: start with `since`"
OTHER_TENANT = TOKEN + "belongs to another tenant: use the key of the tenant that it was made for"
OTHER_FILTER = TOKEN + "belongs to another filter: use the source and event_type that it was made for"


class ResumeTokens:
    """Makes tokens, and checks those that clients send."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def prefix(self, tenant_id: UUID, where: EventFilter) -> bytes:
        """What all tokens of a tenant and a filter have in common."""
        names = msgspec.json.encode(where.names())
        return bytes([VERSION]) + self._tag(tenant_id.bytes) + self._tag(names)

    def encode(self, prefix: bytes, place: Place) -> str:
        """The token for a place."""
        length = len(place.after).to_bytes(LENGTH_BYTES, "big")
        payload = prefix + length + place.after + (place.read_to or b"")
        return text_of(self._sign(payload) + payload)

    def decode(self, tenant_id: UUID, where: EventFilter, token: str) -> Place:
        """The place that a token stands for. Raises InvalidHeader, which says what is wrong."""
        try:
            decoded = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            decoded = b""
        signature, payload = decoded[:SIGNATURE_BYTES], decoded[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._sign(payload)) or text_of(decoded) != token:
            raise InvalidHeader(NOT_OURS, field="resume_token")
        expected = self.prefix(tenant_id, where)
        for end, why in ((1, OTHER_VERSION), (1 + TAG_BYTES, OTHER_TENANT), (len(expected), OTHER_FILTER)):
            if payload[:end] != expected[:end]:
                raise InvalidHeader(why, field="resume_token")
        start = len(expected) + LENGTH_BYTES
        end = start + int.from_bytes(payload[len(expected) : start], "big")
        return Place(payload[start:end], payload[end:] or None)

    def _tag(self, value: bytes) -> bytes:
        return hmac.digest(self._secret, TAIL + value, "sha256")[:TAG_BYTES]

    def _sign(self, payload: bytes) -> bytes:
        return hmac.digest(self._secret, TAIL + payload, "sha256")[:SIGNATURE_BYTES]
