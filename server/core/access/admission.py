"""Admission: which requests may go on. It checks the key as it is at this moment and, if the key has a rate limit,
uses a permit.

Every request reads its key, so a revoked key stops at once on every worker, and so does a previous secret at the end of
its overlap. The reads of requests that wait at the same time are one. A request that needs a permit and finds none asks
for it together with its read.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Never

from server.core.access.keys import Credentials, Key, Scope, digest_of
from server.core.access.rate_limit import SETTLE_AFTER_S, Lease
from server.core.access.store import FoundKey, KeyStore
from server.core.coalesce import Coalescer
from server.core.deadline import Deadline
from server.core.errors import Quota, RateLimited, SluiceError, Unauthenticated, Unavailable
from server.core.request_context import current_request

MAX_LEASES = 10_000
"""Keys whose leases a worker remembers: some 10 MB. Beyond it, a request may cost one more round trip."""

POLL_INTERVAL_S = 0.05
"""How often to ask whether other workers have returned permits, if no others are left."""


class Admitted(NamedTuple):
    """The key of an admitted request, and its quota; None if the key has no limit."""

    key: Key
    quota: Quota | None

    @contextmanager
    def quota_in_errors(self) -> Iterator[None]:
        """Give the errors of the admitted request the quota, for the client."""
        try:
            yield
        except SluiceError as error:
            error.quota = self.quota
            raise


class PermitRequest(NamedTuple):
    """A request that waits for a number of permits: one, or none to only return permits."""

    lease: Lease
    permits: int = 1


class Admission:
    """Admits requests by the keys in `keys`."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys
        self._known: dict[bytes, Key] = {}
        self._leases: dict[str, Lease] = {}
        self._find = Coalescer(self._find_keys)
        self._lease = Coalescer(self._lease_permits)
        self._settling: set[asyncio.Task[None]] = set()

    async def authenticate(self, credentials: Credentials, scope: Scope, deadline: Deadline) -> Key:
        """The key of a request that needs `scope` and no permit.

        Raises Unauthenticated, InsufficientScope, InvalidHeader, DomainNotAllowed, or Unavailable if the key cannot be
        read.
        """
        key = active(await self._find(digest_of(credentials.secret), deadline))
        check(key, credentials, scope)
        return key

    async def until_rejected(self, credentials: Credentials, scope: Scope, interval_s: float) -> Never:
        """Check the key of what stays open every `interval_s`. Raises what `authenticate` does but Unavailable."""
        while True:
            await asyncio.sleep(interval_s)
            with contextlib.suppress(Unavailable):
                await self.authenticate(credentials, scope, Deadline())

    async def admit(self, credentials: Credentials, scope: Scope, deadline: Deadline) -> Admitted:
        """Admit a request that needs `scope`, and use one permit of its key.

        Raises Unauthenticated, InsufficientScope, InvalidHeader, DomainNotAllowed, RateLimited, or Unavailable if the
        key cannot be read.
        """
        digest = digest_of(credentials.secret)
        lease = self._known_lease(digest)
        if lease is None or lease.has_permit() or not self._may_pass(digest, credentials, scope):
            key = active(await self._find(digest, deadline))
            check(key, credentials, scope)
            if key.rate_limit == 0:
                return Admitted(key, None)
            lease = self._lease_of(key, digest)
            if lease.acquire():
                return Admitted(key, lease.quota(key.rate_limit))
        while True:
            found = await self._lease(PermitRequest(lease), deadline)
            key = await self._key_of(digest, found, deadline)
            check(key, credentials, scope)
            if key.rate_limit == 0:
                return Admitted(key, None)
            if lease.acquire():
                return Admitted(key, lease.quota(key.rate_limit))
            if lease.is_used_up():
                raise RateLimited(lease.quota(key.rate_limit))
            await asyncio.sleep(POLL_INTERVAL_S)  # others may return permits, or the database lost its primary

    def count_leases(self) -> tuple[int, int]:
        """How many leases hold permits now, and how many permits these are."""
        permits = [left for lease in self._leases.values() if (left := lease.permits_left())]
        return len(permits), sum(permits)

    async def close(self) -> None:
        """Return all permits, so that other workers can use them."""
        await asyncio.gather(*(self._settle(lease) for lease in self._leases.values() if lease.is_unsettled()))

    async def _key_of(self, digest: bytes, found: FoundKey | None, deadline: Deadline) -> Key:
        """The key with this digest, which is usually the one found. Raises Unauthenticated and Unavailable.

        If the digest found is another, this may be that of the key's previous secret, which `find` knows. One that no
        longer works is forgotten, so that a client which goes on with it takes no more permits from the key.
        """
        if found is not None and found.digest == digest:
            return active(found.key)
        key = await self._find(digest, deadline)
        if key is None:
            self._known.pop(digest, None)
        return active(key)

    def _known_lease(self, digest: bytes) -> Lease | None:
        """The lease of a key with a limit that was seen before."""
        key = self._known.get(digest)
        return None if key is None else self._leases.get(key.id)

    def _may_pass(self, digest: bytes, credentials: Credentials, scope: Scope) -> bool:
        """Whether a known key passes the check, as far as is known.

        If it does not, no permit is requested: it would stay unused, and others could not have it until it is returned.
        """
        try:
            self._known[digest].check(credentials, scope)
        except SluiceError:
            return False
        return True

    def _lease_of(self, key: Key, digest: bytes) -> Lease:
        """The lease of a key, made if there is none. The oldest is dropped if there are too many."""
        if len(self._known) >= MAX_LEASES:
            del self._known[next(iter(self._known))]
        self._known[digest] = key
        if key.id not in self._leases:
            if len(self._leases) >= MAX_LEASES:
                del self._leases[next(iter(self._leases))]
            self._leases[key.id] = Lease(key.id)
        return self._leases[key.id]

    async def _find_keys(self, digests: Sequence[bytes], deadline: Deadline) -> list[Key | None]:
        """The keys of a group of requests."""
        found = await self._keys.find(list(set(digests)), deadline)
        return [found.get(digest) for digest in digests]

    async def _lease_permits(self, group: Sequence[PermitRequest], deadline: Deadline) -> list[FoundKey | None]:
        """Ask for the permits that a group of requests waits for, once for each key."""
        waiting: Counter[Lease] = Counter()
        for lease, permits in group:
            waiting[lease] += permits
        requests = [lease.request(permits) for lease, permits in waiting.items()]
        try:
            found = await self._keys.lease(requests, deadline)
        finally:
            for lease in waiting:  # also after an error: permits may have been granted
                asyncio.get_running_loop().call_at(lease.ends + SETTLE_AFTER_S, self._settle_unused, lease)
        for lease in waiting:
            lease.apply(found[lease.key_id].window if lease.key_id in found else None)
        return [found.get(lease.key_id) for lease, _ in group]

    def _settle_unused(self, lease: Lease) -> None:
        """Return unused permits, unless the lease was requested again meanwhile."""
        if lease.is_over() and lease.is_unsettled():
            task = asyncio.create_task(self._settle(lease))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def _settle(self, lease: Lease) -> None:
        """Return the permits of a lease. If the database is away, the timer of this very request tries again."""
        with contextlib.suppress(Unavailable):
            await self._lease(PermitRequest(lease, permits=0), Deadline())


def active(key: Key | None) -> Key:
    """The key, if it is known and not revoked. Raises Unauthenticated."""
    if key is None or key.revoked_at is not None:
        raise Unauthenticated
    return key


def check(key: Key, credentials: Credentials, scope: Scope) -> None:
    """Note whose request it is, for logs and traces, and check the key. Raises what `Key.check` does."""
    request = current_request()
    if request is not None:
        request.key_id, request.tenant_id = key.id, key.tenant_id
    key.check(credentials, scope)
