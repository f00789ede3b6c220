"""What usage is: the requests and events of a tenant in a minute or an hour, by their outcome.

An outcome is "stored", "replayed", "unknown", or the code of the error with which they were rejected.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal
from uuid import UUID

from msgspec import Struct

from server.core.errors import Code
from server.core.request import CLIENT_GONE

Step = Literal["minute", "hour"]

STEP_MS: Mapping[Step, int] = {"minute": 60_000, "hour": 3_600_000}

DAY_MS = 24 * STEP_MS["hour"]

KEPT_MS: Mapping[Step, int] = {"minute": 2 * DAY_MS, "hour": 92 * DAY_MS}
"""How long usage is kept, in milliseconds: minutes to look at what happened, hours for three months of a trend. It
bounds a response too: 2,880 minutes, or 2,208 hours."""

STORED, REPLAYED, UNKNOWN = "stored", "replayed", "unknown"
OUTCOMES = (STORED, REPLAYED, UNKNOWN, CLIENT_GONE, *(code.value for code in Code))


class Counts(Struct):
    """Requests and events by outcome."""

    requests: Counter[str]
    events: Counter[str]


class UsageCell(Struct, kw_only=True):
    """What one worker counted of a tenant in one step."""

    tenant_id: UUID
    step: Step
    start_ms: int
    """When the step starts, in milliseconds since 1970."""
    part: UUID
    """Tells it from what other workers counted of the same."""
    counts: Counts
    is_saved: bool = False

    def end_ms(self) -> int:
        """When the step ends."""
        return self.start_ms + STEP_MS[self.step]


class Span(Struct, frozen=True):
    """Some steps, one after the other."""

    step: Step
    since_ms: int
    """When the first starts."""
    until_ms: int
    """When the last ends. It is `since_ms` or earlier if there are none."""

    def starts(self) -> Iterator[int]:
        """When each step starts."""
        return iter(range(self.since_ms, self.until_ms, STEP_MS[self.step]))


def start_of(step: Step, time_ms: int) -> int:
    """When the step starts in which a moment is."""
    return time_ms - time_ms % STEP_MS[step]


def kept_span(step: Step, since_ms: int, until_ms: int, now_ms: int) -> Span:
    """The steps between two moments, those in which they are included, as far as they are kept and have begun."""
    oldest, newest = now_ms - KEPT_MS[step] + STEP_MS[step], now_ms + 1
    return Span(step, start_of(step, max(since_ms, oldest)), min(until_ms, newest))
