"""Stores rules in MongoDB: a document for each. The `_id` is `{tenant_id, id}`, and ids begin with the time.

Two who change one document conflict: a change or deletion of a rule, and the evaluation of it (`evaluations.py`). All
of them are transactions, so one of them is repeated with the document as the other left it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
from pymongo.errors import DuplicateKeyError

from server.core.deadline import Deadline
from server.core.errors import Conflict
from server.core.rules.config import CONFIGS
from server.core.rules.model import Rule
from server.core.rules.store import MAX_RULES
from server.core.times import from_milliseconds, to_milliseconds
from storage.alerts import StoredAlerts
from storage.client import in_transaction
from storage.commands import Database, Document, insert_each, retry_without_events
from storage.decoding import decoded, decoded_one
from storage.indexes import RULES
from storage.webhooks import id_of, range_of

NAME_TAKEN = "name: this tenant has a rule of this name. Give another, or change that one"


class StoredRules:
    """The collection `rules`. It implements `RuleStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rules = database[RULES]
        self._alerts = StoredAlerts(database)

    async def insert(self, rule: Rule, deadline: Deadline) -> None:
        """See `RuleStore`. Rules that are made at the same time may be a few more than MAX_RULES."""
        count = partial(self._rules.count_documents, {"_id": range_of(rule.tenant_id)})
        if await retry_without_events(count, deadline) >= MAX_RULES:
            raise Conflict(f"This tenant has {MAX_RULES} rules, which is the most: delete one")
        documents = [document_of(rule)]
        refused = await retry_without_events(partial(insert_each, self._database, RULES, documents), deadline)
        if refused and await self.find(rule.tenant_id, rule.id, deadline) is None:  # else a repeated call was refused
            raise Conflict(NAME_TAKEN)

    async def of_tenant(self, tenant_id: UUID, deadline: Deadline) -> list[Rule]:
        """See `RuleStore`."""
        found = await retry_without_events(partial(self._find, range_of(tenant_id)), deadline)
        return decoded(RULES, found, rule_of)

    async def find(self, tenant_id: UUID, rule_id: UUID, deadline: Deadline) -> Rule | None:
        """See `RuleStore`."""
        found = await retry_without_events(partial(self._find, id_of(tenant_id, rule_id)), deadline)
        return decoded_one(RULES, found[0], rule_of) if found else None

    async def change(
        self, tenant_id: UUID, rule_id: UUID, change: Callable[[Rule], Rule], deadline: Deadline
    ) -> Rule | None:
        """See `RuleStore`."""
        work = partial(self._change_in, id_of(tenant_id, rule_id), change)
        return await retry_without_events(partial(in_transaction, self._database, work), deadline)

    async def delete(self, tenant_id: UUID, rule_id: UUID, deadline: Deadline) -> bool:
        """See `RuleStore`. A rule that cannot be decoded can be deleted too."""
        if not await retry_without_events(partial(self._find, id_of(tenant_id, rule_id)), deadline):
            return False
        work = partial(self._delete_in, tenant_id, rule_id)
        await retry_without_events(partial(in_transaction, self._database, work), deadline)
        return True

    async def _find(self, ids: Document) -> list[Document]:
        return await self._rules.find({"_id": ids}, sort=[("_id", 1)]).to_list(None)

    async def _change_in(self, own_id: Document, change: Callable[[Rule], Rule], session: Any) -> Rule | None:
        document = await self._rules.find_one({"_id": own_id}, session=session)
        if document is None:
            return None
        before = decoded_one(RULES, document, rule_of)
        after = change(before)
        try:
            await self._rules.update_one({"_id": own_id}, {"$set": fields_of(after)}, session=session)
        except DuplicateKeyError:
            raise Conflict(NAME_TAKEN) from None
        if before.enabled and not after.enabled:
            await self._alerts.resolve_of_rule(after.tenant_id, after.id, "rule_disabled", session)
        return after

    async def _delete_in(self, tenant_id: UUID, rule_id: UUID, session: Any) -> None:
        await self._rules.delete_one({"_id": id_of(tenant_id, rule_id)}, session=session)
        await self._alerts.resolve_of_rule(tenant_id, rule_id, "rule_deleted", session)


def document_of(rule: Rule) -> Document:
    """The document that holds a rule."""
    return {"_id": id_of(rule.tenant_id, rule.id), **fields_of(rule)}


def fields_of(rule: Rule) -> Document:
    """Its other fields. The configuration is JSON text, since names with dots or `$` would need care in queries."""
    return {
        "name": rule.name,
        "rule_type": rule.rule_type,
        "config": msgspec.json.encode(rule.config).decode(),
        "severity": rule.severity,
        "enabled": rule.enabled,
        "tags": list(rule.tags),
        "category": rule.category,
        "created_at": rule.created_at,
        "updated_at": rule.updated_at,
        "state": rule.state,
        "evaluated_until": from_milliseconds(rule.evaluated_until_ms),
    }


def rule_of(document: Document) -> Rule:
    """The rule that a document holds."""
    fields = {
        **document,
        **document["_id"],
        "config": msgspec.json.decode(document["config"], type=CONFIGS[document["rule_type"]]),
        "evaluated_until_ms": to_milliseconds(document["evaluated_until"]),
    }
    return msgspec.convert(fields, Rule)
