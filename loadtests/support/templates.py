"""Bodies made in advance, into which only the marks of the events are written before each request.

Making a batch of 1,000 events takes longer than the server needs to store it. Writing 16 digits into each event takes
much less.
"""

from random import Random

from sluice.v1 import event_service_pb2 as pb

from loadtests.support.payloads import encode, make_events
from loadtests.support.plan import Lane

BLANK = 9_999_999_999_999_999
"""Stands for a mark in a template. It has as many digits as every mark, and occurs nowhere else."""

KEY_PREFIX = "loadtest-"
"""The start of an idempotency key. The mark of the batch's first event follows."""


class Template:
    """The body of a lane's batches of one size: JSON for REST, an `EventBatch` for gRPC."""

    def __init__(self, lane: Lane, size: int) -> None:
        events = make_events(Random(lane.number), size)
        for event in events:
            event["data"]["n"] = BLANK
        if lane.flaw == "event":
            events[size // 2]["data"] = [BLANK]  # not an object, and the rest of the batch is good
        self._size = size
        if lane.api == "rest":
            body = encode({"source": lane.source, "events": events})
        else:
            batch = pb.EventBatch(source=lane.source, idempotency_key=f"{KEY_PREFIX}{BLANK}" if lane.repeated else "")
            for event in events:
                added = batch.events.add(
                    type=event["type"], data_json=encode(event["data"]), metadata_json=encode(event["metadata"])
                )
                added.timestamp.FromJsonString(event["timestamp"])
            body = batch.SerializeToString()
        if lane.flaw == "json":
            body = body[:-1]
        self._parts = body.split(str(BLANK).encode())

    def fill(self, first_mark: int) -> bytes:
        """Return the body with marks from `first_mark` on."""
        marks = [b"%d" % mark for mark in range(first_mark, first_mark + self._size)]
        if len(self._parts) > self._size + 1:
            marks.append(b"%d" % first_mark)  # in the idempotency key, which comes after the events
        filled = [self._parts[0]]
        for mark, part in zip(marks, self._parts[1:], strict=True):
            filled += (mark, part)
        return b"".join(filled)


def idempotency_key(first_mark: int) -> str:
    """Return the idempotency key of a batch, given the mark of its first event."""
    return f"{KEY_PREFIX}{first_mark}"
