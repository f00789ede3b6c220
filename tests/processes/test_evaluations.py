"""Evaluations on a real database: each due time once and in order, whoever else writes, and whatever is away."""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import time_ns
from typing import NamedTuple
from uuid import UUID

import pymongo
import pytest
from bson.datetime_ms import DatetimeMS
from msgspec.structs import replace

from server.core.alerts.evaluations import AWAY, FAILED, POLL_S, TOO_SLOW, Evaluations, OnApplied
from server.core.alerts.lanes import LIMITS_S, Lane
from server.core.alerts.store import AlertFilter, Result
from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.jobs.store import JobLease
from server.core.rules.fields import changed_rule
from server.core.rules.measure import Measuring, ThresholdMeasurement
from server.core.rules.model import Rule, RuleState, Window
from server.core.rules.schedule import last_due
from server.core.rules.windows import COMPLETE_AFTER_MS
from server.core.times import NS_PER_MS, from_milliseconds, to_milliseconds
from storage.alerts import StoredAlerts
from storage.client import database, opened
from storage.commands import Database
from storage.evaluations import ABANDONED_S, StoredEvaluations
from storage.indexes import ensure_indexes
from storage.presence import StoredPresence
from storage.rules import StoredRules, document_of
from storage.webhooks import StoredWebhooks
from tests.support.alerts import webhook
from tests.support.harness import Json
from tests.support.mongod import Mongod, block_next, block_next_insert, fail_point
from tests.support.rules import evaluation, rule

LEASE = JobLease("rules", "test", 7)

INTERVAL_MS = 1_000

SEEN_MS = 60_000
"""How far back the due times of these tests go."""

FIRST_MS = time_ns() // 1_000_000
SECOND_MS = FIRST_MS + INTERVAL_MS
"""Two due times. They are no older, since MongoDB deletes a result 30 days after its own, once a minute."""


class Stores(NamedTuple):
    """An empty database, and what is kept there."""

    database: Database
    rules: StoredRules
    alerts: StoredAlerts
    evaluations: StoredEvaluations
    presence: StoredPresence

    async def insert(self, **fields: object) -> Rule:
        """A new rule."""
        new = rule(**fields)
        await self.rules.insert(new, Deadline())
        return new

    async def apply(self, of: Rule, due_ms: int, state: RuleState, lease: JobLease = LEASE) -> bool:
        """Apply a result. Returns whether it was."""
        return await self.evaluations.apply(lease, of, [Result(due_ms, evaluation(state))], Deadline())

    def job(
        self,
        measuring: Measuring,
        interval_ms: int = INTERVAL_MS,
        on_applied: OnApplied = lambda *_: None,
        limits_s: Mapping[Lane, float] = LIMITS_S,
    ) -> Evaluations:
        """The job that evaluates what is due."""
        return Evaluations(self.evaluations, self.presence, measuring, interval_ms, on_applied, limits_s)

    async def results(self, of: Rule) -> list[Json]:
        """The results of a rule, by due time."""
        found = self.database["rule_results"].find({"_id.rule_id": of.id}, sort=[("_id.end", 1)])
        return await found.to_list(None)

    async def is_evaluated(self, each: Rule, until_ms: int) -> bool:
        """Whether a rule was evaluated up to a due time."""
        stored = await self.rules.find(each.tenant_id, each.id, Deadline())
        return stored is not None and stored.evaluated_until_ms >= until_ms

    async def is_resolved(self, of: Rule) -> list[bool]:
        """Of each alert of a rule, newest first."""
        where = AlertFilter(rule_id=of.id)
        return [
            alert.resolved_at is not None for alert in await self.alerts.page(of.tenant_id, where, None, 10, Deadline())
        ]


def with_stores(mongod: Mongod, scenario: Callable[[Stores], Awaitable[None]]) -> None:
    """Run a scenario on an empty database."""

    async def run() -> None:
        async with opened(mongod.url, "motor") as client:
            await client.drop_database("sluice")
            storage = database(client, "sluice")
            await ensure_indexes(storage)
            await scenario(
                Stores(
                    storage,
                    StoredRules(storage),
                    StoredAlerts(storage),
                    StoredEvaluations(storage),
                    StoredPresence(storage),
                )
            )

    asyncio.run(run())


