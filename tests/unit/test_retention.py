"""Retention: tenants take turns, and changes count from the next batch on, with a store that is a dictionary."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest

from server.core.deadline import Deadline
from server.core.jobs.store import JobLease
from server.core.tenants import pace
from server.core.tenants.retention import Retention
from server.core.tenants.store import RetentionPolicy

pytestmark = pytest.mark.unit

LEASE = JobLease("retention", "me", 1)


class Store:
    """How many batches each tenant has left, and in which order they were removed."""

    def __init__(self, **left: int) -> None:
        self.left = left
        self.days = dict.fromkeys(left, 30)
        self.removed: list[str] = []

    async def policies(self, _deadline: Deadline) -> Sequence[RetentionPolicy]:
        return [RetentionPolicy(name, UUID(int=ord(name)), days, 0) for name, days in self.days.items()]

    def due(self, policy: RetentionPolicy, _lease: JobLease) -> "Due":
        return Due(self, policy)


class Due:
    """What is due by a policy."""

    def __init__(self, store: Store, policy: RetentionPolicy) -> None:
        self._store = store
        self._policy = policy

    async def remove_next(self, _deadline: Deadline) -> int | None:
        name = self._policy.tenant
        if not self._store.left[name] or self._store.days.get(name) != self._policy.days:
            return None
        self._store.left[name] -= 1
        self._store.removed.append(name)
        if self._store.removed == ["a", "b", "a"]:
            self._store.days["c"], self._store.left["c"] = 7, 1
        if self._store.removed.count("a") == 4:
            self._store.days["a"] = 60
        return 1_000


def test_tenants_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "WORK_SHARE", 1.0)
    store = Store(a=6, b=1)
    asyncio.run(Retention(store).remove_due(LEASE))
    assert store.removed[:5] == ["a", "b", "a", "a", "c"]  # c was set when the third batch was removed
    assert store.left == {"a": 0, "b": 0, "c": 0}


def test_nothing_is_removed_without_a_policy() -> None:
    store = Store(a=1)
    store.days.clear()
    asyncio.run(Retention(store).remove_due(LEASE))
    assert store.removed == []
