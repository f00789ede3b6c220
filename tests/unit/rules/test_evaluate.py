"""Trying a rule whose events cannot be read in time."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast
from uuid import UUID

import pytest

from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.read_limits import ReadLimits
from server.core.rules.measure import Measurement
from server.core.rules.model import Rule
from server.core.rules.rules import Rules
from tests.support.rules import rule

pytestmark = pytest.mark.unit


class OneRule:
    """A store that has one rule."""

    async def find(self, *_: object) -> Rule:
        return rule()


class TooSlow:
    """Measures nothing in time."""

    async def measure(self, *_: object) -> Mapping[UUID, Measurement]:
        return {}


def test_the_client_is_told_to_retry() -> None:
    rules = Rules(cast("Any", OneRule()), TooSlow(), ReadLimits())
    with pytest.raises(Unavailable) as told:
        asyncio.run(rules.evaluate(rule().tenant_id, rule().id, Deadline()))
    assert "a retry goes on with that" in told.value.detail
