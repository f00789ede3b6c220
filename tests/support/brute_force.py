"""Counts a tenant's documents one by one, without any code of the server, to check what rules measure and find.

`server/core/rules/measure.py` says what paths, numbers and types are.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from tests.support.harness import Json

HOUR_MS = 3_600_000

MAX_SAMPLES = 5
"""Events that a finding names."""

NOTHING = object()
"""Where a path does not reach a value."""

COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
}


def moment(milliseconds: int) -> datetime:
    """A time, as the driver reads it."""
    return datetime.fromtimestamp(milliseconds / 1_000, UTC)


def of_rule(documents: Sequence[Json], config: Any, start_ms: int, end_ms: int) -> list[Json]:
    """The documents of a rule that were received in a window, in the order of their ids."""
    start, end = moment(start_ms), moment(end_ms)
    found = [
        each
        for each in documents
        if start <= each["received_at"] < end
        and each["event_type"] == config.event_type
        and config.source in {None, each["source"]}
    ]
    return sorted(found, key=lambda each: each["_id"]["id"].bytes)


# --- one event


def ends(value: Any, names: Sequence[str]) -> Iterator[Any]:
    """What a path ends at: values, and NOTHING for each way that does not go on."""
    if not names:
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from ends(each, names) if isinstance(each, dict) else [NOTHING]
    elif isinstance(value, dict) and names[0] in value:
        yield from ends(value[names[0]], names[1:])
    else:
        yield NOTHING


def lacks(data: Json, path: str) -> bool:
    """Whether a field is missing."""
    return any(end is NOTHING for end in ends(data, path.split(".")))


def numbers(data: Json, path: str) -> list[float]:
    """The numbers at a path."""
    found = [end if isinstance(end, list) else [end] for end in ends(data, path.split("."))]
    return [each for values in found for each in values if "number" in types_of(each)]


def has_other_type(data: Json, path: str, types: Sequence[str]) -> bool:
    """Whether a value at a path has none of the types."""
    found = [end for end in ends(data, path.split(".")) if end is not NOTHING]
    return any(not set(types) & types_of(value) for value in found)


def types_of(value: Any) -> set[str]:
    """What JSON calls a value."""
    match value:
        case bool():
            return {"boolean"}
        case int():
            return {"integer", "number"}  # a large one is a subclass of int, from the driver
        case float():
            return {"number"}
        case str():
            return {"string"}
        case None:
            return {"null"}
    return {"array" if isinstance(value, list) else "object"}


def names_in(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path to each name in a value, as names."""
    for each in value if isinstance(value, list) else [value]:
        for name, child in each.items() if isinstance(each, dict) else ():
            yield (*above, name)
            yield from names_in(child, (*above, name))


def has_unlisted(data: Json, paths: Sequence[str]) -> bool:
    """Whether a name is none of the paths, nor the beginning of one, nor below one that has no others below it."""
    listed = [tuple(path.split(".")) for path in paths]
    lowest = [path for path in listed if not any(begins(other, path) and other != path for other in listed)]
    return any(
        not any(begins(path, name) for path in listed) and not any(begins(name, path) for path in lowest)
        for name in names_in(data)
    )


def begins(path: tuple[str, ...], beginning: tuple[str, ...]) -> bool:
    """Whether a path begins with another, or is it."""
    return path[: len(beginning)] == beginning


# --- one rule


class Found(NamedTuple):
    """What a rule finds in a window."""

    state: str
    value: float | None
    sample_size: int
    event_ids: list[str]
    """Only if it fires."""


def find(documents: Sequence[Json], rule_type: str, config: Any, start_ms: int, end_ms: int) -> Found:
    """What a rule with this configuration finds in a window of the collection."""
    events = of_rule(documents, config, start_ms, end_ms)
    match rule_type:
        case "threshold":
            return threshold(config, events)
        case "missing_field":
            lacking = [each for each in events if any(lacks(each["data"], path) for path in config.required_fields)]
            percent = 100 * len(lacking) / len(events) if events else None
            return verdict(percent, percent is not None and percent > config.max_percent, events, lacking)
        case "volume":
            before_ms = start_ms - config.comparison_window_hours * HOUR_MS
            return volume(config, events, len(of_rule(documents, config, before_ms, start_ms)))
        case "freshness":
            newest = of_rule(documents, config, 2 * start_ms - end_ms, end_ms)[-1:]
            return freshness(config, events, newest, moment(end_ms))
    wrong = [each for each in events if violates(each["data"], config)]
    return verdict(float(len(wrong)) if events else None, bool(wrong), events, wrong)


def threshold(config: Any, events: Sequence[Json]) -> Found:
    """A count or an aggregate."""
    compares = COMPARE[config.operator]
    if config.field == "count":
        named = [] if config.operator in ("<", "<=") else events
        return verdict(float(len(events)), compares(len(events), config.value), events, named)
    found = [number for each in events for number in numbers(each["data"], config.field)]
    if not found:
        return verdict(None, False, events, [])
    total = math.fsum(found)
    value = {"avg": total / len(found), "min": min(found), "max": max(found), "sum": total}[config.aggregate]
    named = [each for each in events if any(is_named(config, number) for number in numbers(each["data"], config.field))]
    return verdict(float(value), compares(value, config.value), events, named)


def is_named(config: Any, number: float) -> bool:
    """Whether an event is one that an alert names, for a number that it has."""
    return config.aggregate in ("avg", "sum") or COMPARE[config.operator](number, config.value)


def volume(config: Any, events: Sequence[Json], before: int) -> Found:
    """The change in percent."""
    if not before:
        return verdict(None, False, events, [])
    hours, minutes = config.comparison_window_hours, config.current_window_minutes
    change = 100 * (len(events) * hours * 60 - before * minutes) / (before * minutes)
    if config.threshold_percent < 0:
        return verdict(change, change <= config.threshold_percent, events, [])
    return verdict(change, change >= config.threshold_percent, events, events)


def freshness(config: Any, events: Sequence[Json], newest: Sequence[Json], end: datetime) -> Found:
    """The age of the newest event in minutes."""
    if not newest:
        return Found("firing", None, len(events), [])
    age = (end - newest[0]["received_at"]) / timedelta(minutes=1)
    return verdict(age, age > config.max_age_minutes, events, newest)


def violates(data: Json, config: Any) -> bool:
    """Whether an event violates a schema."""
    wrong = any(
        has_other_type(data, path, [types] if isinstance(types, str) else types)
        for path, types in config.fields.items()
    )
    return wrong or (not config.allow_unknown and has_unlisted(data, list(config.fields)))


def verdict(value: float | None, is_firing: bool, events: Sequence[Json], named: Sequence[Json]) -> Found:
    """What is found. Without a value there is no data."""
    state = "no_data" if value is None else "firing" if is_firing else "inactive"
    ids = [str(each["_id"]["id"]) for each in named[:MAX_SAMPLES]]
    return Found(state, value, len(events), ids if is_firing else [])
