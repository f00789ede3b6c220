"""A rejection: what a tenant is shown of a batch that was rejected, in whole or in part.

It says which rule the batch broke, and where. It holds no value that was sent: the details and messages of errors hold
none. Names of fields are in paths. A key that a client took for a name is masked.
"""

import re
from collections.abc import Sequence
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from server.core.errors import Code, EventError, InvalidBatch, SluiceError
from server.core.request import Api

MAX_ERRORS = 5
"""Bad events that a rejection lists: the client got up to 100. `detail` says how many more there are."""

MAX_TEXT_CHARS = 300
"""The length of a path, a message and a detail. So a rejection takes 4 KB, and 1,000 of them take 4 MB, at most."""

SECRET = re.compile(r"slc_[A-Za-z0-9_-]{8,}")
MASK = "slc_…"


class Rejection(Struct, frozen=True, kw_only=True):
    """A batch that was rejected."""

    tenant_id: UUID
    id: int
    """128 bits. Of one worker, a later rejection has a higher one."""
    time_ms: int
    """When it was rejected, in milliseconds since 1970."""
    protocol: Api
    key_id: str
    code: Code
    detail: str
    errors: Sequence[EventError]
    """The first bad events."""
    size: int | None
    """Bytes of the body or message; None if it was rejected before it was read."""


def presentable(text: str) -> str:
    """The text as a rejection holds it: without a key, and not too long."""
    text = SECRET.sub(MASK, text)
    return text if len(text) <= MAX_TEXT_CHARS else text[: MAX_TEXT_CHARS - 1] + "…"


def first_errors(error: SluiceError) -> list[EventError]:
    """The bad events that a rejection lists."""
    listed = error.errors[:MAX_ERRORS] if isinstance(error, InvalidBatch) else ()
    return [replace(item, path=presentable(item.path), message=presentable(item.message)) for item in listed]
