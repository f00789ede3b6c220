"""A collector of traces: it receives spans by OTLP, over gRPC and over HTTP."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support.harness import wait_until

SPAN_ID = "00f067aa0ba902b7"
"""The span of a client."""


def traceparent(trace_id: str, flags: str = "01") -> str:
    """The header of a client's span in a trace."""
    return f"00-{trace_id}-{SPAN_ID}-{flags}"


class Collector(service_grpc.TraceServiceServicer):
    """What was received."""

    def __init__(self) -> None:
        self.spans: list[trace_pb2.Span] = []
        self.resources: list[dict[str, Any]] = []
        self.received = b""
        self.grpc_url = self.http_url = ""

    def add(self, request: service_pb.ExportTraceServiceRequest) -> None:
        """Keep the spans of a request."""
        self.received += request.SerializeToString()
        for resource in request.resource_spans:
            self.resources.append(attributes_of(resource.resource))
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 (the library's name)
        """The service's method."""
        self.add(request)
        return service_pb.ExportTraceServiceResponse()

    def find(self, trace_id: str, name: str) -> trace_pb2.Span:
        """The only span of this name in a trace, once it is received."""
        wait_until(lambda: self._matches(trace_id, name), f"the span {name}")
        (found,) = self._matches(trace_id, name)
        return found

    def _matches(self, trace_id: str, name: str) -> list[trace_pb2.Span]:
        return [span for span in self.spans if span.trace_id.hex() == trace_id and span.name == name]


def attributes_of(item: Any) -> dict[str, Any]:
    """The attributes of a span or a resource, by their names."""
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in item.attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector that listens on both protocols."""
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.add(service_pb.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = grpc.server(ThreadPoolExecutor(2))
    service_grpc.add_TraceServiceServicer_to_server(found, server)  # type: ignore[no-untyped-call]
    found.grpc_url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        found.http_url = f"http://127.0.0.1:{http.server_port}"
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield found
        finally:
            http.shutdown()
            server.stop(None)
