"""When deliveries are tried again."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.webhooks.schedule import DELAYS_S, JITTER, asked_s, delay_s

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


@given(st.integers(1, len(DELAYS_S)))
def test_each_delay_is_that_of_the_schedule_and_varies(tries: int) -> None:
    delays = {delay_s(tries, None, NOW) for _ in range(20)}
    assert len(delays) > 1
    usual = (5, 30, 120, 600, 3_600, 14_400, 43_200)[tries - 1]
    assert all(delay is not None and abs(delay - usual) <= JITTER * usual for delay in delays)


def test_the_eighth_attempt_is_the_last() -> None:
    assert delay_s(7, None, NOW) is not None
    assert delay_s(8, None, NOW) is None
    assert delay_s(8, "60", NOW) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("120", 120),
        (" 120 ", 120),
        ("0", 0),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("٣", 0),
        ("Fri, 27 Nov 2026 12:02:00 GMT", 120),
        ("Fri, 27 Nov 2026 11:00:00 GMT", -3_600),
        ("Fri, 27 Nov 2026 12:02:00 -0000", 0),
        ("9" * 400, float("inf")),
        ("Fri, 27 Nov 99999999999999999999 12:02:00 GMT", 0),
        ("Fri, 27 Nov 2026 12:02:00 +99999999999999999999", 0),
    ],
)
def test_what_a_receiver_asks_for(header: str | None, seconds: float) -> None:
    assert asked_s(header, NOW) == seconds


@given(st.lists(st.sampled_from(["Fri,", "27", "Nov", "2026", "9" * 20, "12:02:00", "1:2", "GMT", "+", "-", "."])))
def test_whatever_a_receiver_asks_for_is_a_number(words: list[str]) -> None:
    assert isinstance(asked_s(" ".join(words), NOW), float)


def test_a_receiver_gets_more_time_but_never_less_and_at_most_the_longest_step() -> None:
    assert delay_s(1, "100", NOW) == 100
    assert delay_s(1, "9" * 400, NOW) == DELAYS_S[-1]
    assert (delay_s(1, "1", NOW) or 0) >= 4
