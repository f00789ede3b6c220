"""Counts a tenant's documents one by one, without any code of the server, to check what rules measure."""

from datetime import UTC, datetime
from typing import Any

from tests.support.harness import Json


def moment(milliseconds: int) -> datetime:
    """A time, as the driver reads it."""
    return datetime.fromtimestamp(milliseconds / 1_000, UTC)


def of_rule(documents: list[Json], config: Any, start_ms: int, end_ms: int) -> list[Json]:
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


def values(value: Any, names: list[str]) -> list[Any]:
    """The values at a path in data without arrays inside arrays."""
    if not names:
        return [value]
    found = []
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, dict) and names[0] in each:
            found += values(each[names[0]], names[1:])
    return found
