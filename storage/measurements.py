"""Measures what rules need of the stored events. It implements `Measuring`.

Numbers of events are in the volumes (`volumes.py`), which cost each event once, however many rules there are. Rules on
what events hold read the events: those with one window and of one kind share one pass. There are two kinds. Rules on
numbers read all events of their types. Rules on fields read those that may violate one (`path_filters.py`). In a pass,
MongoDB looks at the paths of the rules (`path_expressions.py`), and sums up what it finds (`event_pass.py`).

Measured with 2,000,000 events of 10 types in the window: a pass for numbers at 3 paths of each type takes 6 µs of
MongoDB's time for each event, and one for 18 paths of rules on fields 5 µs. A pass for each type takes 1 to 2 µs more.
"""

from collections.abc import Iterator, Mapping, Sequence
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
    SchemaMeasurement,
    ThresholdMeasurement,
    VolumeMeasurement,
)
from server.core.rules.model import MAX_SAMPLES, Rule, Window
from server.core.rules.offline import unlisted_names
from server.core.rules.windows import MINUTE_MS, comparison_window, search_window, window_of
from storage.catalog import StoredCatalog
from storage.commands import RETRY_PAUSE_S, Database, Document, retry_without_events
from storage.event_pass import EventPass
from storage.event_windows import aggregation, events_in, find_ids
from storage.path_filters import FieldsConfig, may_violate
from storage.reads import StoredEvents
from storage.volumes import Volumes

MAX_PASS_PATHS = 100
"""Paths in a pass. For a large event, MongoDB holds some MB for each, and a pass cannot be ended within an event."""

MAX_PASS_SLOTS = 3 * MAX_PASS_PATHS
"""More documents than a pass returns: one for each path, and two for each rule, which has a path."""


LATE_S = 2 * RETRY_PAUSE_S
"""With less time than this left, a call that fails has failed since it took too long."""


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
            measure = self._count_each if only_counts(step.rules[0].config) else self._pass
            try:
                measured |= await measure(tenant_id, step.rules, step.window, deadline)
            except Unavailable:
                if deadline.remaining() > LATE_S:
                    raise
                break
        return {rule.id: measured[rule.id] for rule in rules if rule.id in measured}

    async def _count_each(
        self, tenant_id: UUID, rules: Sequence[Rule], window: Window, deadline: Deadline
    ) -> dict[UUID, Measurement]:
        """What rules need that only count."""
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
        """What rules of one kind need of the events of a window."""
        counts = {rule.id: await self._count_in(tenant_id, rule.config, deadline, window) for rule in rules}
        events = EventPass()
        readers = {rule.id: events.plan(rule.config) for rule in rules}
        matching = {**events_in(tenant_id, window), **events_for(rules)}
        command = aggregation([{"$match": matching}, *events.stages()], MAX_PASS_SLOTS)
        call = partial(self._database.command, command, codec_options=self._database.codec_options)
        reply: Any = await retry_without_events(call, deadline)
        sums = {each["_id"]: each for each in reply["cursor"]["firstBatch"]}
        measured = {rule.id: readers[rule.id](counts[rule.id], sums) for rule in rules}
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
    """Rules that share a pass over a window: those of one kind, with at most MAX_PASS_PATHS in all."""

    def key_of(rule: Rule) -> tuple[bool, Window]:
        return isinstance(rule.config, ThresholdConfig), window_of(rule, end_ms)

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


def events_for(rules: Sequence[Rule]) -> Document:
    """The query for the events that a pass reads: all of the types for numbers, and else those that may violate."""
    by_type: dict[str, list[FieldsConfig]] = {rule.config.event_type: [] for rule in rules}
    for rule in rules:
        if isinstance(rule.config, FieldsConfig):
            by_type[rule.config.event_type].append(rule.config)
    return {"$or": [{"event_type": each, **may_violate(configs)} for each, configs in by_type.items()]}


def count_paths(config: EventsConfig) -> int:
    """The number of paths that a rule needs."""
    match config:
        case MissingFieldConfig(required_fields=paths) | SchemaConfig(fields=paths):
            return len(paths)
    return 1
