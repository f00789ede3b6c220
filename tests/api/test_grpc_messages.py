"""Messages over gRPC: none, half of one, compressed, too large, or with a batch that cannot be parsed."""

import gzip
import itertools
import zlib

import grpc
import pytest
from google.protobuf import struct_pb2
from sluice.v1 import event_service_pb2 as pb

from server.rpc.arrivals import encoding_of
from tests.abuse.http2 import (
    END_HEADERS,
    HEADERS,
    call_headers,
    data_frames,
    frame,
    message,
    open_http2,
    status_of,
    until_end,
)
from tests.support.bodies import MIB
from tests.support.grpc_client import (
    TIMEOUT_S,
    UNARY,
    Stream,
    code_of,
    details_of,
    error_that_ends,
    good_batch,
    good_event,
    ingest,
    metadata,
    raw_stream,
    raw_unary,
    reason_of,
    stored_marks,
    stub_of,
)
from tests.support.harness import Json, MongoClient, Server

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT

GOOD = pb.IngestEventsRequest(batch=good_batch([1])).SerializeToString()


def raw_call(server: Server, key: Json, payload: bytes, *others: tuple[bytes, bytes]) -> tuple[int, str] | None:
    """How a unary call ends that consists of these bytes."""
    with open_http2(server) as connection:
        headers = call_headers((b"x-api-key", key["key"].encode()), *others)
        connection.sendall(frame(HEADERS, END_HEADERS, 1, headers) + data_frames(1, payload, last=True))
        return status_of(until_end(connection))


@pytest.mark.parametrize("payload", [b"", b"\0", message(GOOD, len(GOOD) + 10), message(GOOD)[:-1]])
def test_call_without_a_whole_message(server: Server, key: Json, mongo: MongoClient, payload: bytes) -> None:
    assert raw_call(server, key, payload) == (INVALID_ARGUMENT.value[0], "The call has no complete message: send one")
    assert stored_marks(mongo, key) == []


def test_call_without_a_message_from_a_client(channel: grpc.Channel, key: Json) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(UNARY)(iter(()), metadata=metadata(key["key"]), timeout=TIMEOUT_S)
    assert (code_of(caught.value), reason_of(caught.value)) == (INVALID_ARGUMENT, "INVALID_BATCH")


def field(number: int, content: bytes) -> bytes:
    """A field with a length, as it goes over the wire."""
    size = len(content)
    varint = b""
    while size >= 128:
        varint += bytes([size % 128 + 128])
        size //= 128
    return bytes([8 * number + 2]) + varint + bytes([size]) + content


def nested_struct(levels: int) -> bytes:
    """A batch whose event is a Struct of this depth. The library builds none over 33 levels."""
    struct = b""
    for _ in range(levels - 1):
        struct = field(1, field(1, b"a") + field(2, field(5, struct)))
    return field(1, b"s") + field(3, field(1, b"t") + field(3, struct))


UNPARSABLE = {
    "struct of 40 levels": nested_struct(40),
    "struct of 1,000 levels": nested_struct(1_000),
    "source that is not UTF-8": b"\x0a\x02\xff\xfe",
    "half of a surrogate pair": b"\x0a\x01s\x1a\x05\x0a\x03\xed\xa0\xbd",
    "no message": b"\xff\xff\xff",
}


@pytest.mark.parametrize("name", UNPARSABLE)
def test_stream_outlives_a_batch_that_cannot_be_parsed(
    channel: grpc.Channel, key: Json, mongo: MongoClient, name: str
) -> None:
    batch = UNPARSABLE[name]
    bad = b"\x08\x02" + field(2, batch)
    good = [pb.StreamEventsRequest(sequence=n, batch=good_batch([n])).SerializeToString() for n in (1, 3)]
    requests = iter([good[0], bad, good[1]])
    call = raw_stream(channel)(requests, metadata=metadata(key["key"]), timeout=TIMEOUT_S)
    responses = [pb.StreamEventsResponse.FromString(each) for each in call]
    assert [(each.sequence, each.WhichOneof("outcome")) for each in responses] == [
        (1, "receipt"),
        (2, "error"),
        (3, "receipt"),
    ]
    error = responses[1].error
    assert (error.code, reason_of(error)) == (INVALID_ARGUMENT.value[0], "INVALID_BATCH")
    assert details_of(error)["BadRequest"].field_violations[0].field == "batch"
    assert call.code() == grpc.StatusCode.OK
    assert stored_marks(mongo, key) == [1, 3]


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages(channel: grpc.Channel, key: Json, mongo: MongoClient, algorithm: grpc.Compression) -> None:
    request = pb.IngestEventsRequest(batch=good_batch(range(100)))
    stub = stub_of(channel)
    response = stub.IngestEvents(request, metadata=metadata(key["key"]), timeout=TIMEOUT_S, compression=algorithm)
    assert response.receipt.events_received == 100
    requests = iter([pb.StreamEventsRequest(sequence=1, batch=good_batch(range(100, 200)))])
    call = stub.StreamEvents(requests, metadata=metadata(key["key"]), timeout=TIMEOUT_S, compression=algorithm)
    assert [each.receipt.events_received for each in call] == [100]
    assert stored_marks(mongo, key) == list(range(200))


