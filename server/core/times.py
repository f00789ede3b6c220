"""Times as callers write and read them. Imports the standard library only.

Every time inside Sluice is an aware UTC datetime, kept to the millisecond.
"""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def parse_time(text: str) -> datetime:
    """The moment an ISO 8601 date or date-time names: UTC where it has no offset, midnight where it has no time.

    Raises ValueError with a message for the caller.
    """
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except ValueError:
        raise ValueError("Not an ISO 8601 date or date-time, such as 2026-03-01T12:00:00Z") from None
    except OverflowError:
        raise ValueError("Outside the years 1 to 9999 in UTC") from None


def from_milliseconds(milliseconds: int) -> datetime:
    """The moment that many milliseconds after 1970."""
    return EPOCH + milliseconds * MILLISECOND


def to_milliseconds(moment: datetime) -> int:
    """The first whole millisecond at or after `moment`, counted from 1970."""
    return -((EPOCH - moment) // MILLISECOND)


def format_time(moment: datetime) -> str:
    """`moment` as `YYYY-MM-DDTHH:MM:SS`, with `.mmm` unless that is zero."""
    text = moment.replace(tzinfo=None).isoformat(timespec="milliseconds")
    return text.removesuffix(".000")
