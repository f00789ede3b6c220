"""Parses and formats times.

Every datetime inside Sluice is aware, in UTC, and exact to the millisecond. An event's `timestamp` becomes a number:
milliseconds since 1970.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import floor

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
NS_PER_MS = 1_000_000
MS_PER_S = 1_000

MIN_MS = (datetime.min.replace(tzinfo=UTC) - EPOCH) // MILLISECOND
MAX_MS = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MILLISECOND
"""The years 1 to 9999 in UTC, which every platform can read back."""

LEAST_MILLISECONDS = 10**11
"""A number of at least this is one of milliseconds, in 1973 or later. As seconds it would be in the year 5138."""

FORMS = (
    "Not one of the forms of ISO 8601 that are read: a date (2026-03-01, 20260301, 2026-W09-7), "
    "or a date and a time (2026-03-01T12:00, 2026-03-01T12:00:00Z, 2026-03-01T12:00:00.123+01:00)"
)
OUT_OF_RANGE = "Outside the years 1 to 9999 in UTC"


def parse_time(text: str) -> int:
    """The moment that an ISO 8601 date or date-time names, in milliseconds since 1970, rounded down.

    No offset means UTC, and no time means midnight. Raises ValueError with a message for the client.
    """
    return in_range(since_epoch(text) // MILLISECOND)


def parse_number(number: float) -> int:
    """The moment at a number of seconds or milliseconds since 1970, in milliseconds, rounded down.

    It is exact: a number is what its digits say, which a product of doubles is not. Raises ValueError with a message
    for the client.
    """
    if not MIN_MS <= number <= MAX_MS:  # neither infinite nor so large that it takes long
        raise ValueError(OUT_OF_RANGE)
    exact = Decimal(repr(number))
    return in_range(floor(exact if number >= LEAST_MILLISECONDS else exact * MS_PER_S))


def parse_bound(text: str) -> int:
    """The same, rounded up: a bound compares with stored times, which are whole milliseconds.

    Raises ValueError with a message for the client.
    """
    since = since_epoch(text)
    in_range(since // MILLISECOND)
    return -(since // -MILLISECOND)


def since_epoch(text: str) -> timedelta:
    """The exact time from 1970 to what `text` names. Raises ValueError with a message for the client."""
    if text.endswith("z"):  # RFC 3339 has it, and Python does not
        text = text[:-1] + "Z"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(FORMS) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH


def in_range(milliseconds: int) -> int:
    """The argument. Raises ValueError with a message for the client if it is outside the years 1 to 9999."""
    if not MIN_MS <= milliseconds <= MAX_MS:
        raise ValueError(OUT_OF_RANGE)
    return milliseconds


def from_milliseconds(milliseconds: int) -> datetime:
    """The moment at this number of milliseconds since 1970."""
    return EPOCH + milliseconds * MILLISECOND


def to_milliseconds(moment: datetime) -> int:
    """`moment` in milliseconds since 1970, rounded down."""
    return (moment - EPOCH) // MILLISECOND


def format_time(moment: datetime) -> str:
    """`moment` as `YYYY-MM-DDTHH:MM:SS`, with `.mmm` unless that is zero."""
    text = moment.replace(tzinfo=None).isoformat(timespec="milliseconds")
    return text.removesuffix(".000")
