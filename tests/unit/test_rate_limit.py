"""The arithmetic of leases: the worked example of the module, its rules one by one, and the limit under random use.

The database is a model here. `tests/processes/rate_limit` tests the real one.
"""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.access import rate_limit
from server.core.access.rate_limit import (
    BUCKET_S,
    GROWTH,
    LEASE_S,
    LEASED_PART,
    MIN_LEASE,
    SETTLING_S,
    SPAN_S,
    WINDOW_S,
    Lease,
    LeaseRequest,
    RateWindow,
)

LIMIT = 100


class Clock:
    """The monotonic clock of these tests."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that leases read."""
    clock = Clock()
    monkeypatch.setattr(rate_limit, "monotonic", clock)
    return clock


def window(granted: int, left: int, resets_s: float = 60, leased_elsewhere: bool = False) -> RateWindow:
    """What the store returns for a lease request."""
    return RateWindow(granted, left, resets_s, leased_elsewhere)


def permits_of(request: LeaseRequest) -> tuple[int, int, int]:
    """What a lease request says of permits: used, waiting, ahead."""
    return request.used, request.waiting, request.ahead


def test_the_example_of_the_module(clock: Clock) -> None:
    lease = Lease("key")
    assert not lease.acquire()
    assert permits_of(lease.request(1)) == (0, 1, 0)
    lease.apply(window(granted=1, left=99))
    assert [lease.acquire(), lease.acquire()] == [True, False]

    clock.now = 0.1
    assert permits_of(lease.request(1)) == (1, 1, 8)
    lease.apply(window(granted=9, left=90))
    assert [lease.acquire() for _ in range(6)] == [True] * 6
    assert lease.has_permit()

    clock.now = 1.1
    assert lease.is_over()
    assert not lease.acquire()
    assert lease.is_unsettled()

    clock.now = 1.3
    assert permits_of(lease.request(0)) == (7, 0, 0)
    lease.apply(window(granted=0, left=93))
    assert not lease.is_unsettled()


def test_a_permit_is_void_after_the_time_of_a_lease(clock: Clock) -> None:
    lease = Lease("key")
    clock.now = 5.0
    lease.request(2)
    clock.now = 5.9  # the response takes long: the lease counts from the request
    lease.apply(window(granted=2, left=0))
    assert lease.ends == 5.0 + LEASE_S
    assert lease.acquire()
    clock.now = lease.ends
    assert not lease.acquire()


def test_a_request_gives_up_the_permits_that_are_held(clock: Clock) -> None:
    lease = Lease("key")
    lease.request(1)
    lease.apply(window(granted=5, left=95))
    clock.now = 0.2
    assert lease.acquire()
    lease.request(1)
    assert not lease.has_permit()


def test_a_lost_response_leaves_a_lease_in_doubt(clock: Clock) -> None:
    lease = Lease("key")
    lease.request(1)
    assert lease.is_unsettled()
    assert not lease.is_used_up()
    clock.now = 2.0
    assert permits_of(lease.request(0)) == (0, 0, 0)
    lease.apply(window(granted=0, left=0))
    assert not lease.is_unsettled()
    assert lease.is_used_up()


def test_a_key_without_a_window_grants_nothing(clock: Clock) -> None:
    lease = Lease("key")
    lease.request(1)
    lease.apply(None)
    assert not lease.acquire()
    assert clock.now < lease.ends
    assert not lease.is_unsettled()


@pytest.mark.parametrize(
    ("granted", "left", "leased_elsewhere", "used_up"),
    [(0, 0, False, True), (0, 0, True, False), (0, 1, False, False), (1, 0, False, False)],
)
@pytest.mark.usefixtures("clock")
def test_a_limit_is_used_up_only_if_that_is_certain(
    granted: int, left: int, leased_elsewhere: bool, used_up: bool
) -> None:
    lease = Lease("key")
    lease.request(1)
    lease.apply(window(granted, left, leased_elsewhere=leased_elsewhere))
    assert lease.is_used_up() == used_up


@pytest.mark.parametrize(
    ("used", "after_s", "ahead"),
    [
        (10, 1.0, 20),  # twice what was used in the last second
        (10, 2.0, 10),  # the rate is half of that
        (10, 0.01, 2 * 10 * GROWTH),  # at most 4 times the rate of a full lease
        (1, 1.0, MIN_LEASE),
        (1, 1.5, 0),  # fewer than MIN_LEASE are expected
        (0, 1.0, 0),
    ],
)
def test_how_many_permits_are_requested_ahead(clock: Clock, used: int, after_s: float, ahead: int) -> None:
    lease = Lease("key")
    lease.request(used)
    lease.apply(window(used, 0))
    assert all(lease.acquire() for _ in range(used))
    clock.now = after_s
    assert lease.request(1).ahead == ahead


