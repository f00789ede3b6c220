"""Clients that send a batch under an idempotency key over every protocol, and what they get."""

import json
import secrets
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from threading import Barrier
from typing import NamedTuple

import grpc
import httpx
from google.rpc import code_pb2
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import TIMEOUT_S, Stream, channel_to, code_of, metadata, reason_of, stub_of
from tests.support.harness import Json, MongoClient, Server

EVENTS = "/api/v1/events"

CONFLICT = "idempotency_conflict"

JSON_TYPE = {"Content-Type": "application/json"}


class Receipt(NamedTuple):
    """A receipt as both protocols have it: to the second, since REST says no more."""

    ids: list[str]
    tenant_id: str
    source: str
    received_at: datetime
    errors: list[tuple[str, str]]
    replayed: bool

    @property
    def unmarked(self) -> "Receipt":
        """The receipt without the mark of a replay."""
        return self._replace(replayed=False)


class TenantClient:
    """One tenant's client of one host, with connections of its own."""

    def __init__(self, server: Server, key: Json) -> None:
        self.server = server
        self.secret: str = key["key"]
        self._stack = ExitStack()
        self.client = self._stack.enter_context(server.client(self.secret))
        self.channel = self._stack.enter_context(channel_to(server.grpc))

    def __enter__(self) -> "TenantClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def post(self, sent: Json | str, key: str | None, lenient: bool = False) -> httpx.Response:
        """POST a batch, which may be JSON as text."""
        headers = {**JSON_TYPE, **({"Prefer": "handling=lenient"} if lenient else {})}
        content = sent if isinstance(sent, str) else json.dumps(sent)
        return self.client.post(
            EVENTS, content=content, headers={**headers, **({} if key is None else {"Idempotency-Key": key})}
        )

    def rest(self, sent: Json | str, key: str | None, lenient: bool = False) -> Receipt | str:
        """Post a batch. Returns its receipt, or the code of an error."""
        return result_of_rest(self.post(sent, key, lenient))

    def unary(self, sent: Json, key: str | None, lenient: bool = False) -> Receipt | str:
        """Send a batch in a unary call. Returns its receipt, or the code of an error."""
        request = pb.IngestEventsRequest(batch=message_of(sent, key, lenient))
        try:
            done = stub_of(self.channel).IngestEvents(request, metadata=metadata(self.secret), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return code_for(reason_of(error), code_of(error) == grpc.StatusCode.ALREADY_EXISTS)
        return receipt_of_message(done.receipt)

    def stream(self, sent: Json, key: str | None, lenient: bool = False) -> Receipt | str:
        """Send a batch on a stream. Returns its receipt, or the code of an error."""
        with Stream(self.channel, self.secret) as stream:
            stream.send(1, message_of(sent, key, lenient))
            return result_of_stream(stream.receive())


PROTOCOLS: dict[str, Callable[..., Receipt | str]] = {
    "REST": TenantClient.rest,
    "unary": TenantClient.unary,
    "stream": TenantClient.stream,
}


def result_of_rest(response: httpx.Response) -> Receipt | str:
    """The receipt in a response over REST, or the code of the error."""
    body = response.json()
    if response.status_code != 201:
        code: str = body["code"]
        assert (response.status_code == 422) == (code == CONFLICT)
        assert "Idempotent-Replayed" not in response.headers
        return code
    assert response.headers.get("Idempotent-Replayed") in {None, "true"}
    events = body["events"]
    assert body["events_received"] == len(events)
    ((tenant_id, source, received_at),) = {(item["tenant_id"], item["source"], item["received_at"]) for item in events}
    return Receipt(
        [item["id"] for item in events],
        tenant_id,
        source,
        datetime.fromisoformat(received_at).replace(tzinfo=UTC),
        [(item["path"], item["message"]) for item in body.get("errors", [])],
        "Idempotent-Replayed" in response.headers,
    )


def receipt_of_message(receipt: pb.Receipt) -> Receipt:
    """A receipt over gRPC in the common form."""
    return Receipt(
        list(receipt.event_ids),
        receipt.tenant_id,
        receipt.source,
        receipt.received_at.ToDatetime(UTC).replace(microsecond=0),
        [(item.path, item.message) for item in receipt.rejections],
        receipt.replayed,
    )


def result_of_stream(response: pb.StreamEventsResponse) -> Receipt | str:
    """The receipt in a response on a stream, or the code of the error."""
    if response.HasField("receipt"):
        return receipt_of_message(response.receipt)
    return code_for(reason_of(response.error), response.error.code == code_pb2.ALREADY_EXISTS)


def code_for(reason: str, already_exists: bool) -> str:
    """The code of an error over gRPC. Fails if its status does not go with it."""
    assert already_exists == (reason == CONFLICT.upper())
    return reason.lower()


def message_of(sent: Json, key: str | None, lenient: bool = False) -> pb.EventBatch:
    """A batch as a message."""
    handling = pb.HANDLING_LENIENT if lenient else pb.HANDLING_UNSPECIFIED
    message = pb.EventBatch(source=sent["source"], source_id=sent.get("source_id"), handling=handling)
    message.idempotency_key = key or ""
    for item in sent["events"]:
        added = message.events.add(type=item["type"], data_json=json.dumps(item["data"]).encode())
        if item.get("metadata") is not None:
            added.metadata_json = json.dumps(item["metadata"]).encode()
        if item.get("timestamp") is not None:
            added.timestamp.FromDatetime(datetime.fromisoformat(item["timestamp"]))
    return message


def expect_receipt(result: Receipt | str, replayed: bool) -> Receipt:
    """The receipt without the mark of a replay. Fails if it is none, or if the mark is not `replayed`."""
    assert isinstance(result, Receipt), result
    assert result.replayed is replayed
    return result.unmarked


def check_one_receipt(results: Sequence[Receipt | str], ids: list[str]) -> None:
    """All results are the same receipt, with these ids, and all but one are marked as replays."""
    assert all(isinstance(result, Receipt) for result in results), Counter(map(str, results))
    receipts = [result for result in results if isinstance(result, Receipt)]
    assert receipts[0].ids == ids
    assert {repr(receipt.unmarked) for receipt in receipts} == {repr(receipts[0].unmarked)}
    assert [receipt.replayed for receipt in receipts].count(False) == 1


def at_once(calls: Sequence[Callable[[], Receipt | str]]) -> list[Receipt | str]:
    """The results of the calls, which are made at the same time."""
    barrier = Barrier(len(calls))

    def wait_and(call: Callable[[], Receipt | str]) -> Receipt | str:
        barrier.wait(TIMEOUT_S)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(wait_and, calls))


def new_key() -> str:
    return secrets.token_hex(8)


def stored(mongo: MongoClient, key: Json) -> list[Json]:
    """The documents of the tenant, by id."""
    return list(mongo.sluice.events.find({"_id.tenant_id": uuid.UUID(key["tenant_id"])}, sort=[("_id", 1)]))


def stored_ids(mongo: MongoClient, key: Json) -> list[str]:
    return [str(item["_id"]["id"]) for item in stored(mongo, key)]


def records(mongo: MongoClient, key: Json) -> list[Json]:
    """The idempotency records of the tenant."""
    return list(mongo.sluice.claims.find({"tenant_id": uuid.UUID(key["tenant_id"])}))
