"""How a worker counts usage and saves it: nothing is lost or doubled by failures, and memory is bounded."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import cast
from uuid import UUID

import pytest
from hypothesis import given, strategies

from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.usage import counts
from server.core.usage.counts import UsageCounts
from server.core.usage.model import DAY_MS, KEPT_MS, STEP_MS, Step, UsageCell, kept_span
from server.core.usage.store import UsageStore
from server.rest.usage import parse_span, usage_bodies

NOW_MS = 1_790_000_000_000
TENANTS = [UUID(int=number) for number in range(4)]


class Store:
    """Keeps cells by their id, as the database does. A call that fails may have stored them all the same."""

    def __init__(self) -> None:
        self.cells: dict[tuple[UUID, Step, int, UUID], tuple[Counter[str], Counter[str]]] = {}
        self.fails = False
        self.stores = True

    async def save(self, cells: Sequence[UsageCell], _deadline: Deadline) -> None:
        await asyncio.sleep(0)
        if self.stores:
            for cell in cells:
                key = (cell.tenant_id, cell.step, cell.start_ms, cell.part)
                self.cells[key] = (Counter(cell.counts.requests), Counter(cell.counts.events))
        if self.fails:
            raise Unavailable

    def sums(self, step: Step) -> tuple[Counter[tuple[UUID, int, str]], Counter[tuple[UUID, int, str]]]:
        """Requests and events by tenant, start and outcome."""
        requests, events = Counter[tuple[UUID, int, str]](), Counter[tuple[UUID, int, str]]()
        for (tenant_id, own_step, start, _), (own_requests, own_events) in self.cells.items():
            if own_step == step:
                for sums, own in ((requests, own_requests), (events, own_events)):
                    for outcome, count in own.items():
                        sums[tenant_id, start, outcome] += count
        return +requests, +events


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def time_ns(self) -> int:
        return self.now_ms * 1_000_000


additions = strategies.tuples(
    strategies.sampled_from(TENANTS),
    strategies.sampled_from(["stored", "replayed", "invalid_batch"]),
    strategies.integers(0, 2),
    strategies.integers(0, 1_000),
)
saves = strategies.tuples(strategies.booleans(), strategies.booleans())
pauses = strategies.integers(0, 7_200_000)


@given(strategies.lists(strategies.one_of(additions, saves, pauses), max_size=60))
def test_sums_are_exact_whatever_fails(steps: list[object]) -> None:
    clock, store = Clock(), Store()
    requests, events = Counter[tuple[UUID, int, str]](), Counter[tuple[UUID, int, str]]()

    async def scenario() -> None:
        usage = UsageCounts(cast("UsageStore", store))
        for step in steps:
            match step:
                case int():
                    clock.now_ms += step
                case (UUID() as tenant_id, str(outcome), int(more_requests), int(more_events)):
                    usage.add(tenant_id, outcome, more_requests, more_events)
                    hour = clock.now_ms - clock.now_ms % STEP_MS["hour"]
                    requests[tenant_id, hour, outcome] += more_requests
                    events[tenant_id, hour, outcome] += more_events
                case (bool(fails), bool(stores)):
                    store.fails, store.stores = fails, stores or not fails
                    await asyncio.gather(usage.save(), return_exceptions=True)
        store.fails, store.stores = False, True
        await usage.save()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(counts, "time_ns", clock.time_ns)
        asyncio.run(scenario())
    assert store.sums("hour") == (+requests, +events)
    for counted, of_hours in zip(store.sums("minute"), (+requests, +events), strict=True):
        by_hour = Counter[tuple[UUID, int, str]]()
        for (tenant_id, minute, outcome), count in counted.items():
            by_hour[tenant_id, minute - minute % STEP_MS["hour"], outcome] += count
        assert by_hour == of_hours


def test_what_is_held_is_bounded_and_a_loss_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(counts, "MAX_CELLS", 10)
    store = Store()

    async def scenario() -> None:
        usage = UsageCounts(cast("UsageStore", store))
        for round_number in range(3):  # what is saved makes room for others
            for number in range(5):
                usage.add(UUID(int=10 * round_number + number), "stored", 1, 1)
            await usage.save()
        assert not caplog.messages
        store.fails, store.stores = True, False
        for number in range(100, 108):
            usage.add(UUID(int=number), "stored", 1, 1)
        with pytest.raises(Unavailable):
            await usage.save()
        store.fails, store.stores = False, True
        await usage.save()

    asyncio.run(scenario())
    assert caplog.messages == ["the usage of 3 requests was not kept: too much of it waits to be saved"]
    assert sum(store.sums("hour")[0].values()) == sum(store.sums("minute")[0].values()) == 15 + 5


@pytest.mark.parametrize(
    ("query", "steps", "first_ms"),
    [
        (b"", 61, NOW_MS - STEP_MS["hour"]),
        (b"step=hour", 25, NOW_MS - DAY_MS),
        (b"since=2000-01-01&until=2100-01-01", 2_880, NOW_MS - KEPT_MS["minute"] + STEP_MS["minute"]),
        (b"since=2000-01-01&step=hour", 2_208, NOW_MS - KEPT_MS["hour"] + STEP_MS["hour"]),
        (b"until=2000-01-01", 0, 0),
        (b"since=2100-01-01", 0, 0),
    ],
)
def test_a_span_is_what_is_kept(query: bytes, steps: int, first_ms: int) -> None:
    span = parse_span(query, NOW_MS)
    starts = list(span.starts())
    assert len(starts) == len(list(usage_bodies(span, {}))) == steps
    if steps:
        assert starts[0] == first_ms - first_ms % STEP_MS[span.step]
        assert starts[-1] == NOW_MS - NOW_MS % STEP_MS[span.step]


def test_a_span_has_the_steps_in_which_its_ends_are() -> None:
    minute = NOW_MS - NOW_MS % STEP_MS["minute"]
    assert list(kept_span("minute", minute - 1, minute + 1, NOW_MS).starts()) == [minute - 60_000, minute]
    assert list(kept_span("minute", minute - 60_000, minute, NOW_MS).starts()) == [minute - 60_000]
