"""Parses the query of `GET /api/v1/events`, for a page and for an export.

An unknown parameter is rejected: a misspelled filter would otherwise match too much.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from server.core.errors import InvalidParameter
from server.core.events.model import DEFAULT_PAGE_EVENTS, MAX_NAME_CHARS, MAX_PAGE_EVENTS, EventFilter
from server.core.events.store import Course
from server.core.times import parse_bound

MAX_SKIP = 2**31 - 1
"""The largest number that every version of MongoDB takes."""

FILTERS = ("source", "event_type", "source_id", "since", "until")
OF_PAGES = ("limit", "skip", "cursor")
OF_EXPORTS = ("order", "after")
PARAMETERS = (*FILTERS, *OF_PAGES, *OF_EXPORTS)

NEWEST_FIRST, OLDEST_FIRST = "desc", "asc"

CANONICAL_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
"""The form of an id that Sluice writes. Python would read many others."""


class Page(NamedTuple):
    """Which events to list, and which page of them."""

    where: EventFilter
    limit: int
    skip: int
    cursor: str | None = None
    """Where it starts; None if that is at the newest event, after `skip`."""


def parse_page(query: bytes) -> Page:
    """The page that a query string asks for. Raises InvalidParameter, which names the parameter."""
    values = parse_query(query, PARAMETERS)
    reject(values, OF_EXPORTS, "is for exports, which have the header Accept: application/x-ndjson")
    where = filter_of(values)
    limit = number(values, "limit", default=DEFAULT_PAGE_EVENTS, lowest=1, highest=MAX_PAGE_EVENTS)
    if "cursor" in values and "skip" in values:
        raise InvalidParameter("skip: cannot be given with a cursor, which has its own place in the list")
    skip = number(values, "skip", default=0, lowest=0, highest=MAX_SKIP)
    return Page(where, limit, skip, values.get("cursor"))


class Export(NamedTuple):
    """Which events to export, and in which order."""

    where: EventFilter
    course: Course


def parse_export(query: bytes) -> Export:
    """The export that a query string asks for. Raises InvalidParameter, which names the parameter."""
    values = parse_query(query, PARAMETERS)
    reject(values, OF_PAGES, "is for pages. An export has every event; after=ID goes on behind the event with that id")
    order, after = values.get("order", NEWEST_FIRST), values.get("after")
    if order not in (NEWEST_FIRST, OLDEST_FIRST):
        raise InvalidParameter(f"order: must be {OLDEST_FIRST} (oldest first) or {NEWEST_FIRST} (newest first)")
    if after is not None and not CANONICAL_ID.fullmatch(after):
        raise InvalidParameter("after: must be the id of an event")
    return Export(filter_of(values), Course(order == OLDEST_FIRST, None if after is None else UUID(after)))


def reject(values: dict[str, str], parameters: Sequence[str], why: str) -> None:
    """Raises InvalidParameter if one of these parameters is given."""
    for parameter in parameters:
        if parameter in values:
            raise InvalidParameter(f"{parameter}: {why}")


def filter_of(values: dict[str, str]) -> EventFilter:
    """The filter among the parameters. Raises InvalidParameter."""
    return EventFilter(
        source=name(values, "source"),
        event_type=name(values, "event_type"),
        source_id=name(values, "source_id", shortest=0),
        since=moment(values, "since"),
        until=moment(values, "until"),
    )


def next_page(query: bytes, cursor: str) -> str:
    """The query string of the next page, after `parse_page`: the same filters and limit, and the cursor."""
    values = {**parse_query(query, PARAMETERS), "cursor": cursor}
    values.pop("skip", None)
    return urlencode(values)


def parse_query(query: bytes, parameters: Sequence[str]) -> dict[str, str]:
    """The value of each of the parameters that is given.

    Raises InvalidParameter for one that is unknown or given twice, and for bad UTF-8.
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:  # bad UTF-8 among them
        raise InvalidParameter("The query is not URL-encoded UTF-8") from None
    values: dict[str, str] = {}
    for parameter, value in pairs:
        if parameter not in parameters:
            known = ", ".join(parameters) or "none"
            raise InvalidParameter(f"{parameter[:MAX_NAME_CHARS]}: no such parameter; there are {known}")
        if parameter in values:
            raise InvalidParameter(f"{parameter}: may be given once")
        values[parameter] = value
    return values


def name(values: dict[str, str], parameter: str, *, shortest: int = 1) -> str | None:
    """A parameter that names a source or a type."""
    value = values.get(parameter)
    if value is not None and not shortest <= len(value) <= MAX_NAME_CHARS:
        raise InvalidParameter(f"{parameter}: must be {shortest} to {MAX_NAME_CHARS} characters")
    return value


def moment(values: dict[str, str], parameter: str) -> int | None:
    """A parameter that is a time."""
    value = values.get(parameter)
    try:
        return None if value is None else parse_bound(value)
    except ValueError as error:
        hint = "; write + as %2B" if value and " " in value else ""
        raise InvalidParameter(f"{parameter}: {error}{hint}") from None


def number(values: dict[str, str], parameter: str, *, default: int, lowest: int, highest: int) -> int:
    """A parameter that is a whole number."""
    value = values.get(parameter, str(default))
    plain = value.isascii() and value.isdigit() and len(value) <= len(str(highest))
    if not plain or not lowest <= int(value) <= highest:
        raise InvalidParameter(f"{parameter}: must be a whole number from {lowest} to {highest}")
    return int(value)
