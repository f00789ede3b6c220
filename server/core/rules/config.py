"""The configuration of each type of rule: its fields, their defaults and limits.

A path names a field in the `data` of events: names joined by dots, such as `user.address.city`. In an array, it goes on
in each element (`measure.py` has it exactly). A name that has a dot in it cannot be in a path.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from server.core.errors import InvalidParameter
from server.core.events.explain import explain
from server.core.events.model import Name
from server.core.events.values import join_path
from server.core.rules.model import RuleType, Severity

MAX_WINDOW_MINUTES = 7 * 24 * 60
"""A longer window would make each evaluation read more than a week of events."""

MAX_COMPARISON_HOURS = 4 * 7 * 24
"""Four weeks: a comparison needs the number of events only, which is kept by the minute."""

MAX_PATHS = 100
"""Paths in one rule. Each is looked up in every event of the window."""

MAX_PATH_CHARS = 255
MAX_PATH_NAMES = 10
"""Names in a path: each is a step in the database's expression, and data is seldom nested deeper."""

COUNT = "count"
"""The `field` of a threshold on the number of events. So a field of `data` with this name has no threshold."""

Aggregate = Literal["avg", "min", "max", "sum"]
Operator = Literal[">", "<", ">=", "<=", "=="]
FieldType = Literal["string", "integer", "number", "boolean", "object", "array", "null"]

Minutes = Annotated[int, Meta(ge=1, le=MAX_WINDOW_MINUTES)]
Hours = Annotated[int, Meta(ge=1, le=MAX_COMPARISON_HOURS)]
Path = Annotated[str, Meta(description=f"Names joined by dots, at most {MAX_PATH_NAMES}", max_length=MAX_PATH_CHARS)]


class EventsConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the configurations have in common: the events that a rule looks at."""

    event_type: Name
    source: Name | None = None
    """None for the events of all sources."""


class ThresholdConfig(EventsConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Fires if the number of events, or an aggregate of the numbers at a path, compares with `value` like that."""

    field: Path
    aggregate: Aggregate | None = None
    """None if `field` is COUNT."""
    operator: Operator
    value: float
    window_minutes: Minutes


class MissingFieldConfig(EventsConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Fires if more than `max_percent` of the events lack one of the fields or more. A null is there."""

    required_fields: Annotated[tuple[Path, ...], Meta(min_length=1, max_length=MAX_PATHS)]
    window_minutes: Minutes | None = None
    """None for the time since the last evaluation."""
    max_percent: Annotated[float, Meta(ge=0, lt=100)] = 0.0


class VolumeConfig(EventsConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Fires if the number of events differs by `threshold_percent` or more from the average before.

    A negative one is a drop, a positive one a rise.
    """

    threshold_percent: Annotated[float, Meta(ge=-100)]
    current_window_minutes: Minutes
    comparison_window_hours: Hours
    """The time before the current window, of which the average is taken."""


class FreshnessConfig(EventsConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Fires if the newest event is older than that, or if there is none."""

    max_age_minutes: Minutes


class SchemaConfig(EventsConfig, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Fires if a field of an event has another type, or an unlisted name if `allow_unknown` is false.

    A field that is not there is no violation: `missing_field` is the type for that.
    """

    fields: Annotated[dict[str, FieldType | tuple[FieldType, ...]], Meta(min_length=1, max_length=MAX_PATHS)]
    allow_unknown: bool = True
    window_minutes: Minutes

    def types_of(self, path: str) -> Sequence[FieldType]:
        """The types that a value at one of the paths may have."""
        types = self.fields[path]
        return (types,) if isinstance(types, str) else types


Config = ThresholdConfig | MissingFieldConfig | VolumeConfig | FreshnessConfig | SchemaConfig

CONFIGS: Mapping[RuleType, type[Config]] = {
    "threshold": ThresholdConfig,
    "missing_field": MissingFieldConfig,
    "volume": VolumeConfig,
    "freshness": FreshnessConfig,
    "schema": SchemaConfig,
}

CHOICES = {
    "config.aggregate": get_args(Aggregate),
    "config.operator": get_args(Operator),
    "rule_type": get_args(RuleType),
    "severity": get_args(Severity),
    "config.severity": get_args(Severity),
}
"""The values that a field may have, for errors."""


def parse_config(rule_type: RuleType, value: Any) -> Config:
    """The configuration that a JSON value is. Raises InvalidParameter, which names the field."""
    if rule_type == "schema":
        check_types(value)
    config: Config = convert(value, CONFIGS[rule_type], "config")
    match config:
        case ThresholdConfig():
            check_threshold(config)
        case MissingFieldConfig():
            check_paths(config.required_fields, "config.required_fields")
        case VolumeConfig():
            check_percent(config.threshold_percent)
        case SchemaConfig():
            for path in config.fields:
                check_path(path, join_path("config.fields", path))
    return config


def convert(value: Any, kind: Any, base: str) -> Any:
    """The JSON value as one of a type. Raises InvalidParameter, which names the field below `base`."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        path, message = explain(error, base)
        if "Invalid enum value" in message and path in CHOICES:
            message = f"must be one of {', '.join(CHOICES[path])}"
        raise InvalidParameter(f"{path or 'body'}: {message}") from None


def check_threshold(config: ThresholdConfig) -> None:
    """Raises InvalidParameter if the aggregate does not suit the field, or the value is none."""
    if config.field == COUNT and config.aggregate is not None:
        raise InvalidParameter(f"config.aggregate: is for a path; leave it out if config.field is {COUNT}")
    if config.field != COUNT and config.aggregate is None:
        raise InvalidParameter(f"config.aggregate: must be one of {', '.join(get_args(Aggregate))} if field is a path")
    if not math.isfinite(config.value):
        raise InvalidParameter("config.value: must be a finite number")
    check_path(config.field, "config.field")


def check_percent(percent: float) -> None:
    """Raises InvalidParameter if no change of volume can be told by this."""
    if percent == 0 or not math.isfinite(percent):
        raise InvalidParameter("config.threshold_percent: must be negative for a drop, or positive for a rise")


def check_paths(paths: Sequence[str], base: str) -> None:
    """Raises InvalidParameter if one of the paths is none, or comes twice."""
    for index, path in enumerate(paths):
        check_path(path, f"{base}[{index}]")
        if path in paths[:index]:
            raise InvalidParameter(f"{base}[{index}]: is there twice")


def check_types(config: Any) -> None:
    """Raises InvalidParameter if a type in `fields` is none. Other mistakes are left for later checks."""
    fields = config.get("fields") if isinstance(config, dict) else None
    for path, types in fields.items() if isinstance(fields, dict) else ():
        listed = types if isinstance(types, list | tuple) else [types]
        if not listed or not all(isinstance(each, str) and each in get_args(FieldType) for each in listed):
            wanted = f"must be one of {', '.join(get_args(FieldType))}, or a list of them"
            raise InvalidParameter(f"{join_path('config.fields', path)}: {wanted}")


def check_path(path: str, field: str) -> None:
    """Raises InvalidParameter, which names `field`, if `path` is no path."""
    names = path.split(".")
    if not all(names) or "\0" in path or len(path) > MAX_PATH_CHARS or len(names) > MAX_PATH_NAMES:
        raise InvalidParameter(
            f"{field}: must be a path, which is 1 to {MAX_PATH_NAMES} names joined by dots, "
            f"at most {MAX_PATH_CHARS} characters in all"
        )
