"""The fingerprint of a batch: equal for equal batches over REST and gRPC, and different for all others.

Also records: which one counts for a key, and that tenants never share one.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sluice.v1 import event_service_pb2 as pb

from server.core.deadline import Deadline
from server.core.errors import EventError, IdempotencyConflict
from server.core.events import decode
from server.core.events.ids import Seed
from server.core.events.model import DecodedBatch
from server.core.ingest.idempotency import Idempotency, fingerprinting, record_id
from server.core.ingest.store import IdempotencyRecord
from server.core.slow_work import run_at_once
from server.core.times import format_time, from_milliseconds
from server.rpc import batches
from server.rpc.batches import UNARY, look_at_batch
from tests.unit.strategies import MILLISECONDS, NAMES, OBJECTS

TENANT, OTHER_TENANT = UUID(int=1), UUID(int=2)


class Item(NamedTuple):
    """An event, before it is written in JSON or as a message."""

    type: str
    data: dict[str, Any]
    time: int | None = None
    metadata: dict[str, Any] | None = None


class Sent(NamedTuple):
    """A batch, before it is written in JSON or as a message."""

    events: Sequence[Item]
    source: str = "s"
    source_id: str | None = None


ITEMS = st.builds(Item, NAMES, OBJECTS, st.none() | MILLISECONDS, st.none() | OBJECTS)
BATCHES = st.builds(Sent, st.lists(ITEMS, min_size=1, max_size=3), NAMES, st.none() | NAMES)
SINGLE_EVENTS = st.builds(Sent, st.tuples(ITEMS), st.just("s"), st.none())


def over_rest(sent: Sent, decode_body: Callable[[bytes], DecodedBatch | None] = decode.decode_batch) -> DecodedBatch:
    """The batch as it is decoded from JSON."""
    events = [
        {"type": item.type, "data": item.data, "metadata": item.metadata, "timestamp": text_of(item.time)}
        for item in sent.events
    ]
    batch = decode_body(json.dumps({"source": sent.source, "source_id": sent.source_id, "events": events}).encode())
    assert batch is not None
    return batch


def decode_fast(message: bytes) -> DecodedBatch | None:
    """The batch of a message as the fast path decodes it."""
    return batches.decode_fast(look_at_batch(message, UNARY))


def decode_in_steps(message: bytes) -> DecodedBatch | None:
    """The batch of a message as the slow path decodes it."""
    return run_at_once(batches.decoding(message, UNARY))


def over_grpc(sent: Sent, decode_message: Callable[[bytes], DecodedBatch | None] = decode_fast) -> DecodedBatch:
    """The batch as it is decoded from a message."""
    message = pb.EventBatch(source=sent.source, source_id=sent.source_id)
    for item in sent.events:
        event = message.events.add(type=item.type, data_json=json.dumps(item.data).encode())
        if item.metadata is not None:
            event.metadata_json = json.dumps(item.metadata).encode()
        if item.time is not None:
            event.timestamp.FromMilliseconds(item.time)
    batch = decode_message(pb.IngestEventsRequest(batch=message).SerializeToString())
    assert batch is not None
    return batch


def text_of(time: int | None) -> str | None:
    """A time in milliseconds since 1970 as text."""
    return None if time is None else format_time(from_milliseconds(time))


def fingerprint_of(batch: DecodedBatch, errors: Sequence[EventError], lenient: bool) -> bytes:
    """The fingerprint of a batch."""
    return run_at_once(fingerprinting(batch, errors, lenient))


def mark(batch: DecodedBatch, lenient: bool = False) -> bytes:
    """The fingerprint of a batch without bad events."""
    return fingerprint_of(batch, [], lenient)


@given(BATCHES)
def test_equal_over_both_protocols_and_both_paths(sent: Sent) -> None:
    decoded = [
        over_rest(sent),
        over_rest(sent, decode.decode_slowly),
        over_grpc(sent),
        over_grpc(sent, decode_in_steps),
    ]
    assert len({mark(batch) for batch in decoded}) == 1
    assert mark(decoded[0], lenient=True) != mark(decoded[0])


def canonical(sent: Sent) -> Any:
    """A batch in a form that is equal only for equal batches: 1, 1.0 and True differ, and key order does not count."""
    return json.dumps(sent, sort_keys=True)


@given(SINGLE_EVENTS, SINGLE_EVENTS)
def test_different_for_other_batches(one: Sent, other: Sent) -> None:
    assume(canonical(one) != canonical(other))
    assert mark(over_rest(one)) != mark(over_grpc(other))


ITEM = Item("a", {"n": 1, "o": {"x": [1.5, True, None], "y": "é"}}, 1_000, {"m": 1})

CHANGES: dict[str, Sent] = {
    "source": Sent([ITEM], source="t"),
    "source_id": Sent([ITEM], source_id=""),
    "type": Sent([ITEM._replace(type="b")]),
    "time": Sent([ITEM._replace(time=1_001)]),
    "no time": Sent([ITEM._replace(time=None)]),
    "metadata": Sent([ITEM._replace(metadata={})]),
    "no metadata": Sent([ITEM._replace(metadata=None)]),
    "1.0 for 1": Sent([ITEM._replace(data={**ITEM.data, "n": 1.0})]),
    "true for 1": Sent([ITEM._replace(data={**ITEM.data, "n": True})]),
    "1 for true": Sent([ITEM._replace(data={**ITEM.data, "o": {"x": [1.5, 1, None], "y": "é"}})]),
    "order in a list": Sent([ITEM._replace(data={**ITEM.data, "o": {"x": [True, 1.5, None], "y": "é"}})]),
    "null for nothing": Sent([ITEM._replace(data={**ITEM.data, "z": None})]),
    "data and metadata swapped": Sent([ITEM._replace(data=ITEM.metadata or {}, metadata=ITEM.data)]),
    "one more": Sent([ITEM, ITEM]),
}


@pytest.mark.parametrize("other", CHANGES.values(), ids=CHANGES)
def test_any_change_makes_another_batch(other: Sent) -> None:
    assert mark(over_rest(other)) != mark(over_rest(Sent([ITEM])))


def test_the_order_of_events_counts_and_the_order_of_keys_does_not() -> None:
    one, other = ITEM, ITEM._replace(type="b")
    assert mark(over_rest(Sent([one, other]))) != mark(over_rest(Sent([other, one])))
    turned = ITEM._replace(data=dict(reversed(ITEM.data.items())))
    assert mark(over_rest(Sent([turned]))) == mark(over_rest(Sent([ITEM])))


def test_bad_events_count_by_the_path_of_what_is_wrong() -> None:
    batch = over_rest(Sent([ITEM, ITEM._replace(type="b")]))
    errors = [EventError(1, "events[1].data", "as REST says it")]
    same = [EventError(1, "events[1].data", "as gRPC says it")]
    elsewhere = [EventError(1, "events[1].type", "as REST says it")]
    other_event = over_grpc(Sent([ITEM, ITEM._replace(type="c")]))  # a bad event: its value does not count
    assert fingerprint_of(batch, errors, True) == fingerprint_of(other_event, same, True)
    assert fingerprint_of(batch, errors, True) != fingerprint_of(batch, elsewhere, True)
    assert fingerprint_of(batch, errors, True) != fingerprint_of(batch, [], True)


FIRST_MARK = "80e8197ef92f45232f1f4396103d53849a192102bade1d601b32accfa86a4f0f"
FIRST_ID = "2c1e04f55e05d3d35fa852e2fc2ffbb2b3e30ac724f5362ab380697cb39ddb0c"
"""As the first release of idempotency keys made them."""


def test_the_fingerprint_never_changes() -> None:
    """Records outlive the release that made them: another value here would turn their replays into conflicts."""
    batch = over_rest(Sent([ITEM], source_id="7"))
    assert mark(batch).hex() == FIRST_MARK
    assert record_id(TENANT, "key").hex() == FIRST_ID


@given(st.text(min_size=1), st.text(min_size=1))
def test_record_ids(one: str, other: str) -> None:
    one, other = one.encode("utf-8", "ignore").decode(), other.encode("utf-8", "ignore").decode()
    assert record_id(TENANT, one) != record_id(OTHER_TENANT, one)
    assert (record_id(TENANT, one) == record_id(TENANT, other)) == (one == other)


class Records:
    """A store of records in memory."""

    def __init__(self) -> None:
        self.stored: dict[bytes, IdempotencyRecord] = {}

    async def put(self, records: Sequence[IdempotencyRecord], _deadline: Deadline) -> list[IdempotencyRecord]:
        return [self.stored.setdefault(record.id, record) for record in records]

    async def replace(
        self, record: IdempotencyRecord, new: IdempotencyRecord, _deadline: Deadline
    ) -> IdempotencyRecord | None:
        if self.stored.get(record.id) == record:
            self.stored[record.id] = new
        return self.stored.get(record.id)

    async def remove(self, record: IdempotencyRecord, _deadline: Deadline) -> None:
        self.stored.pop(record.id, None)


async def remove_events(_tenant_id: UUID, _ids: Sequence[bytes], _deadline: Deadline) -> None:
    """Nothing is stored."""


def test_the_first_record_of_a_key_counts() -> None:
    def record(fingerprint: bytes, random: int) -> IdempotencyRecord:
        return IdempotencyRecord(b"id", TENANT, fingerprint, Seed(1, random))

    async def scenario() -> None:
        find = Idempotency(Records(), remove_events)
        first = record(b"mark", 1)
        assert await find(first, Deadline()) == first
        assert await find(record(b"mark", 2), Deadline()) == first
        with pytest.raises(IdempotencyConflict):
            await find(record(b"other mark", 3), Deadline())

    asyncio.run(scenario())
