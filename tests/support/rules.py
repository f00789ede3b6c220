"""Rules and evaluations for tests."""

import uuid
from datetime import UTC, datetime
from typing import Any

from server.core.rules.config import ThresholdConfig
from server.core.rules.model import Evaluation, Rule, RuleState, RuleType, Window
from tests.support.harness import Json

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
MINUTE_MS = 60_000
WINDOW = Window(0, MINUTE_MS)

MANY_PURCHASES = ThresholdConfig(event_type="purchase", field="count", operator=">", value=10, window_minutes=1)


def rule(**fields: Any) -> Rule:
    """A rule that fires if there are more than 10 purchases in a minute."""
    defaults = {
        "id": uuid.uuid4(),
        "tenant_id": uuid.uuid4(),
        "name": "many purchases",
        "rule_type": "threshold",
        "config": MANY_PURCHASES,
        "created_at": NOW,
        "updated_at": NOW,
        "evaluated_until_ms": 0,
    }
    return Rule(**{**defaults, **fields})


def evaluation(state: RuleState, value: float | None = None, **fields: Any) -> Evaluation:
    """An evaluation of the first minute of 1970."""
    return Evaluation(
        **{"window": WINDOW, "sample_size": 0, "message": f"{state} {value}", **fields}, state=state, value=value
    )


CONFIG_EXAMPLES: dict[RuleType, Json] = {
    "threshold": {
        "event_type": "purchase",
        "source": "backend",
        "field": "amount",
        "aggregate": "avg",
        "operator": ">",
        "value": 10,
        "window_minutes": 15,
    },
    "missing_field": {
        "event_type": "purchase",
        "required_fields": ["amount", "user.id"],
        "window_minutes": 15,
        "max_percent": 1,
    },
    "volume": {
        "event_type": "purchase",
        "threshold_percent": -50,
        "current_window_minutes": 15,
        "comparison_window_hours": 24,
    },
    "freshness": {"event_type": "purchase", "max_age_minutes": 60},
    "schema": {
        "event_type": "purchase",
        "fields": {"amount": "number", "user.id": ["string", "null"]},
        "allow_unknown": False,
        "window_minutes": 15,
    },
}
"""A configuration of each type."""
