"""Parsing and formatting times: exact to the millisecond, in UTC, within the years 1 to 9999."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.times import (
    EPOCH,
    MAX_MS,
    MIN_MS,
    OUT_OF_RANGE,
    format_time,
    from_milliseconds,
    in_range,
    parse_bound,
    parse_number,
    parse_time,
    to_milliseconds,
)
from tests.unit.strategies import MILLISECONDS

OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=OFFSETS)  # noqa: DTZ001


@given(MILLISECONDS)
def test_a_time_survives_its_text(milliseconds: int) -> None:
    moment = from_milliseconds(milliseconds)
    assert to_milliseconds(moment) == milliseconds
    assert parse_time(format_time(moment)) == parse_bound(format_time(moment)) == milliseconds


@given(MOMENTS)
def test_times_are_rounded_down_and_bounds_up(moment: datetime) -> None:
    exact = (moment - EPOCH) / timedelta(milliseconds=1)
    down, up = parse_time(moment.isoformat()), parse_bound(moment.isoformat())
    assert from_milliseconds(down) <= moment <= from_milliseconds(up)
    assert up - down == (0 if moment.microsecond % 1000 == 0 else 1)
    assert abs(exact - down) <= 1


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1970-01-01", 0),
        ("1970-01-01T00:00:00.001Z", 1),
        ("1970-01-01T00:00:00.001999+00:00", 1),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("1970-01-01T02:00:00+02:00", 0),
        ("0001-01-01", MIN_MS),
        ("9999-12-31T23:59:59.999Z", MAX_MS),
    ],
)
def test_parse_time(text: str, milliseconds: int) -> None:
    assert parse_time(text) == milliseconds


@pytest.mark.parametrize("parse", [parse_time, parse_bound])
@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"])
def test_years_outside_1_to_9999(parse: object, text: str) -> None:
    assert callable(parse)
    with pytest.raises(ValueError, match=OUT_OF_RANGE):
        parse(text)


@given(st.text())
def test_any_other_text_is_rejected_with_a_message(text: str) -> None:
    milliseconds, message = 0, OUT_OF_RANGE
    try:
        milliseconds = parse_time(text)
    except ValueError as error:
        message = str(error)
    assert MIN_MS <= milliseconds <= MAX_MS
    assert "ISO 8601" in message or message == OUT_OF_RANGE


@pytest.mark.parametrize(
    ("milliseconds", "ok"), [(MIN_MS - 1, False), (MIN_MS, True), (MAX_MS, True), (MAX_MS + 1, False)]
)
def test_the_ends_of_the_range(milliseconds: int, ok: bool) -> None:
    if ok:
        assert in_range(milliseconds) == milliseconds
    else:
        with pytest.raises(ValueError, match=OUT_OF_RANGE):
            in_range(milliseconds)


def test_format_time_leaves_out_zero_milliseconds() -> None:
    moment = datetime(2026, 3, 1, 12, 0, 0, 120_000, tzinfo=UTC)
    assert format_time(moment) == "2026-03-01T12:00:00.120"
    assert format_time(moment.replace(microsecond=0)) == "2026-03-01T12:00:00"


@given(st.integers(0, -MIN_MS))
def test_a_number_is_exact_to_the_millisecond(milliseconds: int) -> None:
    seconds = float(f"{milliseconds // 1000}.{milliseconds % 1000:03}")
    assert parse_number(seconds) == milliseconds
    assert parse_number(-seconds) == -milliseconds


NUMBERS = {
    "seconds": (1_772_366_400, 1_772_366_400_000),
    "a fraction whose product is too small": (1_700_000_000.123, 1_700_000_000_123),
    "rounded down": (1_700_000_000.1239, 1_700_000_000_123),
    "rounded down before 1970": (-0.0001, -1),
    "milliseconds": (1_772_366_400_123, 1_772_366_400_123),
    "milliseconds with a fraction": (1_772_366_400_123.9, 1_772_366_400_123),
    "the largest number of seconds": (10**11 - 1, (10**11 - 1) * 1000),
    "the least number of milliseconds": (10**11, 10**11),
    "zero": (0, 0),
    "the least": (MIN_MS // 1000, MIN_MS),
    "the largest": (MAX_MS, MAX_MS),
}


@pytest.mark.parametrize(("number", "milliseconds"), NUMBERS.values(), ids=NUMBERS)
def test_parse_number(number: float, milliseconds: int) -> None:
    assert parse_number(number) == milliseconds


@pytest.mark.parametrize("number", [MIN_MS // 1000 - 1, MAX_MS + 1, 2**63, 1e300, float("inf"), float("nan")])
def test_numbers_out_of_range(number: float) -> None:
    with pytest.raises(ValueError, match=OUT_OF_RANGE):
        parse_number(number)
