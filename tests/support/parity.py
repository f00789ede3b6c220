"""Sends one batch over REST, a unary call or a stream, and returns the outcome in a form common to all three."""

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import grpc
import httpx
from google.protobuf import json_format, struct_pb2, timestamp_pb2
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import TIMEOUT_S, Metadata, Stream, channel_to, details_of, metadata, stub_of
from tests.support.harness import Json, MongoClient, Server
from tests.support.values import RAW

EVENTS = "/api/v1/events"

AWARE = RAW.with_options(tz_aware=True)

MAX_TRAILER_BYTES = 4096

STATUSES = {
    "malformed_json": (400, "INVALID_ARGUMENT"),
    "invalid_batch": (400, "INVALID_ARGUMENT"),
    "invalid_header": (400, "INVALID_ARGUMENT"),
    "unauthenticated": (401, "UNAUTHENTICATED"),
    "insufficient_scope": (403, "PERMISSION_DENIED"),
    "payload_too_large": (413, "INVALID_ARGUMENT"),
    "idempotency_conflict": (422, "ALREADY_EXISTS"),
    "unavailable": (503, "UNAVAILABLE"),
}
"""HTTP and gRPC status of each code that both protocols have."""

PREFERENCES = {pb.HANDLING_STRICT: "strict", pb.HANDLING_LENIENT: "lenient", 7: "bogus"}


class Event(NamedTuple):
    """An event: `data` and `metadata` as JSON text, `time` as text and as seconds and nanoseconds."""

    data: str | None = "{}"
    metadata: str | None = None
    time: tuple[str, int, int] | None = None
    type: str = "purchase"

    def text(self) -> str:
        """The event in JSON."""
        fields = {"type": json.dumps(self.type), "data": self.data, "metadata": self.metadata}
        fields["timestamp"] = json.dumps(self.time[0]) if self.time else None
        return "{" + ",".join(f'"{name}":{text}' for name, text in fields.items() if text is not None) + "}"

    def message(self, as_struct: bool) -> pb.Event:
        """The event as a message."""
        event = pb.Event(type=self.type, metadata_json=(self.metadata or "").encode())
        if as_struct:
            event.data.CopyFrom(json_format.Parse(self.data or "", struct_pb2.Struct()))
        elif self.data is not None:
            event.data_json = self.data.encode()
        if self.time:
            event.timestamp.CopyFrom(timestamp_pb2.Timestamp(seconds=self.time[1], nanos=self.time[2]))
        return event


class Case(NamedTuple):
    """A batch and its outcome: the `code` if it is rejected, and the `paths` of its bad events."""

    events: Sequence[Event] = (Event(),)
    code: str | None = None
    paths: Sequence[str] = ()
    source: str = "backend"
    source_id: str | None = None
    handling: int = pb.HANDLING_UNSPECIFIED
    idempotency_key: str = ""
    as_struct: bool = False
    """Whether to send it with a Struct too. What is stored then has equal values, but not equal types."""
    same_detail: bool = True
    """Whether the details are the same. They differ if one names what only one protocol has, such as a header."""

    def body(self) -> bytes:
        """The batch in JSON."""
        source_id = "" if self.source_id is None else f'"source_id":{json.dumps(self.source_id)},'
        events = ",".join(event.text() for event in self.events)
        return f'{{"source":{json.dumps(self.source)},{source_id}"events":[{events}]}}'.encode()

    def headers(self) -> dict[str, str]:
        """The headers over REST."""
        headers = {"Content-Type": "application/json"}
        if self.handling:
            headers["Prefer"] = f"handling={PREFERENCES[self.handling]}"
        if self.idempotency_key:
            headers["Idempotency-Key"] = self.idempotency_key
        return headers

    def message(self, as_struct: bool = False) -> pb.EventBatch:
        """The batch as a message."""
        return pb.EventBatch(
            source=self.source,
            source_id=self.source_id,
            events=[event.message(as_struct) for event in self.events],
            handling=self.handling,  # type: ignore[arg-type]  # also a number that is no handling
            idempotency_key=self.idempotency_key,
        )


class Stored(NamedTuple):
    """A receipt. `received_at` is to the second over REST, and to the millisecond over gRPC."""

    ids: list[str]
    tenant_id: str
    source: str
    received_at: datetime
    rejections: list[tuple[str, str]]


class Rejected(NamedTuple):
    """An error."""

    code: str
    grpc: str
    detail: str
    violations: list[tuple[str, str]]
    retry_s: int | None = None
    outcome: str | None = None


Outcome = Stored | Rejected