def test_permits_that_were_just_granted_are_requested_again(clock: Clock) -> None:
    lease = Lease("key")
    lease.request(1)
    lease.apply(window(granted=50, left=0))
    clock.now = 0.5
    assert lease.request(1).ahead == 50


def test_what_a_client_is_told(clock: Clock) -> None:
    lease = Lease("key")
    lease.request(1)
    clock.now = 0.25
    lease.apply(window(granted=3, left=7, resets_s=10.5))
    assert lease.acquire()
    assert lease.quota(LIMIT) == (LIMIT, 7 + 2, 11)  # 10.25 s, rounded up
    clock.now = 30.0
    assert lease.quota(LIMIT).resets_s == 1  # never less: a client must not come back at once


class Store:
    """A model of the key's window in the database: the rules of `storage/rate_limit.py` without its pipeline."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.buckets: dict[float, int] = {}
        self.granted: dict[int, int] = {}
        self.counted_in: dict[int, float] = {}
        self.open_until: dict[int, float] = {}

    def lease(self, request: LeaseRequest, now: float) -> RateWindow:
        """Return what the lease has left, grant what is there, and count it."""
        lease = request.lease_id
        bucket = self.counted_in.get(lease)
        if bucket in self.buckets:
            self.buckets[bucket] -= self.granted[lease] - request.used
        self.buckets = {at: permits for at, permits in self.buckets.items() if permits > 0 and at + SPAN_S > now}
        left = self.limit - sum(self.buckets.values())
        waiting = min(request.waiting, left)
        ahead = min(request.ahead, (left - waiting) // LEASED_PART)
        current = now // BUCKET_S * BUCKET_S
        self.buckets[current] = self.buckets.get(current, 0) + waiting + ahead
        self.granted[lease] = request.used + waiting + ahead
        self.counted_in[lease] = current
        self.open_until[lease] = now + LEASE_S + SETTLING_S if ahead else now
        elsewhere = any(until > now for other, until in self.open_until.items() if other != lease)
        return RateWindow(waiting + ahead, left - waiting - ahead, min(self.buckets) + SPAN_S - now, elsewhere)


def uses_of(store: Store, clock: Clock, steps: list[tuple[float, int, int, bool]]) -> Iterator[float]:
    """Let three workers use permits, and yield the time of each use.

    A step is: how much later, which worker, how many requests come at once, and whether the response of a lease request
    is lost.
    """
    workers = [Lease("key") for _ in range(3)]
    for later_s, number, requests, lost in steps:
        clock.now += later_s
        lease = workers[number]
        for waiting in range(requests, 0, -1):
            if not lease.has_permit():
                granted = store.lease(lease.request(waiting), clock.now)
                if not lost:
                    lease.apply(granted)
            if lease.acquire():
                yield clock.now


STEPS = st.tuples(
    st.sampled_from([0.0, 0.05, 0.3, 0.9, 1.1, 7.0, 59.0]), st.integers(0, 2), st.integers(1, 9), st.booleans()
)


def check_uses(uses: Sequence[float], limit: int) -> None:
    """No 60 s have more uses than the limit."""
    for index, first in enumerate(uses):
        assert sum(moment < first + WINDOW_S for moment in uses[index:]) <= limit


@given(limit=st.integers(1, 40), steps=st.lists(STEPS, max_size=150))
def test_no_60_seconds_have_more_uses_than_the_limit(limit: int, steps: list[tuple[float, int, int, bool]]) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rate_limit, "monotonic", clock)
        check_uses(list(uses_of(Store(limit), clock, steps)), limit)


def test_permits_that_are_used_late_count_long_enough(clock: Clock) -> None:
    """The worst case: counted early in a half second, used at the end of the lease, and a rush a minute later."""
    late = [(0.0, 0, 1, False), (0.1, 0, 1, False), (0.99, 0, 8, False)]  # the 8 are from the lease of 0.1 s
    rush = [(0.01, 1, LIMIT, False), (58.0, 1, 1, False), *[(0.05, 1, LIMIT, False)] * 100]
    uses = list(uses_of(Store(LIMIT), clock, [*late, *rush]))
    assert uses[:10] == pytest.approx([0.0, 0.1, *[1.09] * 8])
    assert uses[10:LIMIT] == pytest.approx([1.1] * (LIMIT - 10))
    assert len(uses) > LIMIT
    assert uses[LIMIT] < uses[0] + SPAN_S + 0.1
    check_uses(uses, LIMIT)


def test_a_burst_gets_the_whole_limit_and_no_more(clock: Clock) -> None:
    steps = [(0.05, number % 3, 3, False) for number in range(30)]
    assert len(list(uses_of(Store(LIMIT), clock, [*steps, (1.6, 0, 9, False), (1.6, 1, 9, False)]))) <= LIMIT
    clock.now = 0.0
    assert len(list(uses_of(Store(LIMIT), clock, [(0.1, 0, 1, False)] * 200))) == LIMIT