# --- one result


def test_a_result_is_applied_once_and_in_its_turn(mongod: Mongod) -> None:
    async def scenario(stores: Stores) -> None:
        first = await stores.insert()
        assert await stores.apply(first, FIRST_MS, "firing")
        assert not await stores.apply(first, FIRST_MS, "firing")  # a call that was repeated
        assert not await stores.apply(first, SECOND_MS, "inactive")  # one that does not know of the last result
        second = replace(first, evaluated_until_ms=FIRST_MS)
        assert await stores.apply(second, SECOND_MS, "inactive")
        results = await stores.results(first)
        assert [(to_milliseconds(each["_id"]["end"]), each["state"]) for each in results] == [
            (FIRST_MS, "firing"),
            (SECOND_MS, "inactive"),
        ]
        assert await stores.is_resolved(first) == [True]

    with_stores(mongod, scenario)


def test_one_of_two_at_once_applies_it(mongod: Mongod) -> None:
    async def scenario(stores: Stores) -> None:
        for _ in range(10):
            new = await stores.insert(name=uuid.uuid4().hex)
            applied = await asyncio.gather(*(stores.apply(new, FIRST_MS, "firing") for _ in range(5)))
            assert sorted(applied) == [False] * 4 + [True]
            assert await stores.is_resolved(new) == [False]

    with_stores(mongod, scenario)


def test_a_holder_that_has_lost_its_lease_applies_nothing(mongod: Mongod) -> None:
    async def scenario(stores: Stores) -> None:
        new = await stores.insert()
        assert await stores.apply(new, FIRST_MS, "inactive", LEASE._replace(fence=8))
        frozen = replace(new, evaluated_until_ms=FIRST_MS)
        assert not await stores.apply(frozen, SECOND_MS, "firing", LEASE._replace(fence=7))
        assert await stores.apply(frozen, SECOND_MS, "inactive", LEASE._replace(fence=8))
        assert await stores.is_resolved(new) == []

    with_stores(mongod, scenario)


def test_a_rule_that_was_changed_or_deleted_meanwhile_gets_no_result(mongod: Mongod) -> None:
    async def scenario(stores: Stores) -> None:
        new = await stores.insert()
        later = from_milliseconds(to_milliseconds(new.updated_at) + 1)
        await stores.rules.change(new.tenant_id, new.id, lambda old: replace(old, updated_at=later), Deadline())
        assert not await stores.apply(new, FIRST_MS, "firing")
        changed = replace(new, updated_at=later)
        assert await stores.apply(changed, FIRST_MS, "firing")
        await stores.rules.change(new.tenant_id, new.id, lambda old: replace(old, enabled=False), Deadline())
        assert not await stores.apply(replace(changed, evaluated_until_ms=FIRST_MS), SECOND_MS, "firing")
        assert await stores.is_resolved(new) == [True]
        await stores.rules.delete(new.tenant_id, new.id, Deadline())
        assert not await stores.apply(replace(changed, evaluated_until_ms=FIRST_MS), SECOND_MS, "firing")
        assert len(await stores.results(new)) == 1

    with_stores(mongod, scenario)


def test_a_commit_whose_response_was_lost_counts_once(mongod: Mongod) -> None:
    async def scenario(stores: Stores) -> None:
        new = await stores.insert()
        with mongod.client() as mongo:
            for command in ("insert", "update", "commitTransaction"):
                data = {"failCommands": [command], "closeConnection": True, "appName": "sluice"}
                with fail_point(mongo, "failCommand", {"times": 1}, **data):
                    await stores.apply(new, FIRST_MS, "firing")
        assert len(await stores.results(new)) == 1
        assert await stores.is_resolved(new) == [False]

    with_stores(mongod, scenario)


# --- what is due


