"""The port to where keys and the windows of their rate limits are kept. `storage/keys.py` implements it."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from server.core.access.keys import Key
from server.core.access.rate_limit import LeaseRequest, RateWindow
from server.core.deadline import Deadline


class FoundKey(Struct, frozen=True):
    """A key as it is now, the digest of its current secret, and its window; None if it has none."""

    key: Key
    digest: bytes
    window: RateWindow | None


class KeyStore(Protocol):
    """Finds keys and leases their permits."""

    async def find(self, digests: Sequence[bytes], deadline: Deadline) -> dict[bytes, Key]:
        """The keys whose secrets have these digests, by digest, as they are now, revoked or not. Raises Unavailable.

        A key that was rotated with an overlap is found by its previous secret too, until the overlap ends.
        """

    async def lease(self, requests: Sequence[LeaseRequest], deadline: Deadline) -> dict[str, FoundKey]:
        """Grant lease requests, at most one for each key, as far as each key's window has permits, atomically.

        Returns the keys by id, as they are then, revoked or not. Raises Unavailable.
        """
