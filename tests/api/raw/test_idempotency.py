"""Raw bodies that are sent again, under an idempotency key or with `dedupe=content`: each event is stored once."""

import gzip
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.harness import Json, MongoClient, Server
from tests.support.problems import assert_problem, count_events
from tests.support.raw import numbered, post_raw, progress_of

COUNT = 2_500
BODY = numbered(COUNT) + b"bad line\n"
QUERY = "source=s&type=t"

WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "key": (QUERY, {"Idempotency_Key": "k"}),
    "content": (f"{QUERY}&dedupe=content", {}),
}


def replayed(response: httpx.Response) -> bool:
    """Whether a 201 says that it is a replay."""
    assert response.status_code == 201, response.text
    assert response.json()["events_received"] == COUNT
    assert [error["path"] for error in response.json()["errors"]] == [f"items[{COUNT}]"]
    return bool(response.headers.get("idempotent-replayed") == "true")


@pytest.mark.parametrize(("query", "headers"), WAYS.values(), ids=WAYS)
def test_a_repeat_is_stored_once(
    client: httpx.Client, key: Json, mongo: MongoClient, query: str, headers: dict[str, str]
) -> None:
    assert not replayed(post_raw(client, query, BODY, **headers))
    assert replayed(post_raw(client, query, BODY, **headers))
    assert replayed(post_raw(client, query, gzip.compress(BODY), Content_Encoding="gzip", **headers))
    assert count_events(mongo, key) == COUNT


@pytest.mark.parametrize(("query", "headers"), WAYS.values(), ids=WAYS)
def test_a_repeat_passes_over_what_is_settled(
    client: httpx.Client, key: Json, mongo: MongoClient, query: str, headers: dict[str, str]
) -> None:
    """It does not even see that events are gone. Without the progress, as after a crash, it stores them again."""
    first = post_raw(client, query, BODY, **headers)
    assert progress_of(mongo, key) == {
        "items": COUNT + 1,
        "stored": COUNT,
        "rejected": 1,
        "errors": [{"index": COUNT, **each} for each in first.json()["errors"]],
    }
    tenant = {"tenant_id": uuid.UUID(key["tenant_id"])}
    assert mongo.sluice.events.delete_one({"_id.tenant_id": tenant["tenant_id"], "data.index": 2_000}).deleted_count
    for stored in (COUNT - 1, COUNT):
        repeat = post_raw(client, query, BODY, **headers)
        assert replayed(repeat)
        assert repeat.json() == first.json()
        assert count_events(mongo, key) == stored
        mongo.sluice.claims.delete_one({**tenant, "progress": {"$exists": True}})


def test_a_body_of_one_piece_saves_no_progress(client: httpx.Client, key: Json, mongo: MongoClient) -> None:
    assert post_raw(client, f"{QUERY}&dedupe=content", numbered(1_000)).status_code == 201
    assert progress_of(mongo, key) is None


@pytest.mark.parametrize(("query", "headers"), WAYS.values(), ids=WAYS)
def test_repeats_at_once_are_stored_once(
    server: Server, key: Json, mongo: MongoClient, query: str, headers: dict[str, str]
) -> None:
    def post(_: int) -> bool:
        with server.client(key["key"]) as client:  # each its own connection, so both workers get some
            return replayed(post_raw(client, query, BODY, **headers))

    with ThreadPoolExecutor(6) as threads:
        assert sum(not each for each in threads.map(post, range(6))) <= 1
    assert count_events(mongo, key) == COUNT


def test_equal_values_are_a_repeat(client: httpx.Client) -> None:
    assert not replayed(post_raw(client, QUERY, BODY, Idempotency_Key="k"))
    assert replayed(
        post_raw(client, QUERY, BODY.replace(b": ", b" :\t").replace(b"\n", b"\r\n\n"), Idempotency_Key="k")
    )


OTHERS = {
    "fewer items": (QUERY, numbered(1_000), {}),
    "more items": (QUERY, BODY + b"{}\n", {}),
    "another first item": (QUERY, b"{}\n" + BODY, {}),
    "another last item": (QUERY, BODY.replace(b"2499", b"2498"), {}),
    "another type": ("source=s&type=u", BODY, {}),
    "strict handling": (QUERY, numbered(1_000), {"Prefer": "handling=strict"}),
}


@pytest.mark.parametrize(("query", "body", "headers"), OTHERS.values(), ids=OTHERS)
def test_another_body_conflicts(
    client: httpx.Client, key: Json, mongo: MongoClient, query: str, body: bytes, headers: dict[str, str]
) -> None:
    first = b"nope\n" * 1_000 + BODY if body == BODY else BODY
    assert post_raw(client, QUERY, first, Idempotency_Key="k").status_code == 201
    response = post_raw(client, query, body, Idempotency_Key="k", **headers)
    assert_problem(response, 422, "idempotency_conflict", "another batch")
    assert count_events(mongo, key) == COUNT


def test_a_rejected_body_does_not_use_its_key(client: httpx.Client) -> None:
    assert post_raw(client, QUERY, b"nope\n" * 1_500, Idempotency_Key="k").status_code == 400
    assert not replayed(post_raw(client, QUERY, BODY, Idempotency_Key="k"))


def test_other_content_is_stored(client: httpx.Client, key: Json, mongo: MongoClient) -> None:
    for query in ("source=s&type=t&dedupe=content", "dedupe=content&type=u&source=s"):
        for body in (b"{}\n", b"{}\n\n"):
            assert "idempotent-replayed" not in post_raw(client, query, body).headers
    response = post_raw(client, "type=t&source=s&dedupe=content", b"{}\n")
    assert response.headers["idempotent-replayed"] == "true", "the order of parameters does not count"
    assert count_events(mongo, key) == 4


def test_content_of_another_tenant_is_stored(server: Server, client: httpx.Client) -> None:
    other = server.create_key("raw-neighbour", "--rate-limit", "0")
    with server.client(other["key"]) as neighbour:
        for each in (client, neighbour):
            assert "idempotent-replayed" not in post_raw(each, f"{QUERY}&dedupe=content", b"{}\n").headers
