"""Health and reflection: no key, both versions, and our own words for what is no message of theirs."""

import queue
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tests.abuse.http2 import END_HEADERS, HEADERS, call_headers, data_frames, frame, message, open_http2
from tests.support.grpc_client import TIMEOUT_S, channel_to, code_of, details_of, raw_unary, reason_of
from tests.support.harness import Server, wait_until
from tests.support.logs import without_rejections

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
VERSIONS = ("v1", "v1alpha")
SERVING = health_pb2.HealthCheckResponse.SERVING

WATCHES_OF_CONNECTION = 20
"""The server's own limit."""

CONNECTIONS = 160
"""With watches, enough for more than 1,000 on each of two workers, to which the kernel gives them at random."""

MORE_CONNECTIONS = 20


def reflect(channel: grpc.Channel, version: str, *requests: bytes) -> list[reflection_pb2.ServerReflectionResponse]:
    """The responses of a version of reflection."""
    method: Any = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
    return [
        reflection_pb2.ServerReflectionResponse.FromString(response)
        for response in method(iter(requests), timeout=TIMEOUT_S)
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_reflection_has_both_versions(channel: grpc.Channel, version: str) -> None:
    listing = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    (response,) = reflect(channel, version, listing)
    assert {service.name for service in response.list_services_response.service} == {
        "sluice.v1.EventService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_a_pause_of_reflection_outlives_a_check_on_its_connection(channel: grpc.Channel) -> None:
    method: Any = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    requests = queue.SimpleQueue[bytes | None]()
    responses = method(iter(requests.get, None), timeout=TIMEOUT_S)
    listing = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    requests.put(listing)
    assert next(responses)
    for _ in range(20):  # meanwhile, reflection waits for its next request
        raw_unary(channel, CHECK)(b"", timeout=TIMEOUT_S)
    requests.put(listing)
    assert next(responses)
    requests.put(None)
    assert list(responses) == []


REQUESTS = [
    reflection_pb2.ServerReflectionRequest(file_by_filename="no.proto"),
    reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.Such"),
    reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="no.Such"),
    reflection_pb2.ServerReflectionRequest(
        file_containing_extension=reflection_pb2.ExtensionRequest(
            containing_type="google.protobuf.FieldOptions", extension_number=-1
        )
    ),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: each.WhichOneof("message_request"))
def test_reflection_of_what_there_is_not(
    server: Server, channel: grpc.Channel, request_: reflection_pb2.ServerReflectionRequest
) -> None:
    before = len(server.stderr())
    (response,) = reflect(channel, "v1", request_.SerializeToString())
    assert response.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert without_rejections(server.stderr()[before:]) == []


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe"])
def test_bytes_that_are_no_message(server: Server, channel: grpc.Channel, garbage: bytes) -> None:
    before = len(server.stderr())
    errors: list[grpc.RpcError] = []
    watched: Any = channel.unary_stream(WATCH)
    with pytest.raises(grpc.RpcError) as check:
        raw_unary(channel, CHECK)(garbage, timeout=TIMEOUT_S)
    errors.append(check.value)
    with pytest.raises(grpc.RpcError) as watch:
        list(watched(garbage, timeout=TIMEOUT_S))
    errors.append(watch.value)
    for version in VERSIONS:
        with pytest.raises(grpc.RpcError) as reflection:
            reflect(channel, version, garbage)
        errors.append(reflection.value)
    kinds = ["health.v1.HealthCheck", "health.v1.HealthCheck"]
    kinds += [f"reflection.{version}.ServerReflection" for version in VERSIONS]
    for error, kind in zip(errors, kinds, strict=True):
        assert (code_of(error), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_BATCH")
        assert isinstance(error, grpc.Call)
        assert error.details() == f"The message is not a grpc.{kind}Request"
    assert without_rejections(server.stderr()[before:]) == []


def test_large_message(channel: grpc.Channel) -> None:
    large = health_pb2.HealthCheckRequest(service="x" * 5_000).SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        raw_unary(channel, CHECK)(large, timeout=TIMEOUT_S)
    assert (code_of(caught.value), reason_of(caught.value)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "PAYLOAD_TOO_LARGE",
    )


def test_compressed_message(channel: grpc.Channel) -> None:
    request = health_pb2.HealthCheckRequest(service="sluice.v1.EventService").SerializeToString()
    response = raw_unary(channel, CHECK)(request, timeout=TIMEOUT_S, compression=grpc.Compression.Gzip)
    assert health_pb2.HealthCheckResponse.FromString(response).status == SERVING


def test_no_message(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(CHECK)(iter(()), timeout=TIMEOUT_S)
    assert code_of(caught.value) == grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(caught.value)


def test_method_that_health_has_elsewhere(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        raw_unary(channel, "/grpc.health.v1.Health/List")(b"", timeout=TIMEOUT_S)
    assert code_of(caught.value) == grpc.StatusCode.UNIMPLEMENTED


def watch_calls(count: int) -> bytes:
    """What a connection sends to open this many watches, from call 1 on."""
    headers = call_headers(path=WATCH.encode())
    numbers = range(1, 2 * count, 2)
    return b"".join(frame(HEADERS, END_HEADERS, n, headers) + data_frames(n, message(b""), last=True) for n in numbers)


def is_refused(call: Any) -> bool:
    """Whether the server holds too many calls for this one to begin."""
    try:
        next(call)
    except grpc.RpcError as error:
        return (code_of(error), "RetryInfo" in details_of(error)) == (grpc.StatusCode.UNAVAILABLE, True)
    return False


def test_a_connection_has_a_share_of_the_open_watches(channel: grpc.Channel) -> None:
    watch: Any = channel.unary_stream(WATCH)
    calls, refused = [], []
    for _ in range(WATCHES_OF_CONNECTION + 5):  # one by one: while others wait, a busy server refuses slow messages
        calls.append(watch(b"", timeout=TIMEOUT_S))
        refused.append(is_refused(calls[-1]))
    assert refused == [False] * WATCHES_OF_CONNECTION + [True] * 5
    assert raw_unary(channel, CHECK)(b"", timeout=TIMEOUT_S)
    for call in calls:
        call.cancel()


def test_a_check_does_not_depend_on_open_watches(server: Server) -> None:
    with ExitStack() as stack:

        def open_watches(connections: int) -> None:
            for _ in range(connections):
                stack.enter_context(open_http2(server)).sendall(watch_calls(WATCHES_OF_CONNECTION))

        def refuses_watches() -> bool:
            with channel_to(server.grpc) as channel:
                watch: Any = channel.unary_stream(WATCH)
                return is_refused(watch(b"", timeout=TIMEOUT_S))

        def is_full() -> bool:
            if all(refuses_watches() for _ in range(10)):
                return True
            open_watches(MORE_CONNECTIONS)  # a busy server has refused some whose message was slow
            return False

        open_watches(CONNECTIONS)
        wait_until(is_full, "no worker takes more watches")
        for _ in range(20):
            with channel_to(server.grpc) as channel:
                response = raw_unary(channel, CHECK)(b"", timeout=TIMEOUT_S)
            assert health_pb2.HealthCheckResponse.FromString(response).status == SERVING
