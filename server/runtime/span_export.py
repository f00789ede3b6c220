"""Exports spans by OTLP: in a thread of its own, from a bounded queue, and with few lines in the log.

Requests never wait for it. If the collector is away or slow, the queue fills up, and the library drops spans.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from time import monotonic

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from server.core.errors import ConfigurationError

PROTOCOLS: dict[str, Callable[[], SpanExporter]] = {"grpc": GrpcExporter, "http/protobuf": HttpExporter}
PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

DEFAULT_PROTOCOL = "grpc"
"""That of OpenTelemetry's own SDK for Python."""

LOG_INTERVAL_S = 60.0
"""The shortest time between two lines about spans that could not be exported."""

FLUSH_TIMEOUT_S = 5.0
"""How long a drain waits until the last spans are exported."""

NOISY_LOGGERS = ("opentelemetry", "urllib3")
"""They log each attempt to reach a collector."""

log = logging.getLogger("sluice")


class LoggedExporter(SpanExporter):
    """Exports by another exporter, and logs what that could not export: at once, and then at most once a minute."""

    def __init__(self, exporter: SpanExporter, clock: Callable[[], float] = monotonic) -> None:
        self._exporter = exporter
        self._clock = clock
        self._logged_at = -LOG_INTERVAL_S
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export spans. It is called by one thread at a time."""
        try:
            result = self._exporter.export(spans)
        except Exception:  # noqa: BLE001 (whatever a collector does: the thread goes on, and the log has no text of it)
            result = SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS:
            self._lost += len(spans)
            if self._clock() - self._logged_at >= LOG_INTERVAL_S:
                log.warning(
                    "%d spans could not be exported: see that the collector of OTEL_ variables runs", self._lost
                )
                self._logged_at, self._lost = self._clock(), 0
        return result

    def shutdown(self) -> None:
        """End the exporter."""
        self._exporter.shutdown()


def make_exporter() -> SpanExporter:
    """The exporter that the environment asks for. Raises ConfigurationError."""
    chosen = next(filter(None, map(os.environ.get, PROTOCOL_VARIABLES)), DEFAULT_PROTOCOL).strip()
    if chosen not in PROTOCOLS:
        raise ConfigurationError(f"{' and '.join(PROTOCOL_VARIABLES)} may be {' or '.join(PROTOCOLS)}")
    return LoggedExporter(PROTOCOLS[chosen]())


def silence_libraries() -> None:
    """Log nothing of what the libraries say of single attempts: `LoggedExporter` tells what matters."""
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


async def flush(processor: SpanProcessor) -> None:
    """Export what is left in the queue of a processor, and end it, within FLUSH_TIMEOUT_S."""
    loop, flushed = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        processor.shutdown()
        loop.call_soon_threadsafe(flushed.set)

    threading.Thread(target=shut_down, name="flush of spans", daemon=True).start()  # it may outlast this process
    try:
        async with asyncio.timeout(FLUSH_TIMEOUT_S):
            await flushed.wait()
    except TimeoutError:
        log.warning("the last spans were not exported within %d s", FLUSH_TIMEOUT_S)
