"""Which events an evaluation looks at.

A window ends at a whole minute that is complete: no request can still store an event of it. A request stores its events
by its deadline, and the clocks of two hosts differ by some seconds. One exception is left: a retry with an idempotency
key completes a batch under its old time of receipt, whenever it comes.

Example: a rule with `window_minutes: 15` is evaluated at 12:30:20. The minute that ended at 12:30:00 is complete since
12:30:15, so the window is 12:15:00 to 12:30:00.
"""

from server.core.deadline import REQUEST_TIMEOUT_S
from server.core.rules.config import (
    MAX_WINDOW_MINUTES,
    FreshnessConfig,
    MissingFieldConfig,
    SchemaConfig,
    ThresholdConfig,
    VolumeConfig,
)
from server.core.rules.model import Rule, Window
from server.core.times import MS_PER_S

MINUTE_MS = 60 * MS_PER_S
HOUR_MS = 60 * MINUTE_MS

CLOCK_MARGIN_S = 5.0
"""How far the clocks of two hosts may differ. `sluice check` warns long before."""

COMPLETE_AFTER_MS = round((REQUEST_TIMEOUT_S + CLOCK_MARGIN_S) * MS_PER_S)
"""How long after its end a minute is complete."""


def last_complete_minute(now_ms: int) -> int:
    """The end of the last minute that is complete."""
    return minute_of(now_ms - COMPLETE_AFTER_MS)


def minute_of(time_ms: int) -> int:
    """When the minute of a time began."""
    return time_ms - time_ms % MINUTE_MS


def window_of(rule: Rule, end_ms: int) -> Window:
    """The window of a rule that ends at `end_ms`, a whole minute. It has at least one minute."""
    match rule.config:
        case ThresholdConfig(window_minutes=minutes) | SchemaConfig(window_minutes=minutes):
            start_ms = end_ms - minutes * MINUTE_MS
        case VolumeConfig(current_window_minutes=minutes) | FreshnessConfig(max_age_minutes=minutes):
            start_ms = end_ms - minutes * MINUTE_MS
        case MissingFieldConfig(window_minutes=None):
            earliest, latest = end_ms - MAX_WINDOW_MINUTES * MINUTE_MS, end_ms - MINUTE_MS
            start_ms = min(max(minute_of(rule.evaluated_until_ms), earliest), latest)
        case MissingFieldConfig(window_minutes=int(minutes)):
            start_ms = end_ms - minutes * MINUTE_MS
    return Window(start_ms, end_ms)


def comparison_window(config: VolumeConfig, window: Window) -> Window:
    """The time before `window` with whose average it is compared."""
    return Window(window.start_ms - config.comparison_window_hours * HOUR_MS, window.start_ms)


def search_window(window: Window) -> Window:
    """Where the newest event is looked for: twice the age that it may have, so that its age is known for a while."""
    return Window(2 * window.start_ms - window.end_ms, window.end_ms)
