"""Measures what rules need of the stored events. It implements `Measuring`.

Rules that only count read the volumes (`volumes.py`), which cost each event once, however many rules there are. Rules
on what events hold read the events: those with one event type and window share one pass. In a pass, MongoDB computes
what is at the paths of the rules (`path_expressions.py`) and adds it up, and returns one document.

Measured with 2,000,000 events of 10 types in the window, and 10 rules for each type: a pass reads 200,000 of the type
and passes over the others. That takes 3 µs for each of its events, and 0.3 to 0.6 µs more for each path.
One pass for all types would evaluate the paths of all rules for each event.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from server.core.deadline import Deadline
from server.core.errors import NotFound, Unavailable
from server.core.events.ids import time_of
from server.core.rules.config import (
    COUNT,
    EventsConfig,
    FreshnessConfig,
    MissingFieldConfig,
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
from server.core.rules.offline import unlisted_names
from server.core.rules.paths import tree_of
from server.core.rules.windows import MINUTE_MS, comparison_window, search_window, window_of
from storage.catalog import StoredCatalog
from storage.commands import RETRY_PAUSE_S, Database, Document, retry_without_events
from storage.event_windows import aggregation, events_in, find_ids
from storage.path_expressions import Expression, has_unlisted, is_missing, is_mistyped, numbers_at
from storage.reads import StoredEvents
from storage.volumes import Volumes

MAX_PASS_PATHS = 400
"""Paths in a pass. Each takes 1 to 5 KB of the command, which MongoDB limits to 16 MiB."""

LATE_S = 2 * RETRY_PAUSE_S
"""With less time than this left, a call that fails has failed since it took too long."""

Sums = Mapping[str, Any]
"""What MongoDB has added up in a pass, by name."""

Read = Callable[[Sums], Measurement]
"""Reads the measurement of a rule from the sums of its pass."""


class Step(NamedTuple):
    """Rules that are measured together, and their window."""

    window: Window
    rules: list[Rule]


class StoredMeasurements:
    """Measures the collection `events`. It implements `Measuring`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._volumes = Volumes(database)
        self._events = StoredEvents(database)
        self._catalog = StoredCatalog(database)

    async def measure(
        self, tenant_id: UUID, rules: Sequence[Rule], end_ms: int, deadline: Deadline
    ) -> Mapping[UUID, Measurement]:
        """See `Measuring`. Raises NotFound if the tenant is deleted."""
        measured: dict[UUID, Measurement] = {}
        for step in steps_of(rules, end_ms):
            measure = self._count_one if only_counts(step.rules[0].config) else self._pass
            try:
                measured |= await measure(tenant_id, step.rules, step.window, deadline)
            except Unavailable:
                if deadline.remaining() > LATE_S:
                    raise
                break
        return {rule.id: measured[rule.id] for rule in rules if rule.id in measured}

    async def _count_one(
        self, tenant_id: UUID, rules: Sequence[Rule], window: Window, deadline: Deadline
    ) -> dict[UUID, Measurement]:
        """What a rule needs that only counts. It is the only one in `rules`."""
        return {rule.id: await self._count(tenant_id, rule.config, window, deadline) for rule in rules}

    async def _count(self, tenant_id: UUID, config: EventsConfig, window: Window, deadline: Deadline) -> Measurement:
        """What a configuration needs that only counts."""
        count = partial(self._count_in, tenant_id, config, deadline)
        match config:
            case VolumeConfig():
                before = await count(comparison_window(config, window))
                first = await self._first_ids(tenant_id, config, window, deadline)
                first_seen_ms = await self._catalog.first_seen(tenant_id, config.event_type, config.source, deadline)
                return VolumeMeasurement(
                    events=await count(window), events_before=before, first_seen_ms=first_seen_ms, event_ids=first
                )
            case FreshnessConfig():
                await self._volumes.complete(tenant_id, search_window(window), deadline)
                newest_ms, newest = await self._newest(tenant_id, config, search_window(window), deadline)
                return FreshnessMeasurement(events=await count(window), newest_ms=newest_ms, event_ids=newest)
        events = await count(window)
        first = await self._first_ids(tenant_id, config, window, deadline)
        return ThresholdMeasurement(events=events, event_ids=first)

    async def _count_in(self, tenant_id: UUID, config: EventsConfig, deadline: Deadline, window: Window) -> int:
        await self._volumes.complete(tenant_id, window, deadline)
        return await self._volumes.count(tenant_id, config, window, deadline)

    async def _first_ids(
        self, tenant_id: UUID, config: EventsConfig, window: Window, deadline: Deadline
    ) -> tuple[str, ...]:
        """The ids of the first events, which are looked for only in minutes that have some."""
        await self._volumes.complete(tenant_id, window, deadline)
        found: list[UUID] = []
        for start_ms in await self._volumes.minutes(tenant_id, config, window, MAX_SAMPLES, deadline):
            minute, missing = Window(start_ms, start_ms + MINUTE_MS), MAX_SAMPLES - len(found)
            if missing:
                found += await find_ids(self._database, tenant_id, config, minute, missing, deadline)
        return tuple(map(str, found))

    async def _newest(
        self, tenant_id: UUID, config: EventsConfig, window: Window, deadline: Deadline
    ) -> tuple[int | None, tuple[str, ...]]:
        """When the newest event was received, and its id: only the minute, and no id, if it was removed meanwhile."""
        for start_ms in await self._volumes.minutes(tenant_id, config, window, 1, deadline, newest_first=True):
            minute = Window(start_ms, start_ms + MINUTE_MS)
            for found in await find_ids(self._database, tenant_id, config, minute, 1, deadline, newest_first=True):
                return time_of(found.bytes), (str(found),)
            return start_ms, ()
        return None, ()

    async def _pass(
        self, tenant_id: UUID, rules: Sequence[Rule], window: Window, deadline: Deadline
    ) -> dict[UUID, Measurement]:
        """What rules of one event type need of the events of a window."""
        events = EventPass()
        readers = {rule.id: events.plan(rule.config) for rule in rules}
        matching = {**events_in(tenant_id, window), "event_type": rules[0].config.event_type}
        command = aggregation([{"$match": matching}, *events.stages()])
        call = partial(self._database.command, command, codec_options=self._database.codec_options)
        reply: Any = await retry_without_events(call, deadline)
        sums = events.nothing | next(iter(reply["cursor"]["firstBatch"]), {})
        measured = {rule.id: readers[rule.id](sums) for rule in rules}
        for rule in rules:
            match measured[rule.id]:
                case SchemaMeasurement(with_unlisted=with_unlisted) as found if with_unlisted:
                    data = [await self._data_of(tenant_id, event_id, deadline) for event_id in found.event_ids]
                    measured[rule.id] = msgspec.structs.replace(found, unlisted=unlisted_names(rule.config, data))
        return measured

    async def _data_of(self, tenant_id: UUID, event_id: str, deadline: Deadline) -> Any:
        """The data of an event; nothing if the event was removed meanwhile."""
        try:
            fetched = await self._events.get(tenant_id, UUID(event_id), deadline)
        except NotFound:
            return {}
        return msgspec.json.decode(next(fetched.events).data)


