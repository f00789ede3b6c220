"""Checks the fields of a request that say which events to read."""

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from server.core.errors import InvalidParameter
from server.core.events.model import MAX_NAME_CHARS
from server.core.times import MAX_MS, MIN_MS, MS_PER_S, NS_PER_MS


def name(request: Message, field: str) -> str:
    """A field that is compared as text. Raises InvalidParameter."""
    value: str = getattr(request, field)
    if len(value) > MAX_NAME_CHARS:
        raise InvalidParameter(f"{field}: must be at most {MAX_NAME_CHARS} characters", field)
    return value


def moment(request: Message, field: str) -> int | None:
    """A bound in milliseconds since 1970, rounded up, since stored times are whole ones. Raises InvalidParameter."""
    if not request.HasField(field):
        return None
    time: Timestamp = getattr(request, field)
    milliseconds = time.seconds * MS_PER_S - (-time.nanos // NS_PER_MS)
    if not (0 <= time.nanos < NS_PER_MS * MS_PER_S and MIN_MS <= milliseconds <= MAX_MS):
        raise InvalidParameter(f"{field}: must be a time in the years 1 to 9999, with 0 to 999,999,999 nanos", field)
    return milliseconds
