"""Tells the usage and the rejections of each tenant what became of its requests.

It listens to `requests.py`, which both APIs tell of every request. A request that was rejected before its key was
known belongs to nobody: it is in the metrics only. So do reads.
"""

from server.core.errors import SluiceError
from server.core.rejections.recent import RecentRejections
from server.core.request import Ending, Request
from server.core.usage.counts import UsageCounts


class Activity:
    """Listens to the requests of a worker. It implements `EndListener`."""

    def __init__(self, usage: UsageCounts, rejections: RecentRejections) -> None:
        self._usage = usage
        self._rejections = rejections

    def on_ended(self, request: Request, ending: Ending, error: SluiceError | None) -> None:
        """See `EndListener`."""
        tenant_id, key_id = request.tenant_id, request.key_id
        if request.is_read or tenant_id is None or key_id is None:
            return
        own, events = ending.code or ending.outcome, request.settled
        self._usage.add(tenant_id, own, requests=1, events=events.get(own, 0))
        for other, count in events.items():
            if other != own:
                self._usage.add(tenant_id, other, requests=0, events=count)
        error = error or request.partly_rejected
        if error is not None:
            self._rejections.add(tenant_id, key_id, request.api, error, request.size or None)
