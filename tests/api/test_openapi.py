"""The OpenAPI document against the real server: it is valid and complete, and what it says is what the server does.

Schemathesis makes up the requests: some hundreds, or with SLUICE_LONG=1 many more, for minutes. Its command line
imports this module too, for the hooks at its end. They know what no schema can say.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import schemathesis
from hypothesis import strategies

from server.rest.http.negotiation import LINE_TYPES
from server.rest.schema.error_help import ERROR_HELP
from tests.support.harness import Json, Server

EXAMPLES = 1_000 if os.environ.get("SLUICE_LONG") else 12
SEED = [] if os.environ.get("SLUICE_LONG") else ["--seed", "1"]
TIMEOUT_S = 1_800 if os.environ.get("SLUICE_LONG") else 120

OPERATIONS = {
    "/api/v1/alerts": {"GET"},
    "/api/v1/alerts/{alert_id}": {"GET"},
    "/api/v1/alerts/{alert_id}/acknowledge": {"POST"},
    "/api/v1/alerts/{alert_id}/resolve": {"POST"},
    "/api/v1/event-types": {"GET"},
    "/api/v1/events": {"GET", "POST"},
    "/api/v1/events/tail": {"GET"},
    "/api/v1/events/{event_id}": {"GET"},
    "/api/v1/rejections": {"GET"},
    "/api/v1/rules": {"GET", "POST"},
    "/api/v1/rules/{rule_id}": {"GET", "PATCH", "DELETE"},
    "/api/v1/rules/{rule_id}/evaluate": {"POST"},
    "/api/v1/usage": {"GET"},
    "/api/v1/webhooks": {"GET", "POST"},
    "/api/v1/webhooks/{webhook_id}": {"GET", "DELETE"},
    "/api/v1/webhooks/{webhook_id}/deliveries": {"GET"},
    "/api/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/resend": {"POST"},
    "/api/v1/webhooks/{webhook_id}/rotate": {"POST"},
    "/api/v1/webhooks/{webhook_id}/test": {"POST"},
    "/health/live": {"GET"},
    "/health/ready": {"GET"},
}

FRESHNESS = {"event_type": "purchase", "max_age_minutes": 60}

VISIBLE = {"type": "string", "pattern": "^[!-~]{1,64}$"}

MAX_INT64 = 2**63 - 1

CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 401, 403, 404, 409, 422, 429, "5xx"]
"""
"""The default and 422: no schema can say that an idempotency key was used before, with other events."""


@pytest.fixture(scope="module")
def document(server: Server) -> Json:
    """The document as it is served, without a key."""
    with server.client() as client:
        response = client.get("/schema/openapi.json")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    read: Json = response.json()
    return read


def resolve(document: Json, reference: str) -> Any:
    """What a `$ref` names."""
    value: Any = document
    for part in reference.removeprefix("#/").split("/"):
        value = value[part]
    return value


def references(value: Any) -> Iterator[str]:
    """Every `$ref` in the document."""
    match value:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for item in value.values():
                yield from references(item)
        case list():
            for item in value:
                yield from references(item)


def test_it_is_openapi_3_1(server: Server, document: Json) -> None:
    assert document["openapi"].startswith("3.1.")
    schemathesis.openapi.from_url(f"{server.url}/schema/openapi.json").validate()


def test_it_names_every_route_and_method(server: Server, document: Json) -> None:
    named = {path: {method.upper() for method in methods} for path, methods in document["paths"].items()}
    assert named == OPERATIONS
    with server.client() as client:
        for path, methods in OPERATIONS.items():
            allowed = client.options(re.sub(r"{\w+}", "7", path)).headers["allow"]
            assert set(allowed.split(", ")) == {*methods, *(["HEAD"] if "GET" in methods else [])}  # HEAD is as GET


def test_references_resolve(document: Json) -> None:
    assert all(isinstance(resolve(document, reference), dict) for reference in references(document))


