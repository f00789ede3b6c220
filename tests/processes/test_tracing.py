"""Traces of a real server, received by a real collector: from a client's span to the insert in the database."""

import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.grpc_client import Stream, channel_to, good_batch, ingest
from tests.support.harness import Server, batch, embedded_url, sluice, wait_until
from tests.support.keys import EVENTS
from tests.support.otlp import SPAN_ID, Collector, attributes_of, collector, traceparent
from tests.support.wire import connect, head, responses_in, rest_of

SITECUSTOMIZE = """
import atexit, os, sys
atexit.register(lambda: open(os.path.join({folder!r}, str(os.getpid())), "w").write("\\n".join(sys.modules)))
"""
"""Python imports it at the start of each process, and it writes which modules the process had at its end."""

STREAM_SPAN = "sluice.v1.EventService/StreamEvents"
REST_SPAN = f"POST {EVENTS}"
SERVER, CLIENT = 2, 3
"""Kinds of spans."""


def variables(url: str, **more: str) -> dict[str, str]:
    """The environment of a server that exports to a collector."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "100", **more}


@pytest.fixture(scope="module")
def spans() -> Iterator[Collector]:
    with collector() as found:
        yield found


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, spans: Collector) -> Iterator[Server]:
    """A server with two workers that exports over gRPC."""
    with Server(tmp_path_factory.mktemp("traced"), "--workers", "2", env=variables(spans.grpc_url)) as server:
        yield server


def check_path(spans: Collector, trace_id: str, name: str) -> None:
    """Check that a trace leads from a client's span through the request to the insert."""
    insert = spans.find(trace_id, "insert events")
    request, commit = spans.find(trace_id, name), spans.find(trace_id, "commit")
    assert request.parent_span_id.hex() == SPAN_ID
    assert request.kind == SERVER
    for step in ("admit", "decode"):
        assert spans.find(trace_id, step).parent_span_id == request.span_id
    assert commit.parent_span_id == insert.parent_span_id == request.span_id
    assert insert.kind == CLIENT
    assert [link.span_id for link in insert.links] == [request.span_id]
    assert commit.start_time_unix_nano <= insert.start_time_unix_nano < insert.end_time_unix_nano
    assert attributes_of(insert) == {
        "db.system.name": "mongodb",
        "db.collection.name": "events",
        "db.operation.name": "insert",
        "db.operation.batch.size": 1,
    }


def test_a_rest_request(traced: Server, spans: Collector) -> None:
    trace_id, key = secrets.token_hex(16), traced.create_key("rest")
    headers = {"traceparent": traceparent(trace_id), "X-Request-ID": trace_id}
    with traced.client(key["key"]) as client:
        assert client.post(EVENTS, json=batch(), headers=headers).status_code == 201
    check_path(spans, trace_id, REST_SPAN)
    assert attributes_of(spans.find(trace_id, REST_SPAN)) == {
        "http.request.method": "POST",
        "http.route": EVENTS,
        "http.response.status_code": 201,
        "url.path": EVENTS,
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "sluice.request.id": trace_id,
        "sluice.key.id": key["id"],
        "sluice.tenant.id": key["tenant_id"],
    }
    resource = next(each for each in spans.resources if "service.instance.id" in each)
    assert resource["service.name"] == "sluice"
    assert int(resource["process.pid"]) in traced.worker_pids()


def test_a_raw_body(traced: Server, spans: Collector) -> None:
    trace_id, key = secrets.token_hex(16), traced.create_key("raw")
    headers = {"traceparent": traceparent(trace_id), "Content-Type": "application/x-ndjson"}
    with traced.client(key["key"]) as client:
        response = client.post(f"{EVENTS}?source=a&type=t", content=b'{"a": 1}\n', headers=headers)
    assert response.status_code == 201
    insert, request = spans.find(trace_id, "insert events"), spans.find(trace_id, REST_SPAN)
    assert [link.span_id for link in insert.links] == [request.span_id]


