"""Query parameters that cannot be understood are rejected by name."""

import uuid

import pytest

from tests.support.reading import EVENTS, Tenant

BAD_QUERIES: dict[str, tuple[str, str]] = {
    "limit 0": ("limit=0", "limit"),
    "limit too high": ("limit=1001", "limit"),
    "limit negative": ("limit=-1", "limit"),
    "limit signed": ("limit=%2B1", "limit"),
    "limit empty": ("limit=", "limit"),
    "limit alone": ("limit", "limit"),
    "limit fraction": ("limit=1.0", "limit"),
    "limit exponent": ("limit=1e2", "limit"),
    "limit words": ("limit=ten", "limit"),
    "limit padded": ("limit=%201", "limit"),
    "limit in other digits": ("limit=%D9%A1", "limit"),
    "limit superscript": ("limit=%C2%B2", "limit"),
    "limit endless": (f"limit={'9' * 5000}", "limit"),
    "skip negative": ("skip=-1", "skip"),
    "skip too high": ("skip=2147483648", "skip"),
    "skip beyond 64 bits": ("skip=99999999999999999999", "skip"),
    "skip empty": ("skip=", "skip"),
    "since words": ("since=yesterday", "since"),
    "since empty": ("since=", "since"),
    "since number": ("since=1772366400", "since"),
    "since with a bare +": ("since=2026-03-01T12:00:00+02:00", "since"),
    "since out of range": ("since=0001-01-01T00:00:00%2B01:00", "since"),
    "until words": ("until=tomorrow&since=2026-01-01", "until"),
    "until out of range": ("until=9999-12-31T23:59:59-01:00", "until"),
    "source empty": ("source=", "source"),
    "source long": (f"source={'a' * 256}", "source"),
    "event_type empty": ("event_type=", "event_type"),
    "event_type long": (f"event_type={'%C3%A9' * 256}", "event_type"),
    "source_id long": (f"source_id={'a' * 256}", "source_id"),
    "unknown": ("source=web&sauce=web", "sauce"),
    "unknown, of MongoDB": ("source[$ne]=web", "source[$ne]"),
    "unknown, another tenant": (f"tenant_id={uuid.uuid4()}", "tenant_id"),
    "unknown, case": ("Limit=1", "Limit"),
    "repeated": ("limit=1&source=web&source=web", "source"),
    "repeated empty": ("skip=1&limit=1&skip=", "skip"),
}


@pytest.mark.parametrize(("query", "name"), BAD_QUERIES.values(), ids=BAD_QUERIES)
def test_bad_parameter_is_named(tenant: Tenant, query: str, name: str) -> None:
    response = tenant.client.get(f"{EVENTS}?{query}")
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["code"]) == (400, "invalid_parameter")
    assert problem["detail"].startswith(f"{name}: ")
    assert len(response.content) < 1000


def test_hint_for_a_plus_that_means_a_space(tenant: Tenant) -> None:
    response = tenant.client.get(f"{EVENTS}?until=2026-03-01T12:00:00+02:00")
    assert "%2B" in response.json()["detail"]


def test_query_that_is_not_utf_8(tenant: Tenant) -> None:
    response = tenant.client.get(f"{EVENTS}?source=%FF")
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")