def deflate(content: bytes, level: int, window_bits: int) -> bytes:
    """The content as a zlib stream with this window."""
    compressor = zlib.compressobj(level, wbits=window_bits)
    return compressor.compress(content) + compressor.flush()


def test_deflate_with_the_smallest_window(server: Server, key: Json, mongo: MongoClient) -> None:
    payload = message(deflate(GOOD, 6, 9), compressed=True)
    assert raw_call(server, key, payload, (b"grpc-encoding", b"deflate")) == (0, "")
    assert stored_marks(mongo, key) == [1]


def test_deflate_is_known_by_its_header() -> None:
    for level, window_bits in itertools.product(range(10), range(9, 16)):
        assert encoding_of(deflate(GOOD, level, window_bits)) == "deflate"
    for other in (b"", b"x", b"x\x9d", GOOD, b"\x08\x1d"):
        assert encoding_of(other) is None


def test_a_sequence_is_never_taken_for_deflate(channel: grpc.Channel, key: Json) -> None:
    with Stream(channel, key["key"]) as stream:
        for sequence in range(1, 128):  # some of them are valid headers of zlib, after the tag of `sequence`
            stream.send(sequence, good_batch([sequence]))
            response = stream.receive()
            assert (response.sequence, response.WhichOneof("outcome")) == (sequence, "receipt")


