"""The MongoDB query for the events of a tenant that were received in a window, and their first or last ids.

It is a range of `_id`, since ids begin with the time of receipt. The field `received_at` must be in the window too: an
operator may have inserted an event with a random id, which begins with any time.
"""

from functools import partial
from typing import Any
from uuid import UUID

from bson.binary import UUID_SUBTYPE, Binary

from server.core.deadline import Deadline
from server.core.events.ids import lowest_id
from server.core.rules.config import EventsConfig
from server.core.rules.model import Window
from server.core.times import from_milliseconds
from storage.commands import Database, Document, retry_without_events
from storage.indexes import EVENTS


def events_in(tenant_id: UUID, window: Window) -> Document:
    """The query for all events of a window."""
    lowest, end = (
        {"tenant_id": Binary.from_uuid(tenant_id), "id": Binary(lowest_id(time_ms), UUID_SUBTYPE)} for time_ms in window
    )
    start_at, end_at = map(from_milliseconds, window)
    return {"_id": {"$gte": lowest, "$lt": end}, "received_at": {"$gte": start_at, "$lt": end_at}}


def aggregation(pipeline: list[Document], batch_size: int = 1) -> Document:
    """The command for a pipeline over a range of events, which returns one document unless `batch_size` says more."""
    return {
        "aggregate": EVENTS,
        "pipeline": pipeline,
        "cursor": {"batchSize": batch_size + 1},  # with one less, MongoDB would keep the cursor
        "hint": {"_id": 1},
        "readConcern": {"level": "majority"},
    }


async def find_ids(
    database: Database,
    tenant_id: UUID,
    config: EventsConfig,
    window: Window,
    count: int,
    deadline: Deadline,
    *,
    newest_first: bool = False,
) -> list[UUID]:
    """The ids of the first events that a rule looks at, or of the last. Raises Unavailable."""
    names = {"event_type": config.event_type} | ({} if config.source is None else {"source": config.source})
    command = {
        "find": EVENTS,
        "filter": {**events_in(tenant_id, window), **names},
        "projection": {"_id": 1},
        "sort": {"_id": -1 if newest_first else 1},
        "hint": {"_id": 1},
        "limit": count,
        "singleBatch": True,
        "readConcern": {"level": "majority"},
    }
    call = partial(database.command, command, codec_options=database.codec_options)
    reply: Any = await retry_without_events(call, deadline)
    return [found["_id"]["id"] for found in reply["cursor"]["firstBatch"]]
