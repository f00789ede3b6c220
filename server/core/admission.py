"""Who may send now: the key behind a secret as it is at this moment and, where it has a rate limit, a permit.

Imports the rest of the core. Every request reads its key, so that a revoked one stops at once on every worker; the
reads of requests that wait together are one. A request for which no permit is in hand asks for one with its read.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from server.core.access import Key, digest_of
from server.core.deadline import Deadline
from server.core.errors import RateLimited, SluiceError, Unauthenticated, Unavailable
from server.core.merge import Merged
from server.core.quota import SETTLE_AFTER_S, Ask, Lease, Quota, Window

MAX_LEASES = 10_000
"""Keys whose leases a worker keeps: some 10 MB. A key beyond them costs another round trip now and then."""

ASK_AGAIN_S = 0.05
"""How often to ask whether other workers have given permits back, where nothing else is left."""


class Found(NamedTuple):
    """A key as it is now, the digest of its secret, and its window; None where it has none."""

    key: Key
    digest: bytes
    window: Window | None


class KeyStore(Protocol):
    """Where keys are kept, and their windows."""

    async def find(self, digests: Sequence[bytes], deadline: Deadline) -> dict[bytes, Key]:
        """The keys whose secrets hash to `digests`, by digest, as they are now, revoked or not. Raises Unavailable."""

    async def take(self, asks: Sequence[Ask], deadline: Deadline) -> dict[str, Found]:
        """Grant asks, at most one for each key, as far as each key's window has room, atomically.

        Returns the keys by id, as they are then, revoked or not. Raises Unavailable.
        """


class Admitted(NamedTuple):
    """The key of a request that may go on, and its quota; None where it has no limit."""

    key: Key
    quota: Quota | None


class InLine(NamedTuple):
    """Who waits for an answer about a lease, and for how many permits: one, or none to give back only."""

    lease: Lease
    permits: int = 1


class Admission:
    """Admits requests by the keys in `keys`."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys
        self._known: dict[bytes, Key] = {}
        self._leases: dict[str, Lease] = {}
        self._find = Merged(self._find_keys)
        self._take = Merged(self._take_permits)
        self._settling: set[asyncio.Task[None]] = set()

    async def authenticate(self, secret: str | None, deadline: Deadline) -> Key:
        """The key that `secret` belongs to. Raises Unauthenticated, or Unavailable where that cannot be found out."""
        return active(await self._find(digest_of(secret), deadline))

    async def admit(self, secret: str | None, check: Callable[[Key], None], deadline: Deadline) -> Admitted:
        """Admit a request whose key is good, passes `check`, and has a permit left, which is then used.

        Raises Unauthenticated, what `check` raises, RateLimited, or Unavailable where that cannot be found out.
        """
        digest = digest_of(secret)
        lease = self._known_lease(digest)
        if lease is None or lease.has_permit() or not self._passes(digest, check):
            key = active(await self._find(digest, deadline))
            check(key)
            if key.rate_limit == 0:
                return Admitted(key, None)
            lease = self._lease_of(key, digest)
            if lease.take():
                return Admitted(key, lease.quota(key.rate_limit))
        while True:
            found = await self._take(InLine(lease), deadline)
            key = active(found.key if found and found.digest == digest else None)
            check(key)
            if key.rate_limit == 0:
                return Admitted(key, None)
            if lease.take():
                return Admitted(key, lease.quota(key.rate_limit))
            if lease.is_used_up():
                raise RateLimited(lease.quota(key.rate_limit))
            await asyncio.sleep(ASK_AGAIN_S)  # others may give permits back, or the database lost its primary

    async def close(self) -> None:
        """Give back the permits in hand: others may need them."""
        await asyncio.gather(*(self._settle(lease) for lease in self._leases.values() if lease.is_unsettled()))

    def _known_lease(self, digest: bytes) -> Lease | None:
        """The lease of a key with a limit that was seen before."""
        key = self._known.get(digest)
        return None if key is None else self._leases.get(key.id)

    def _passes(self, digest: bytes, check: Callable[[Key], None]) -> bool:
        """Whether a known key passes `check`, as far as is known.

        Else no permit is asked for: one that is then not used would be missing elsewhere, until it is given back.
        """
        try:
            check(self._known[digest])
        except SluiceError:
            return False
        return True

    def _lease_of(self, key: Key, digest: bytes) -> Lease:
        """The lease of a key, made where there is none; the oldest makes room for it."""
        if len(self._known) >= MAX_LEASES:
            del self._known[next(iter(self._known))]
        self._known[digest] = key
        if key.id not in self._leases:
            if len(self._leases) >= MAX_LEASES:
                del self._leases[next(iter(self._leases))]
            self._leases[key.id] = Lease(key.id)
        return self._leases[key.id]

    async def _find_keys(self, digests: Sequence[bytes]) -> list[Key | None]:
        """The keys that requests which wait together came with."""
        found = await self._keys.find(list(set(digests)), Deadline())
        return [found.get(digest) for digest in digests]

    async def _take_permits(self, line: Sequence[InLine]) -> list[Found | None]:
        """Ask for the permits that requests wait for, once for each key."""
        waiting: Counter[Lease] = Counter()
        for lease, permits in line:
            waiting[lease] += permits
        asks = [lease.ask(permits) for lease, permits in waiting.items()]
        try:
            found = await self._keys.take(asks, Deadline())
        finally:
            for lease in waiting:  # whatever comes of it: what is not used is given back
                asyncio.get_running_loop().call_at(lease.ends + SETTLE_AFTER_S, self._settle_unused, lease)
        for lease in waiting:
            lease.grant(found[lease.key_id].window if lease.key_id in found else None)
        return [found.get(lease.key_id) for lease, _ in line]

    def _settle_unused(self, lease: Lease) -> None:
        """Give back what was not used, unless the lease was asked for anew."""
        if lease.is_over() and lease.is_unsettled():
            task = asyncio.create_task(self._settle(lease))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def _settle(self, lease: Lease) -> None:
        """Give back what a lease still holds. Where the database is away, that is tried again later."""
        with contextlib.suppress(Unavailable):
            await self._take(InLine(lease, permits=0), Deadline())


def active(key: Key | None) -> Key:
    """The key, if it is known and not revoked. Raises Unauthenticated."""
    if key is None or key.revoked_at is not None:
        raise Unauthenticated
    return key