class Events:
    """Measures one event in each window, but fails for the rules in `broken`. Those in `slow` take all of the time."""

    def __init__(self, *broken: Rule, slow: Sequence[Rule] = ()) -> None:
        self._broken = {each.id for each in broken}
        self._slow = {each.id for each in slow}
        self.calls = 0

    async def measure(
        self, _tenant_id: UUID, rules: Sequence[Rule], _end_ms: int, deadline: Deadline
    ) -> Mapping[UUID, ThresholdMeasurement]:
        """See `Measuring`."""
        self.calls += 1
        if self._broken & {each.id for each in rules}:
            raise Unavailable
        if self._slow & {each.id for each in rules}:
            await asyncio.sleep(deadline.remaining())
        return {each.id: ThresholdMeasurement(events=1) for each in rules if each.id not in self._slow}


@asynccontextmanager
async def running(job: Evaluations) -> AsyncIterator[None]:
    """Let a job evaluate what is due meanwhile."""
    task = asyncio.create_task(job.run(LEASE))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 20) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.02)


def seconds_ago(seconds: float) -> int:
    """In milliseconds since 1970."""
    return time_ns() // NS_PER_MS - round(seconds * 1_000)


def due_times(results: Sequence[Json]) -> list[int]:
    return [to_milliseconds(each["_id"]["end"]) for each in results]


def test_missed_due_times_are_evaluated_in_order(mongod: Mongod) -> None:
    async def scenario(stores: Stores) -> None:
        begins_ms = seconds_ago(60)
        begins_ms -= begins_ms % INTERVAL_MS
        both = [await stores.insert(name=name, evaluated_until_ms=begins_ms) for name in ("a", "b")]
        disabled = await stores.insert(enabled=False, evaluated_until_ms=begins_ms)
        lateness: list[int] = []
        job = stores.job(Events(), on_applied=lambda _, late_ms: lateness.append(late_ms))
        until_ms = last_due(seconds_ago(0), INTERVAL_MS)
        found: dict[UUID, tuple[Rule, list[int]]] = {}

        async def are_told() -> bool:
            for each in both:
                stored = await stores.rules.find(each.tenant_id, each.id, Deadline())
                assert stored is not None
                found[each.id] = stored, due_times(await stores.results(each))
            is_one_moment = all(stored.evaluated_until_ms == dues[-1] for stored, dues in found.values())
            return is_one_moment and len(lateness) == sum(len(dues) for _, dues in found.values())

        async with running(job):
            for each in both:
                await until(partial(stores.is_evaluated, each, until_ms))
            await until(are_told)  # a result can be read a moment before the job tells of it, and the rule before that
        for stored, dues in found.values():
            assert dues == list(range(begins_ms + INTERVAL_MS, dues[-1] + 1, INTERVAL_MS))
            assert dues[-1] >= until_ms
            assert (stored.evaluated_until_ms, stored.state) == (dues[-1], "inactive")
        assert await stores.results(disabled) == []
        assert min(lateness) >= 0

    with_stores(mongod, scenario)


def test_without_a_new_due_time_the_database_is_left_alone(mongod: Mongod) -> None:
    async def scenario(stores: Stores) -> None:
        early = await stores.insert(evaluated_until_ms=0)
        async with running(stores.job(Events(), 10**12)):
            await until(partial(stores.is_evaluated, early, 10**12))
            await asyncio.sleep(2 * POLL_S)
            late = await stores.insert(evaluated_until_ms=0)
            await asyncio.sleep(2 * POLL_S)
            assert await stores.results(late) == []

    with_stores(mongod, scenario)