def by_rest(client: httpx.Client, case: Case) -> Outcome:
    """The outcome of a case in a POST."""
    response = client.post(EVENTS, content=case.body(), headers=case.headers())
    body = response.json()
    errors = [(error["path"], error["message"]) for error in body.get("errors", [])]
    if response.status_code != 201:
        http, grpc_code = STATUSES[body["code"]]
        assert response.status_code == http
        retry_s = int(response.headers["Retry-After"]) if "Retry-After" in response.headers else None
        return Rejected(body["code"], grpc_code, body["detail"], errors, retry_s, body.get("outcome"))
    events = body["events"]
    assert body["events_received"] == len(events)
    ((tenant_id, source, received_at),) = {(item["tenant_id"], item["source"], item["received_at"]) for item in events}
    time = datetime.fromisoformat(received_at).replace(tzinfo=UTC)
    return Stored([item["id"] for item in events], tenant_id, source, time, errors)


def by_unary(channel: grpc.Channel, secret: str | Metadata | None, batch: pb.EventBatch) -> Outcome:
    """The outcome of a batch in a unary call."""
    try:
        response = stub_of(channel).IngestEvents(
            pb.IngestEventsRequest(batch=batch), metadata=metadata(secret), timeout=TIMEOUT_S
        )
    except grpc.RpcError as error:
        return error_of(status_from(error))
    return receipt_of(response.receipt)


def by_stream(channel: grpc.Channel, secret: str | Metadata | None, batch: pb.EventBatch) -> Outcome:
    """The outcome of a batch on a stream. Fails if a good batch after it is not stored, unless the stream ended."""
    with Stream(channel, secret) as stream:
        stream.send(2**64 - 1, batch)
        stream.send(0, pb.EventBatch(source=AFTER, events=[Event().message(as_struct=False)]))
        stream.half_close()
        try:
            response, after = stream.call
        except grpc.RpcError as error:
            return error_of(status_from(error))
    assert (response.sequence, after.sequence) == (2**64 - 1, 0)
    assert after.receipt.events_received == 1
    return outcome_of(response)


AFTER = "after"
"""The source of the good batch that `by_stream` adds."""


def outcome_of(response: pb.StreamEventsResponse) -> Outcome:
    """The outcome that a response on a stream says."""
    return receipt_of(response.receipt) if response.HasField("receipt") else error_of(response.error)


def receipt_of(message: pb.Receipt) -> Stored:
    """A receipt over gRPC in the common form."""
    assert message.events_received == len(message.event_ids)
    assert not message.replayed
    for rejection in message.rejections:
        assert rejection.path.startswith(f"events[{rejection.index}]")
    rejections = [(item.path, item.message) for item in message.rejections]
    time = message.received_at.ToDatetime(UTC)
    return Stored(list(message.event_ids), message.tenant_id, message.source, time, rejections)


def error_of(status: status_pb2.Status) -> Rejected:
    """An error over gRPC in the common form."""
    details = details_of(status)
    info = details["ErrorInfo"]
    assert info.reason == info.reason.upper()
    bad = details["BadRequest"].field_violations if "BadRequest" in details else []
    return Rejected(
        info.reason.lower(),
        code_pb2.Code.Name(status.code),
        status.message,
        [(item.field, item.description) for item in bad],
        details["RetryInfo"].retry_delay.seconds if "RetryInfo" in details else None,
        info.metadata.get("outcome"),
    )


def status_from(error: grpc.RpcError) -> status_pb2.Status:
    """The status with which a call ended. Fails if it is too large for trailers."""
    assert isinstance(error, grpc.Call)
    status: status_pb2.Status | None = rpc_status.from_call(error)
    assert status is not None, error
    assert status.ByteSize() <= MAX_TRAILER_BYTES
    return status


def by_all(server: Server, secret: str | None) -> list[Outcome]:
    """The outcomes of a good batch with a key, over all three protocols."""
    with server.client(secret) as client, channel_to(server.grpc) as channel:
        batch = Case().message()
        return [by_rest(client, Case()), by_unary(channel, secret, batch), by_stream(channel, secret, batch)]


def take_stored(mongo: MongoClient, key: Json) -> list[Json]:
    """Remove the tenant's documents. Returns them, without those of the good batch that `by_stream` adds."""
    events = mongo.sluice.events
    tenant = {"_id.tenant_id": uuid.UUID(key["tenant_id"])}
    found = list(events.with_options(AWARE).find({**tenant, "source": {"$ne": AFTER}}).sort("_id"))
    events.delete_many(tenant)
    return found
