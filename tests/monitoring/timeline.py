"""The events of a history before anything is wrong: more by day than by night, and fewer at weekends."""

import bisect
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.support.harness import Json

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

INTERVAL_MINUTES = 15
INTERVAL_MS = INTERVAL_MINUTES * MINUTE_MS
"""Between two evaluations, as by default."""

SPARE_INTERVALS = 2
"""Intervals for which a history goes on after the last due time at which an anomaly may be found."""

SOURCES = ("web", "app", "shop")


@dataclass
class Sent:
    """An event, and when it was received."""

    at_ms: int
    source: str
    event_type: str
    data: Json


class Pace(NamedTuple):
    """How many events come in a minute on average, and by which share that changes within a day."""

    events: float
    swing: float
    weekend: float
    """The share that is left at weekends."""

    def at(self, time_ms: int) -> float:
        """Events in the minute of a time."""
        daily = 1 + self.swing * math.sin(2 * math.pi * time_ms / DAY_MS)
        return self.events * daily * (self.weekend if time_ms // DAY_MS % 7 in (2, 3) else 1)  # 1970 began on Thursday


class Timeline:
    """The events that a rule looks at, and when it is evaluated."""

    def __init__(self, chance: random.Random, event_type: str, end_ms: int, hours: int) -> None:
        self.chance = chance
        self.event_type = event_type
        self.sources = chance.choice([SOURCES[:1], SOURCES])
        self.first_ms = end_ms - hours * HOUR_MS
        self.dues = list(range(self.first_ms, end_ms + SPARE_INTERVALS * INTERVAL_MS + 1, INTERVAL_MS))
        self.targets = self.dues[1:-SPARE_INTERVALS]
        """The due times at which an anomaly may be found first."""
        self.events: list[Sent] = []

    def fill(self, pace: Pace, hours_before: int, flaw: float = 0) -> None:
        """Draw the events. They begin `hours_before` the first due time. A share `flaw` of them lacks fields."""
        due = 0.0
        for minute_ms in range(self.first_ms - hours_before * HOUR_MS, self.dues[-1], MINUTE_MS):
            due += pace.at(minute_ms) * self.chance.uniform(0.7, 1.3)
            times = sorted(minute_ms + self.chance.randrange(MINUTE_MS) for _ in range(int(due)))
            self.events += [self.event(time_ms, flaw) for time_ms in times]
            due -= len(times)

    def event(self, time_ms: int, flaw: float = 0) -> Sent:
        """A good event, or one that lacks a field."""
        data = good_data(self.chance)
        if self.chance.random() < flaw:
            lose(self.chance, data, self.chance.choice(["currency", "user.id", "items.sku"]))
        return Sent(time_ms, self.chance.choice(self.sources), self.event_type, data)

    def between(self, start_ms: int, end_ms: int) -> list[Sent]:
        """The events of a time."""
        low, high = (bisect.bisect_left(self.events, each, key=lambda sent: sent.at_ms) for each in (start_ms, end_ms))
        return self.events[low:high]

    def window(self, due_ms: int, minutes: int) -> list[Sent]:
        """The events of a window."""
        return self.between(due_ms - minutes * MINUTE_MS, due_ms)

    def fresh(self, due_ms: int, minutes: int) -> list[Sent]:
        """The events of a window that are in no earlier one."""
        return self.window(due_ms, min(minutes, INTERVAL_MINUTES))

    def windows(self, minutes: int) -> dict[int, list[Sent]]:
        """All windows, by due time."""
        return {due: self.window(due, minutes) for due in self.dues}

    def remove(self, gone: Sequence[Sent]) -> None:
        """Remove events."""
        ids = {id(sent) for sent in gone}
        self.events = [sent for sent in self.events if id(sent) not in ids]

    def silence(self, start_ms: int, due_ms: int) -> None:
        """Remove all events from a time to a due time, and maybe for some intervals more."""
        self.remove(self.between(start_ms, due_ms + self.chance.choice([0, 1, 5]) * INTERVAL_MS))

    def add(self, due_ms: int, minutes: int, count: int) -> None:
        """Add events to the part of a window that is in no earlier one: all over it, or within a second."""
        length_ms = min(minutes, INTERVAL_MINUTES) * MINUTE_MS
        spread_ms = self.chance.choice([1_000, length_ms])
        start_ms = due_ms - length_ms + self.chance.randrange(length_ms - spread_ms + 1)
        self.events += [self.event(start_ms + self.chance.randrange(spread_ms)) for _ in range(count)]


# --- what events hold


def good_data(chance: random.Random) -> Json:
    """What a good event holds. Amounts are multiples of 0.25, so sums of them are exact."""
    return {
        "amount": chance.choice([chance.randrange(400) / 4, chance.randrange(100)]),
        "quantity": chance.randrange(1, 9),
        "currency": chance.choice(["EUR", "USD"]),
        "is_new": chance.random() < 0.5,
        "user": {"id": f"u{chance.randrange(1_000)}", "plan": chance.choice(["free", "paid", None])},
        "items": [
            {"sku": f"s{chance.randrange(99)}", "price": chance.randrange(90)} for _ in range(chance.randrange(3))
        ],
    }


TYPES: Mapping[str, str | list[str]] = {
    "amount": "number",
    "quantity": "integer",
    "currency": "string",
    "is_new": ["boolean", "null"],
    "user": "object",
    "user.id": "string",
    "user.plan": ["string", "null"],
    "items": "array",
    "items.sku": "string",
    "items.price": "number",
}
"""The types of all fields."""

WRONG: Mapping[str, Sequence[Any]] = {
    "amount": ("12.50", None, [], True),
    "quantity": (1.5, "2", None),
    "currency": (978, None, ["EUR"]),
    "is_new": (0, "true"),
    "user": ("u1", None, 7),
    "user.id": (17, None, {"id": "u1"}),
    "user.plan": (0, False),
    "items": ({}, "none", None),
    "items.sku": (17, None),
    "items.price": ("9.99", None, {}),
}
"""Values of other types."""


def lose(chance: random.Random, data: Json, path: str) -> None:
    """Remove a field: of an array, from one of its elements."""
    name, _, below = path.partition(".")
    if not below:
        del data[name]
    elif name == "items":
        data["items"].insert(chance.randint(0, len(data["items"])), {"price" if below == "sku" else "sku": 1})
    else:
        del data[name][below]


def set_value(data: Json, path: str, value: Any) -> None:
    """Set a field: of an array, in one element more."""
    name, _, below = path.partition(".")
    if not below:
        data[name] = value
    elif name == "items":
        data["items"].append({"sku": "s1", "price": 1, below: value})
    else:
        data[name][below] = value
