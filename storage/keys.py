"""Stores keys and tenants in MongoDB, and leases the permits of keys.

A key is stored with the hash of its secret, never the secret. A tenant is a name and the UUID in its events.

A key that was rotated with an overlap also has `previous: {hash, valid_until}`: its secret before, and when that stops.
Both secrets are in one document, so they share a rate limit and a time of last use. The database's clock sets
`valid_until`, and each read compares it with that clock. So all workers of all hosts agree, whatever their clocks say.
"""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from time import time_ns
from typing import Any
from uuid import UUID

from bson.binary import Binary
from msgspec.structs import replace
from pymongo import ReturnDocument

from server.core.access.keys import DEFAULT_RATE_LIMIT, SCOPES, Key, Scope, digest, new_secret
from server.core.access.rate_limit import LeaseRequest
from server.core.access.store import FoundKey
from server.core.deadline import Deadline
from server.core.errors import NotFound
from server.core.events.ids import new_ids
from server.core.times import NS_PER_MS
from storage.commands import (
    Database,
    Document,
    driver_errors_as_unavailable,
    find_each,
    retry_without_events,
    time_limit,
    update_each,
)
from storage.indexes import KEYS, TENANTS
from storage.leases import Leases
from storage.rate_limit import lease_statement, window_of
from storage.tenants import TenantBeingDeleted
from storage.views import ensure_view

FIRST_KEY = "first_key"
"""The lease of the process that makes the first key."""

FIRST_KEY_LEASE_S = 30.0
"""How long that process has: its calls take at most 10 s each."""

NONE: Any = "$$REMOVE"
"""An expression: no value, so that the field is removed."""

IN_OVERLAP: Document = {"$gt": ["$previous.valid_until", "$$NOW"]}
"""An expression: whether the previous secret of a key works now. It is false if there is none."""


