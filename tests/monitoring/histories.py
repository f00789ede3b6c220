"""Histories of events, each with a rule, and with one scripted anomaly or none.

They are drawn by a seed. Events of several types and sources come more often by day than by night, and less often at
weekends. The limit of a rule is the strictest that its clean history keeps in all windows. So clean histories are as
near the limit as can be, and the smallest anomaly exceeds it.

An anomaly is in the part of a window that no earlier window has. So the first window that contains it ends at
`History.first_ms`, and that is where an alert must open. Silence that is older than a rule allows begins earlier.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Literal, NamedTuple

from tests.monitoring.timeline import (
    HOUR_MS,
    INTERVAL_MINUTES,
    INTERVAL_MS,
    MINUTE_MS,
    SOURCES,
    TYPES,
    WRONG,
    Pace,
    Sent,
    Timeline,
    lose,
    set_value,
)
from tests.support.brute_force import lacks
from tests.support.harness import Json

RuleType = Literal["threshold", "missing_field", "volume", "freshness", "schema"]
Kind = Literal["drop", "spike", "missing field", "type change", "new field", "silence"]

KINDS: Mapping[RuleType, Sequence[Kind]] = {
    "threshold": ("drop", "spike", "missing field", "type change", "silence"),
    "missing_field": ("missing field", "type change"),
    "volume": ("drop", "spike", "silence"),
    "freshness": ("silence",),
    "schema": ("type change", "new field"),
}
"""The anomalies that each type of rule can see."""

WINDOW_MINUTES = (10, 15, 20, 30, 45, 60)

OTHER_BURSTS = 20
"""Of events that the rule does not look at."""


class History(NamedTuple):
    """Events with the rule that is to find what is wrong with them."""

    name: str
    rule: Json
    """As it is posted."""
    events: Sequence[Sent]
    dues_ms: Sequence[int]
    """The due times for which the limit was drawn: the rule may be evaluated at each of them."""
    first_ms: int | None
    """The due time at which an alert must open; None if the history is clean."""


class Script(NamedTuple):
    """The configuration of a rule, and an anomaly that it finds."""

    config: Json
    first_ms: int
    spoil: Callable[[], None]
    """Makes the anomaly. Without it, the history is clean."""


# --- rules and their anomalies


def threshold(line: Timeline, kind: Kind) -> Script:
    """A rule on the number of events, or on what they hold."""
    line.fill(busy(line.chance), hours_before=2)
    if kind in ("drop", "spike") and line.chance.random() < 0.5:
        return unusual_amount(line, is_high=kind == "spike")
    match kind:
        case "spike":
            return many(line)
        case "drop" | "silence":
            return few(line, kind)
    return lost_amounts(line, kind)


def few(line: Timeline, kind: Kind) -> Script:
    """Too few events, at a due time where the new part of the window can make the difference."""
    minutes = minutes_for(line, kind)
    counts = {due: len(window) for due, window in line.windows(minutes).items()}
    limit = min(counts.values())
    able = [due for due in line.targets if counts[due] - len(line.fresh(due, minutes)) < limit]
    if not able:
        return few(line, kind)
    due = line.chance.choice(able)
    fresh = line.fresh(due, minutes)
    gone = line.chance.sample(fresh, line.chance.randint(counts[due] - limit + 1, len(fresh)))
    limits = [("<", limit), ("<=", limit - 1), *([("==", 0)] if kind == "silence" else [])]
    config = on_count(minutes, *line.chance.choice(limits))
    return Script(config, due, partial(vanish, line, kind, due, minutes, gone))


def minutes_for(line: Timeline, kind: Kind) -> int:
    """A length of windows. Silence must fill the whole window, and its beginning be in no earlier one."""
    return line.chance.choice([each for each in WINDOW_MINUTES if each <= INTERVAL_MINUTES or kind != "silence"])


def vanish(line: Timeline, kind: Kind, due_ms: int, minutes: int, gone: Sequence[Sent]) -> None:
    """Remove some events of a window, or all."""
    if kind == "silence":
        line.silence(due_ms - minutes * MINUTE_MS, due_ms)
    else:
        line.remove(gone)


def many(line: Timeline) -> Script:
    """Too many events."""
    minutes = line.chance.choice(WINDOW_MINUTES)
    counts = {due: len(window) for due, window in line.windows(minutes).items()}
    limit, due = max(counts.values()), line.chance.choice(line.targets)
    added = limit - counts[due] + line.chance.choice([1, 100])
    config = on_count(minutes, *line.chance.choice([(">", limit), (">=", limit + 1)]))
    return Script(config, due, partial(line.add, due, minutes, added))


def on_count(minutes: int, operator: str, value: int) -> Json:
    """The configuration of a threshold on the number of events."""
    return {"field": "count", "operator": operator, "value": value, "window_minutes": minutes}


def unusual_amount(line: Timeline, *, is_high: bool) -> Script:
    """One amount is so high that an aggregate exceeds its limit, or so low."""
    minutes = line.chance.choice(WINDOW_MINUTES)
    aggregate = line.chance.choice(["avg", "sum", "max" if is_high else "min"])
    values = [aggregate_of(aggregate, window) for window in line.windows(minutes).values() if window]
    limit = max(values) if is_high else min(values)
    due = line.chance.choice([due for due in line.targets if line.fresh(due, minutes)])
    window, changed = line.window(due, minutes), line.chance.choice(line.fresh(due, minutes))
    more = line.chance.choice([0.25, 100]) if is_high else -line.chance.choice([0.25, 100])

    def spoil() -> None:
        if aggregate in ("min", "max"):
            changed.data["amount"] = limit + more
        else:
            missing = limit * (len(window) if aggregate == "avg" else 1) - aggregate_of("sum", window)
            changed.data["amount"] += round(missing * 4) / 4 + more

    config = {"field": "amount", "aggregate": aggregate, "operator": ">" if is_high else "<", "value": limit}
    return Script({**config, "window_minutes": minutes}, due, spoil)


def aggregate_of(aggregate: str, window: Sequence[Sent]) -> float:
    """An aggregate of the amounts."""
    amounts = [sent.data["amount"] for sent in window if type(sent.data.get("amount")) in (int, float)]
    aggregates = {"avg": lambda: sum(amounts) / len(amounts), "sum": lambda: sum(amounts)}
    return float({"min": lambda: min(amounts), "max": lambda: max(amounts), **aggregates}[aggregate]())


def lost_amounts(line: Timeline, kind: Kind) -> Script:
    """Amounts are missing or texts, so that the sum of the others is too small. If none were left, there is no sum."""
    minutes = line.chance.choice(WINDOW_MINUTES)
    sums = {due: aggregate_of("sum", window) for due, window in line.windows(minutes).items()}
    limit = min(sums.values())
    losable = {due: sorted(line.fresh(due, minutes), key=lambda sent: sent.data["amount"])[1:] for due in line.targets}
    able = [due for due in line.targets if sums[due] - aggregate_of("sum", losable[due]) < limit]
    if not able:
        return lost_amounts(line, kind)
    due = line.chance.choice(able)

    def spoil() -> None:
        for sent in line.chance.sample(losable[due], len(losable[due])):
            if kind == "missing field":
                lose(line.chance, sent.data, "amount")
            else:
                set_value(sent.data, "amount", line.chance.choice(WRONG["amount"]))
            if aggregate_of("sum", line.window(due, minutes)) < limit:
                return

    config = {"field": "amount", "aggregate": "sum", "operator": "<", "value": limit, "window_minutes": minutes}
    return Script(config, due, spoil)


def volume(line: Timeline, kind: Kind) -> Script:
    """A rule on the change of the number of events."""
    hours = line.chance.choice([1, 3, 24])
    line.fill(busy(line.chance), hours_before=hours + 1)
    return changed_volume(line, kind, hours)


def changed_volume(line: Timeline, kind: Kind, hours: int) -> Script:
    """Too many events or too few, compared with the hours before."""
    minutes = minutes_for(line, kind)
    changes = {due: change_of(line, due, minutes, hours) for due in line.dues}
    if kind == "spike":
        limit = max(1, math.nextafter(max(changes.values()), math.inf))  # a negative one would be for a drop
        due = line.chance.choice(line.targets)
        added = next(n for n in count(1) if change_of(line, due, minutes, hours, n) >= limit)
        spoil = partial(line.add, due, minutes, added + line.chance.choice([0, 100]))
        return Script(on_volume(minutes, hours, limit), due, spoil)
    limit = min(-1, math.nextafter(min(changes.values()), -math.inf))
    fresh = {due: line.fresh(due, minutes) for due in line.targets}
    able = [due for due in line.targets if change_of(line, due, minutes, hours, -len(fresh[due])) <= limit]
    if not able or limit < -100:
        return changed_volume(line, kind, hours)
    due = line.chance.choice(able)
    fewest = next(n for n in count(1) if change_of(line, due, minutes, hours, -n) <= limit)
    gone = line.chance.sample(fresh[due], line.chance.randint(fewest, len(fresh[due])))
    return Script(on_volume(minutes, hours, limit), due, partial(vanish, line, kind, due, minutes, gone))


def change_of(line: Timeline, due_ms: int, minutes: int, hours: int, more: int = 0) -> float:
    """The change of a window in percent, if it had `more` events in addition."""
    start_ms = due_ms - minutes * MINUTE_MS
    before, now = len(line.between(start_ms - hours * HOUR_MS, start_ms)), len(line.window(due_ms, minutes)) + more
    return 100 * (now * hours * 60 - before * minutes) / (before * minutes)


def on_volume(minutes: int, hours: int, percent: float) -> Json:
    """The configuration of a rule on the change of the number of events."""
    return {"threshold_percent": percent, "current_window_minutes": minutes, "comparison_window_hours": hours}


def freshness(line: Timeline, _kind: Kind) -> Script:
    """A rule on the age of the newest event. The silence is a few milliseconds too long, or up to an interval."""
    line.fill(Pace(line.chance.uniform(0.05, 0.4), swing=0.3, weekend=0.8), hours_before=4)
    ages = [due - line.between(0, due)[-1].at_ms for due in line.dues]
    minutes = math.ceil(max(ages) / MINUTE_MS)
    due = line.chance.choice(line.targets)
    latest_ms = due - minutes * MINUTE_MS - 1
    newest_ms = line.chance.choice(
        [latest_ms, latest_ms + 1 - INTERVAL_MS, latest_ms - line.chance.randrange(INTERVAL_MS)]
    )

    def spoil() -> None:
        line.silence(newest_ms, due)
        line.events.append(line.event(newest_ms))

    return Script({"max_age_minutes": minutes}, due, spoil)


def missing_field(line: Timeline, kind: Kind) -> Script:
    """A rule on fields that must be there. In the clean history, some events lack them."""
    line.fill(busy(line.chance), hours_before=2, flaw=line.chance.choice([0, 0.05, 0.2]))
    return lost_fields(line, kind)


def lost_fields(line: Timeline, kind: Kind) -> Script:
    """Too many events lack a field: it is not there, or what should hold it is something else."""
    paths = [*line.chance.sample(["amount", "currency", "user", "user.id", "items", "items.sku"], 3), "user.plan"]
    minutes = line.chance.choice([15, *WINDOW_MINUTES])
    limit = max(percent_of(window, paths) for window in line.windows(minutes).values())
    whole = {due: [sent for sent in line.fresh(due, minutes) if not is_incomplete(sent, paths)] for due in line.targets}
    able = [due for due in line.targets if percent_of(line.window(due, minutes), paths, len(whole[due])) > limit]
    if not able or limit >= 100:
        return lost_fields(line, kind)
    due = line.chance.choice(able)
    window = line.window(due, minutes)
    fewest = next(n for n in count(1) if percent_of(window, paths, n) > limit)
    changed = line.chance.sample(whole[due], line.chance.randint(fewest, len(whole[due])))

    def spoil() -> None:
        for sent in changed:
            if kind == "missing field":
                lose(line.chance, sent.data, line.chance.choice(paths))
            else:
                sent.data["user"] = line.chance.choice(["u1", None, [7]])

    config: Json = {"required_fields": paths, "window_minutes": minutes, "max_percent": limit}
    unneeded = {
        name for name, usual in (("window_minutes", INTERVAL_MINUTES), ("max_percent", 0)) if config[name] == usual
    }
    return Script({name: value for name, value in config.items() if name not in unneeded}, due, spoil)


def is_incomplete(sent: Sent, paths: Sequence[str]) -> bool:
    """Whether an event lacks one of the fields."""
    return any(lacks(sent.data, path) for path in paths)


def percent_of(window: Sequence[Sent], paths: Sequence[str], more: int = 0) -> float:
    """How many percent of the events are incomplete, if `more` of them were in addition."""
    incomplete = sum(is_incomplete(sent, paths) for sent in window) + more
    return 100 * incomplete / len(window) if window else 0


def schema(line: Timeline, kind: Kind) -> Script:
    """A rule on types. One event violates it, or several do."""
    line.fill(busy(line.chance), hours_before=2, flaw=0.1)
    allows_unknown = kind != "new field" and line.chance.random() < 0.5
    paths = line.chance.sample(list(TYPES), 4) if allows_unknown else list(TYPES)
    minutes = line.chance.choice(WINDOW_MINUTES)
    due = line.chance.choice([due for due in line.targets if line.fresh(due, minutes)])
    fresh = line.fresh(due, minutes)
    changed = line.chance.sample(fresh, line.chance.choice([1, len(fresh)]))

    def spoil() -> None:
        for sent in changed:
            if kind == "new field":
                set_value(sent.data, line.chance.choice(["coupon", "items.colour"]), line.chance.choice([None, "new"]))
            else:
                path = line.chance.choice(paths)
                set_value(sent.data, path, line.chance.choice(WRONG[path]))

    fields = {path: TYPES[path] for path in paths}
    return Script({"fields": fields, "allow_unknown": allows_unknown, "window_minutes": minutes}, due, spoil)


def busy(chance: random.Random) -> Pace:
    """About an event a minute."""
    return Pace(chance.uniform(0.8, 1.6), swing=chance.uniform(0.2, 0.5), weekend=chance.choice([0.6, 1]))


SCRIPTS: Mapping[RuleType, Callable[[Timeline, Kind], Script]] = {
    "threshold": threshold,
    "missing_field": missing_field,
    "volume": volume,
    "freshness": freshness,
    "schema": schema,
}


# --- histories


def draw(seed: str, rule_type: RuleType, number: int, end_ms: int, hours: int, *, is_clean: bool) -> History:
    """A history in which a rule is evaluated for some hours up to `end_ms`."""
    kind = KINDS[rule_type][number % len(KINDS[rule_type])]
    name = f"{rule_type} {number}, {'clean' if is_clean else kind}"
    chance = random.Random(f"{seed} {name}")
    line = Timeline(chance, f"{rule_type}-{number}", end_ms, hours)
    script = SCRIPTS[rule_type](line, kind)
    if not is_clean:
        script.spoil()
    config = {"event_type": line.event_type, **script.config}
    if len(line.sources) == 1:
        config["source"] = line.sources[0]
    events = sorted([*line.events, *others(line)], key=lambda sent: sent.at_ms)
    rule = {"name": name, "rule_type": rule_type, "config": config}
    return History(name, rule, events, line.dues, None if is_clean else script.first_ms)


def others(line: Timeline) -> list[Sent]:
    """Events that the rule does not look at, with everything that would be an anomaly."""
    found = []
    other_sources = [source for source in SOURCES if source not in line.sources]
    for _ in range(OTHER_BURSTS):
        source = line.chance.choice(SOURCES)
        event_type = line.event_type if source in other_sources else f"{line.event_type}-other"
        at_ms = line.chance.randrange(line.first_ms - HOUR_MS, line.dues[-1])
        found += [Sent(at_ms + n, source, event_type, odd_data(line.chance)) for n in range(line.chance.randrange(20))]
    return found


def odd_data(chance: random.Random) -> Json:
    """What violates all rules."""
    return chance.choice([{}, {"amount": 10**9}, {"amount": "1", "user": 7, "items": [[]], "new": None}])
