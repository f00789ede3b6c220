"""Makes an event of a line by `--map`: `type=event,data=properties,timestamp=properties.time`.

A name with dots is a path. Without `data`, the whole line is the event's `data`. Without `type`, the type is the line's
field `type`. Without `timestamp`, the time of receipt counts. Values stay as they are written, to the digit.
"""

from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from server.cli.importing.validation import LineError
from server.core.errors import MalformedJson
from server.core.events.json_text import check_json
from server.core.events.raw import NO_TIME, time_of
from server.core.times import format_time, from_milliseconds

FIELDS = ("type", "data", "timestamp")

decode_object = msgspec.json.Decoder(dict[str, Raw]).decode


class Mapping(NamedTuple):
    """Which fields of a line make an event, as dotted names; an empty one is the whole line, None is nothing."""

    type: str = "type"
    data: str = ""
    timestamp: str | None = None

    def event_of(self, line: bytes) -> bytes:
        """The JSON of an event. Raises LineError."""
        fields = fields_of(line)
        event = {"type": self._needed(fields, self.type), "data": Raw(line)}
        if self.data:
            event["data"] = self._needed(fields, self.data)
        if self.timestamp is not None and (value := find(fields, self.timestamp)) is not None:
            event["timestamp"] = time_text(value, self.timestamp)
        return msgspec.json.encode(event)

    def path_of(self, path: str) -> str:
        """The path in the line, from that in the event: `properties.price` instead of `data.price`."""
        field, _, rest = path.partition(".")
        if field not in FIELDS:
            return path
        return ".".join(filter(None, (getattr(self, field), rest)))

    def _needed(self, fields: dict[str, Raw], name: str) -> Raw:
        value = find(fields, name)
        if value is None:
            raise LineError(name, "Missing: --map needs it")
        return value


def parse_mapping(text: str) -> Mapping:
    """The mapping that an option says. Raises ValueError with what is wrong."""
    names = dict[str, str]()
    for part in text.split(","):
        field, equals, name = part.strip().partition("=")
        if field not in FIELDS or not equals or not all(name.split(".")):
            raise ValueError(f"{part!r} is not type=F, data=F or timestamp=F")
        if field in names:
            raise ValueError(f"{field} is given twice")
        names[field] = name
    return Mapping(**names)


def fields_of(line: bytes) -> dict[str, Raw]:
    """The fields of the object that a line is. Raises LineError."""
    try:
        return decode_object(line)
    except msgspec.ValidationError:
        raise LineError("", "Not an object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            check_json(line)
        except MalformedJson as error:
            raise LineError("", error.detail) from None
        raise LineError("", "Holds half of a surrogate pair, which is not a character") from None


def find(fields: dict[str, Raw], name: str) -> Raw | None:
    """The value of a field by its dotted name; None if it is not there."""
    first, dot, rest = name.partition(".")
    value = fields.get(first)
    if value is None or not dot:
        return value
    try:
        return find(decode_object(value), rest)
    except msgspec.ValidationError:  # no object
        return None


def time_text(value: Raw, name: str) -> Any:
    """A timestamp as an event has it. A number is seconds or milliseconds since 1970. Raises LineError."""
    try:
        number = msgspec.json.decode(value, type=int | float)
    except msgspec.ValidationError:  # text, null, or what the check of the event rejects
        return value
    try:
        milliseconds = time_of(number)
    except ValueError as error:
        raise LineError(name, str(error) or NO_TIME) from None
    return None if milliseconds is None else format_time(from_milliseconds(milliseconds))
