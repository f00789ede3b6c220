"""When rules are due.

Due times are the multiples of the interval since 1970, so all hosts have the same. At a due time, a rule is evaluated
on the window that ends at the last whole minute then. It is evaluated when this minute is complete (`windows.py`).

Example with an interval of 15 minutes: the due time 12:00 is evaluated at 12:00:15, on windows that end at 12:00. If
the server was off from 12:10 to 12:31, then 12:15 and 12:30 are due: both are evaluated, in this order.
"""

from server.core.rules.model import Rule, Window
from server.core.rules.windows import COMPLETE_AFTER_MS, minute_of, window_of


def last_due(now_ms: int, interval_ms: int) -> int:
    """The newest due time at which rules can be evaluated now."""
    complete_until_ms = now_ms - COMPLETE_AFTER_MS
    return complete_until_ms - complete_until_ms % interval_ms


def next_due(rule: Rule, interval_ms: int) -> int:
    """The due time that follows the last one that was applied, or the moment from which the rule is evaluated."""
    return rule.evaluated_until_ms - rule.evaluated_until_ms % interval_ms + interval_ms


def window_at(rule: Rule, due_ms: int) -> Window:
    """The window of a rule at a due time."""
    return window_of(rule, minute_of(due_ms))
