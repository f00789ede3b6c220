"""Records of load tests, made up for the tests of their checks."""

import uuid
from typing import Any

import msgspec

from loadtests.support.plan import Api, Lane
from loadtests.support.records import Record
from loadtests.support.thresholds import (
    Check,
    Threshold,
)
from loadtests.users import responses
from tests.support.harness import Json


def missed(checks: list[Check]) -> list[Threshold]:
    """The thresholds that do not hold."""
    return [check.threshold for check in checks if not check.passed]


def lane_of(key: Json, api: Api = "rest", **fields: Any) -> Lane:
    """A lane of a load test."""
    name = f"loadtest-{uuid.uuid4().hex}"
    tenant_id = uuid.UUID(key["tenant_id"]).hex
    common: dict[str, Any] = {"number": 3, "sizes": SIZES, "users": 1, "name": name, "kind": name, "source": name}
    return Lane(**(common | fields), api=api, key=key["key"], tenant_id=tenant_id)


def record_of(lane: Lane, ticket: int, answer: responses.Response, at_s: float = 0.0) -> Record:
    """What the ledger says of an answer."""
    fields = msgspec.structs.asdict(answer)
    fields |= {"due_s": at_s, "sent_s": at_s, "answered_s": at_s + 0.01}
    return Record(lane=lane.number, ticket=ticket, events=lane.size(ticket), **fields)


# The verify phase, against a real database that is damaged


SIZES = (1, 7, 3)
