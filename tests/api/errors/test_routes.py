"""Paths and methods that do not exist: 404 and 405."""

import uuid

import httpx
import pytest

from tests.support.problems import EVENTS, assert_problem


@pytest.mark.parametrize(
    "path", ["/nothing", "/api/v1", "/api/v2/events", f"{EVENTS}/a/b", "/schema/swagger", "/health"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_not_found(rejected_client: httpx.Client, method: str, path: str) -> None:
    assert_problem(rejected_client.request(method, path), 404, "not_found", ".")


@pytest.mark.parametrize("event_id", [str(uuid.UUID(int=7)), "7", "%00", "%FF", "'"])
def test_no_such_event(rejected_client: httpx.Client, event_id: str) -> None:
    assert_problem(rejected_client.get(f"{EVENTS}/{event_id}"), 404, "not_found", "no event")


ALLOWED_METHODS = {
    EVENTS: {"GET", "HEAD", "POST"},
    f"{EVENTS}/": {"GET", "HEAD", "POST"},
    f"{EVENTS}/{uuid.UUID(int=7)}": {"GET", "HEAD"},
    "/api/v1/alerts": {"GET", "HEAD"},
    f"/api/v1/alerts/{uuid.UUID(int=7)}": {"GET", "HEAD"},
    f"/api/v1/alerts/{uuid.UUID(int=7)}/resolve": {"POST"},
    "/health/live": {"GET", "HEAD"},
    "/health/ready": {"GET", "HEAD"},
    "/": {"GET", "HEAD"},
    "/schema": {"GET", "HEAD"},
    "/schema/openapi.json": {"GET", "HEAD"},
}

REFUSED_METHODS = [
    (method, path)
    for path, allowed in ALLOWED_METHODS.items()
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
    if method not in allowed
]


@pytest.mark.parametrize(("method", "path"), REFUSED_METHODS)
def test_method_not_allowed(rejected_client: httpx.Client, method: str, path: str) -> None:
    response = rejected_client.request(method, path, headers={"Origin": "https://example.com"})
    assert_problem(response, 405, "method_not_allowed", " and ".join(sorted(ALLOWED_METHODS[path])))
    assert set(response.headers["allow"].split(", ")) == ALLOWED_METHODS[path]
    assert not any(name.startswith("access-control") for name in response.headers)
