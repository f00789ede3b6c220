"""Saves the usage and the rejections of a worker: in the background, and what is left when it ends."""

import asyncio

from server.core.activity import Activity
from server.core.rejections.recent import PAUSE_S, RecentRejections
from server.core.requests import Requests
from server.core.usage.counts import UsageCounts
from server.runtime.loops import failures_logged, forever
from storage.commands import Database
from storage.rejections import StoredRejections
from storage.usage import StoredUsage


class SavedActivity:
    """What became of `requests` from now on, as it is saved in the database."""

    def __init__(self, database: Database, requests: Requests) -> None:
        self._usage = UsageCounts(StoredUsage(database))
        self._rejections = RecentRejections(StoredRejections(database))
        requests.add_end_listener(Activity(self._usage, self._rejections))

    async def run(self) -> None:
        """Save again and again, until this is cancelled."""
        await asyncio.gather(
            forever("saving of usage", self._usage.save_next, PAUSE_S),
            forever("saving of rejections", self._rejections.save_next, PAUSE_S),
        )

    async def save_rest(self) -> None:
        """Save what is left, for some seconds at most. Raises nothing: a failure is logged."""
        with failures_logged("saving of usage"):
            await self._usage.save()
        with failures_logged("saving of rejections"):
            await self._rejections.save_all()
