"""A batch that is rejected is listed in the same way, whichever protocol brought it."""

from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from sluice.v1 import event_service_pb2 as pb

from tests.support.activity import rejections
from tests.support.grpc_client import code_of
from tests.support.harness import Json, Server, sluice
from tests.support.parity import Case, Event, by_rest, by_stream, by_unary

CASES = {
    "bad events": Case([Event(), Event("[]"), Event('{"a": 1e999}')], "invalid_batch"),
    "lenient, one bad": Case([Event(), Event("[]")], None, handling=pb.HANDLING_LENIENT),
    "lenient, none good": Case([Event("[]")] * 9, "invalid_batch", handling=pb.HANDLING_LENIENT),
    "no events": Case([], "invalid_batch"),
    "no source": Case(source="", code="invalid_batch"),
    "too many events": Case([Event()] * 1_001, "invalid_batch"),
    "a bad idempotency key": Case(code="invalid_header", idempotency_key="a b", same_detail=False),
    "too large": Case([Event(f'{{"a": "{"x" * 1_000_000}"}}')] * 11, "payload_too_large", same_detail=False),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_parity(server: Server, channel: grpc.Channel, case: Case, request: pytest.FixtureRequest) -> None:
    key = server.create_key(f"parity {request.node.callspec.id}".replace(" ", "-"), "--rate-limit", "0")
    with server.client(key["key"]) as client:
        by_rest(client, case)
        by_unary(channel, key["key"], case.message())
        by_stream(channel, key["key"], case.message())
        listed = rejections(client, 3)
    assert [item["protocol"] for item in listed] == ["grpc", "grpc", "rest"]
    assert {item["code"] for item in listed} == {case.code or "invalid_batch"}
    assert {item["key_id"] for item in listed} == {key["id"]}
    assert all(item["size"] is None or item["size"] > 10 for item in listed)
    first, *others = ((item["detail"] if case.same_detail else "", item["errors"]) for item in listed)
    assert others == [first, first]


def test_a_stream_that_is_not_opened_is_listed(server: Server, channel: grpc.Channel) -> None:
    reader: Json = server.create_key("parity-stream-opening", "--scope", "events:read", "--rate-limit", "0")
    by_stream(channel, reader["key"], Case().message())
    with server.client(reader["key"]) as reading:
        (found,) = rejections(reading, 1)
    assert (found["protocol"], found["code"]) == ("grpc", "insufficient_scope")


def test_a_batch_that_is_no_message_is_listed(server: Server, channel: grpc.Channel) -> None:
    """It is rejected before it is admitted, so its key is looked up for the list. One that was revoked ends the
    stream.
    """
    key = server.create_key("parity-no-message", "--rate-limit", "0")
    other = server.create_key("parity-no-message", "--rate-limit", "0")
    good = pb.StreamEventsRequest(sequence=1, batch=pb.EventBatch(source="??")).SerializeToString()
    sent: SimpleQueue[bytes] = SimpleQueue()
    call: Any = channel.stream_stream("/sluice.v1.EventService/StreamEvents")
    responses = call(iter(sent.get, b"end"), metadata=[("x-api-key", key["key"])], timeout=20)
    sent.put(good.replace(b"??", b"\xff\xff"))
    assert pb.StreamEventsResponse.FromString(next(responses)).HasField("error")
    assert sluice("keys", "revoke", key["id"], *server.database_options).returncode == 0
    sent.put(good.replace(b"??", b"\xff\xff"))
    with pytest.raises(grpc.RpcError) as ended:
        next(responses)
    sent.put(b"end")
    assert code_of(ended.value) == grpc.StatusCode.UNAUTHENTICATED
    with server.client(other["key"]) as client:
        (found,) = rejections(client, 1)
    assert (found["protocol"], found["code"], found["key_id"]) == ("grpc", "invalid_batch", key["id"])
