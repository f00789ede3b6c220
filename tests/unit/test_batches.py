"""The batch of a message: small and large ones are the same, and no bytes cost much."""

import pytest
from sluice.v1 import event_service_pb2 as pb

from server.core.errors import EventError, InvalidBatch
from server.core.events.decode import MIN_HEAVY_BYTES
from server.core.slow_work import run_at_once
from server.rpc.batches import STREAMED, UNARY, MessageKind, decode_fast, decoding, look_at_batch
from server.rpc.wire import MAX_FIELDS
from tests.support.messages import field

SPACES = b" " * MIN_HEAVY_BYTES
"""White space that makes a message a large one."""


SOURCE = field(1, b"s")
EVENT = field(3, field(1, b"a") + field(2, b"{}"))
LARGE_EVENT = field(3, field(1, b"a") + field(2, b"{" + SPACES + b"}"))
UNKNOWN = b"\x78\x00"

MALFORMED = {
    "too many fields": field(1, SOURCE + LARGE_EVENT + UNKNOWN * MAX_FIELDS),
    "too many fields in all": field(1, UNKNOWN * 1_000) * 1_000,
    "too many fields in events": field(1, SOURCE + field(3, field(1, b"a") + UNKNOWN * 1_100) * 1_000),
    "tag of six bytes": field(1, SOURCE + LARGE_EVENT) + b"\xfa\x80\x80\x80\x80\x01\x00",
    "field number too large": field(1, SOURCE + LARGE_EVENT) + b"\x80\x80\x80\x80\x10\x00",
    "no end": field(1, SOURCE + LARGE_EVENT)[:-1],
    "field 0": field(1, SOURCE + LARGE_EVENT) + b"\x00\x00",
    "source that is no text": field(1, field(1, b"\xff") + LARGE_EVENT),
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED)
def test_large_messages_that_are_malformed(message: bytes) -> None:
    with pytest.raises(InvalidBatch, match=r"^The message is not a sluice\.v1\.IngestEventsRequest$"):
        run_at_once(decoding(look_at_batch(message, UNARY).message, UNARY))


@pytest.mark.parametrize("kind", [UNARY, STREAMED], ids=["unary", "streamed"])
@pytest.mark.parametrize("large", [b"", LARGE_EVENT], ids=["small", "large"])
def test_a_batch_in_several_parts(kind: MessageKind, large: bytes) -> None:
    number = 1 if kind is UNARY else 2
    parts = field(number, EVENT + UNKNOWN) + field(number, large + SOURCE) + field(number, EVENT + field(2, b"id"))
    sequence = b"" if kind is UNARY else b"\x08\x07"
    received = look_at_batch(parts + sequence, kind)
    assert received.sequence == (None if kind is UNARY else 7)
    assert received.event_count == (3 if large else 2)
    fast, slow = decode_fast(received), run_at_once(decoding(received.message, kind))
    assert fast is not None
    assert list(fast.events) == list(slow.events)
    assert (slow.source, slow.source_id, len(slow.events)) == ("s", "id", received.event_count)


def test_values_of_a_struct_are_counted_before_they_are_made() -> None:
    lists = field(1, b"\x32\x00") * 349_000
    struct = field(1, field(1, b"a") + field(2, field(6, lists)))
    message = field(1, SOURCE + field(3, field(1, b"a") + field(3, struct)))
    received = look_at_batch(message, UNARY)
    assert decode_fast(received) is None
    slow = run_at_once(decoding(message, UNARY))
    assert slow.errors == [EventError(0, "events[0]", "More than 1048576 bytes as BSON")]
    assert pb.IngestEventsRequest.FromString(message).batch.source == "s"
