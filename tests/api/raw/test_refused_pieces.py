"""Raw bodies whose first piece an index or a validator of the operator refuses as a whole: a retry is no conflict."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.support.harness import Json, MongoClient
from tests.support.problems import assert_problem, count_events
from tests.support.raw import lines_of, numbered, post_raw

QUERY = "source=s&type=t"
REFUSED, GOOD = 1_000, 500

WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "key": (QUERY, {"Idempotency_Key": "k"}),
    "content": (f"{QUERY}&dedupe=content", {}),
}


@contextmanager
def refusing(mongo: MongoClient, field: str) -> Iterator[None]:
    """Events with this field in data are refused."""
    mongo.sluice.command("collMod", "events", validator={f"data.{field}": {"$exists": False}})
    try:
        yield
    finally:
        mongo.sluice.command("collMod", "events", validator={})


@pytest.mark.parametrize(("query", "headers"), WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("is_crash", [False, True])
def test_a_retry_says_the_same(
    client: httpx.Client, key: Json, mongo: MongoClient, query: str, headers: dict[str, str], is_crash: bool
) -> None:
    """Also when the validator is gone, and after a crash before the progress was saved."""
    field = f"f{uuid.uuid4().hex}"
    body = lines_of([{field: 1}] * REFUSED) + numbered(GOOD)
    with refusing(mongo, field):
        first = post_raw(client, query, body, **headers)
        assert (first.status_code, first.json()["events_received"]) == (201, GOOD)
        assert len(first.json()["errors"]) == 100
        if is_crash:
            mongo.sluice.claims.delete_one({"tenant_id": uuid.UUID(key["tenant_id"]), "progress": {"$exists": True}})
        retries = [post_raw(client, query, body, **headers)]
    retries.append(post_raw(client, query, body, **headers))
    for retry in retries:
        assert (retry.status_code, retry.headers["idempotent-replayed"]) == (201, "true")
        assert retry.json()["events_received"] == GOOD
        assert [each["path"] for each in retry.json()["errors"]] == [f"items[{at}]" for at in range(100)]
    if not is_crash:
        assert retries[-1].json() == first.json()
    assert count_events(mongo, key) == GOOD
    if headers:
        other = post_raw(client, query, body + b"{}\n", **headers)
        assert_problem(other, 422, "idempotency_conflict", "another batch")
        assert count_events(mongo, key) == GOOD


def test_a_body_that_was_refused_as_a_whole_can_be_stored_later(
    client: httpx.Client, key: Json, mongo: MongoClient
) -> None:
    field = f"f{uuid.uuid4().hex}"
    body = lines_of([{field: 1}] * (REFUSED + GOOD))
    with refusing(mongo, field):
        assert post_raw(client, QUERY, body, Idempotency_Key="k").status_code == 400
    stored = post_raw(client, QUERY, body, Idempotency_Key="k")
    assert (stored.status_code, "idempotent-replayed" in stored.headers) == (201, False)
    assert count_events(mongo, key) == REFUSED + GOOD
