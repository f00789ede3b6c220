"""Turns tracing on if OpenTelemetry's usual variables ask for it, and the extra `tracing` is installed.

Otherwise nothing of OpenTelemetry is imported, which would take 0.2 s and 20 MB.
"""

import logging
import os
from typing import TYPE_CHECKING

from server.core.errors import ConfigurationError

if TYPE_CHECKING:
    from server.runtime.opentelemetry_tracer import OpenTelemetryTracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
EXPORTERS = {"otlp", "none", ""}

log = logging.getLogger("sluice")


def is_wanted() -> bool:
    """Whether the environment asks for traces. Raises ConfigurationError."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter not in EXPORTERS:
        raise ConfigurationError("OTEL_TRACES_EXPORTER may be otlp or none: Sluice has no other exporter of traces")
    if exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return exporter == "otlp" or any(map(os.environ.get, ENDPOINTS))


def start_tracing() -> "OpenTelemetryTracer | None":
    """The tracer of this process; None if tracing is off. Raises ConfigurationError."""
    if not is_wanted():
        return None
    try:
        from server.runtime.opentelemetry_tracer import start_tracer  # an extra, which may be missing
    except ModuleNotFoundError:
        log.warning("no traces: OTEL_ variables ask for them, but Sluice was installed without its extra `tracing`")
        return None
    return start_tracer()
