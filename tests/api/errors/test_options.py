"""The headers `Prefer` and `Idempotency-Key`: which values are understood, and which are rejected."""

import httpx
import pytest

from tests.support.bodies import GOOD, HALF_GOOD, JSON, header_bytes
from tests.support.harness import Json, MongoClient, Server, batch
from tests.support.problems import EVENTS, assert_problem, count_events

PREFERENCES = {
    "unset": ([], "strict"),
    "lenient": (["handling=lenient"], "lenient"),
    "strict": (["handling=strict"], "strict"),
    "quoted": (['handling="lenient"'], "lenient"),
    "spaced, in capitals": (["Handling = LENIENT"], "lenient"),
    "with a parameter": (["handling=lenient; a=b"], "lenient"),
    "among others": (["respond-async, wait=10, handling=lenient, return=minimal"], "lenient"),
    "on another line": (["respond-async", "handling=lenient"], "lenient"),
    "the first counts": (["handling=lenient", "handling=strict"], "lenient"),
    "the first counts, on a line": (["handling=strict, handling=lenient"], "strict"),
    "unknown": (["respond-async, lenient, foo; handling=lenient"], "strict"),
    "quoted by another": (['foo="a, handling=lenient"'], "strict"),
    "empty": ([""], "strict"),
    "bogus": (["handling=bogus"], "rejected"),
    "bogus on another line": (["respond-async", "handling=bogus"], "rejected"),
    "no value": (["handling"], "rejected"),
    "empty value": (['handling=""'], "rejected"),
}


@pytest.mark.parametrize(("lines", "handling"), PREFERENCES.values(), ids=PREFERENCES)
def test_prefer(server: Server, key: Json, mongo: MongoClient, lines: list[str], handling: str) -> None:
    before = count_events(mongo, key)
    headers = [("X-API-Key", key["key"]), *(("Prefer", line) for line in lines)]
    with server.client() as client:
        response = client.post(EVENTS, json=HALF_GOOD, headers=headers)
    match handling:
        case "lenient":
            assert response.status_code == 201
            assert response.headers["preference-applied"] == "handling=lenient"
            assert response.json()["events_received"] == len(response.json()["events"]) == 2
            assert [error["path"] for error in response.json()["errors"]] == ["events[1].data"]
        case "strict":
            assert_problem(response, 400, "invalid_batch", r"^events\[1\]\.data: ")
        case "rejected":
            assert_problem(response, 400, "invalid_header", "Prefer.*strict or lenient")
    assert ("preference-applied" in response.headers) == (handling == "lenient")
    assert count_events(mongo, key) == before + (2 if handling == "lenient" else 0)


IDEMPOTENCY_KEYS = {"empty": b"", "space": b"a b", "tab": b"a\tb", "not ascii": "schlüssel".encode(), "256": b"k" * 256}


@pytest.mark.parametrize("value", IDEMPOTENCY_KEYS.values(), ids=IDEMPOTENCY_KEYS)
def test_bad_idempotency_key(rejected_client: httpx.Client, value: bytes) -> None:
    response = rejected_client.post(EVENTS, content=GOOD, headers=[*header_bytes(JSON), (b"Idempotency-Key", value)])
    assert_problem(response, 400, "invalid_header", "Idempotency-Key.*1 to 255 visible")


def test_idempotency_key_of_255_characters(server: Server, key: Json) -> None:
    with server.client(key["key"]) as client:
        response = client.post(EVENTS, json=batch(), headers={"Idempotency-Key": "!~" + "k" * 253})
    assert response.status_code == 201
