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


class Answer(NamedTuple):
    """A receipt as far as both protocols have it: REST says seconds."""

    ids: list[str]
    tenant_id: str
    source: str
    received_at: datetime
    errors: list[tuple[str, str]]
    replayed: bool

    @property
    def receipt(self) -> "Answer":
        """All of it but the mark of a replay."""
        return self._replace(replayed=False)


class Caller:
    """One tenant's caller of one host, with connections of its own."""

    def __init__(self, server: Server, key: Json) -> None:
        self.server = server
        self.secret: str = key["key"]
        self._stack = ExitStack()
        self.client = self._stack.enter_context(server.client(self.secret))
        self.channel = self._stack.enter_context(channel_to(server.grpc))

    def __enter__(self) -> "Caller":
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

    def rest(self, sent: Json | str, key: str | None, lenient: bool = False) -> Answer | str:
        """What a POST gets: a receipt, or the code of an error."""
        return answer_of(self.post(sent, key, lenient))

    def unary(self, sent: Json, key: str | None, lenient: bool = False) -> Answer | str:
        """What a unary call gets."""
        request = pb.IngestEventsRequest(batch=message_of(sent, key, lenient))
        try:
            done = stub_of(self.channel).IngestEvents(request, metadata=metadata(self.secret), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return code_for(reason_of(error), code_of(error) == grpc.StatusCode.ALREADY_EXISTS)
        return answer_of_message(done.receipt)

    def stream(self, sent: Json, key: str | None, lenient: bool = False) -> Answer | str:
        """What a batch on a stream gets."""
        with Stream(self.channel, self.secret) as stream:
            stream.send(1, message_of(sent, key, lenient))
            return answer_of_response(stream.receive())


WAYS: dict[str, Callable[..., Answer | str]] = {"REST": Caller.rest, "unary": Caller.unary, "stream": Caller.stream}


def answer_of(response: httpx.Response) -> Answer | str:
    """What a response says."""
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
    return Answer(
        [item["id"] for item in events],
        tenant_id,
        source,
        datetime.fromisoformat(received_at).replace(tzinfo=UTC),
        [(item["path"], item["message"]) for item in body.get("errors", [])],
        "Idempotent-Replayed" in response.headers,
    )


def answer_of_message(receipt: pb.Receipt) -> Answer:
    """What a receipt over gRPC says."""
    return Answer(
        list(receipt.event_ids),
        receipt.tenant_id,
        receipt.source,
        receipt.received_at.ToDatetime(UTC).replace(microsecond=0),
        [(item.path, item.message) for item in receipt.rejections],
        receipt.replayed,
    )


def answer_of_response(response: pb.StreamEventsResponse) -> Answer | str:
    """What a response on a stream says."""
    if response.HasField("receipt"):
        return answer_of_message(response.receipt)
    return code_for(reason_of(response.error), response.error.code == code_pb2.ALREADY_EXISTS)


def code_for(reason: str, already_exists: bool) -> str:
    """The code of an error over gRPC, whose status fits it."""
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


def good(answer: Answer | str, replayed: bool) -> Answer:
    """The receipt, which it must be, with or without the mark of a replay."""
    assert isinstance(answer, Answer), answer
    assert answer.replayed is replayed
    return answer.receipt


def one_receipt(answers: Sequence[Answer | str], ids: list[str]) -> None:
    """All answers are the same receipt, of these ids, and one alone is not marked as a replay."""
    assert all(isinstance(answer, Answer) for answer in answers), Counter(map(str, answers))
    receipts = [answer for answer in answers if isinstance(answer, Answer)]
    assert receipts[0].ids == ids
    assert {repr(answer.receipt) for answer in receipts} == {repr(receipts[0].receipt)}
    assert [answer.replayed for answer in receipts].count(False) == 1


def at_once(calls: Sequence[Callable[[], Answer | str]]) -> list[Answer | str]:
    """What the calls get, all made at the same moment."""
    barrier = Barrier(len(calls))

    def wait_and(call: Callable[[], Answer | str]) -> Answer | str:
        barrier.wait(TIMEOUT_S)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(wait_and, calls))


def new_key() -> str:
    return secrets.token_hex(8)


def stored(mongo: MongoClient, key: Json) -> list[Json]:
    """What is stored for the tenant, by id."""
    return list(mongo.sluice.events.find({"tenant_id": uuid.UUID(key["tenant_id"])}, sort=[("_id", 1)]))


def stored_ids(mongo: MongoClient, key: Json) -> list[str]:
    return [str(item["_id"]) for item in stored(mongo, key)]


def claims(mongo: MongoClient, key: Json) -> list[Json]:
    """The claims of the tenant."""
    return list(mongo.sluice.claims.find({"tenant_id": uuid.UUID(key["tenant_id"])}))
