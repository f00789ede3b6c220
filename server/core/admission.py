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
from server.core.errors import RateLimited, Unauthenticated, Unavailable
from server.core.merge import Merged
from server.core.quota import SETTLE_AFTER_S, Ask, Lease, Quota, Window

MAX_LEASES = 10_000
"""Keys whose leases a worker keeps: some 5 MB. A key beyond them costs another round trip now and then."""

ASK_AGAIN_S = 0.05
"""How often to ask whether other workers have given permits back, where nothing else is left."""


class KeyStore(Protocol):
    """Where keys are kept, and their windows."""

    async def find(self, digests: Sequence[bytes], deadline: Deadline) -> dict[bytes, Key]:
        """The keys whose secrets hash to `digests`, by digest, as they are now, revoked or not. Raises Unavailable."""

    async def take(self, asks: Sequence[Ask], deadline: Deadline) -> dict[bytes, tuple[Key, Window | None]]:
        """Grant asks as far as each key's window has room, atomically.

        Returns the keys as `find` does, each with its window then; None where it has none. Raises Unavailable.
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
        self._leases: dict[bytes, Lease] = {}
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
        lease = self._leases.get(digest)
        if lease is None or lease.has_permit():
            key = active(await self._find(digest, deadline))
            check(key)
            if key.rate_limit == 0:
                return Admitted(key, None)
            lease = lease or self._new_lease(digest)
            if lease.take():
                return Admitted(key, lease.quota(key.rate_limit))
        while True:
            found, window = await self._take(InLine(lease), deadline)
            key = active(found)
            check(key)
            if key.rate_limit == 0:
                return Admitted(key, None)
            if lease.take():
                return Admitted(key, lease.quota(key.rate_limit))
            if window is not None and window.is_used_up and not lease.is_void():
                raise RateLimited(lease.quota(key.rate_limit))
            await asyncio.sleep(ASK_AGAIN_S)  # others may give permits back, or the database lost its primary

    async def close(self) -> None:
        """Give back the permits in hand: others may need them."""
        await asyncio.gather(*(self._settle(lease) for lease in self._leases.values() if lease.has_permit()))

    async def _find_keys(self, digests: Sequence[bytes]) -> list[Key | None]:
        """The keys that requests which wait together came with."""
        found = await self._keys.find(list(set(digests)), Deadline())
        return [found.get(digest) for digest in digests]

    async def _take_permits(self, line: Sequence[InLine]) -> list[tuple[Key | None, Window | None]]:
        """Ask for the permits that requests wait for, once for each key."""
        waiting: Counter[Lease] = Counter()
        for lease, permits in line:
            waiting[lease] += permits
        found = await self._keys.take([lease.ask(permits) for lease, permits in waiting.items()], Deadline())
        for lease in waiting:
            _, window = found.get(lease.digest, (None, None))
            if window is not None:
                self._hold(lease, window, waiting[lease])
        return [found.get(lease.digest, (None, None)) for lease, _ in line]

    def _hold(self, lease: Lease, window: Window, waiting: int) -> None:
        """Take what was granted; see to it that what is not used is given back."""
        lease.grant(window)
        if window.granted > waiting:
            asyncio.get_running_loop().call_at(lease.ends + SETTLE_AFTER_S, self._settle_unused, lease)

    def _settle_unused(self, lease: Lease) -> None:
        if lease.is_void():
            task = asyncio.create_task(self._settle(lease))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def _settle(self, lease: Lease) -> None:
        """Give back what a lease still holds, unless the database is away: then it soon counts as used."""
        with contextlib.suppress(Unavailable):
            await self._take(InLine(lease, permits=0), Deadline())

    def _new_lease(self, digest: bytes) -> Lease:
        """A lease for a key that has none; the oldest makes room for it."""
        if len(self._leases) >= MAX_LEASES:
            del self._leases[next(iter(self._leases))]
        return self._leases.setdefault(digest, Lease(digest))


def active(key: Key | None) -> Key:
    """The key, if it is known and not revoked. Raises Unauthenticated."""
    if key is None or key.revoked_at is not None:
        raise Unauthenticated
    return key
