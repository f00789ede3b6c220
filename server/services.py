"""What the APIs get from the composition root (`runtime/composition.py`)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from server.core.access.admission import Admission
from server.core.alerts.reads import AlertReads
from server.core.alerts.store import AlertChanges
from server.core.events.cursor import Cursors
from server.core.exports import Exports
from server.core.in_flight import InFlight
from server.core.ingest.ingest import Ingest
from server.core.ingest.raw import RawIngest
from server.core.reads import Reads
from server.core.rejections.reads import RejectionReads
from server.core.requests import Requests
from server.core.rules.rules import Rules
from server.core.tail.tail import Tail
from server.core.tracing import Tracer
from server.core.usage.reads import UsageReads
from server.core.webhooks.webhooks import Webhooks


@dataclass(frozen=True)
class Services:
    """The services of one worker."""

    requests: Requests
    ingest: Ingest
    ingest_raw: RawIngest
    admission: Admission
    in_flight: InFlight
    reads: Reads
    exports: Exports
    rejections: RejectionReads
    usage: UsageReads
    rules: Rules
    alerts: AlertReads
    alert_changes: AlertChanges
    webhooks: Webhooks
    cursors: Cursors
    tail: Tail
    check_ready: Callable[[], Awaitable[None]]
    """Returns if the worker can take events. Raises Unavailable, which says why it cannot."""
    tracer: Tracer | None
    """None if requests are not traced."""
    draining: asyncio.Event
    """Set when the worker drains. A response that would go on for long waits for it, and ends."""
