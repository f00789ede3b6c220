"""Rules, and what their evaluation finds.

A window is half-open, in milliseconds since 1970, by the time of receipt, and ends at a whole minute.
"""

from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from msgspec import Struct

RuleType = Literal["threshold", "missing_field", "volume", "freshness", "schema"]

Severity = Literal["critical", "warning", "info"]

RuleState = Literal["inactive", "firing", "no_data", "error"]

MAX_SAMPLES = 5
"""Ids of events that an evaluation names."""


class Window(NamedTuple):
    """From `start_ms`, up to but without `end_ms`."""

    start_ms: int
    end_ms: int


class Rule(Struct, kw_only=True, frozen=True):
    """A rule of a tenant. `config` is as `config.py` has parsed it."""

    id: UUID
    tenant_id: UUID
    name: str
    rule_type: RuleType
    config: Any
    severity: Severity = "warning"
    enabled: bool = True
    tags: tuple[str, ...] = ()
    category: str | None = None
    created_at: datetime
    updated_at: datetime
    state: RuleState = "inactive"
    evaluated_until_ms: int
    """The end of the last window that was applied; at first the start of the first."""


class Evaluation(NamedTuple):
    """What one evaluation of a rule found. Evaluating the same window again finds the same."""

    window: Window
    state: RuleState
    value: float | None
    """What is compared with the limit of the rule; None if there is no data."""
    sample_size: int
    """Events that were looked at."""
    message: str
    """One sentence with the value, the limit and the window."""
    event_ids: tuple[str, ...] = ()
    """Some of the events for which it fires: at most MAX_SAMPLES, the earliest."""
