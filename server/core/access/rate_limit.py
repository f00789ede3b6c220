"""The rate limit of a key: at most `rate_limit` requests in any 60 seconds, over all workers and hosts.

Theory of operation. Each request needs a permit. The key's document in the database holds its window: how many permits
were granted in which half second (a bucket), on the database's clock. One atomic update counts and grants permits
(`storage/rate_limit.py`).

To ask the database for each permit would halve throughput. So a worker takes a busy key's permits up to 1 s ahead, in
proportion to the rate at which it used the last ones. That is a lease.

Why the limit is exact:
1. A lease ends 1 s after it was requested, on the worker's own clock. So a permit is used at most 1 s after it was
   counted. It stays counted for 61.75 s (60 + bucket 0.5 + lease 1.0 + margin 0.25). So no period of 60 s contains more
   uses than the limit.
2. The next request for a lease, or else the end of the lease, returns unused permits. Close to the limit, nothing is
   leased ahead. If no permit is left while other workers hold leases, a request waits until those end before it is
   rejected. So none is rejected while fewer than the limit were admitted in the last 62 s.
3. A lease request says how many permits of the lease were ever used. So one whose response was lost does no harm: the
   next one corrects the count.

Example with a limit of 100 and an empty window:
- 0.0 s: a request finds no permit. The worker asks for 1, and gets it. The bucket of 0.0 s counts 1.
- 0.1 s: a second request finds none. 1 permit was used in the last 0.1 s, which counts as 0.25 s (`GROWTH`). So the
  worker asks for 1 permit and for 8 ahead (2 x 1 / 0.25 s x 1 s). 99 are left, so up to 24 may be leased ahead: it
  gets all 9. The bucket of 0.0 s counts 10.
- 1.1 s: the lease ends. 6 of the 9 permits were used.
- 1.3 s: the worker returns 3. The bucket of 0.0 s counts 7, and 93 are left.
- 61.75 s: the 7 stop counting. The first of them was used at 0.0 s, the last before 1.1 s.
"""

import math
import secrets
from time import monotonic

from msgspec import Struct

from server.core.errors import Quota

WINDOW_S = 60
"""The period that the rate limit is for."""

BUCKET_S = 0.5
"""Permits of the same half second are counted together: at most 124 numbers for a key, however high its limit."""

LEASE_S = 1.0
"""How far ahead permits are taken. It saves most lease requests, and keeps SPAN_S below the 62 s of the contract."""

MARGIN_S = 0.25
"""The time between the use of a permit and when the client sees its response."""

SPAN_S = WINDOW_S + BUCKET_S + LEASE_S + MARGIN_S
"""How long a permit stays counted. The contract allows 62 s."""

SETTLE_AFTER_S = 0.2
"""Unused permits are returned this long after the lease's end. A busy key's next lease request does it earlier."""

SETTLING_S = 0.5
"""A lease not settled this long after its end never will be: its worker is gone. All its permits count as used."""

LEASED_PART = 4
"""At most one in 4 of the permits left is leased ahead, so that close to the limit none are."""

HEADROOM = 2
"""A lease is for twice the requests that the last rate comes to: few leases run out early, and the rest is returned."""

GROWTH = 4
"""The rate is at most 4 times what was used of the last lease in its full time: a burst is not a rate."""

MIN_LEASE = 2
"""Requests expected in the time of a lease below which leasing ahead costs more than it saves."""


class LeaseRequest(Struct, frozen=True):
    """A worker asks the store for permits of a key."""

    key_id: str
    lease_id: int
    used: int
    """Permits of this lease that were ever used. The store takes back what it granted beyond that."""
    waiting: int
    """Requests that wait for a permit."""
    ahead: int
    """Permits for requests to come, if enough are left."""


class RateWindow(Struct, frozen=True):
    """A key's window after a lease request."""

    granted: int
    """Permits that the lease holds now."""
    left: int
    """Permits that no lease holds."""
    resets_s: float
    """Seconds until the oldest permit that counts now stops counting."""
    leased_elsewhere: bool
    """Whether other workers may still return permits."""


class Lease:
    """The permits of one key that this worker holds."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self._id = secrets.randbits(63)
        self._used = 0
        self._used_before = 0
        self._permits = 0
        self._is_in_doubt = False
        self._requested_at = -math.inf
        self._window = RateWindow(granted=0, left=0, resets_s=0, leased_elsewhere=False)

    @property
    def ends(self) -> float:
        """When the permits become void, on the monotonic clock."""
        return self._requested_at + LEASE_S

    def is_over(self) -> bool:
        """Whether the permits are void."""
        return monotonic() >= self.ends

    def has_permit(self) -> bool:
        """Whether a permit is left that is not void."""
        return self._permits > 0 and not self.is_over()

    def permits_left(self) -> int:
        """How many permits are left that are not void."""
        return self._permits if self.has_permit() else 0

    def is_unsettled(self) -> bool:
        """Whether there are, or may be, permits to return. There may be if the last lease request had no response."""
        return self._permits > 0 or self._is_in_doubt

    def is_used_up(self) -> bool:
        """Whether it is certain that as many requests as the limit allows were admitted."""
        return not self.is_unsettled() and self._window.left == 0 and not self._window.leased_elsewhere

    def acquire(self) -> bool:
        """Use a permit. Returns False if none is left."""
        if not self.has_permit():
            return False
        self._permits -= 1
        self._used += 1
        return True

    def request(self, waiting: int) -> LeaseRequest:
        """Give up the permits held and ask for new ones. `apply` takes the result."""
        now = monotonic()
        recent = self._used - self._used_before
        ahead = int(HEADROOM * recent * LEASE_S / max(now - self._requested_at, LEASE_S / GROWTH))
        if self.has_permit():  # granted a moment ago to requests that came earlier: ask for at least as many again
            ahead = max(ahead, self._permits)
        self._used_before, self._requested_at, self._permits, self._is_in_doubt = self._used, now, 0, True
        return LeaseRequest(self.key_id, self._id, self._used, waiting, ahead if waiting and ahead >= MIN_LEASE else 0)

    def apply(self, window: RateWindow | None) -> None:
        """Take the permits that the store granted. `window` is None if the key has none."""
        if window is not None:
            self._window, self._permits = window, window.granted
        self._is_in_doubt = False

    def quota(self, limit: int) -> Quota:
        """What to tell a client whose key has this `limit`."""
        resets_s = self._window.resets_s - (monotonic() - self._requested_at)
        return Quota(limit, self._window.left + self._permits, max(1, math.ceil(resets_s)))
