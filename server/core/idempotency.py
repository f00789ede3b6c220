"""Idempotency: a batch sent again under its key is stored once, with the same receipt. Imports the rest of the core.

The first batch under a key leaves a claim: the fingerprint of what was sent, and the seed of its ids. The claim is
safe on a majority before any of the events is written, and never changes. Every repeat, on whichever worker or host,
finds it, so it makes the same ids, stores what is missing of its events and nothing twice.
"""

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol
from uuid import UUID

import msgspec

from server.core.deadline import Deadline
from server.core.errors import IdempotencyConflict, InvalidHeader, Problem
from server.core.events import Candidate
from server.core.ids import Seed
from server.core.merge import Merged

MAX_IDEMPOTENCY_KEY_CHARS = 255
"""Enough for any id that callers have, such as a path and an offset; it is hashed, so its length costs nothing."""

VISIBLE = re.compile(rf"[\x21-\x7e]{{1,{MAX_IDEMPOTENCY_KEY_CHARS}}}")

GROUPS_AT_ONCE = 2
"""Groups of claims under way: one is written to the journal while the database takes in the next."""

encode_canonically = msgspec.json.Encoder(order="deterministic").encode
"""Equal values give equal bytes: keys sorted, 1 and 1.0 apart."""


class Claim(NamedTuple):
    """What a key of a tenant stands for. It holds neither the key nor anything of the events."""

    id: bytes
    """The same for every request with the tenant's key."""
    tenant_id: UUID
    fingerprint: bytes
    seed: Seed
    """New with each request: what makes one claim differ from another of the same batch."""


class ClaimStore(Protocol):
    """Where claims are kept."""

    async def put(self, claims: Sequence[Claim], deadline: Deadline) -> list[Claim]:
        """Keep each claim, unless there is one with its id. Returns, for each, the one that is kept.

        All of these are safe on disk on a majority. Raises Unavailable where that is not certain.
        """


class Claims:
    """Claims in `store`; those of requests that wait at the same time are put together."""

    def __init__(self, store: ClaimStore) -> None:
        self._store = store
        self._put = Merged(self._put_all, at_once=GROUPS_AT_ONCE)

    async def __call__(self, claim: Claim, deadline: Deadline) -> Claim:
        """The claim that holds for the key: `claim` itself where it is the first.

        Raises IdempotencyConflict where that is of another batch, and Unavailable.
        """
        held = await self._put(claim, deadline)
        if held.fingerprint != claim.fingerprint:
            raise IdempotencyConflict
        return held

    async def _put_all(self, claims: Sequence[Claim]) -> list[Claim]:
        return await self._store.put(claims, Deadline())


def parse_idempotency_key(keys: Sequence[str]) -> str | None:
    """The key; None where there is none. Raises InvalidHeader for anything but one of 1 to 255 visible characters."""
    if len(keys) > 1 or not all(map(VISIBLE.fullmatch, keys)):
        raise InvalidHeader(f"Idempotency-Key: one of 1 to {MAX_IDEMPOTENCY_KEY_CHARS} visible ASCII characters")
    return keys[0] if keys else None


def claim_id(tenant_id: UUID, key: str) -> bytes:
    """The id of the claim on a tenant's key: tenants have name spaces of their own, which protocols share."""
    return sha256(tenant_id.bytes + key.encode()).digest()


def fingerprint(batch: Candidate, problems: Sequence[Problem], lenient: bool) -> bytes:
    """A hash that is equal for equal batches in the same handling, over either protocol.

    Good events count by their values, a timestamp by the moment it names; of bad ones, which the protocols hold in
    different forms, where they are wrong counts. What goes into it must not change: claims outlive the release that
    made them.
    """
    bad = {problem.index for problem in problems}
    wrong = [(problem.index, problem.path) for problem in sorted(problems)]
    digest = sha256(encode_canonically([batch.source, batch.source_id, lenient, wrong]))
    for index, event, time in zip(batch.indexes, batch.events, batch.times, strict=True):
        if index not in bad:
            digest.update(encode_canonically(msgspec.structs.replace(event, timestamp=time)))
    return digest.digest()
