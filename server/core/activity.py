"""Tells the usage and the rejections of each tenant what became of its requests.

It listens to `requests.py`, which both APIs tell of every request. A request that was rejected before its key was
known belongs to nobody: it is in the metrics only. So do reads.
"""

from server.core.errors import SluiceError, Unauthenticated
from server.core.rejections.recent import RecentRejections
from server.core.requests import Ending, Request, SettledEvents
from server.core.usage.counts import UsageCounts
from server.core.usage.model import REPLAYED, STORED, UNKNOWN


class Activity:
    """Listens to the requests of a worker. It implements `Listener`."""

    def __init__(self, usage: UsageCounts, rejections: RecentRejections) -> None:
        self._usage = usage
        self._rejections = rejections

    def on_received(self, request: Request) -> None:
        """See `Listener`."""

    def on_events(self, request: Request, count: int) -> None:
        """See `Listener`."""

    def on_settled(self, request: Request, events: SettledEvents) -> None:
        """See `Listener`."""
        tenant_id = request.tenant_id
        if tenant_id is None:
            return
        if events.stored:
            self._usage.add(tenant_id, STORED, requests=0, events=events.stored)
        if events.replayed:
            self._usage.add(tenant_id, REPLAYED, requests=0, events=events.replayed)
        if events.unknown:
            self._usage.add(tenant_id, UNKNOWN, requests=0, events=events.unknown)
        if events.refused and events.code is not None:
            self._usage.add(tenant_id, events.code, requests=0, events=events.refused)

    def on_ended(self, request: Request, ending: Ending, error: SluiceError | None) -> None:
        """See `Listener`."""
        if request.is_read or isinstance(error, Unauthenticated):
            return
        error = error or request.partly_rejected
        tenant_id, key_id = request.tenant_id, request.key_id
        if tenant_id is None and error is not None:  # a key without the scope, or one that has used up its rate limit
            tenant_id, key_id = error.tenant_id, error.key_id
        if tenant_id is None or key_id is None:
            return
        self._usage.add(tenant_id, ending.code or ending.outcome, requests=1, events=0)
        if error is not None:
            self._rejections.add(tenant_id, key_id, request.api, error, request.size or None)
