"""When rules are due, and which evaluations cannot be trusted because Sluice was away."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.rules.model import Window
from server.core.rules.presence import MAX_SILENCE_MS, away_ms, outages_between, was_away
from server.core.rules.schedule import last_due, next_due, window_at
from server.core.rules.windows import COMPLETE_AFTER_MS
from tests.support.rules import MINUTE_MS, rule

QUARTER_MS = 15 * MINUTE_MS
NOON_MS = 12 * 60 * MINUTE_MS


def at(minute: float) -> int:
    """A number of minutes after noon, in milliseconds."""
    return NOON_MS + round(minute * MINUTE_MS)


@pytest.mark.parametrize(
    ("now_ms", "due_ms"),
    [
        (at(15) + COMPLETE_AFTER_MS - 1, at(0)),
        (at(15) + COMPLETE_AFTER_MS, at(15)),
        (at(30), at(15)),
        (at(31), at(30)),
    ],
)
def test_a_due_time_waits_until_its_minute_is_complete(now_ms: int, due_ms: int) -> None:
    assert last_due(now_ms, QUARTER_MS) == due_ms


@pytest.mark.parametrize(
    ("until_ms", "due_ms"), [(at(0), at(15)), (at(0) + 1, at(15)), (at(14.9), at(15)), (at(15), at(30))]
)
def test_the_next_due_time_is_a_multiple_of_the_interval(until_ms: int, due_ms: int) -> None:
    assert next_due(rule(evaluated_until_ms=until_ms), QUARTER_MS) == due_ms


def test_a_window_ends_at_a_whole_minute() -> None:
    assert window_at(rule(), at(15)) == Window(at(14), at(15))
    assert window_at(rule(), at(15) + 59_999) == Window(at(14), at(15))


@given(st.integers(0, 10**13), st.integers(1, 10**8), st.integers(0, 10**6))
def test_each_due_time_comes_once(until_ms: int, interval_ms: int, later_ms: int) -> None:
    first = next_due(rule(evaluated_until_ms=until_ms), interval_ms)
    assert until_ms < first <= until_ms + interval_ms
    assert next_due(rule(evaluated_until_ms=first), interval_ms) == first + interval_ms
    now_ms = first + COMPLETE_AFTER_MS + later_ms
    assert last_due(now_ms, interval_ms) >= first
    assert last_due(first + COMPLETE_AFTER_MS - 1, interval_ms) < first


# --- presence


def test_a_gap_between_notes_is_an_outage_if_it_is_long() -> None:
    short = MAX_SILENCE_MS / MINUTE_MS
    periods = [Window(at(0), at(4)), Window(at(4 + short), at(10)), Window(at(12), at(20)), Window(at(5), at(11))]
    assert outages_between(periods, at(20 + short)) == [Window(at(11), at(12))]


def test_silence_up_to_now_is_an_outage() -> None:
    assert outages_between([Window(at(0), at(4))], at(5)) == [Window(at(4), at(5))]


def test_what_was_before_the_first_note_is_none() -> None:
    assert outages_between([Window(at(4), at(5))], at(5)) == []
    assert outages_between([], at(5)) == []


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**5)).map(lambda each: Window(each[0], sum(each)))))
def test_outages_are_between_periods_and_in_order(periods: Sequence[Window]) -> None:
    now_ms = 2 * 10**6
    outages = outages_between(periods, now_ms)
    assert all(away_ms([outage], period) == 0 for outage in outages for period in periods)
    assert outages == sorted(outages)
    assert all(before.end_ms <= after.start_ms for before, after in pairwise(outages))


@pytest.mark.parametrize(
    ("due", "window_minutes", "is_error"),
    [
        (0, 15, False),
        (15, 15, True),
        (15, 1440, True),
        (30, 15, True),
        (30, 1, True),
        (45, 15, False),
        (45, 60, True),
        (45, 1440, False),
        (75, 60, True),
        (90, 60, False),
    ],
)
def test_what_cannot_be_trusted_after_an_outage(due: int, window_minutes: int, is_error: bool) -> None:
    """The example of `presence.py`."""
    outages = [Window(at(4), at(25))]
    window = Window(at(due - window_minutes), at(due))
    assert was_away(outages, Window(at(due - 15), at(due)), window) == is_error
