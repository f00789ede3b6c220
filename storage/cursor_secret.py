"""Reads the secret that signs cursors from the collection `meta`, where the first server puts it.

So all workers and servers of a database accept each other's cursors, also after a restart.
"""

import secrets
from typing import Any

from bson.binary import Binary
from pymongo import ReturnDocument

from server.core.deadline import Deadline
from storage.commands import Database, time_limit
from storage.indexes import META
from storage.start import WRITE_TIMEOUT_S, errors_at_start

SECRET_ID = "cursor_secret"
"""The `_id` of its document."""

SECRET_BYTES = 32


async def cursor_secret(database: Database) -> bytes:
    """The secret, which is made if there is none.

    Raises ConfigurationError if the database does not let us, and Unavailable.
    """
    if_new = {"$setOnInsert": {"secret": Binary(secrets.token_bytes(SECRET_BYTES))}}
    with errors_at_start(), time_limit(Deadline(WRITE_TIMEOUT_S)):
        saved: Any = await database[META].find_one_and_update(
            {"_id": SECRET_ID}, if_new, upsert=True, return_document=ReturnDocument.AFTER
        )
    return bytes(saved["secret"])
