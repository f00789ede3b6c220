"""A pass over the events of a window for several rules: its stages, and how the measurements are read from its sums.

A pass makes a list of findings of each event, such as "lacks `user.id`, for rule 7", and sums them up. Each kind of
finding has a slot, which is a number. In an event, a pass looks for nothing but what rules of its type need.

    {event_type: "order", data: {items: []}}  ->  [{slot: 4}, {slot: 6}]  ->  {_id: 4, events: 1, first: [...]}, ...
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any
from uuid import UUID

from server.core.rules.config import EventsConfig, MissingFieldConfig, SchemaConfig, ThresholdConfig
from server.core.rules.measure import (
    Measurement,
    MissingFieldMeasurement,
    Numbers,
    SchemaMeasurement,
    ThresholdMeasurement,
)
from server.core.rules.model import MAX_SAMPLES
from server.core.rules.paths import tree_of
from storage.commands import Document
from storage.path_expressions import Expression, has_unlisted, is_missing, is_mistyped, numbers_at

Sums = Mapping[int, Document]
"""What a pass has summed up, by slot."""

Read = Callable[[int, Sums], Measurement]
"""Makes the measurement of a rule from the number of its events and the sums of its pass."""

NO_EVENTS: Document = {"events": 0, "first": []}
"""The sums of a slot that no event has."""

SUMS: Document = {
    "events": {"$sum": 1},
    "first": {"$minN": {"input": {"$cond": ["$found.is_sample", "$_id.id", None]}, "n": MAX_SAMPLES}},  # but null
    "count": {"$sum": "$found.count"},
    "total": {"$sum": "$found.total"},
    "least": {"$min": "$found.least"},
    "greatest": {"$max": "$found.greatest"},
}

OF_NUMBERS: Document = {
    "count": {"$size": "$$numbers"},
    "total": {"$sum": "$$numbers"},
    "least": {"$min": "$$numbers"},
    "greatest": {"$max": "$$numbers"},
}
"""What a finding says of the numbers of an event. With the numbers themselves, the findings of a large event would take
its size for each rule."""


class EventPass:
    """One pass: what MongoDB finds in each event, by event type."""

    def __init__(self) -> None:
        self._findings: dict[str, list[Expression]] = defaultdict(list)
        self._slots = count()

    def stages(self) -> list[Document]:
        """The stages of the pipeline. It returns a document for each slot that any event has."""
        branches = [
            {"case": {"$eq": ["$event_type", {"$literal": event_type}]}, "then": {"$concatArrays": findings}}
            for event_type, findings in self._findings.items()
        ]
        found = {"$switch": {"branches": branches, "default": []}}
        return [{"$project": {"found": found}}, {"$unwind": "$found"}, {"$group": {"_id": "$found.slot", **SUMS}}]

    def plan(self, config: EventsConfig) -> Read:
        """Add what a rule needs. Returns how its measurement is read."""
        match config:
            case MissingFieldConfig():
                return self._plan_missing_fields(config)
            case SchemaConfig():
                return self._plan_schema(config)
            case ThresholdConfig():
                return self._plan_threshold(config)
        raise TypeError(config)

    def _plan_missing_fields(self, config: MissingFieldConfig) -> Read:
        incomplete = next(self._slots)
        lacking = {path: next(self._slots) for path in config.required_fields}
        self._add(config, findings_of(incomplete, {slot: is_missing(path) for path, slot in lacking.items()}))
        return lambda events, sums: MissingFieldMeasurement(
            events=events,
            incomplete=events_in(sums, incomplete),
            missing=counts_of(sums, lacking),
            event_ids=first_in(sums, incomplete),
        )

    def _plan_schema(self, config: SchemaConfig) -> Read:
        violating, unlisted = next(self._slots), next(self._slots)
        wrong = {path: next(self._slots) for path in config.fields}
        conditions = {slot: is_mistyped(path, config.types_of(path)) for path, slot in wrong.items()}
        if not config.allow_unknown:
            conditions[unlisted] = has_unlisted(tree_of(list(config.fields)))
        self._add(config, findings_of(violating, conditions))
        return lambda events, sums: SchemaMeasurement(
            events=events,
            violating=events_in(sums, violating),
            mistyped=counts_of(sums, wrong),
            with_unlisted=events_in(sums, unlisted),
            event_ids=first_in(sums, violating),
        )

    def _plan_threshold(self, config: ThresholdConfig) -> Read:
        slot = next(self._slots)
        found = [{**finding(slot), "is_sample": is_sample(config), **OF_NUMBERS}]
        if_any = {"$cond": [{"$eq": ["$$numbers", []]}, [], found]}
        self._add(config, {"$let": {"vars": {"numbers": numbers_at(config.field)}, "in": if_any}})
        return lambda events, sums: ThresholdMeasurement(
            events=events, numbers=numbers_in(sums, slot), event_ids=first_in(sums, slot)
        )

    def _add(self, config: EventsConfig, findings: Expression) -> None:
        """Look for findings in the events of a rule."""
        if config.source is not None:
            findings = {"$cond": [{"$eq": ["$source", {"$literal": config.source}]}, findings, []]}
        self._findings[config.event_type].append(findings)


def finding(slot: int) -> Document:
    """One finding of an event, which is a sample."""
    return {"slot": {"$literal": slot}, "is_sample": True}


def findings_of(any_of_them: int, conditions: Mapping[int, Expression]) -> Expression:
    """The list of findings of the conditions that an event meets, with one more slot for those that meet any."""
    each = [{"$cond": [condition, finding(slot), None]} for slot, condition in conditions.items()]
    met = {"$filter": {"input": each, "cond": {"$ne": ["$$this", None]}}}
    all_of = {"$cond": [{"$eq": ["$$met", []]}, [], {"$concatArrays": [[finding(any_of_them)], "$$met"]}]}
    return {"$let": {"vars": {"met": met}, "in": all_of}}


def is_sample(config: ThresholdConfig) -> Expression:
    """Whether an event with numbers is one that an alert should name."""
    extreme = {">": "$max", ">=": "$max", "<": "$min", "<=": "$min"}
    compare = {">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte"}
    if config.aggregate in ("avg", "sum"):
        return True
    if config.operator == "==":
        return {"$in": [config.value, "$$numbers"]}
    return {compare[config.operator]: [{extreme[config.operator]: "$$numbers"}, config.value]}


def events_in(sums: Sums, slot: int) -> int:
    """The number of events with a slot."""
    return int(sums.get(slot, NO_EVENTS)["events"])


def first_in(sums: Sums, slot: int) -> tuple[str, ...]:
    """The ids of the first events with a slot that are samples."""
    ids: Sequence[UUID] = sums.get(slot, NO_EVENTS)["first"]
    return tuple(map(str, ids))


def counts_of(sums: Sums, slots: Mapping[str, int]) -> dict[str, int]:
    """The numbers of events that are not zero, by path."""
    return {path: sums[slot]["events"] for path, slot in slots.items() if slot in sums}


def numbers_in(sums: Sums, slot: int) -> Numbers | None:
    """The numbers of all events with a slot; None if there are none."""
    if slot not in sums:
        return None
    found: Mapping[str, Any] = sums[slot]
    return Numbers(found["count"], float(found["total"]), float(found["least"]), float(found["greatest"]))
