"""Checks of error responses of the REST API."""

import re
import socket
import uuid
from http.client import HTTPResponse

import httpx

from tests.support.harness import Json, MongoClient

EVENTS = "/api/v1/events"


def assert_problem(response: httpx.Response, status: int, code: str, detail: str) -> Json:
    """Fails unless the response is this problem. `detail` is a pattern. Returns the problem."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: Json = response.json()
    members = ["type", "title", "status", "detail", "code"]
    assert list(problem) in (members, [*members, "errors"])
    assert problem["status"] == status
    assert problem["code"] == code
    assert re.search(detail, problem["detail"]), problem["detail"]
    assert all(isinstance(problem[member], str) and problem[member] for member in ("type", "title"))
    return problem


def count_events(mongo: MongoClient, key: Json) -> int:
    """How many events the key's tenant has."""
    return mongo.sluice.events.count_documents({"_id.tenant_id": uuid.UUID(key["tenant_id"])})


def read_response(connection: socket.socket) -> httpx.Response:
    """The next response on a raw connection."""
    response = HTTPResponse(connection)
    response.begin()
    return httpx.Response(response.status, headers=response.getheaders(), content=response.read())