def test_the_request_body_is_the_real_one(document: Json) -> None:
    post = document["paths"]["/api/v1/events"]["post"]
    assert post["requestBody"]["required"] is True
    assert list(post["requestBody"]["content"]) == ["application/json", *LINE_TYPES]
    batch = resolve(document, post["requestBody"]["content"]["application/json"]["schema"]["anyOf"][0]["$ref"])
    assert set(batch["properties"]) == {"source", "source_id", "events"}
    assert set(batch["required"]) == {"source", "events"}
    assert batch["additionalProperties"] is False
    assert (batch["properties"]["source"]["minLength"], batch["properties"]["source"]["maxLength"]) == (1, 255)
    assert (batch["properties"]["events"]["minItems"], batch["properties"]["events"]["maxItems"]) == (1, 1000)
    event = resolve(document, batch["properties"]["events"]["items"]["$ref"])
    assert set(event["properties"]) == {"type", "data", "timestamp", "metadata"}
    assert set(event["required"]) == {"type", "data"}
    assert event["additionalProperties"] is False
    assert (event["properties"]["type"]["minLength"], event["properties"]["type"]["maxLength"]) == (1, 255)
    assert event["properties"]["data"]["type"] == "object"


@pytest.mark.parametrize(
    ("path", "method", "statuses"),
    [
        ("/api/v1/events", "post", {"201", "400", "401", "403", "408", "413", "415", "422", "431", "503"}),
        ("/api/v1/events", "get", {"200", "400", "401", "403", "431", "503"}),
        ("/api/v1/events/{event_id}", "get", {"200", "401", "403", "404", "431", "503"}),
        ("/health/ready", "get", {"200", "431", "503"}),
    ],
)
def test_it_names_every_response(document: Json, path: str, method: str, statuses: set[str]) -> None:
    responses = document["paths"][path][method]["responses"]
    assert statuses <= set(responses)
    for status, response in responses.items():
        media_types = set(response["content"]) - {"application/x-ndjson"}  # of exports
        assert media_types == {"application/json" if status < "300" else "application/problem+json"}


def test_it_names_what_a_raw_body_may_have(document: Json) -> None:
    post = document["paths"]["/api/v1/events"]["post"]
    named = [parameter["name"] for parameter in post["parameters"] if parameter["in"] == "query"]
    assert named == ["source", "source_id", "type", "type_field", "time_field", "dedupe"]
    receipts = [each["$ref"] for each in post["responses"]["201"]["content"]["application/json"]["schema"]["anyOf"]]
    assert set(resolve(document, receipts[1])["properties"]) == {"success", "events_received", "errors"}
    assert "events_received" in document["components"]["schemas"]["ProblemBody"]["properties"]


def test_it_names_the_mark_of_a_replay(document: Json) -> None:
    headers = document["paths"]["/api/v1/events"]["post"]["responses"]["201"]["headers"]
    assert headers["Idempotent-Replayed"]["schema"]["enum"] == ["true"]


class Links(HTMLParser):
    """Collects what a page loads or leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note every address, and that no script is inside the page."""
        assert tag not in {"iframe", "base"}
        addresses = [value for name, value in attrs if name in {"src", "href"} and value]
        assert tag != "script" or addresses
        self.found += addresses


@pytest.mark.parametrize("path", ["/schema", "/schema/"])
def test_the_page_loads_files_of_this_server_by_relative_links(server: Server, document: Json, path: str) -> None:
    with server.client() as client:
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert answer.text.startswith("<!doctype html>")
        page = Links()
        page.feed(answer.text)
        assert len(page.found) == 5
        for link in page.found:
            assert not re.match(r"/|\w+:", link), "below a path prefix it would lead elsewhere"
            file = client.get(urljoin(path, link))
            assert file.status_code == 200, link
            assert "no-store" not in file.headers["cache-control"]
            if link.endswith("css"):
                assert not re.search(r"@import|url\((?!data:)", file.text)
    assert all(operation in answer.text for operation in document["paths"])


def test_the_root_leads_to_the_page(server: Server) -> None:
    with server.client(follow_redirects=True) as client:
        answer = client.get("/")
    assert answer.url.path == "/schema"
    assert answer.history[0].headers["location"] == "schema"


