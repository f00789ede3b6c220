"""What an evaluation needs to know of the stored events, and the port that measures it.

There are two implementations: `storage/measurements.py`, and one over events in memory for `sluice rules test`. For the
same events both measure the same. So this is exact:

- **Events** of a rule have its `event_type`, its `source` if it names one, and were received in the window
  (`windows.py`). They are ordered by their id.
- **A path** goes down into `data`, name by name. In an object, it goes on in the value of that name. In an array, it
  goes on in each element that is an object; an element that is anything else has nothing at the path. So
  `items.price` finds `2` and `3` in `{"items": [{"price": 2}, {"price": 3}, {}, [{"price": 4}]]}`.
- **A field is missing** if the path does not reach a value somewhere: in the example, `items.price` is missing. Nothing
  is missing in an empty array. A null is a value.
- **Numbers at a path** are the values that are numbers, and the numbers in a value that is an array (not in arrays
  inside that). A boolean is no number.
- **The type of a value** is what JSON calls it. An `integer` is written without a fraction or exponent, and is stored
  as one; it is a `number` too. A value that JSON cannot write, which an operator has put there, has none of the types.
- **A name is unlisted** in an event of a schema rule if a path to it is in no way listed: it is not one of `fields`,
  nor the beginning of one, nor below one that has no others below it. With `{"user.id": ..., "tags": ...}`, the name
  `user` and all below `tags` are listed, and `user.age` and `price` are unlisted.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from server.core.deadline import Deadline
from server.core.rules.model import Rule


class Numbers(Struct, frozen=True):
    """The numbers at a path, over all events of a window. There is at least one."""

    count: int
    """Of the numbers, which may be more than the events."""
    total: float
    least: float
    greatest: float


class ThresholdMeasurement(Struct, frozen=True, kw_only=True):
    """For `threshold`."""

    events: int
    numbers: Numbers | None = None
    """None if the rule counts events, or if there is no number at its path."""
    event_ids: tuple[str, ...] = ()
    """The first events. For a path, those that have a number there; for `min` and `max`, one that compares with the
    rule's `value` as its `operator` says."""


class MissingFieldMeasurement(Struct, frozen=True, kw_only=True):
    """For `missing_field`."""

    events: int
    incomplete: int = 0
    """Events that lack one of the fields or more."""
    missing: Mapping[str, int] = {}
    """The number of events that lack a field, by its path. Fields that none lacks may be left out."""
    event_ids: tuple[str, ...] = ()
    """The first incomplete events."""


class VolumeMeasurement(Struct, frozen=True, kw_only=True):
    """For `volume`."""

    events: int
    events_before: int
    """Events in the comparison window."""
    first_seen_ms: int | None = None
    """When the first event of the rule ever was received; None if that is not known."""
    event_ids: tuple[str, ...] = ()
    """The first events of the current window."""


class FreshnessMeasurement(Struct, frozen=True, kw_only=True):
    """For `freshness`."""

    events: int
    """Events in the window."""
    newest_ms: int | None = None
    """When the newest event in `search_window` was received; None if there is none."""
    event_ids: tuple[str, ...] = ()
    """The newest event, the last by id."""


class SchemaMeasurement(Struct, frozen=True, kw_only=True):
    """For `schema`."""

    events: int
    violating: int = 0
    """Events in which a value has another type, or a name is unlisted and the rule does not allow that."""
    mistyped: Mapping[str, int] = {}
    """The number of events with a value of another type, by path. Paths that have none may be left out."""
    with_unlisted: int = 0
    """Events with an unlisted name. It is 0 if the rule allows that."""
    unlisted: tuple[str, ...] = ()
    """Paths of the unlisted names in the events of `event_ids`: the first MAX_SAMPLES of them, sorted, each once. If
    a name is unlisted, what is below it is not named."""
    event_ids: tuple[str, ...] = ()
    """The first violating events."""


Measurement = (
    ThresholdMeasurement | MissingFieldMeasurement | VolumeMeasurement | FreshnessMeasurement | SchemaMeasurement
)
"""What was measured for one rule; of the kind for its type. `event_ids` has at most MAX_SAMPLES ids."""


class Measuring(Protocol):
    """Measures stored events."""

    async def measure(
        self, tenant_id: UUID, rules: Sequence[Rule], end_ms: int, deadline: Deadline
    ) -> Mapping[UUID, Measurement]:
        """Measure the windows of rules of a tenant that end at `end_ms` (`windows.py`). Returns it by the ids of rules.

        Measuring a complete window again finds the same. Rules that could not be measured by the deadline are missing:
        those that need the most time come last. Raises Unavailable.
        """
