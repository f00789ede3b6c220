"""`/api/v1/webhooks`: what tenants can do with their webhooks, and what they are told if they cannot."""

from collections.abc import Iterator

import httpx
import pytest

from server.core.webhooks.model import MAX_WEBHOOKS
from tests.support.harness import Json, Server
from tests.support.webhooks import WEBHOOKS, make, path_of

URL = "http://127.0.0.1:9/"

MISSING = "0193f3b1-0000-7000-8000-000000000000"


def test_a_webhook_is_made_and_its_secret_is_shown_once(hooks: httpx.Client) -> None:
    made = make(hooks, URL, events=["alert.opened"], format="slack")
    assert made.pop("secret").startswith("whsec_")
    assert (made["name"], made["url"], made["events"], made["format"]) == ("on call", URL, ["alert.opened"], "slack")
    assert (made["disabled_at"], made["previous_secret_valid_until"]) == (None, None)
    assert hooks.get(path_of(made)).json() == made
    assert hooks.get(WEBHOOKS).json() == [made]


def test_all_events_and_the_standard_format_are_the_default(hooks: httpx.Client) -> None:
    made = make(hooks, URL)
    assert (made["events"], made["format"]) == (["alert.opened", "alert.resolved"], "standard")


def test_webhooks_are_listed_in_the_order_in_which_they_were_made(hooks: httpx.Client) -> None:
    for name in ("b", "a", "c"):
        make(hooks, URL, name)
    assert [each["name"] for each in hooks.get(WEBHOOKS).json()] == ["b", "a", "c"]


def test_a_name_is_given_once(hooks: httpx.Client) -> None:
    make(hooks, URL)
    response = hooks.post(WEBHOOKS, json={"name": "on call", "url": URL})
    assert (response.status_code, response.json()["code"]) == (409, "conflict")
    assert response.json()["detail"].startswith("name: ")
    assert len(hooks.get(WEBHOOKS).json()) == 1


def test_another_tenant_may_use_the_same_name(hook_server: Server, hooks: httpx.Client) -> None:
    make(hooks, URL)
    with hook_server.client(hook_server.create_key("same-name")["key"]) as other:
        make(other, URL)


def test_a_tenant_has_a_limited_number(hooks: httpx.Client) -> None:
    for number in range(MAX_WEBHOOKS):
        make(hooks, URL, str(number))
    response = hooks.post(WEBHOOKS, json={"name": "one more", "url": URL})
    assert (response.status_code, response.json()["code"]) == (409, "conflict")
    assert str(MAX_WEBHOOKS) in response.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": ...}, "name"),
        ({"url": ...}, "url"),
        ({"name": ""}, "name"),
        ({"name": "n" * 256}, "name"),
        ({"name": 1}, "name"),
        ({"name": " "}, "name"),
        ({"name": "on\ncall"}, "name"),
        ({"url": "example.com"}, "url"),
        ({"url": f"http://127.0.0.1/{'a' * 2_048}"}, "url"),
        ({"events": []}, "events"),
        ({"events": ["alert.closed"]}, "events"),
        ({"events": "alert.opened"}, "events"),
        ({"format": "teams"}, "format"),
        ({"secret": "whsec_x"}, "secret"),
    ],
)
def test_a_wrong_field_is_named(hooks: httpx.Client, fields: Json, named: str) -> None:
    body = {"name": "on call", "url": URL, **fields}
    response = hooks.post(WEBHOOKS, json={name: value for name, value in body.items() if value is not ...})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")
    assert named in response.json()["detail"]


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (b'"\xff"', {}, 400),
        (b"[" * 60_000, {}, 400),
        (b"", {}, 400),
        (b" " * 70_000, {}, 413),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {"Content-Encoding": "gzip"}, 415),
    ],
)
def test_a_bad_body(hooks: httpx.Client, content: bytes, headers: dict[str, str], status: int) -> None:
    response = hooks.post(WEBHOOKS, content=content, headers={"Content-Type": "application/json", **headers})
    assert response.status_code == status, response.text


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.2/",
        "http://127.1/",
        "http://2130706433/",
        "http://[::1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://[fd00::1]/",
        "http://[2002:7f00:1::]/",
        "http://[64:ff9b::a00:1]/",
    ],
)
def test_an_address_that_is_not_public_is_refused(hooks: httpx.Client, url: str) -> None:
    response = hooks.post(WEBHOOKS, json={"name": "on call", "url": url})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")
    assert response.json()["detail"].startswith("url: its host must have public addresses")
    assert hooks.get(WEBHOOKS).json() == []


