"""Pages: the link to the next one, cursors, and that following them shows each event once."""

from collections.abc import Iterator

import pytest

from tests.support.harness import Json, Server, batch
from tests.support.reading import EVENTS, FILTERS, Query, Tenant, next_of, tenant_with_events, walk


@pytest.fixture(scope="module")
def tenant(server: Server) -> Iterator[Tenant]:
    """A tenant whose events no other test adds to."""
    with tenant_with_events(server, "pages") as made:
        yield made


@pytest.fixture
def other(server: Server) -> Iterator[Tenant]:
    with tenant_with_events(server, "other") as made:
        yield made


@pytest.mark.parametrize("limit", [1, 7, 29, 30, 31])
@pytest.mark.parametrize("query", [{}, *FILTERS.values()], ids=["all", *FILTERS])
def test_following_the_links_shows_each_event_once(tenant: Tenant, query: Query, limit: int) -> None:
    expected = [item for item in tenant.listed if query.items() <= item.items()]
    pages = list(walk(tenant.client, {**query, "limit": str(limit)}))
    assert [item for page in pages for item in page] == expected
    assert all(len(page) <= limit for page in pages)


def test_a_page_that_ends_the_list_has_no_link(tenant: Tenant) -> None:
    for limit, has_link in ((29, True), (30, False), (31, False)):
        response = tenant.client.get(EVENTS, params={"limit": limit})
        assert ("link" in response.headers) == has_link


def test_the_link_keeps_the_query_but_for_skip(tenant: Tenant) -> None:
    query = {"event_type": "é/ü &+%", "since": "2026-01-01T00:00:00+00:00", "limit": "2", "skip": "1"}
    response = tenant.client.get(EVENTS, params=query)
    link = response.headers["link"]
    assert link.startswith(
        "</api/v1/events?event_type=%C3%A9%2F%C3%BC+%26%2B%25&since=2026-01-01T00%3A00%3A00%2B00%3A00"
    )
    assert link.endswith('>; rel="next"')
    assert "skip" not in link
    rest = [item for page in walk(tenant.client, query) for item in page]
    assert rest == [item for item in tenant.listed if item["event_type"] == query["event_type"]][1:]


def test_events_that_arrive_meanwhile_change_nothing(other: Tenant) -> None:
    first = other.client.get(EVENTS, params={"limit": "10"})
    link = next_of(first)
    assert other.client.post(EVENTS, json=batch(20)).status_code == 201
    shown: list[Json] = first.json()
    while link is not None:
        page = other.client.get(link)
        shown, link = [*shown, *page.json()], next_of(page)
    assert shown == other.listed


def cursor_of(tenant: Tenant, **query: str) -> str:
    """The cursor after a page."""
    link = next_of(tenant.client.get(EVENTS, params={"limit": "2", **query}))
    assert link is not None
    return link.rpartition("cursor=")[2]


def expect_refusal(tenant: Tenant, query: Query, parameter: str = "cursor") -> None:
    response = tenant.client.get(EVENTS, params=query)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")
    assert response.json()["detail"].startswith(f"{parameter}: ")


def test_a_cursor_goes_with_its_tenant_and_its_filter(tenant: Tenant, other: Tenant) -> None:
    cursor = cursor_of(tenant, source="web")
    for extra in ({"source": "app"}, {"source": "web", "event_type": "view"}, {"source": "web", "since": "2026-01-01"}):
        expect_refusal(tenant, {**extra, "cursor": cursor})
    expect_refusal(tenant, {"cursor": cursor})
    expect_refusal(other, {"source": "web", "cursor": cursor})
    for limit in ("1", "1000"):  # the size of a page is not a filter
        assert tenant.client.get(EVENTS, params={"source": "web", "limit": limit, "cursor": cursor}).status_code == 200


def test_a_cursor_that_was_changed_is_refused(tenant: Tenant) -> None:
    cursor = cursor_of(tenant)
    for index, character in enumerate(cursor):
        other = "A" if character != "A" else "B"
        expect_refusal(tenant, {"cursor": cursor[:index] + other + cursor[index + 1 :]})
    for changed in ("", "x", cursor[:-1], cursor + "A", cursor + "=", cursor + "!", f"{cursor}\n", "é", "A" * 3_000):
        expect_refusal(tenant, {"cursor": changed})


def test_a_cursor_has_its_own_place(tenant: Tenant) -> None:
    expect_refusal(tenant, {"cursor": cursor_of(tenant), "skip": "1"}, "skip")


def test_times_bound_a_list_that_has_a_cursor(tenant: Tenant) -> None:
    until = tenant.listed[10]["received_at"]
    expected = [item for item in tenant.listed if item["received_at"] < until]
    shown = [item for page in walk(tenant.client, {"until": until, "limit": "3"}) for item in page]
    assert shown == expected
