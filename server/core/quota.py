"""The rate limit: permits of a key, in any 60 seconds at most so many. Imports the standard library only.

The window of a key is kept by the store, which all workers and hosts share, and on its clock: permits are counted in
buckets of half a second. A request needs a permit. To ask for each would cost half of all throughput, so a worker
takes a busy key's permits for a moment ahead, in proportion to how fast it used the last: it *leases* them.

Why that is exact:
* A lease is over `LEASE_S` after it was asked for, on the worker's own clock. So a permit is used at most `LEASE_S`
  after it was counted, and it counts until no 60 seconds can hold both its use and the use of one that follows it.
* The next ask, or else the end of the lease, gives unused permits back. Near the limit nothing is leased, and whoever
  finds nothing left while others hold leases waits for those to end before it is refused.
* Asks say how many permits of the lease were *ever* used, so an ask whose answer was lost does no harm.
"""

import math
import secrets
from time import monotonic
from typing import NamedTuple

WINDOW_S = 60
"""The rate limit is so many requests in this time."""

BUCKET_S = 0.5
"""Permits of the same half second are counted together: 124 numbers at most for a key, however high its limit."""

LEASE_S = 1.0
"""Permits are taken this long ahead: long enough to save most asks, short enough for the exactness promised."""

MARGIN_S = 0.25
"""Between the use of a permit and what the caller sees of it."""

SPAN_S = WINDOW_S + BUCKET_S + LEASE_S + MARGIN_S
"""How long a permit counts. The promise is: nobody is refused while fewer than the limit were admitted in 62 s."""

SETTLE_AFTER_S = 0.2
"""Unused permits are given back so long after the lease's end: the next ask of a busy key does it, and saves one."""

SETTLING_S = 0.5
"""A lease that was not settled so long after its end will not be: its worker is gone. Its permits count as used."""

LEASED_PART = 4
"""At most one in so many of the permits that are left is leased, so that near the limit none are."""

HEADROOM = 2
"""A lease is for so many times the requests that the last rate comes to: few run out early; the rest goes back."""

GROWTH = 4
"""The rate is taken for at most so many times what was used of the last lease: a burst is no rate."""

LEAST_LEASE = 2
"""Below this many requests in the time of a lease, leases cost more than they save."""


class Ask(NamedTuple):
    """A worker asks the store for permits of a key."""

    key_id: str
    lease_id: int
    used: int
    """Permits of this lease that were ever used; the store takes back what it gave beyond that."""
    waiting: int
    """Requests that wait for a permit."""
    ahead: int
    """Permits for requests to come, if there is room."""


class Window(NamedTuple):
    """A key's window after an ask."""

    granted: int
    """Permits that the lease holds now."""
    left: int
    """Permits that nobody holds."""
    resets_s: float
    """Seconds until the first permit that counts now counts no more."""
    leased_elsewhere: bool
    """Whether other workers may yet give permits back."""


class Quota(NamedTuple):
    """What a caller is told: requests a minute, how many remain, and seconds until there are more."""

    limit: int
    remaining: int
    resets_s: int


class Lease:
    """The permits of one key that this worker holds."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self._id = secrets.randbits(63)
        self._used = 0
        self._used_before = 0
        self._permits = 0
        self._is_in_doubt = False
        self._asked_at = -math.inf
        self._window = Window(granted=0, left=0, resets_s=0, leased_elsewhere=False)

    @property
    def ends(self) -> float:
        """When the permits in hand are void, on the monotonic clock."""
        return self._asked_at + LEASE_S

    def is_over(self) -> bool:
        """Whether permits in hand are void."""
        return monotonic() >= self.ends

    def has_permit(self) -> bool:
        """Whether there is a permit in hand."""
        return self._permits > 0 and not self.is_over()

    def is_unsettled(self) -> bool:
        """Whether there is something to give back, or may be: the answer to the last ask is not known."""
        return self._permits > 0 or self._is_in_doubt

    def is_used_up(self) -> bool:
        """Whether as many requests as the limit allows were admitted, for certain."""
        return not self.is_unsettled() and self._window.left == 0 and not self._window.leased_elsewhere

    def take(self) -> bool:
        """Use a permit, if there is one in hand."""
        if not self.has_permit():
            return False
        self._permits -= 1
        self._used += 1
        return True

    def ask(self, waiting: int) -> Ask:
        """Give back what is in hand and ask anew; the answer is for `grant`."""
        now = monotonic()
        recent = self._used - self._used_before
        ahead = int(HEADROOM * recent * LEASE_S / max(now - self._asked_at, LEASE_S / GROWTH))
        if self.has_permit():  # just taken, for others than those who came meanwhile: as many as before
            ahead = max(ahead, self._permits)
        self._used_before, self._asked_at, self._permits, self._is_in_doubt = self._used, now, 0, True
        return Ask(self.key_id, self._id, self._used, waiting, ahead if waiting and ahead >= LEAST_LEASE else 0)

    def grant(self, window: Window | None) -> None:
        """Take what the store gave: None where the key has no window."""
        if window is not None:
            self._window, self._permits = window, window.granted
        self._is_in_doubt = False

    def quota(self, limit: int) -> Quota:
        """What to tell a caller."""
        resets_s = self._window.resets_s - (monotonic() - self._asked_at)
        return Quota(limit, self._window.left + self._permits, max(1, math.ceil(resets_s)))