BROKEN = {
    "gzip without its end": ("gzip", gzip.compress(GOOD)[:-6]),
    "gzip of other bytes": ("gzip", gzip.compress(GOOD)[:10] + b"\xff" * 40),
    "deflate without its end": ("deflate", zlib.compress(GOOD)[:-6]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_compressed_message_that_does_not_decode(server: Server, key: Json, name: str) -> None:
    encoding, broken = BROKEN[name]
    payload = message(broken, compressed=True)
    ended = raw_call(server, key, payload, (b"grpc-encoding", encoding.encode()))
    assert ended == (INVALID_ARGUMENT.value[0], f"The body is not valid {encoding}, as its encoding says")


def test_encoding_that_is_unknown(server: Server, key: Json, mongo: MongoClient) -> None:
    """gRPC's documents name UNIMPLEMENTED. The library ends the call before our code runs, so this cannot be had."""
    ended = raw_call(server, key, message(GOOD, compressed=True), (b"grpc-encoding", b"br"))
    assert ended == (grpc.StatusCode.INTERNAL.value[0], "Error parsing 'grpc-encoding' metadata")
    assert stored_marks(mongo, key) == []


def test_message_that_is_too_large_once_decompressed(server: Server, channel: grpc.Channel, key: Json) -> None:
    bomb = gzip.compress(bytes(40 * MIB))
    ended = raw_call(server, key, message(bomb, compressed=True), (b"grpc-encoding", b"gzip"))
    assert ended is not None
    assert ended == (INVALID_ARGUMENT.value[0], "The body is over 16 MiB once decompressed: send fewer events")
    assert ingest(channel, key["key"]).events_received == 1


def test_message_of_many_compressed_parts(server: Server, channel: grpc.Channel, key: Json) -> None:
    payload = message(gzip.compress(b"") * 2_100, compressed=True)
    ended = raw_call(server, key, payload, (b"grpc-encoding", b"gzip"))
    assert ended is not None
    detail = "The body has over 2000 compressed parts: compress it as a whole"
    assert ended == (INVALID_ARGUMENT.value[0], detail)
    assert ingest(channel, key["key"]).events_received == 1


def test_initial_metadata_comes_before_the_first_batch(channel: grpc.Channel, key: Json) -> None:
    with Stream(channel, key["key"]) as stream:
        stream.call.initial_metadata()  # returns as soon as it is there
        stream.send(1, good_batch())
        assert stream.receive().HasField("receipt")


@pytest.mark.parametrize("keys", [("good", "bad"), ("bad", "good"), ("good", "good"), ("bad", "bad")])
def test_more_than_one_key(channel: grpc.Channel, key: Json, mongo: MongoClient, keys: tuple[str, str]) -> None:
    sent = [("x-api-key", key["key"] if each == "good" else "slc_" + "A" * 43) for each in keys]
    with pytest.raises(grpc.RpcError) as unary:
        raw_unary(channel)(GOOD, metadata=sent, timeout=TIMEOUT_S)
    with pytest.raises(grpc.RpcError) as stream:
        list(raw_stream(channel)(iter(()), metadata=sent, timeout=TIMEOUT_S))
    for error in (unary.value, stream.value):
        assert (code_of(error), reason_of(error)) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert stored_marks(mongo, key) == []


def test_struct_has_its_keys_in_a_fixed_order(channel: grpc.Channel, key: Json, mongo: MongoClient) -> None:
    names = ["".join(letters) for letters in itertools.product("zyx", repeat=3)]
    fields = {name: struct_pb2.Value(number_value=1) for name in names}
    inner = struct_pb2.Value(struct_value=struct_pb2.Struct(fields=fields))
    data = struct_pb2.Struct(fields={**fields, "inner": inner})
    ingest(channel, key["key"], pb.EventBatch(source="struct", events=[pb.Event(type="t", data=data)]))
    stored = mongo.sluice.events.find_one({"source": "struct"})
    assert stored is not None
    assert list(stored["data"]) == sorted([*names, "inner"])
    assert list(stored["data"]["inner"]) == sorted(names)


BATCH_ERRORS = {
    "source": pb.EventBatch(events=[good_event()]),
    "source_id": pb.EventBatch(source="s", source_id="x" * 256, events=[good_event()]),
    "events": pb.EventBatch(source="s"),
    "idempotency_key": pb.EventBatch(source="s", idempotency_key="\u00e9", events=[good_event()]),
    "handling": pb.EventBatch(source="s", handling=7, events=[good_event()]),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("field", BATCH_ERRORS)
def test_error_of_a_batch_as_a_whole_names_its_field(channel: grpc.Channel, key: Json, field: str) -> None:
    batch = BATCH_ERRORS[field]
    with pytest.raises(grpc.RpcError) as unary:
        ingest(channel, key["key"], batch)
    with Stream(channel, key["key"]) as stream:
        stream.send(1, batch)
        streamed = stream.receive().error
    for error in (unary.value, streamed):
        violations = details_of(error)["BadRequest"].field_violations
        assert [item.field for item in violations] == [field]
        assert violations[0].description


def test_message_just_over_16_mib(channel: grpc.Channel, key: Json, mongo: MongoClient) -> None:
    large = pb.EventBatch(source="x" * (16 * MIB))
    with pytest.raises(grpc.RpcError) as caught:
        ingest(channel, key["key"], large)
    with Stream(channel, key["key"]) as stream:
        stream.send(1, good_batch([1]))
        stream.send(2, large)
        stream.send(3, good_batch([3]))
        responses = [stream.receive() for _ in range(3)]
    assert [each.WhichOneof("outcome") for each in responses] == ["receipt", "error", "receipt"]
    for error in (caught.value, responses[1].error):
        assert reason_of(error) == "PAYLOAD_TOO_LARGE"
    assert stored_marks(mongo, key) == [1, 3]


def test_message_that_the_library_rejects(channel: grpc.Channel, key: Json, mongo: MongoClient) -> None:
    with Stream(channel, key["key"]) as stream:
        stream.send(1, good_batch([1]))
        assert stream.receive().HasField("receipt")
        stream.send(2, pb.EventBatch(source="x" * (18 * MIB)))
        assert code_of(error_that_ends(stream)) == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stored_marks(mongo, key) == [1]