def test_an_outage_makes_errors_and_no_transition(mongod: Mongod) -> None:
    async def scenario(stores: Stores) -> None:
        begins_ms = seconds_ago(200)
        fires, rests = [
            await stores.insert(name=name, tenant_id=uuid.uuid4(), evaluated_until_ms=begins_ms, config=config)
            for name, config in (("fires", rule().config), ("rests", replace(rule().config, value=0)))
        ]
        await stores.apply(fires, begins_ms + 1, "firing")
        outage = Window(begins_ms - INTERVAL_MS, seconds_ago(0))
        for start_ms, end_ms in ((0, outage.start_ms), (outage.end_ms, outage.end_ms)):
            await stores.database["presence"].insert_one(
                {"from": from_milliseconds(start_ms), "until": from_milliseconds(end_ms)}
            )
        events = Events()
        async with running(stores.job(events)):
            for each in (fires, rests):
                await until(partial(stores.is_evaluated, each, outage.end_ms - COMPLETE_AFTER_MS - INTERVAL_MS))
        assert events.calls == 0, "nothing is measured for errors"
        for each, alerts in ((fires, [False]), (rests, [])):
            results = [found for found in await stores.results(each) if found["state"] != "firing"]
            assert {(found["state"], found["message"], found["value"]) for found in results} == {("error", AWAY, None)}
            assert len(results) > 180
            assert await stores.is_resolved(each) == alerts

    with_stores(mongod, scenario)


def test_a_rule_that_cannot_be_measured_holds_up_no_other(mongod: Mongod) -> None:
    async def scenario(stores: Stores) -> None:
        begins_ms, tenant_id = seconds_ago(20), uuid.uuid4()
        broken, good = [
            await stores.insert(name=name, tenant_id=tenant_id, evaluated_until_ms=begins_ms) for name in ("a", "b")
        ]
        other = await stores.insert(evaluated_until_ms=begins_ms)
        async with running(stores.job(Events(broken))):
            await until(partial(stores.is_evaluated, broken, begins_ms + 3 * INTERVAL_MS))
        assert {(each["state"], each["message"]) for each in await stores.results(broken)} == {("error", FAILED)}
        for each in (good, other):
            assert {found["state"] for found in await stores.results(each)} == {"inactive"}
            assert len(await stores.results(each)) >= 3

    with_stores(mongod, scenario)


def test_a_slow_tenant_delays_no_other_and_gets_a_result_that_says_so(mongod: Mongod) -> None:
    async def scenario(stores: Stores) -> None:
        begins_ms, tenant_id = seconds_ago(COMPLETE_AFTER_MS / 1_000 + 3), uuid.uuid4()
        slow, light = [
            await stores.insert(name=name, tenant_id=tenant_id, evaluated_until_ms=begins_ms) for name in ("a", "b")
        ]
        others = [await stores.insert(evaluated_until_ms=begins_ms) for _ in range(10)]
        late_ms: dict[RuleState, list[int]] = defaultdict(list)
        job = stores.job(
            Events(slow=[slow]),
            on_applied=lambda state, lateness_ms: late_ms[state].append(lateness_ms),
            limits_s={"quick": 0.3, "slow": 2.5},
        )
        async with running(job):
            await until(partial(stores.is_evaluated, slow, begins_ms + 1))
        assert {(each["state"], each["message"]) for each in await stores.results(slow)} == {("error", TOO_SLOW)}
        for each in (light, *others):
            assert {found["state"] for found in await stores.results(each)} == {"inactive"}
        for each in others:
            assert len(await stores.results(each)) >= 5, "it went on while the other one was slow"
        assert max(late_ms["inactive"][-20:]) < 2_000

    with_stores(mongod, scenario)


def test_a_transaction_that_a_frozen_worker_left_open_holds_up_nobody(mongod: Mongod) -> None:
    async def scenario(stores: Stores) -> None:
        new = await stores.insert(evaluated_until_ms=seconds_ago(30))
        with pymongo.MongoClient[Json](mongod.url, appname="sluice") as frozen, frozen.start_session() as session:
            session.start_transaction()
            frozen.sluice.rules.update_one({}, {"$set": {"state": "error"}}, session=session)
            await asyncio.sleep(ABANDONED_S + 1)
            async with running(stores.job(Events())):
                await until(partial(stores.is_evaluated, new, seconds_ago(COMPLETE_AFTER_MS / 1_000 + 1)), 20)
        assert len(await stores.results(new)) > 10

    with_stores(mongod, scenario)


# --- what cannot be decoded