class Keys:
    """The collections `keys` and `tenants`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database[KEYS]
        self._tenants = database[TENANTS]
        self._used: set[str] = set()

    async def find(self, digests: Sequence[bytes], deadline: Deadline) -> dict[bytes, Key]:
        """The keys whose secrets have these digests, by digest, as they are now, revoked or not. Raises Unavailable.

        A previous secret is looked up second, so that current ones cost one read. A rotation between the two reads
        hides no secret, since it makes the current one the previous one.
        """
        query: Document = {"hash": {"$in": [Binary(digest) for digest in digests]}}
        found = {item["hash"]: key_of(item) for item in await self._find(query, len(digests), deadline)}
        unknown = [Binary(digest) for digest in digests if digest not in found]
        if unknown:
            query = {"previous.hash": {"$in": unknown}, "$expr": IN_OVERLAP}
            for item in await self._find(query, len(unknown), deadline):
                found[item["previous"]["hash"]] = key_of(item)
        return found

    async def lease(self, requests: Sequence[LeaseRequest], deadline: Deadline) -> dict[str, FoundKey]:
        """Grant lease requests, at most one for each key, as far as each key's window has permits, atomically.

        Returns the keys by id, as they are then, revoked or not. Raises Unavailable.
        """
        by_id = {request.key_id: request for request in requests}
        with driver_errors_as_unavailable(), time_limit(deadline):
            await update_each(self._database, KEYS, [lease_statement(request) for request in requests])
            query = {"_id": {"$in": list(by_id)}}
            documents = await self._read(query, {"window.buckets": {"$slice": 1}}, len(by_id))
        return {
            document["_id"]: FoundKey(key_of(document), document["hash"], window_of(document, by_id[document["_id"]]))
            for document in documents
        }

    async def _find(self, query: Document, count: int, deadline: Deadline) -> list[Document]:
        return await retry_without_events(partial(self._read, query, {"window": 0}, count), deadline)

    async def _read(self, query: Document, projection: Document, count: int) -> list[Document]:
        documents = await find_each(self._database, KEYS, query, projection, count)
        self._used.update(document["_id"] for document in documents)
        return documents

    async def drop_idle_windows(self, deadline: Deadline) -> None:
        """Remove the windows in which no permit counts any more. Raises Unavailable."""
        with driver_errors_as_unavailable(), time_limit(deadline):
            idle = {"window.until": {"$exists": True}, "$expr": {"$lt": ["$window.until", "$$NOW"]}}
            await self._keys.update_many(idle, {"$unset": {"window": ""}})

    async def save_usage(self, deadline: Deadline) -> None:
        """Store that the keys found since the last call were used. Raises Unavailable; the next call tries again."""
        used = list(self._used)
        if used:
            with driver_errors_as_unavailable(), time_limit(deadline):
                await self._keys.update_many({"_id": {"$in": used}}, {"$max": {"last_used_at": datetime.now(UTC)}})
            self._used.difference_update(used)

    async def create(
        self,
        tenant: str,
        name: str = "",
        scopes: Sequence[Scope] = SCOPES,
        allowed_domains: Sequence[str] = (),
        rate_limit: int = DEFAULT_RATE_LIMIT,
    ) -> tuple[Key, str]:
        """Create a key, and its tenant if that is new. Returns the key and its secret, which is not stored.

        `rate_limit` is in requests a minute; 0 means no limit. Raises TenantBeingDeleted, and Unavailable.
        """
        key_id, tenant_id = new_ids(time_ns() // NS_PER_MS, 2).text
        secret = new_secret()
        with driver_errors_as_unavailable("unknown"), time_limit(Deadline()):
            found = await self._tenants.find_one_and_update(
                {"_id": tenant},
                {"$setOnInsert": {"tenant_id": UUID(tenant_id)}},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
            assert found is not None, "an upsert finds or creates it"  # noqa: S101
            if "deletion" in found:
                raise TenantBeingDeleted(tenant)
            await ensure_view(self._database, tenant, found["tenant_id"])
            document: Document = {
                "_id": key_id,
                "hash": Binary(digest(secret)),
                "tenant": tenant,
                "tenant_id": found["tenant_id"],
                "name": name,
                "scopes": list(scopes),
                "allowed_domains": list(allowed_domains),
                "rate_limit": rate_limit,
                "created_at": datetime.now(UTC),
            }
            await self._keys.insert_one(document)
            # A deletion that began meanwhile may have missed the key. Nobody has its secret yet.
            if await self._tenants.find_one({"_id": tenant, "tenant_id": found["tenant_id"], "deletion": None}) is None:
                await self._keys.delete_one({"_id": key_id})
                raise TenantBeingDeleted(tenant)
        return key_of(document), secret

    async def create_first(self, tenant: str) -> tuple[Key, str] | None:
        """Create a key if the database has none at all. Returns the key and its secret; None if it has one.

        Several processes may start at the same moment, and one of them may die here. So only the holder of a lease
        looks, and another may look when the lease has ended. Raises Unavailable.
        """
        leases, holder = Leases(self._database), secrets.token_hex(8)
        if await leases.acquire(FIRST_KEY, holder, FIRST_KEY_LEASE_S, Deadline()) is None:
            return None
        with driver_errors_as_unavailable(), time_limit(Deadline()):
            exists = await self._keys.find_one({}, {"_id": 1}) is not None
        first = None
        if not exists:
            with suppress(TenantBeingDeleted):  # it is finished once a server runs, and so this one must start
                first = await self.create(tenant)
        await leases.release(FIRST_KEY, holder, Deadline())
        return first

    async def rotate(self, key_id: str, overlap: timedelta | None = None) -> tuple[Key, str]:
        """Replace a key's secret. Returns the key and its new secret.

        The secret before stops at once, or after `overlap`. One that was replaced earlier stops at once in any case.
        Raises NotFound if the key is unknown or revoked, and Unavailable.
        """
        secret, change = new_secret(), {"previous": NONE}
        if overlap is not None:
            valid_until = {"$add": ["$$NOW", overlap // timedelta(milliseconds=1)]}
            change = {"previous": {"hash": "$hash", "valid_until": valid_until}}
        return await self._update(key_id, {"hash": Binary(digest(secret)), **change}), secret

    async def revoke(self, key_id: str) -> Key:
        """Stop a key for good, with all its secrets.

        Raises NotFound if it is unknown or revoked already, and Unavailable.
        """
        return await self._update(key_id, revocation())

    async def list(self, tenant: str | None = None) -> list[Key]:
        """All keys, or those of one tenant, oldest first. Raises Unavailable."""
        query: Document = {} if tenant is None else {"tenant": tenant}
        with driver_errors_as_unavailable(), time_limit(Deadline()):
            keys = [key_of(item) for item in await self._keys.find(query, sort=[("_id", 1)]).to_list(None)]
            in_overlap = await self._keys.find({**query, "$expr": IN_OVERLAP}, {"_id": 1}).to_list(None)
        ids = {item["_id"] for item in in_overlap}
        return [key if key.id in ids else replace(key, previous_secret_valid_until=None) for key in keys]

    async def _update(self, key_id: str, change: Document) -> Key:
        """Set fields of an active key to expressions. Returns the key as it became."""
        with driver_errors_as_unavailable("unknown"), time_limit(Deadline()):
            document = await self._keys.find_one_and_update(
                {"_id": key_id, "revoked_at": None}, [{"$set": change}], return_document=ReturnDocument.AFTER
            )
        if document is None:
            raise NotFound(f"There is no active key {key_id}: `sluice keys list` shows those there are")
        return key_of(document)


def revocation() -> Document:
    """The fields of a key that is revoked, as expressions."""
    return {"revoked_at": datetime.now(UTC), "previous": NONE}


def key_of(document: Document) -> Key:
    """The key that a document holds."""
    return Key(
        id=document["_id"],
        tenant=document["tenant"],
        tenant_id=document["tenant_id"],
        name=document["name"],
        scopes=tuple(document["scopes"]),
        allowed_domains=tuple(document["allowed_domains"]),
        rate_limit=document["rate_limit"],
        created_at=document["created_at"],
        revoked_at=document.get("revoked_at"),
        last_used_at=document.get("last_used_at"),
        previous_secret_valid_until=document.get("previous", {}).get("valid_until"),
    )
