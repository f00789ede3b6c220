"""Evaluates rules when they are due, and applies what is found: each due time of each rule once, and in order.

Theory of operation. One worker of all hosts evaluates, under a lease (`server/core/jobs/store.py`). A rule knows up
to which due time it was evaluated, so what is due follows from the database alone. A worker that takes over begins
where the last one ended, and evaluates what was missed.

An evaluation is applied in one transaction: the result is stored, the rule moves on to this due time, its alert is
opened, updated or resolved, and what webhooks are told goes into the outbox. The transaction requires that the rule
is still at the due time before, was not changed since it was read, and has no higher fencing number. So a worker that
is killed leaves all or nothing. One that was frozen, and has lost its lease, is refused. A call may be repeated.

Example with an interval of 15 minutes. Worker A applies 12:00 and is killed while it measures 12:15. Worker B
acquires the lease 15 s later, finds the rule at 12:00, measures 12:15 again, and applies it. A second worker that
still believed to have the lease would find the rule at 12:15, and apply nothing.

A worker that is frozen in the middle of a transaction holds its locks. So who takes over ends such transactions first.

Tenants take turns (`lanes.py`), so one that has many events does not delay others. In a turn, the rules of a tenant
that are furthest behind are measured together, for one due time. What could be measured in time is applied at once.
The rest is measured in the slow lane, and so are all rules of the tenant from then on, until they are quick again. If
the time does not suffice in the slow lane either, the result is an error that says so.

If measuring fails, it is tried again in a later turn. After MAX_FAILURES, each rule is tried alone. One that fails
again gets the state `error` and moves on, so that it holds up neither itself nor others. `presence.py` says which other
evaluations are errors. A rule that cannot be decoded is left out, and goes on from where it was when it can.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice, takewhile
from time import time_ns
from typing import Never
from uuid import UUID

from server.core.alerts.lanes import LIMITS_S, Lane, Lanes
from server.core.alerts.store import EvaluationStore, Result
from server.core.cancellation import end_if_cancelled
from server.core.deadline import Deadline
from server.core.errors import SluiceError, Unavailable
from server.core.jobs.store import JobLease
from server.core.rules.conditions import evaluate
from server.core.rules.measure import Measuring
from server.core.rules.model import Evaluation, Rule, RuleState, Window
from server.core.rules.presence import PresenceStore, outages_between, was_away
from server.core.rules.schedule import last_due, next_due, window_at
from server.core.rules.windows import COMPLETE_AFTER_MS, minute_of, window_of
from server.core.times import NS_PER_MS

POLL_S = 0.5
"""How often to look at the clock. Only after a due time does it cost more than that."""

MAX_FAILURES = 2
"""Failures of all rules of a tenant together, after which each is tried alone."""

MAX_RUN = 500
"""Results in one transaction: after a long outage, there are many to store."""

AWAY = "Not evaluated, since Sluice or its database was away in this time"
FAILED = "Not evaluated, since the events could not be read"
TOO_SLOW = (
    "Not evaluated, since reading the events of all rules took too long: what is counted for the first time goes on at "
    "the next evaluation; if it stays so, make windows shorter, or rules fewer"
)

OnApplied = Callable[[RuleState, int], object]

log = logging.getLogger("sluice")


class Evaluations:
    """Evaluates the rules in `store`, every `interval_ms`, under one lease.

    `on_applied` is told of the state that each evaluation found, and how much later than it could have been it was
    applied, in milliseconds. `limits_s` says how long a turn may measure.
    """

    def __init__(
        self,
        store: EvaluationStore,
        presence: PresenceStore,
        measuring: Measuring,
        interval_ms: int,
        on_applied: OnApplied,
        limits_s: Mapping[Lane, float] = LIMITS_S,
    ) -> None:
        self._store = store
        self._presence = presence
        self._measuring = measuring
        self._interval_ms = interval_ms
        self._on_applied = on_applied
        self._limits_s = limits_s
        self._until_ms = 0
        """The due time up to which rules are evaluated now."""
        self._is_done = True
        """Whether there is nothing left to do up to then."""
        self._finished = set[UUID]()
        """Tenants for which nothing can be done up to then, although they have rules that are due."""
        self._slow = set[UUID]()
        """Tenants for whose rules the time of the quick lane did not suffice the last time."""
        self._has_taken_over = False
        self._failures = Counter[UUID]()
        """How often measuring the rules of a tenant has failed, one time after the other."""

    async def run(self, lease: JobLease) -> Never:
        """Evaluate all rules when they are due, until this is cancelled."""
        lanes = Lanes(partial(self._take_turn, lease))
        async with asyncio.TaskGroup() as group:
            group.create_task(lanes.run())
            while True:
                with suppress(Unavailable):  # which the driver adapter has logged
                    await self._find_due(lanes)
                end_if_cancelled()
                await asyncio.sleep(POLL_S)

    async def _find_due(self, lanes: Lanes) -> None:
        """Let tenants wait for their turns that have rules which are due. Raises Unavailable."""
        until_ms = last_due(now_ms(), self._interval_ms)
        if until_ms > self._until_ms:
            self._until_ms, self._is_done = until_ms, False
            self._finished.clear()
        if self._is_done:
            return
        if not self._has_taken_over:
            await self._store.take_over(Deadline())
            self._has_taken_over = True
        due = set(await self._store.tenants_due(until_ms, Deadline())) - self._finished
        for tenant_id in due:
            lanes.add(tenant_id)
        self._is_done = not due

    async def _take_turn(self, lease: JobLease, tenant_id: UUID, lane: Lane) -> Lane | None:
        """See `TakeTurn`. If it fails, the tenant waits again when what is due is looked for next."""
        try:
            return await self._evaluate_next(lease, tenant_id, lane)
        except Unavailable:  # which the driver adapter has logged
            return None
        except Exception:
            log.exception("internal error")
            self._finished.add(tenant_id)
            return None

    async def _evaluate_next(self, lease: JobLease, tenant_id: UUID, lane: Lane) -> Lane | None:
        """Evaluate the rules of a tenant that are furthest behind, for one due time. Raises Unavailable."""
        if lane == "quick" and tenant_id in self._slow:
            return "slow"
        until_ms = self._until_ms
        rules = await self._store.due(tenant_id, until_ms, Deadline())
        if not rules and until_ms == self._until_ms:
            self._finished.add(tenant_id)
        outages = outages_between(await self._presence.periods(Deadline()), now_ms()) if rules else []
        results = {rule.id: errors for rule in rules if (errors := self._errors(rule, outages, until_ms))}
        turn = self._furthest_behind([rule for rule in rules if rule.id not in results])
        found = await self._measure(turn, lane) if turn else {}
        results |= {rule_id: [result] for rule_id, result in (found or {}).items()}
        moved = [await self._apply(lease, rule, results[rule.id]) for rule in rules if rule.id in results]
        if found is None:
            return None
        return "slow" if len(found) < len(turn) else "quick" if any(moved) else None

    def _furthest_behind(self, rules: Sequence[Rule]) -> list[Rule]:
        """Those of the rules that are due first."""
        first_ms = min((next_due(rule, self._interval_ms) for rule in rules), default=0)
        return [rule for rule in rules if next_due(rule, self._interval_ms) == first_ms]

    def _errors(self, rule: Rule, outages: Sequence[Window], until_ms: int) -> list[Result]:
        """The results of the next due times, as far as they need no measurement, since Sluice was away."""

        def is_error(due_ms: int) -> bool:
            interval = Window(due_ms - self._interval_ms, due_ms)
            return was_away(outages, interval, window_at(rule, due_ms))

        dues = range(next_due(rule, self._interval_ms), until_ms + 1, self._interval_ms)
        return [error_of(rule, due_ms, AWAY) for due_ms in islice(takewhile(is_error, dues), MAX_RUN)]

    async def _measure(self, rules: Sequence[Rule], lane: Lane) -> dict[UUID, Result] | None:
        """The results of rules at the next time that they are due; None if that is to be tried again.

        In the quick lane, those are missing for which the time did not suffice.
        """
        tenant_id, due_ms = rules[0].tenant_id, next_due(rules[0], self._interval_ms)
        deadline = Deadline(self._limits_s[lane])
        if self._failures[tenant_id] < MAX_FAILURES:
            found = await self._try(rules, due_ms, deadline)
            if found is None:
                self._failures[tenant_id] += 1
                return None
        else:
            found = await self._try_each(rules, due_ms, deadline)
        del self._failures[tenant_id]
        late = [rule for rule in rules if rule.id not in found]
        if late:
            self._slow.add(tenant_id)
        elif self._limits_s[lane] - deadline.remaining() < self._limits_s["quick"]:
            self._slow.discard(tenant_id)
        return found | {rule.id: error_of(rule, due_ms, TOO_SLOW) for rule in late if lane == "slow"}

    async def _try_each(self, rules: Sequence[Rule], due_ms: int, deadline: Deadline) -> dict[UUID, Result]:
        """The results of rules that are measured one by one. Those are missing for which the time did not suffice."""
        found: dict[UUID, Result] = {}
        for rule in rules:
            alone = await self._try([rule], due_ms, deadline)
            found |= {rule.id: error_of(rule, due_ms, FAILED)} if alone is None else alone
        return found

    async def _try(self, rules: Sequence[Rule], due_ms: int, deadline: Deadline) -> dict[UUID, Result] | None:
        """The results of rules that could be measured in time; None if that fails now, or always."""
        try:
            end_ms = minute_of(due_ms)
            found = await self._measuring.measure(rules[0].tenant_id, rules, end_ms, deadline)
            measured = [rule for rule in rules if rule.id in found]
            return {
                rule.id: Result(due_ms, evaluate(rule, window_of(rule, end_ms), found[rule.id])) for rule in measured
            }
        except SluiceError:  # the database is away, which is logged, or the tenant is deleted
            return None
        except Exception:
            log.exception("internal error")
            return None

    async def _apply(self, lease: JobLease, rule: Rule, results: Sequence[Result]) -> bool:
        """See `EvaluationStore.apply`."""
        applied = await self._store.apply(lease, rule, results, Deadline())
        for due_ms, evaluation in results if applied else ():
            self._on_applied(evaluation.state, now_ms() - COMPLETE_AFTER_MS - due_ms)
        return applied


def error_of(rule: Rule, due_ms: int, message: str) -> Result:
    """The result of a due time at which a rule was not evaluated."""
    window = window_at(rule, due_ms)
    return Result(due_ms, Evaluation(window, "error", value=None, sample_size=0, message=message))


def now_ms() -> int:
    """The time of this host, in milliseconds since 1970."""
    return time_ns() // NS_PER_MS
