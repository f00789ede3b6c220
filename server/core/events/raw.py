"""Decodes the items of a raw body into events.

An item is an event, or it is the `data` of one whose type and time the query of the request tells. It is decoded in one
call. If anything is wrong with it, it is put into the JSON of an event, and `decode.py` decodes that as
carefully as an event of any other batch. So one bad item costs that item only.

Errors have the paths that they have in a batch, such as `events[3].data.price`; for a raw body `items[3].data.price` is
shown instead. The index counts items from 0, and no blank lines.
"""

from functools import cached_property
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from server.core.errors import EventError, MalformedJson
from server.core.events.decode import HALF_A_CHARACTER, FoundEvents, decode_good, is_heavy
from server.core.events.explain import explain
from server.core.events.json_text import check_json, show_surrogates
from server.core.events.model import DecodedBatch, Event, EventList, Name, PackedEvents
from server.core.events.values import join_path
from server.core.slow_work import Steps
from server.core.times import format_time, from_milliseconds, parse_number, parse_time

ITEMS_A_STEP = 16
"""Items that are decoded in one step, which takes some 0.05 ms if they are small."""

NO_TIME = "Neither an ISO 8601 date or date-time as text nor a number of seconds or milliseconds since 1970"
NO_TYPE = "Missing: it is to be the event's type, as `type_field` says"

NOT_ONE_ITEM = "ends too early", "trailing characters"
ONE_ITEM_A_LINE = ". Each line must be one item"
"""What is added if a line holds a part of an item, or more than one."""

IS_A_BATCH = "Is a batch, which is sent without a query: with `source` in the query, each item is an event"

Time = str | int | float | None

decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class RawQuery(NamedTuple):
    """What the query of a request says about the items of its body. Without type and type_field, they are events."""

    source: str
    source_id: str | None = None
    type: str | None = None
    type_field: str | None = None
    time_field: str | None = None


class ItemDecoder:
    """Decodes the items of one body."""

    def __init__(self, query: RawQuery) -> None:
        self._query = query
        self._is_data = query.type is not None or query.type_field is not None

    def decoding(self, items: list[bytes], first: int, *, slowly: bool) -> Steps[DecodedBatch]:
        """Decode items, of which the first has the index `first`. With `slowly`, the events are held as JSON.

        Errors of single items are in the result's `errors`.
        """
        slowly = slowly or is_heavy(b",".join(items))
        found = FoundEvents(PackedEvents() if slowly else EventList())
        decode = self._decode_data if self._is_data else decode_good
        for index, item in enumerate(items, first):
            event, time = (None, None) if slowly else decode(item)
            if event is not None:
                found.add_good(index, event, time)
            else:
                yield from self._adding(found, index, item)
            if event is None or not index % ITEMS_A_STEP:
                yield
        return found.batch(self._query.source, self._query.source_id)

    def _decode_data(self, item: bytes) -> tuple[Event | None, int | None]:
        """The event of which an item is the data, and its time; no event if anything is wrong with it."""
        query = self._query
        try:
            data = decode_object(item)
            event_type = query.type or msgspec.convert(data.get(query.type_field or ""), Name)
            time = None if query.time_field is None else time_of(data.get(query.time_field))
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            return None, None
        return Event(event_type, data), time

    def _adding(self, found: FoundEvents, index: int, item: bytes) -> Steps[None]:
        """Decode the item at `index` carefully."""
        path = f"events[{index}]"
        try:
            hidden = check_json(item)
            if not self._is_data and is_batch(hidden):
                found.add(index, EventError(index, path, IS_A_BATCH))
                return
            text = self._as_event(hidden, item, path) if self._is_data else item
            yield from found.adding(index, text)
        except MalformedJson as error:
            hint = ONE_ITEM_A_LINE if any(words in error.detail for words in NOT_ONE_ITEM) else ""
            found.add(index, EventError(index, path, error.detail + hint))
        except FieldError as error:
            found.add(index, EventError(index, error.path, error.message))

    def _as_event(self, hidden: bytes, item: bytes, path: str) -> bytes:
        """The JSON of the event of which an item is the data. Raises FieldError."""
        query, event = self._query, {"type": self._query.type}
        try:
            fields = msgspec.structs.asdict(msgspec.json.decode(hidden, type=self._fields))
        except msgspec.ValidationError as error:
            raise FieldError(*explain(error, f"{path}.data")) from None
        if query.type_field is not None:
            event["type"] = field_of(fields["type"], Name, NO_TYPE, join_path(f"{path}.data", query.type_field))
        if query.time_field is not None:
            path = join_path(f"{path}.data", query.time_field)
            raw = fields["type" if query.time_field == query.type_field else "time"]
            try:
                time = time_of(field_of(raw, Time, NO_TIME, path))
            except ValueError as error:
                raise FieldError(path, str(error)) from None
            event["timestamp"] = None if time is None else format_time(from_milliseconds(time))
        return msgspec.json.encode(event)[:-1] + b',"data":' + item + b"}"

    @cached_property
    def _fields(self) -> Any:
        """A struct that decodes the fields with the type and the time, and passes over all others."""
        query = self._query
        names = {"type": query.type_field, "time": None if query.time_field == query.type_field else query.time_field}
        named = {field: name for field, name in names.items() if name is not None}
        return msgspec.defstruct("Fields", [(field, Raw, Raw(b"")) for field in named], rename=named)


class BatchFields(Struct):
    """The field that a batch has, and an event has not."""

    events: Raw


def is_batch(item: bytes) -> bool:
    """Whether an item is a batch, by its field `events`."""
    try:
        return bytes(msgspec.json.decode(item, type=BatchFields).events).startswith(b"[")
    except msgspec.DecodeError:
        return False


class FieldError(Exception):
    """What is wrong with the field of an item that holds the event's type or time."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__()
        self.path = path
        self.message = message


def field_of(raw: Raw, kind: Any, otherwise: str, path: str) -> Any:
    """The value of a field, which must be of this kind. Raises FieldError; `otherwise` is its message."""
    text = show_surrogates(bytes(raw))
    try:
        return msgspec.json.decode(text or b"null", type=kind)
    except msgspec.ValidationError as error:
        detail = otherwise if kind is Time or not text else explain(error, path)[1]
        raise FieldError(path, detail) from None
    except msgspec.DecodeError:
        raise FieldError(path, HALF_A_CHARACTER) from None


def time_of(value: Any) -> int | None:
    """The time that a value names, in milliseconds since 1970. Raises ValueError with a message for the client."""
    if value is None:
        return None
    if type(value) is str:
        return parse_time(value)
    if type(value) is int or type(value) is float:
        return parse_number(value)
    raise ValueError(NO_TIME)