def only_counts(config: EventsConfig) -> bool:
    """Whether a rule needs nothing but numbers of events."""
    match config:
        case ThresholdConfig(field=field):
            return field == COUNT
    return isinstance(config, VolumeConfig | FreshnessConfig)


def steps_of(rules: Sequence[Rule], end_ms: int) -> list[Step]:
    """What is measured together, the shortest first: each rule that only counts, and the passes of all others."""
    counting = [rule for rule in rules if only_counts(rule.config)]
    others = [rule for rule in rules if not only_counts(rule.config)]
    steps = [Step(window_of(rule, end_ms), [rule]) for rule in counting]
    return sorted([*steps, *(Step(*each) for each in passes_of(others, end_ms))], key=read_from, reverse=True)


def read_from(step: Step) -> int:
    """The beginning of what a step reads, or may have to count."""
    config, window = step.rules[0].config, step.window
    match config:
        case VolumeConfig():
            return comparison_window(config, window).start_ms
        case FreshnessConfig():
            return search_window(window).start_ms
    return window.start_ms


def passes_of(rules: Sequence[Rule], end_ms: int) -> Iterator[tuple[Window, list[Rule]]]:
    """Rules that share a pass over a window: those of one event type, with at most MAX_PASS_PATHS in all."""

    def key_of(rule: Rule) -> tuple[str, Window]:
        return rule.config.event_type, window_of(rule, end_ms)

    for (_, window), same in groupby(sorted(rules, key=key_of), key_of):
        shared: list[Rule] = []
        paths = 0
        for rule in same:
            paths += count_paths(rule.config)
            if shared and paths > MAX_PASS_PATHS:
                yield window, shared
                shared, paths = [], count_paths(rule.config)
            shared.append(rule)
        yield window, shared


def count_paths(config: EventsConfig) -> int:
    """The number of paths that a rule needs."""
    match config:
        case MissingFieldConfig(required_fields=paths) | SchemaConfig(fields=paths):
            return len(paths)
    return 1


