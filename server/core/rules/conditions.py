"""Decides from a measurement if a rule fires, and says so in one sentence.

It needs no database and no clock: the same rule, window and measurement always give the same evaluation.
"""

import operator
from collections.abc import Callable, Mapping, Sequence

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
from server.core.rules.model import Evaluation, Rule, RuleState, Window
from server.core.rules.windows import MINUTE_MS, comparison_window, minute_of
from server.core.times import from_milliseconds

COMPARE: Mapping[Operator, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
}

MAX_NAMED = 5
"""Paths that a message names."""

EXACT_DIGITS = 10**15
"""A whole number below this is written with all of its digits."""


def evaluate(rule: Rule, window: Window, measurement: Measurement) -> Evaluation:
    """What a rule finds in a window. `measurement` is of the kind for its type."""
    match rule.config, measurement:
        case ThresholdConfig() as config, ThresholdMeasurement() as measured:
            return threshold(config, window, measured)
        case MissingFieldConfig() as config, MissingFieldMeasurement() as measured:
            return missing_field(config, window, measured)
        case VolumeConfig() as config, VolumeMeasurement() as measured:
            return volume(config, window, measured)
        case FreshnessConfig() as config, FreshnessMeasurement() as measured:
            return freshness(config, window, measured)
        case SchemaConfig() as config, SchemaMeasurement() as measured:
            return schema(config, window, measured)
    raise TypeError("the measurement is of another kind than the rule")


def threshold(config: ThresholdConfig, window: Window, measured: ThresholdMeasurement) -> Evaluation:
    """Without a number at its path, a rule has no data. No event at all is a count of 0."""
    if config.field == COUNT:
        value = float(measured.events)
        found = f"There were {events_of(config, measured.events)} {span(window)}"
    elif measured.numbers is None:
        message = f'There was no number at "{config.field}" in {events_of(config, measured.events)} {span(window)}'
        return no_data(window, measured.events, message)
    else:
        value = aggregate(config, measured.numbers)
        what = f'The {config.aggregate} of "{config.field}" in {events_of(config, measured.events)}'
        found = f"{what} was {number(value)} {span(window)}"
    message = f"{found}; the limit is {config.operator} {number(config.value)}"
    has_too_few = config.field == COUNT and config.operator in {"<", "<="}
    is_firing = COMPARE[config.operator](value, config.value)
    return verdict(window, is_firing, value, measured.events, message, () if has_too_few else measured.event_ids)


def aggregate(config: ThresholdConfig, numbers: Numbers) -> float:
    """What the rule compares with its limit."""
    match config.aggregate:
        case "min":
            return numbers.least
        case "max":
            return numbers.greatest
        case "sum":
            return numbers.total
    return numbers.total / numbers.count


def missing_field(config: MissingFieldConfig, window: Window, measured: MissingFieldMeasurement) -> Evaluation:
    """The value is how many percent of the events are incomplete."""
    if measured.events == 0:
        return no_events(config, window)
    percent = 100 * measured.incomplete / measured.events
    message = (
        f"{measured.incomplete} of {events_of(config, measured.events)} ({number(percent)} %) lacked a required field "
        f"{span(window)}; the limit is {number(config.max_percent)} %{named(measured.missing)}"
    )
    is_firing = percent > config.max_percent
    return verdict(window, is_firing, percent, measured.events, message, measured.event_ids)


def volume(config: VolumeConfig, window: Window, measured: VolumeMeasurement) -> Evaluation:
    """The value is the change in percent.

    If there was nothing before, there is nothing to compare with. Nor is there while the comparison window begins
    before the first event ever: the average would be too low, so each new type of event would be a rise.
    """
    hours = config.comparison_window_hours
    before = f"in the {hours} hours before {at(window.start_ms)} UTC"
    if measured.events_before == 0:
        return no_data(window, measured.events, f"There were {events_of(config, 0)} {before}")
    first_ms = measured.first_seen_ms
    if first_ms is not None and minute_of(first_ms) > comparison_window(config, window).start_ms:
        first = f"The first of {events_of(config)} came at {at(minute_of(first_ms))} UTC"
        return no_data(window, measured.events, f"{first}, so there is no average yet for all of the time {before}")
    expected, unit = measured.events_before * config.current_window_minutes, hours * 60  # exact, as integers
    change = 100 * (measured.events * unit - expected) / expected
    is_drop = config.threshold_percent < 0
    message = (
        f"There were {events_of(config, measured.events)} {span(window)}, {number(change)} % compared with the average "
        f"of {number(expected / unit)} in the {hours} hours before; the limit is {number(config.threshold_percent)} %"
    )
    is_firing = change <= config.threshold_percent if is_drop else change >= config.threshold_percent
    return verdict(window, is_firing, change, measured.events, message, () if is_drop else measured.event_ids)