def test_what_cannot_be_decoded_stops_nothing_else(mongod: Mongod, caplog: pytest.LogCaptureFixture) -> None:
    """An operator has spoiled a rule, and the open alert of another, and a webhook of a third one."""

    async def scenario(stores: Stores) -> None:
        begins_ms, tenant_id = seconds_ago(COMPLETE_AFTER_MS / 1_000 + 4), uuid.uuid4()
        bad, told, good = [
            await stores.insert(
                name=name,
                tenant_id=tenant_id,
                evaluated_until_ms=begins_ms,
                config=replace(rule().config, operator="<"),
            )
            for name in ("a", "b", "c")
        ]
        other = await stores.insert(evaluated_until_ms=begins_ms)
        await stores.apply(told, begins_ms + 1, "firing")
        hooks = [replace(webhook(tenant_id), id=uuid.uuid4(), name=name) for name in ("bad", "good")]
        for hook in hooks:
            await StoredWebhooks(stores.database).insert(hook, Deadline())
        await stores.database["rules"].update_one({"_id.id": bad.id}, {"$set": {"config": '{"secret": 1}'}})
        await stores.database["alerts"].update_one({"rule_id": told.id}, {"$set": {"created_at": DatetimeMS(2**50)}})
        await stores.database["webhooks"].update_one({"name": "bad"}, {"$unset": {"secrets": 1}})
        await stores.database["presence"].insert_one({"from": 1})
        async with running(stores.job(Events())):
            for each in (told, good, other):
                await until(partial(stores.is_evaluated, each, begins_ms + 3 * INTERVAL_MS))
            named = [record.getMessage() for record in caplog.records]
            assert await stores.results(bad) == []
            await stores.database["rules"].replace_one({"_id.id": bad.id}, document_of(bad))
            await until(partial(stores.is_evaluated, bad, begins_ms + 3 * INTERVAL_MS))
        assert await stores.is_resolved(good) == [False]
        assert await stores.database["alerts"].count_documents({"rule_id": told.id, "is_open": True}) == 1
        deliveries = await stores.database["deliveries"].find({"subject": good.id}).to_list(None)
        assert [each["webhook_id"] for each in deliveries] == [hooks[1].id]
        due = due_times(await stores.results(bad))
        assert due == list(range(due[0], due[-1] + 1, INTERVAL_MS)), "none is skipped"
        for collection, own_id in (("rules", bad.id), ("webhooks", hooks[0].id)):
            ids = f"tenant_id {tenant_id}, id {own_id}"
            assert sum(ids in line and f"collection {collection} " in line for line in named) == 1
        assert sum("collection alerts " in line for line in named) == 1
        assert "secret" not in caplog.text

    with_stores(mongod, scenario)


# --- a rule that is changed meanwhile

FIRES: Json = {"config": {"event_type": "purchase", "field": "count", "operator": ">", "value": 0, "window_minutes": 1}}
"""Makes a rule that does not fire for one event one that does."""

HANG_MS = 500


async def change(stores: Stores, old: Rule, value: Json = FIRES) -> None:
    """Change a rule as a PATCH does."""
    work = partial(changed_rule, value=value, at=old.created_at)
    assert await stores.rules.change(old.tenant_id, old.id, work, Deadline()) is not None


async def check_changed(stores: Stores, old: Rule, evaluated_until_ms: int) -> Rule:
    """A change was kept, and what is left of the old rule is not applied. Returns the rule as it is now."""
    new = await stores.rules.find(old.tenant_id, old.id, Deadline())
    assert new is not None
    assert (new.config.value, new.evaluated_until_ms) == (0, evaluated_until_ms)
    for stale in (old, replace(old, evaluated_until_ms=evaluated_until_ms)):
        assert not await stores.apply(stale, FIRST_MS, "inactive")
        assert not await stores.apply(stale, SECOND_MS, "inactive")
    return new