@pytest.mark.parametrize("url", ["http://localhost/", "http://127.0.0.1/"])
def test_without_the_option_no_private_address_is_allowed(client: httpx.Client, url: str) -> None:
    response = client.post(WEBHOOKS, json={"name": "on call", "url": url})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")


@pytest.mark.parametrize("url", ["http://8.8.8.8/", "https://[2606:4700:4700::1111]:8443/a?b=c", URL])
def test_an_address_that_is_public_or_allowed_is_taken(hooks: httpx.Client, url: str) -> None:
    assert make(hooks, url)["url"] == url


def test_a_deleted_webhook_is_gone(hooks: httpx.Client) -> None:
    made = make(hooks, URL)
    response = hooks.delete(path_of(made))
    assert (response.status_code, response.content) == (204, b"")
    assert hooks.get(WEBHOOKS).json() == []
    for method, *parts in OPERATIONS:
        assert hooks.request(method, path_of(made, *parts)).status_code == 404


OPERATIONS = [
    ("GET",),
    ("DELETE",),
    ("POST", "test"),
    ("POST", "rotate"),
    ("GET", "deliveries"),
    ("POST", "deliveries", MISSING, "resend"),
]


@pytest.fixture
def other(hook_server: Server) -> Iterator[httpx.Client]:
    """A client of another tenant."""
    with hook_server.client(hook_server.create_key("other")["key"]) as opened:
        yield opened


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_webhook_of_another_tenant_is_as_one_that_does_not_exist(
    hooks: httpx.Client, other: httpx.Client, operation: tuple[str, ...]
) -> None:
    method, *parts = operation
    made = make(hooks, URL)
    foreign = other.request(method, path_of(made, *parts))
    unknown = other.request(method, path_of({"id": MISSING}, *parts))
    nonsense = other.request(method, path_of({"id": "x"}, *parts))
    assert foreign.status_code == unknown.status_code == nonsense.status_code == 404
    assert foreign.json()["detail"] == unknown.json()["detail"] == nonsense.json()["detail"]
    assert hooks.get(path_of(made)).status_code == 200


@pytest.mark.parametrize("operation", [("GET", ""), ("POST", ""), *((m, "/" + "/".join(p)) for m, *p in OPERATIONS)])
def test_the_scopes(hook_server: Server, hook_key: Json, hooks: httpx.Client, operation: tuple[str, str]) -> None:
    method, path = operation
    target = f"{WEBHOOKS}/{make(hooks, URL)['id']}{path}".rstrip("/") if path else WEBHOOKS
    needed = "rules:read" if method == "GET" else "rules:write"
    lacking = "rules:write" if method == "GET" else "rules:read"
    for scope, is_enough in ((needed, True), (lacking, False), ("events:read", False)):
        secret = hook_server.create_key(hook_key["tenant"], "--scope", scope)["key"]
        with hook_server.client(secret) as client:
            response = client.request(method, target, json={} if method == "POST" else None)
        assert (response.status_code != 403) == is_enough
        assert is_enough or needed in response.json()["detail"]


def test_without_a_key_nothing_is_told(hook_server: Server) -> None:
    with hook_server.client() as client:
        for path in (WEBHOOKS, f"{WEBHOOKS}/{MISSING}", f"{WEBHOOKS}/{MISSING}/deliveries"):
            assert client.get(path).status_code == 401
        assert client.post(WEBHOOKS, json={"name": "a", "url": "http://10.0.0.1/"}).status_code == 401


def test_other_methods_are_named(hooks: httpx.Client) -> None:
    for path, allowed in (("", "GET, HEAD, POST"), (f"/{MISSING}", "DELETE, GET, HEAD"), (f"/{MISSING}/test", "POST")):
        response = hooks.put(WEBHOOKS + path)
        assert (response.status_code, response.headers["Allow"]) == (405, allowed)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "skip=1"])
def test_a_bad_query_is_named(hooks: httpx.Client, query: str) -> None:
    response = hooks.get(f"{path_of(make(hooks, URL), 'deliveries')}?{query}")
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")
    assert response.json()["detail"].startswith(query.partition("=")[0])
