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

Rules of a tenant that are due at the same time are measured together. If that fails, it is tried again in the next
pass. After MAX_FAILURES, each rule is tried alone. One that fails again gets the state `error` and moves on, so that
it holds up neither itself nor others. `presence.py` says which other evaluations are errors.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import islice, takewhile
from time import time_ns
from typing import NamedTuple
from uuid import UUID

from server.core.alerts.store import EvaluationStore, Result
from server.core.deadline import Deadline
from server.core.errors import SluiceError
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

MEASURE_TIMEOUT_S = 60.0
"""How long the rules of a tenant may take: twice what 100 rules on 2,000,000 events take."""

MAX_FAILURES = 2
"""Failures of all rules of a tenant together, after which each is tried alone."""

MAX_RUN = 500
"""Results in one transaction: after a long outage, there are many to store."""

AWAY = "Not evaluated, since Sluice or its database was away in this time"
FAILED = "Not evaluated, since the events could not be read in time"

OnApplied = Callable[[RuleState, int], object]

log = logging.getLogger("sluice")


class Turn(NamedTuple):
    """Rules of a tenant that are to be evaluated at a due time."""

    tenant_id: UUID
    due_ms: int


class Evaluations:
    """Evaluates the rules in `store`, every `interval_ms`.

    `on_applied` is told of the state that each evaluation found, and how much later than it could have been it was
    applied, in milliseconds.
    """

    def __init__(
        self,
        store: EvaluationStore,
        presence: PresenceStore,
        measuring: Measuring,
        interval_ms: int,
        on_applied: OnApplied,
    ) -> None:
        self._store = store
        self._presence = presence
        self._measuring = measuring
        self._interval_ms = interval_ms
        self._on_applied = on_applied
        self._fence = 0
        """The fencing number of the lease under which it worked last."""
        self._done_ms = 0
        """The due time up to which there is nothing left to do."""
        self._failures = Counter[Turn]()

    async def evaluate_due(self, lease: JobLease) -> None:
        """Evaluate all rules that are due. If some are left, the next call goes on with them. Raises Unavailable."""
        until_ms = last_due(now_ms(), self._interval_ms)
        if until_ms <= self._done_ms:
            return
        if lease.fence != self._fence:
            await self._store.take_over(Deadline())
            self._fence = lease.fence
        while rules := await self._store.due(until_ms, Deadline()):
            if not await self._evaluate_next(lease, rules, until_ms):
                return
        self._done_ms = until_ms
        self._failures.clear()

    async def _evaluate_next(self, lease: JobLease, rules: Sequence[Rule], until_ms: int) -> int:
        """Evaluate each of the rules for the next times that it is due. Returns how many rules have moved on."""
        outages = outages_between(await self._presence.periods(Deadline()), now_ms())
        turns: dict[Turn, list[Rule]] = defaultdict(list)
        moved = 0
        for rule in rules:
            if run := self._errors(rule, outages, until_ms):
                moved += await self._apply(lease, rule, run)
            else:
                turns[Turn(rule.tenant_id, next_due(rule, self._interval_ms))].append(rule)
        for turn, due in turns.items():
            found = await self._evaluations(turn, due)
            for rule in due:
                if rule.id in found:
                    moved += await self._apply(lease, rule, [Result(turn.due_ms, found[rule.id])])
        return moved

    def _errors(self, rule: Rule, outages: Sequence[Window], until_ms: int) -> list[Result]:
        """The results of the next due times, as far as they need no measurement, since Sluice was away."""

        def is_error(due_ms: int) -> bool:
            interval = Window(due_ms - self._interval_ms, due_ms)
            return was_away(outages, interval, window_at(rule, due_ms))

        dues = range(next_due(rule, self._interval_ms), until_ms + 1, self._interval_ms)
        return [error_of(rule, due_ms, AWAY) for due_ms in islice(takewhile(is_error, dues), MAX_RUN)]

    async def _evaluations(self, turn: Turn, rules: Sequence[Rule]) -> Mapping[UUID, Evaluation]:
        """What the rules find. There is nothing if they are to be tried again."""
        if self._failures[turn] < MAX_FAILURES:
            found = await self._try(turn, rules)
            self._failures[turn] += found is None
            return found or {}
        found_alone: dict[UUID, Evaluation] = {}
        for rule in rules:
            found_alone |= await self._try(turn, [rule]) or {rule.id: error_of(rule, turn.due_ms, FAILED).evaluation}
        return found_alone

    async def _try(self, turn: Turn, rules: Sequence[Rule]) -> Mapping[UUID, Evaluation] | None:
        """What the rules find; None if that cannot be found now, or ever."""
        try:
            end_ms, deadline = minute_of(turn.due_ms), Deadline(MEASURE_TIMEOUT_S)
            found = await self._measuring.measure(turn.tenant_id, rules, end_ms, deadline)
            return {rule.id: evaluate(rule, window_of(rule, end_ms), found[rule.id]) for rule in rules}
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
