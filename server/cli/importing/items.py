"""Makes items of lines: the JSON of an event, and the source that it is stored under.

A line is an event as clients send it, `{type, data, timestamp, metadata}`, or one that was exported. Of that one, the
source, source_id, type, data, timestamp and metadata are kept. Its id, tenant and time of receipt are new.
"""

from typing import NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from server.cli.importing.lines import MAX_LINE_BYTES, Line
from server.cli.importing.mapping import Mapping
from server.cli.importing.validation import LineError, check_event, is_good
from server.core.errors import InvalidBatch
from server.core.events.decode import decode_name
from server.core.events.model import Name, SourceId

NO_SOURCE = "Missing: the line has no source, so give --source"
TWO_TYPES = "Object has both type and event_type"


class Item(NamedTuple):
    """An event, as it is sent."""

    source: str
    source_id: str | None
    text: bytes
    """JSON with `type`, `data`, and perhaps `timestamp` and `metadata`."""


class LineFields(Struct, forbid_unknown_fields=True):
    """What a line may have. The first three fields are in what was exported, and are not kept."""

    id: Raw | UnsetType = UNSET
    tenant_id: Raw | UnsetType = UNSET
    received_at: Raw | UnsetType = UNSET
    source: Raw = Raw(b"null")
    source_id: Raw = Raw(b"null")
    event_type: Raw | UnsetType = UNSET
    type: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    timestamp: Raw | UnsetType = UNSET
    metadata: Raw | UnsetType = UNSET


class EventFields(Struct, omit_defaults=True):
    """What is sent of a line."""

    type: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    timestamp: Raw | UnsetType = UNSET
    metadata: Raw | UnsetType = UNSET


decode_fields = msgspec.json.Decoder(LineFields).decode
encode_fields = msgspec.json.Encoder().encode


class ItemMaker:
    """Makes items of lines."""

    def __init__(self, source: str | None, mapping: Mapping | None) -> None:
        self._source = source
        self._mapping = mapping

    def item_of(self, line: Line) -> Item:
        """The item of a line. Raises LineError if the line is no event that can be stored."""
        if line.is_too_long:
            raise LineError("", f"Over {MAX_LINE_BYTES} bytes: no event of that size can be stored")
        if self._mapping is not None:
            return self._mapped(line.text, self._mapping)
        if self._source is not None and is_good(line.text):
            return Item(self._source, None, line.text)
        try:
            fields = decode_fields(line.text)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            check_event(line.text)  # it says what is wrong, in the server's words
            raise LineError("", "Not an event") from None
        return self._of_fields(fields)

    def _mapped(self, text: bytes, mapping: Mapping) -> Item:
        event = mapping.event_of(text)
        try:
            check_event(event)
        except LineError as error:
            raise LineError(mapping.path_of(error.path), error.reason) from None
        return Item(self._needed_source(), None, event)

    def _of_fields(self, fields: LineFields) -> Item:
        source = name_in(fields.source, Name | None, "source") or self._needed_source()
        source_id = name_in(fields.source_id, SourceId | None, "source_id")
        if fields.event_type is not UNSET:
            if fields.type is not UNSET:
                raise LineError("event_type", TWO_TYPES)
            fields.type = fields.event_type
        event = encode_fields(EventFields(fields.type, fields.data, fields.timestamp, fields.metadata))
        try:
            check_event(event)
        except LineError as error:
            is_type = error.path == "type" and fields.event_type is not UNSET
            raise LineError("event_type" if is_type else error.path, error.reason) from None
        return Item(source, source_id, event)

    def _needed_source(self) -> str:
        if self._source is None:
            raise LineError("source", NO_SOURCE)
        return self._source


def name_in(value: Raw, kind: object, field: str) -> str | None:
    """The text of a field. Raises LineError."""
    if value == b"null":
        return None
    try:
        name: str | None = decode_name(value, kind, field)
    except InvalidBatch as error:
        raise LineError(error.field, error.detail.removeprefix(f"{error.field}: ")) from None
    return name