def freshness(config: FreshnessConfig, window: Window, measured: FreshnessMeasurement) -> Evaluation:
    """The value is the age of the newest event in minutes, at the end of the window; None if it is not known."""
    limit = f"the limit is {config.max_age_minutes} minutes"
    if measured.newest_ms is None:
        message = f"There were {events_of(config, 0)} for {2 * config.max_age_minutes} minutes before "
        return verdict(window, True, None, measured.events, f"{message}{at(window.end_ms)} UTC; {limit}")
    age = (window.end_ms - measured.newest_ms) / MINUTE_MS
    message = f"The newest of {events_of(config)} was {number(age)} minutes old at {at(window.end_ms)} UTC; {limit}"
    return verdict(window, age > config.max_age_minutes, age, measured.events, message, measured.event_ids)


def schema(config: SchemaConfig, window: Window, measured: SchemaMeasurement) -> Evaluation:
    """The value is how many events violate the schema, of which the limit is none."""
    if measured.events == 0:
        return no_events(config, window)
    message = (
        f"{measured.violating} of {events_of(config, measured.events)} violated the schema {span(window)}; "
        f"the limit is 0{named(measured.mistyped)}"
    )
    if measured.with_unlisted:
        unlisted = ", ".join(f'"{path}"' for path in measured.unlisted)
        message += f"; unlisted in {measured.with_unlisted}, such as {unlisted}"
    violating = measured.violating
    return verdict(window, violating > 0, float(violating), measured.events, message, measured.event_ids)


def verdict(
    window: Window, is_firing: bool, value: float | None, sample_size: int, message: str, event_ids: Sequence[str] = ()
) -> Evaluation:
    """The evaluation of a rule that fires or does not. Only one that fires names events."""
    state: RuleState = "firing" if is_firing else "inactive"
    return Evaluation(window, state, value, sample_size, message, tuple(event_ids) if is_firing else ())


def no_events(config: EventsConfig, window: Window) -> Evaluation:
    """The evaluation of a rule on fields, without an event that could have them."""
    return no_data(window, 0, f"There were {events_of(config, 0)} {span(window)}")


def no_data(window: Window, sample_size: int, message: str) -> Evaluation:
    """The evaluation of a rule that can say neither yes nor no."""
    return Evaluation(window, "no_data", value=None, sample_size=sample_size, message=message)


def events_of(config: EventsConfig, count: int | None = None) -> str:
    """The events of a rule in words: `3 "purchase" events from "backend"`."""
    what = f'"{config.event_type}" ' + ("event" if count == 1 else "events")
    of = "" if config.source is None else f' from "{config.source}"'
    how_many = {None: "", 0: "no "}.get(count, f"{count} ")
    return how_many + what + of


def named(counts: Mapping[str, int]) -> str:
    """Paths with their counts, those with the most first, as the end of a sentence; nothing if there are none."""
    found = sorted(((path, n) for path, n in counts.items() if n), key=lambda item: (-item[1], item[0]))
    first = ", ".join(f'"{path}" in {n}' for path, n in found[:MAX_NAMED])
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return f": {first}{more}" if found else ""


def number(value: float) -> str:
    """A number for people: whole ones with all digits, others with ten."""
    return str(int(value)) if abs(value) < EXACT_DIGITS and value == int(value) else f"{value:.10g}"


def span(window: Window) -> str:
    """A window in words."""
    return f"from {at(window.start_ms)} to {at(window.end_ms)} UTC"


def at(time_ms: int) -> str:
    """A whole minute, in UTC."""
    return from_milliseconds(time_ms).replace(tzinfo=None).isoformat(timespec="minutes")
