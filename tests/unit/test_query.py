"""Parsing the query of `GET /api/v1/events`: every good value is read back, and every bad one is named."""

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.errors import InvalidParameter
from server.core.events.model import DEFAULT_PAGE_EVENTS, MAX_PAGE_EVENTS, EventFilter
from server.core.times import format_time, from_milliseconds
from server.rest.query import MAX_SKIP, PARAMETERS, Page, parse_page
from tests.unit.strategies import MILLISECONDS, NAMES

QUERIES = st.fixed_dictionaries(
    {},
    optional={
        "source": NAMES,
        "event_type": NAMES,
        "source_id": NAMES | st.just(""),
        "since": MILLISECONDS,
        "until": MILLISECONDS,
        "limit": st.integers(1, MAX_PAGE_EVENTS),
        "skip": st.integers(0, MAX_SKIP),
    },
)


@given(QUERIES)
def test_good_queries(query: dict[str, str | int]) -> None:
    sent = {
        name: format_time(from_milliseconds(int(value))) if name in {"since", "until"} else value
        for name, value in query.items()
    }
    names = {name: value for name, value in query.items() if name not in {"limit", "skip"}}
    expected = Page(EventFilter(**names), int(query.get("limit", DEFAULT_PAGE_EVENTS)), int(query.get("skip", 0)))  # type: ignore[arg-type]
    assert parse_page(urlencode(sent).encode()) == expected


def test_no_query_asks_for_the_newest() -> None:
    assert parse_page(b"") == Page(EventFilter(), DEFAULT_PAGE_EVENTS, 0)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        (b"limit=0", "limit"),
        (b"limit=1001", "limit"),
        (b"limit=+1", "limit"),
        (b"limit=1.0", "limit"),
        (b"limit=%D9%A1", "limit"),
        (b"limit=" + b"9" * 5000, "limit"),
        (b"skip=-1", "skip"),
        (b"skip=2147483648", "skip"),
        (b"since=yesterday", "since"),
        (b"until=0001-01-01T00:00:00%2B01:00", "until"),
        (b"source=", "source"),
        (b"event_type=" + b"a" * 256, "event_type"),
        (b"source_id=" + b"a" * 256, "source_id"),
        (b"sauce=a", "sauce"),
        (b"skip=1&skip=1", "skip"),
    ],
)
def test_bad_parameters_are_named(query: bytes, name: str) -> None:
    with pytest.raises(InvalidParameter, match=f"^{name}: "):
        parse_page(query)


def test_a_plus_that_means_a_space_gets_a_hint() -> None:
    with pytest.raises(InvalidParameter, match="%2B"):
        parse_page(b"since=2026-03-01T12:00:00+02:00")


@given(st.lists(st.tuples(st.sampled_from(PARAMETERS) | st.text(max_size=5), st.text(max_size=10))) | st.binary())
def test_no_query_causes_another_error(query: list[tuple[str, str]] | bytes) -> None:
    text = query if isinstance(query, bytes) else urlencode(query, errors="ignore").encode()
    detail = ""
    try:
        page = parse_page(text)
    except InvalidParameter as error:
        detail = error.detail
    else:
        assert 1 <= page.limit <= MAX_PAGE_EVENTS
        assert 0 <= page.skip <= MAX_SKIP
    assert len(detail) < 1000