def test_a_change_comes_after_an_evaluation_that_is_being_applied(mongod: Mongod) -> None:
    async def scenario(stores: Stores) -> None:
        old = await stores.insert()
        with mongod.client() as mongo:
            until_it_hangs = block_next_insert(mongo, "rule_results", HANG_MS)
            applying = asyncio.create_task(stores.apply(old, FIRST_MS, "inactive"))
            await asyncio.to_thread(until_it_hangs)
        await change(stores, old)
        assert await applying
        new = await check_changed(stores, old, FIRST_MS)
        assert await stores.apply(new, SECOND_MS, "firing")
        assert [each["state"] for each in await stores.results(old)] == ["inactive", "firing"]

    with_stores(mongod, scenario)


def test_an_evaluation_is_not_applied_after_a_change_that_is_being_committed(mongod: Mongod) -> None:
    async def scenario(stores: Stores) -> None:
        old = await stores.insert()
        with mongod.client() as mongo:
            until_it_hangs = block_next(mongo, "commitTransaction", HANG_MS, appName="sluice")
            changing = asyncio.create_task(change(stores, old))
            await asyncio.to_thread(until_it_hangs)
        assert not await stores.apply(old, FIRST_MS, "inactive")
        await changing
        new = await check_changed(stores, old, 0)
        assert await stores.apply(new, FIRST_MS, "firing")
        assert [each["state"] for each in await stores.results(old)] == ["firing"]

    with_stores(mongod, scenario)


@pytest.mark.parametrize("command", ["update", "commitTransaction"])
def test_a_change_whose_response_was_lost_is_kept_once(mongod: Mongod, command: str) -> None:
    async def scenario(stores: Stores) -> None:
        old = await stores.insert()
        with mongod.client() as mongo:
            data = {"failCommands": [command], "closeConnection": True, "appName": "sluice"}
            with fail_point(mongo, "failCommand", {"times": 1}, **data):
                await change(stores, old)
        new = await check_changed(stores, old, 0)
        assert await stores.apply(new, FIRST_MS, "firing")
        assert await stores.is_resolved(old) == [False]

    with_stores(mongod, scenario)


def test_what_was_measured_for_the_old_rule_is_measured_again_for_the_new_one(mongod: Mongod) -> None:
    async def scenario(stores: Stores) -> None:
        begins_ms = seconds_ago(COMPLETE_AFTER_MS / 1_000 + 4)
        begins_ms -= begins_ms % INTERVAL_MS
        old = await stores.insert(evaluated_until_ms=begins_ms)
        async with running(stores.job(ChangesMeanwhile(partial(change, stores, old)))):
            await until(partial(stores.is_evaluated, old, begins_ms + 3 * INTERVAL_MS))
        results = await stores.results(old)
        assert due_times(results)[:3] == [begins_ms + turn * INTERVAL_MS for turn in (1, 2, 3)]
        assert {each["state"] for each in results} == {"firing"}

    with_stores(mongod, scenario)


class ChangesMeanwhile(Events):
    """Lets a rule be changed while it is measured for the first time."""

    def __init__(self, change: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._change = change

    async def measure(
        self, tenant_id: UUID, rules: Sequence[Rule], end_ms: int, deadline: Deadline
    ) -> Mapping[UUID, ThresholdMeasurement]:
        """See `Measuring`."""
        measured = await super().measure(tenant_id, rules, end_ms, deadline)
        if self.calls == 1:
            await self._change()
        return measured


# --- presence


def test_notes_extend_a_period_and_begin_one_after_an_outage(mongod: Mongod) -> None:
    async def scenario(stores: Stores) -> None:
        await asyncio.gather(*(stores.presence.note(Deadline()) for _ in range(3)))
        await stores.presence.note(Deadline())
        periods = await stores.presence.periods(Deadline())
        assert max(each.end_ms for each in periods) > min(each.start_ms for each in periods)
        long_ago = from_milliseconds(seconds_ago(3_600))
        await stores.database["presence"].update_many({}, {"$set": {"from": long_ago, "until": long_ago}})
        await stores.presence.note(Deadline())
        begun = await stores.presence.periods(Deadline())
        assert len(begun) == len(periods) + 1
        assert max(each.start_ms for each in begun) > seconds_ago(60)

    with_stores(mongod, scenario)