def test_each_batch_of_a_stream(traced: Server, spans: Collector) -> None:
    """Each batch has its own trace, also a large one, and one that is rejected."""
    key, traces = traced.create_key("stream"), [secrets.token_hex(16) for _ in range(4)]
    large = good_batch([2])
    large.events[0].data_json = b'{"text": "%s"}' % (b"x" * 300_000)
    bad = good_batch([3])
    bad.events[0].type = ""
    with channel_to(traced.grpc) as channel, Stream(channel, key["key"]) as stream:
        for sequence, sent in enumerate((good_batch(), good_batch(), large, bad)):
            stream.send(sequence, sent, traceparent(traces[sequence]))
            stream.receive()
    for trace_id in traces[:3]:
        check_path(spans, trace_id, STREAM_SPAN)
        assert attributes_of(spans.find(trace_id, STREAM_SPAN))["rpc.response.status_code"] == "OK"
    rejected = spans.find(traces[3], STREAM_SPAN)
    assert attributes_of(rejected)["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert attributes_of(rejected)["sluice.error.code"] == "invalid_batch"
    assert rejected.status.code == 0, "a bad request is no error of the server"


def test_a_call(traced: Server, spans: Collector) -> None:
    trace_id, key = secrets.token_hex(16), traced.create_key("call")
    with channel_to(traced.grpc) as channel:
        ingest(channel, (("x-api-key", key["key"]), ("traceparent", traceparent(trace_id))))
    check_path(spans, trace_id, "sluice.v1.EventService/IngestEvents")


def test_reads_and_rejections(traced: Server, spans: Collector) -> None:
    trace_id, key = secrets.token_hex(16), traced.create_key("reads")
    headers = {"traceparent": traceparent(trace_id)}
    with traced.client(key["key"]) as client:
        assert client.get(f"{EVENTS}/secret-id", headers=headers).status_code == 404
        assert client.get(f"/api/{EVENTS}", headers=headers).status_code == 404
        assert client.get("/health/live", headers=headers).status_code == 200
    found = attributes_of(spans.find(trace_id, f"GET {EVENTS}/{{event_id}}"))
    assert found["http.response.status_code"] == 404
    assert found["sluice.error.code"] == "not_found"
    assert "url.path" not in found
    assert b"secret-id" not in spans.received
    assert len({span.name for span in spans.spans if span.trace_id.hex() == trace_id}) == 1


def test_a_body_that_breaks(traced: Server, spans: Collector) -> None:
    trace_id, key = secrets.token_hex(16), traced.create_key("broken")
    with connect(traced) as connection:
        connection.sendall(head(key["key"], f"traceparent: {traceparent(trace_id)}", "Transfer-Encoding: chunked"))
        time.sleep(0.5)
        connection.sendall(b"xyz\r\n")
        (answer,) = responses_in(rest_of(connection))
    assert answer.code == "malformed_request"
    found = attributes_of(spans.find(trace_id, REST_SPAN))
    assert found["http.response.status_code"] == 400
    assert found["sluice.error.code"] == "malformed_request"
    assert found["sluice.request.id"] == answer.headers["x-request-id"]


def test_a_trace_that_its_client_does_not_record(traced: Server, spans: Collector) -> None:
    trace_id, last, key = secrets.token_hex(16), secrets.token_hex(16), traced.create_key("unsampled")
    with traced.client(key["key"]) as client:
        for sent in (traceparent(trace_id, "00"), traceparent(last)):
            assert client.post(EVENTS, json=batch(), headers={"traceparent": sent}).status_code == 201
    spans.find(last, REST_SPAN)
    assert not [span for span in spans.spans if span.trace_id.hex() == trace_id]


def test_the_last_spans_are_exported_by_a_drain(tmp_path: Path) -> None:
    """Over HTTP, and with a sampler that takes only what a client records."""
    trace_id = secrets.token_hex(16)
    protocol = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_TRACES_SAMPLER": "parentbased_always_off"}
    names = {"OTEL_SERVICE_NAME": "events", "OTEL_BSP_SCHEDULE_DELAY": "60000"}
    with collector() as spans, Server(tmp_path, env=variables(spans.http_url, **protocol, **names)) as server:
        with server.client(server.first_key) as client:
            assert client.post(EVENTS, json=batch()).status_code == 201
            sent = {"traceparent": traceparent(trace_id)}
            assert client.post(EVENTS, json=batch(), headers=sent).status_code == 201
        assert server.stop() == 0
        check_path(spans, trace_id, REST_SPAN)
        assert {span.trace_id.hex() for span in spans.spans} == {trace_id}
        assert spans.resources[0]["service.name"] == "events"


def test_no_collector(tmp_path: Path) -> None:
    """Requests go on, the log has one line about it, and a drain does not wait for long."""
    options = variables("http://127.0.0.1:1", OTEL_BSP_MAX_QUEUE_SIZE="64", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="64")
    with Server(tmp_path, env={**options, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}) as server:
        with server.client(server.first_key) as client:
            for _ in range(100):
                assert client.post(EVENTS, json=batch()).status_code == 201
        wait_until(lambda: "could not be exported" in server.stderr(), "the line")
        with server.client(server.first_key) as client:
            for _ in range(100):
                assert client.post(EVENTS, json=batch()).status_code == 201
        begin = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begin < 15
    assert server.stderr().count("could not be exported") == 1
    assert not re.search("opentelemetry|Traceback|UNAVAILABLE", server.stderr())


def test_nothing_is_imported_if_tracing_is_off(tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "sitecustomize.py").write_text(SITECUSTOMIZE.format(folder=str(modules)))
    with Server(tmp_path / "data", env={"PYTHONPATH": str(modules)}) as server:
        (worker,) = server.worker_pids()
        with server.client(server.first_key) as client:
            assert client.post(EVENTS, json=batch()).status_code == 201
        assert server.stop() == 0
        imported = (modules / str(worker)).read_text().split()
    assert "server.rest.app" in imported
    assert not [each for each in imported if each.startswith("opentelemetry")]


def test_a_variable_that_cannot_work(traced: Server) -> None:
    """The start ends with one line that names the variable."""
    url = embedded_url(traced.data_dir)
    env = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}
    done = sluice("serve", "--port", "0", "--grpc-port", "0", "--mongodb-url", url, env=env)
    assert done.returncode == 2
    assert "OTEL_EXPORTER_OTLP_PROTOCOL" in done.stderr.splitlines()[-1]
