"""The query and the headers of raw bodies: each mistake has one clear error."""

import httpx
import pytest

from tests.support.harness import Json, MongoClient, Server, batch
from tests.support.problems import EVENTS, assert_problem, count_events
from tests.support.raw import numbered, post_raw

BAD_QUERIES = {
    "no source": ("type=t", "^source: is needed"),
    "unknown": ("source=s&typo=t", "^typo: no such parameter"),
    "twice": ("source=s&source=s", "^source: may be given once"),
    "not UTF-8": ("source=%ff", "URL-encoded UTF-8"),
    **{f"empty {name}": (f"source=s&{name}=".replace("source=s&source", "source"), f"^{name}: must be 1 to 255")
       for name in ("source", "source_id", "type", "type_field", "time_field", "dedupe")},
    "long": (f"source={'s' * 256}", "^source: must be 1 to 255"),
    "type and type_field": ("source=s&type=t&type_field=f", "^type_field: cannot be given with type"),
    "time_field alone": ("source=s&time_field=f", "^time_field: needs type or type_field"),
    "dedupe by something else": ("source=s&dedupe=id", "^dedupe: may be content only"),
}  # fmt: skip


@pytest.mark.parametrize(("query", "detail"), BAD_QUERIES.values(), ids=BAD_QUERIES)
def test_bad_queries(client: httpx.Client, key: Json, mongo: MongoClient, query: str, detail: str) -> None:
    assert_problem(post_raw(client, query, b"{}\n"), 400, "invalid_parameter", detail)
    assert count_events(mongo, key) == 0


def test_a_batch_has_no_query(client: httpx.Client) -> None:
    assert_problem(client.post(f"{EVENTS}?page=1", json=batch()), 400, "invalid_parameter", "^page: no such parameter")


def test_two_keys_for_one_body(client: httpx.Client) -> None:
    response = post_raw(client, "source=s&type=t&dedupe=content", b"{}\n", Idempotency_Key="k")
    assert_problem(response, 400, "invalid_parameter", "^dedupe: cannot be given with an Idempotency-Key")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml"])
def test_other_types(client: httpx.Client, media_type: str) -> None:
    detail = "application/x-ndjson.*application/json"
    assert_problem(post_raw(client, "source=s&type=t", b"{}\n", media_type), 415, "unsupported_media_type", detail)


def test_lines_need_a_query(client: httpx.Client) -> None:
    response = client.post(EVENTS, content=b"{}\n", headers={"Content-Type": "application/x-ndjson"})
    assert_problem(response, 415, "unsupported_media_type", "application/json")


def test_the_key_comes_first(server: Server) -> None:
    with server.client("slc_" + "x" * 43) as stranger:
        assert_problem(post_raw(stranger, "typo=1", b""), 401, "unauthenticated", "API key")


def test_a_body_counts_as_one_request(server: Server) -> None:
    key = server.create_key("raw-limited", "--rate-limit", "2")
    with server.client(key["key"]) as client:
        response = post_raw(client, "source=s&type=t", numbered(2_500))
        assert response.status_code == 201
        assert '"default";r=1;' in response.headers["ratelimit"]
        assert_problem(post_raw(client, "typo=1", b""), 400, "invalid_parameter", "typo")
        assert_problem(post_raw(client, "source=s&type=t", b"{}"), 429, "rate_limited", "Rate limit")
