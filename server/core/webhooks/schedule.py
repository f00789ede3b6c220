"""When a delivery that failed is tried again: over 17 hours, in growing steps.

Each step varies by a fifth, so that deliveries which failed together do not come back together. A receiver may ask for
more time by `Retry-After`. It gets the longest step at most, so that a mistake of it does not end its deliveries.
"""

from collections.abc import Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from random import uniform

MINUTE_S, HOUR_S = 60.0, 3_600.0

DELAYS_S: Sequence[float] = (5.0, 30.0, 2 * MINUTE_S, 10 * MINUTE_S, HOUR_S, 4 * HOUR_S, 12 * HOUR_S)
"""The time after each attempt that failed. There is none after the last attempt, the eighth."""

JITTER = 0.2
"""By which part of it a delay is shorter or longer at most."""


def delay_s(tries: int, retry_after: str | None, now: datetime, delays_s: Sequence[float] = DELAYS_S) -> float | None:
    """The seconds until the next attempt, after `tries` that failed; None if that was the last one."""
    if tries > len(delays_s):
        return None
    usual = delays_s[tries - 1] * uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 (no secret)
    return max(usual, min(asked_s(retry_after, now), delays_s[-1]))


def asked_s(retry_after: str | None, now: datetime) -> float:
    """The seconds that the header `Retry-After` asks for: a number, or until a date. 0 if it asks for none."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return (parsedate_to_datetime(text) - now).total_seconds()
    except (TypeError, ValueError, OverflowError):  # no date, one without a zone, and one with a huge number
        return 0.0