def test_times_are_said_to_be_utc(server: Server, document: Json) -> None:
    for name in ("ReceiptEvent", "EventBody"):
        assert "UTC" in document["components"]["schemas"][name]["properties"]["received_at"]["description"]
    with server.client() as client:
        page = client.get("/schema").text
    for text in (document["info"]["description"], page):
        assert 'new Date(event.received_at + "Z")' in text.replace("&quot;", '"')
        assert "LocalDateTime.parse(receivedAt).toInstant(ZoneOffset.UTC)" in text


def test_every_problem_type_is_explained(server: Server, document: Json) -> None:
    with server.client() as client:
        page = client.get("/schema").text
        problem_type = client.get("/nothing").json()["type"]
    assert problem_type == "/schema#not_found"
    codes = document["components"]["schemas"]["Code"]["enum"]
    assert set(codes) == {code.value for code in ERROR_HELP}
    assert all(f'id="{code}"' in page for code in codes)


@pytest.mark.slow
def test_the_server_does_what_it_says(server: Server, tmp_path: Path) -> None:
    key, before = server.create_key("openapi", "--rate-limit", "0"), server.log_size()
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/schema/openapi.json"]
    done = subprocess.run(
        [
            *(*command, "--header", f"X-API-Key: {key['key']}", "--max-examples", str(EXAMPLES)),
            *("--continue-on-failure", "--exclude-path", "/api/v1/events/tail"),  # its response has no end
            *SEED,
        ],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": __name__, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "internal error" not in server.stderr(before)  # other tests share this server


def is_storable(value: Any) -> bool:
    """Whether MongoDB can hold a value. No schema can tell an integer of over 64 bits from a float."""
    match value:
        case dict():
            return all("\0" not in key and is_storable(item) for key, item in value.items())
        case list():
            return all(map(is_storable, value))
        case int():
            return -MAX_INT64 - 1 <= value <= MAX_INT64
    return True


@schemathesis.hook
def before_load_schema(_context: schemathesis.HookContext, document: Json) -> None:
    """Leave out what no schema can tell: what belongs to a raw body or an export, cursors, and which hosts are public.

    They are left out here, and not as requests: if most are filtered out, Schemathesis now and then fails.
    """
    get, post = (document["paths"]["/api/v1/events"][method] for method in ("get", "post"))
    left_out = {"cursor", "order", "after", "Content-Encoding"}
    get["parameters"] = [parameter for parameter in get["parameters"] if parameter["name"] not in left_out]
    post["parameters"] = [each for each in post["parameters"] if each["in"] != "query" and each["name"] not in left_out]
    webhook = document["components"]["schemas"]["WebhookFields"]["properties"]
    webhook |= {"name": VISIBLE, "url": {"enum": ["https://1.1.1.1/"]}}  # a public address
    keep_one_rule(document["components"]["schemas"])
    content = post["requestBody"]["content"]["application/json"]
    post["requestBody"]["content"] = {"application/json": {**content, "schema": content["schema"]["anyOf"][0]}}


def keep_one_rule(schemas: Json) -> None:
    """Leave one type of rule with one configuration: no schema can tell which configurations a type has."""
    new, change = schemas["RuleFields"]["properties"], schemas["RuleChange"]["properties"]
    tags = {"type": "array", "items": VISIBLE, "maxItems": 20}
    category = {"anyOf": [VISIBLE, {"type": "null"}]}
    new |= {"name": VISIBLE, "tags": tags, "category": category}
    new |= {"rule_type": {"const": "freshness"}, "config": {"const": FRESHNESS}}
    schemas["RuleChange"]["properties"] = {
        "name": VISIBLE,
        "tags": tags,
        "enabled": change["enabled"],
        "category": category,
    }


@schemathesis.hook
def filter_case(_context: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
    """Leave out requests that the document allows and the server rejects, as it should.

    No schema can tell that a good X-API-Key works beside an Authorization for others.
    """
    return "Authorization" not in case.headers and is_storable(case.body)


schemathesis.openapi.format("iso-8601", strategies.datetimes().map(lambda moment: moment.isoformat()))