class EventPass:
    """One pass: what MongoDB computes of each event, and what it adds up of that. Rules share what is the same."""

    def __init__(self) -> None:
        self._values: dict[str, Expression] = {}
        self._sums: dict[str, Expression] = {}
        self._names: dict[str, str] = {}
        self.nothing: dict[str, Any] = {}
        """The sums of no events."""

    def stages(self) -> list[Document]:
        """The stages of the pipeline."""
        return [{"$project": {"source": 1, **self._values}}, {"$group": {"_id": None, **self._sums}}]

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
        lacks = {path: self._value(is_missing(path)) for path in config.required_fields}
        is_incomplete = {"$or": list(lacks.values())}
        events, incomplete = self._count(config, True), self._count(config, is_incomplete)
        missing = {path: self._count(config, each) for path, each in lacks.items()}
        first = self._first(config, is_incomplete)
        return lambda sums: MissingFieldMeasurement(
            events=sums[events],
            incomplete=sums[incomplete],
            missing=counts_of(sums, missing),
            event_ids=ids_of(sums[first]),
        )

    def _plan_schema(self, config: SchemaConfig) -> Read:
        wrong = {path: self._value(is_mistyped(path, config.types_of(path))) for path in config.fields}
        unlisted = False if config.allow_unknown else self._value(has_unlisted(tree_of(list(config.fields))))
        is_violation = {"$or": [*wrong.values(), unlisted]}
        events, violating = self._count(config, True), self._count(config, is_violation)
        mistyped = {path: self._count(config, each) for path, each in wrong.items()}
        with_unlisted, first = self._count(config, unlisted), self._first(config, is_violation)
        return lambda sums: SchemaMeasurement(
            events=sums[events],
            violating=sums[violating],
            mistyped=counts_of(sums, mistyped),
            with_unlisted=sums[with_unlisted],
            event_ids=ids_of(sums[first]),
        )

    def _plan_threshold(self, config: ThresholdConfig) -> Read:
        found = self._value(numbers_at(config.field))
        numbers = {"$cond": [is_of(config), found, []]}
        events, first = self._count(config, True), self._first(config, is_sample(config, found))
        count, total = self._sum({"$sum": {"$size": numbers}}, 0), self._sum({"$sum": {"$sum": numbers}}, 0)
        least, greatest = self._sum({"$min": {"$min": numbers}}, None), self._sum({"$max": {"$max": numbers}}, None)

        def read(sums: Sums) -> Measurement:
            values = float(sums[total]), sums[least], sums[greatest]
            has_numbers = sums[count] > 0
            return ThresholdMeasurement(
                events=sums[events],
                numbers=Numbers(sums[count], *map(float, values)) if has_numbers else None,
                event_ids=ids_of(sums[first]),
            )

        return read

    def _value(self, expression: Expression) -> str:
        """What stands for a value of each event in the expressions of sums."""
        return "$" + self._name(expression, self._values)

    def _count(self, config: EventsConfig, condition: Expression) -> str:
        """The name of the number of a rule's events that meet a condition."""
        return self._sum({"$sum": {"$cond": [all_of(is_of(config), condition), 1, 0]}}, 0)

    def _first(self, config: EventsConfig, condition: Expression) -> str:
        """The name of the ids of a rule's first events that meet a condition. `$minN` passes over null."""
        event_id = {"$cond": [all_of(is_of(config), condition), "$_id.id", None]}
        return self._sum({"$minN": {"input": event_id, "n": MAX_SAMPLES}}, [])

    def _sum(self, accumulator: Expression, nothing: Any) -> str:
        """The name of a sum over all events."""
        name = self._name(accumulator, self._sums)
        self.nothing[name] = nothing
        return name

    def _name(self, expression: Expression, named: dict[str, Expression]) -> str:
        """The name of an expression: the one that it has, or a new one."""
        name = self._names.setdefault(repr(expression), f"v{len(self._names)}")
        named[name] = expression
        return name


def is_of(config: EventsConfig) -> Expression:
    """Whether an event of the type is of the source that a rule names."""
    return True if config.source is None else {"$eq": ["$source", {"$literal": config.source}]}


def all_of(*conditions: Expression) -> Expression:
    """Whether all conditions are met."""
    return {"$and": list(conditions)}


def is_sample(config: ThresholdConfig, numbers: Expression) -> Expression:
    """Whether an event is one that an alert should name, by its numbers."""
    has_numbers = {"$gt": [{"$size": numbers}, 0]}
    extreme = {">": "$max", ">=": "$max", "<": "$min", "<=": "$min"}
    compare = {">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte"}
    if config.aggregate in ("avg", "sum"):
        return has_numbers
    if config.operator == "==":
        return {"$in": [config.value, numbers]}
    return all_of(has_numbers, {compare[config.operator]: [{extreme[config.operator]: numbers}, config.value]})


def counts_of(sums: Sums, names: Mapping[str, str]) -> dict[str, int]:
    """The counts that are not zero, by path."""
    return {path: sums[name] for path, name in names.items() if sums[name]}


def ids_of(ids: Sequence[UUID]) -> tuple[str, ...]:
    """Ids as text."""
    return tuple(map(str, ids))
