"""What rules measure in random windows is what counting the documents one by one finds."""

import math
import random
from typing import Any

from bson.binary import Binary

from server.core.rules.measure import (
    FreshnessMeasurement,
    MissingFieldMeasurement,
    Numbers,
    SchemaMeasurement,
    ThresholdMeasurement,
    VolumeMeasurement,
)
from server.core.rules.model import Rule, Window
from server.core.rules.windows import comparison_window, window_of
from tests.api.measuring.conftest import Measurer
from tests.support.brute_force import moment, numbers, of_rule
from tests.support.harness import Json, MongoClient
from tests.support.measuring import END_MS, MINUTE_MS, new_tenant, rule_of, store

PAIRS = 200
EVENTS = 3_000
HISTORY_MINUTES = 6 * 60


def random_data(chance: random.Random) -> Json:
    items = [{"price": chance.randrange(100)} for _ in range(chance.randrange(3))]
    data: Json = {"amount": chance.choice([chance.random(), chance.randrange(50), "none"]), "items": items}
    return {name: value for name, value in data.items() if chance.random() < 0.9}


def random_rule(chance: random.Random) -> Rule:
    config: Json = {"event_type": chance.choice(["view", "order", "rare"])}
    if chance.random() < 0.5:
        config["source"] = chance.choice(["web", "app"])
    window = {"window_minutes": chance.randrange(1, 60)}
    match chance.randrange(6):
        case 0:
            return rule_of("threshold", {**config, **window, "field": "count", "operator": ">", "value": 1})
        case 1:
            path = {"field": chance.choice(["amount", "items.price"]), "aggregate": "sum"}
            return rule_of("threshold", {**config, **window, **path, "operator": ">", "value": 1})
        case 2:
            return rule_of("missing_field", {**config, **window, "required_fields": ["amount", "items"]})
        case 3:
            hours = {"comparison_window_hours": chance.randrange(1, 4)}
            windows = {"current_window_minutes": chance.randrange(1, 60), **hours}
            return rule_of("volume", {**config, "threshold_percent": -10, **windows})
        case 4:
            return rule_of("freshness", {**config, "max_age_minutes": chance.randrange(1, 30)})
        case _:
            return rule_of("schema", {**config, **window, "fields": {"amount": "number"}})


def check(documents: list[Json], rule: Rule, end_ms: int, measured: Any) -> None:
    window, config = window_of(rule, end_ms), rule.config
    found = of_rule(documents, config, *window)
    data = [each["data"] for each in found]
    assert measured.events == len(found)
    match measured:
        case ThresholdMeasurement(numbers=None):
            assert config.field == "count" or not any(numbers(each, config.field) for each in data)
        case ThresholdMeasurement(numbers=Numbers() as sums):
            wanted = [number for each in data for number in numbers(each, config.field)]
            assert (sums.count, sums.least, sums.greatest) == (len(wanted), min(wanted), max(wanted))
            assert math.isclose(sums.total, math.fsum(wanted), rel_tol=1e-12)
        case MissingFieldMeasurement(incomplete=incomplete):
            assert incomplete == sum(not {"amount", "items"} <= set(each) for each in data)
        case VolumeMeasurement(events_before=before):
            assert before == len(of_rule(documents, config, *comparison_window(config, window)))
        case FreshnessMeasurement(newest_ms=newest_ms):
            searched = Window(2 * window.start_ms - window.end_ms, window.end_ms)
            newest = max((each["received_at"] for each in of_rule(documents, config, *searched)), default=None)
            assert newest == (None if newest_ms is None else moment(newest_ms))
        case SchemaMeasurement(violating=violating):
            assert violating == sum(isinstance(each.get("amount"), str) for each in data)


def test_random_rules_and_windows(measurer: Measurer, mongo: MongoClient) -> None:
    chance = random.Random(18)
    tenant = new_tenant(mongo)
    types = chance.choices(["view", "order", "rare"], [10, 5, 0.1], k=EVENTS)
    store(
        mongo,
        tenant,
        [
            (chance.randrange(HISTORY_MINUTES * MINUTE_MS), chance.choice(["web", "app"]), each, random_data(chance))
            for each in types
        ],
    )
    documents = list(mongo.sluice.events.find({"_id.tenant_id": Binary.from_uuid(tenant)}))
    for _ in range(PAIRS):
        rule, end_ms = random_rule(chance), END_MS - chance.randrange(HISTORY_MINUTES) * MINUTE_MS
        measured = measurer.measure(tenant, [rule], end_ms)
        check(documents, rule, end_ms, measured[rule.id])
        assert measurer.measure(tenant, [rule], end_ms) == measured
