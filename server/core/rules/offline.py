"""Measures events in memory, for `sluice rules test`. It measures the same as `storage/measurements.py`."""

import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple
from uuid import UUID

from server.core.deadline import Deadline
from server.core.rules.config import (
    COUNT,
    EventsConfig,
    FreshnessConfig,
    MissingFieldConfig,
    Operator,
    SchemaConfig,
    ThresholdConfig,
    VolumeConfig,
)
from server.core.rules.measure import (
    FreshnessMeasurement,
    Measurement,
    MissingFieldMeasurement,
    Numbers,
    SchemaMeasurement,
    ThresholdMeasurement,
    VolumeMeasurement,
)
from server.core.rules.model import MAX_SAMPLES, Rule, Window
from server.core.rules.paths import is_missing, is_mistyped, numbers_at, tree_of, unlisted_in
from server.core.rules.windows import comparison_window, search_window, window_of
from server.core.times import MAX_MS, MIN_MS

COMPARISONS: Mapping[Operator, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
}


ALWAYS = Window(MIN_MS, MAX_MS)


class OfflineEvent(NamedTuple):
    """An event as rules see it. Events are ordered by their ids."""

    id: str
    received_at_ms: int
    source: str
    event_type: str
    data: dict[str, Any]


class OfflineEvents:
    """Events of one tenant. It implements `Measuring`."""

    def __init__(self, events: Sequence[OfflineEvent]) -> None:
        self._events = sorted(events)

    async def measure(
        self, _tenant_id: UUID, rules: Sequence[Rule], end_ms: int, _deadline: Deadline
    ) -> Mapping[UUID, Measurement]:
        """See `Measuring`."""
        return {rule.id: self._measure(rule, window_of(rule, end_ms)) for rule in rules}

    def _measure(self, rule: Rule, window: Window) -> Measurement:
        events = self._find(rule.config, window)
        match rule.config:
            case ThresholdConfig() as config:
                return measure_threshold(config, events)
            case MissingFieldConfig() as config:
                return measure_missing_fields(config, events)
            case VolumeConfig() as config:
                before = self._find(config, comparison_window(config, window))
                return VolumeMeasurement(
                    events=len(events),
                    events_before=len(before),
                    first_seen_ms=min((event.received_at_ms for event in self._find(config, ALWAYS)), default=None),
                    event_ids=first_ids(events),
                )
            case FreshnessConfig() as config:
                newest = self._find(config, search_window(window))[-1:]
                newest_ms = newest[0].received_at_ms if newest else None
                return FreshnessMeasurement(events=len(events), newest_ms=newest_ms, event_ids=first_ids(newest))
            case SchemaConfig() as config:
                return measure_schema(config, events)
        raise TypeError(rule)

    def _find(self, config: EventsConfig, window: Window) -> list[OfflineEvent]:
        """The events of a rule in a window."""
        return [
            event
            for event in self._events
            if event.event_type == config.event_type
            and config.source in (None, event.source)
            and window.start_ms <= event.received_at_ms < window.end_ms
        ]


def first_ids(events: Sequence[OfflineEvent]) -> tuple[str, ...]:
    """The ids of the first events."""
    return tuple(event.id for event in events[:MAX_SAMPLES])


def measure_threshold(config: ThresholdConfig, events: Sequence[OfflineEvent]) -> ThresholdMeasurement:
    """What a rule of this type needs."""
    if config.field == COUNT:
        return ThresholdMeasurement(events=len(events), event_ids=first_ids(events))
    compares = COMPARISONS[config.operator]
    with_numbers = [(event, found) for event in events if (found := numbers_at(event.data, config.field))]
    samples = [
        event
        for event, found in with_numbers
        if config.aggregate in ("avg", "sum") or any(compares(number, config.value) for number in found)
    ]
    numbers = [number for _, found in with_numbers for number in found]
    return ThresholdMeasurement(events=len(events), numbers=numbers_of(numbers), event_ids=first_ids(samples))


def numbers_of(numbers: Sequence[float]) -> Numbers | None:
    """What is measured of numbers; None if there are none."""
    if not numbers:
        return None
    return Numbers(count=len(numbers), total=sum_of(numbers), least=float(min(numbers)), greatest=float(max(numbers)))


def sum_of(numbers: Sequence[float]) -> float:
    """The exact sum, rounded once. It is infinite if it is larger than any number."""
    exact = sum(map(Fraction, numbers))
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def measure_missing_fields(config: MissingFieldConfig, events: Sequence[OfflineEvent]) -> MissingFieldMeasurement:
    """What a rule of this type needs."""
    missing: Counter[str] = Counter()
    incomplete = []
    for event in events:
        if lacking := [path for path in config.required_fields if is_missing(event.data, path)]:
            missing.update(lacking)
            incomplete.append(event)
    return MissingFieldMeasurement(
        events=len(events), incomplete=len(incomplete), missing=missing, event_ids=first_ids(incomplete)
    )


def measure_schema(config: SchemaConfig, events: Sequence[OfflineEvent]) -> SchemaMeasurement:
    """What a rule of this type needs."""
    mistyped: Counter[str] = Counter()
    violating, with_unlisted = [], 0
    for event in events:
        wrong = [path for path in config.fields if is_mistyped(event.data, path, config.types_of(path))]
        has_unlisted = bool(unlisted_names(config, [event.data]))
        mistyped.update(wrong)
        with_unlisted += has_unlisted
        if wrong or has_unlisted:
            violating.append(event)
    return SchemaMeasurement(
        events=len(events),
        violating=len(violating),
        mistyped=mistyped,
        with_unlisted=with_unlisted,
        unlisted=unlisted_names(config, [event.data for event in violating[:MAX_SAMPLES]]),
        event_ids=first_ids(violating),
    )


def unlisted_names(config: SchemaConfig, data: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Paths of the unlisted names in the data of some events; none if the rule allows them."""
    if config.allow_unknown:
        return ()
    tree = tree_of(list(config.fields))
    return tuple(sorted({name for each in data for name in unlisted_in(each, tree)})[:MAX_SAMPLES])
