"""Applies the results of rules in MongoDB. `server/core/alerts/evaluations.py` has the theory.

A result is a document of `rule_results`. Its `_id` is `{tenant_id, rule_id, end}`, where `end` is the due time. The
rule's own document is updated in the same transaction, on condition that it is as it was read. So two who apply the
same result conflict, and the second finds that the rule has moved on.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID

from bson.binary import Binary
from pymongo.errors import OperationFailure

from server.core.alerts.store import Result
from server.core.alerts.transitions import change_by
from server.core.deadline import Deadline
from server.core.jobs.store import JobLease
from server.core.rules.model import Rule
from server.core.times import from_milliseconds
from storage.alerts import StoredAlerts, new_id, now
from storage.client import in_transaction
from storage.commands import Database, Document, driver_errors_as_unavailable, retry_without_events, time_limit
from storage.decoding import Undecodable, decoded
from storage.indexes import RULE_RESULTS, RULES
from storage.rules import rule_of
from storage.webhooks import id_of, range_of

KEPT_MS = 30 * 24 * 60 * 60 * 1_000
"""How long a result is kept. MongoDB deletes it then, by the TTL index on `expires_at`."""


ABANDONED_S = 10
"""Transactions of Sluice that are open for longer belong to workers that are frozen: no request has that long."""

ABANDONED: Document = {"appName": "sluice", "transaction.timeOpenMicros": {"$gt": ABANDONED_S * 1_000_000}}


class StoredEvaluations:
    """The collections `rules` and `rule_results`. It implements `EvaluationStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rules = database[RULES]
        self._results = database[RULE_RESULTS]
        self._alerts = StoredAlerts(database)

    async def take_over(self, deadline: Deadline) -> None:
        """See `EvaluationStore`. MongoDB itself would keep an abandoned transaction for 60 s, and its locks."""
        admin = self._database.client.admin
        # Some deployments do not show operations: there it takes MongoDB's 60 s.
        with driver_errors_as_unavailable(), time_limit(deadline), suppress(OperationFailure):
            pipeline = [{"$currentOp": {}}, {"$match": ABANDONED}]
            reply = await admin.command({"aggregate": 1, "pipeline": pipeline, "cursor": {}})
            sessions = [{"id": each["lsid"]["id"]} for each in reply["cursor"]["firstBatch"]]
            if sessions:
                await admin.command("killSessions", sessions)

    async def tenants_due(self, until_ms: int, deadline: Deadline) -> Sequence[UUID]:
        """See `EvaluationStore`."""
        find = partial(self._rules.distinct, "_id.tenant_id", query_of(until_ms))
        return [each for each in await retry_without_events(find, deadline) if isinstance(each, UUID)]

    async def due(self, tenant_id: UUID, until_ms: int, deadline: Deadline) -> Sequence[Rule]:
        """See `EvaluationStore`."""
        query = {"_id": range_of(tenant_id), **query_of(until_ms)}
        return decoded(RULES, await retry_without_events(partial(self._find, query), deadline), rule_of)

    async def apply(self, lease: JobLease, rule: Rule, results: Sequence[Result], deadline: Deadline) -> bool:
        """See `EvaluationStore`."""
        work = partial(self._apply_in, lease, rule, results)
        return await retry_without_events(partial(in_transaction, self._database, work), deadline)

    async def _find(self, query: Document) -> list[Document]:
        return await self._rules.find(query).to_list(None)

    async def _apply_in(self, lease: JobLease, rule: Rule, results: Sequence[Result], session: Any) -> bool:
        if not await self._move_on(lease, rule, results[-1], session):
            await session.abort_transaction()
            return False
        await self._results.insert_many([result_document(rule, result) for result in results], session=session)
        await self._change_alert(rule, results, session)
        return True

    async def _move_on(self, lease: JobLease, rule: Rule, last: Result, session: Any) -> bool:
        """Note up to when a rule is evaluated. Returns False if it is not as it was read."""
        query = {
            "_id": id_of(rule.tenant_id, rule.id),
            "enabled": True,
            "updated_at": rule.updated_at,
            "evaluated_until": from_milliseconds(rule.evaluated_until_ms),
            "$or": [{"fence": None}, {"fence": {"$lte": lease.fence}}],
        }
        change = {
            "evaluated_until": from_milliseconds(last.due_ms),
            "state": last.evaluation.state,
            "fence": lease.fence,
        }
        return (await self._rules.update_one(query, {"$set": change}, session=session)).matched_count == 1

    async def _change_alert(self, rule: Rule, results: Sequence[Result], session: Any) -> None:
        """Open, update or resolve the alert of a rule, result by result. One that cannot be decoded stays as it is."""
        try:
            alert = await self._alerts.open_alert(rule.tenant_id, rule.id, session)
        except Undecodable:
            return
        for result in results:
            change = change_by(result.evaluation, rule, alert, now(), new_id)
            if change is not None:
                await self._alerts.store(change, session)
                alert = change.alert if change.alert.resolved_at is None else None


def query_of(until_ms: int) -> Document:
    """The query for enabled rules that are not evaluated up to a due time."""
    return {"enabled": True, "evaluated_until": {"$lt": from_milliseconds(until_ms)}}


def result_document(rule: Rule, result: Result) -> Document:
    """The document that holds a result of a rule."""
    due_ms, found = result
    tenant_id, rule_id = Binary.from_uuid(rule.tenant_id), Binary.from_uuid(rule.id)
    return {
        "_id": {"tenant_id": tenant_id, "rule_id": rule_id, "end": from_milliseconds(due_ms)},
        "window_start": from_milliseconds(found.window.start_ms),
        "window_end": from_milliseconds(found.window.end_ms),
        "state": found.state,
        "value": found.value,
        "sample_size": found.sample_size,
        "message": found.message,
        "event_ids": [Binary.from_uuid(UUID(each)) for each in found.event_ids],
        "evaluated_at": now(),
        "expires_at": from_milliseconds(due_ms + KEPT_MS),
    }
