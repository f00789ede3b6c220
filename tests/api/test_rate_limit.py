"""The rate limit as a caller meets it: what an answer says, what counts, in which order things are checked."""

import re
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import NamedTuple

import httpx
import pytest

from tests.support.grpc_client import Stream, channel_to, good_batch
from tests.support.harness import Json, MongoClient, Server, batch, sluice
from tests.support.spending import (
    BAD,
    EVENTS,
    MAX_WAIT_S,
    REFUSED,
    STORED,
    WAYS,
    Caller,
    callers,
    check_state,
    codes,
    rest_said,
    spend,
    status_said,
)

LIMIT = 5
POLICY = "ratelimit-policy"
REMAINING = "ratelimit"
LIMIT_HEADER = re.compile(r'"default";r=(\d+);t=(\d+)')
SOON_S = 55
"""Within which a test of exact counts is over, so that nothing admitted in it is forgotten in it."""


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """Check that the test was over before its first admissions were forgotten."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SOON_S, "too slow to tell anything"


def limited_key(server: Server, limit: int = LIMIT, *options: str) -> Json:
    """A fresh tenant's key with that limit."""
    return server.create_key(f"limited-{uuid.uuid4().hex}", "--rate-limit", str(limit), *options)


@pytest.fixture(scope="module")
def fresh(server: Server) -> Iterator[Json]:
    """Fresh tenants' keys of LIMIT, made some at a time: each takes a process of its own."""

    def make() -> Iterator[Json]:
        while True:
            with ThreadPoolExecutor(4) as threads:
                yield from threads.map(lambda _: limited_key(server), range(8))

    return make()


@pytest.fixture
def key(fresh: Iterator[Json]) -> Json:
    """A fresh tenant's key of LIMIT."""
    return next(fresh)


def stored_count(mongo: MongoClient, key: Json) -> int:
    """How many events are stored for the key's tenant."""
    return mongo.sluice.events.count_documents({"tenant_id": uuid.UUID(key["tenant_id"])})


def remaining(answer: httpx.Response, limit: int = LIMIT) -> int:
    """What an answer says is left; it says all that an answer to a limited key must."""
    assert answer.headers[POLICY] == f'"default";q={limit};w=60'
    found = LIMIT_HEADER.fullmatch(answer.headers[REMAINING])
    assert found is not None, answer.headers[REMAINING]
    assert 0 <= int(found[2]) <= MAX_WAIT_S
    return int(found[1])


def says_nothing(answer: httpx.Response) -> bool:
    """Whether an answer has no header about a limit."""
    return POLICY not in answer.headers and REMAINING not in answer.headers


def code_of(answer: httpx.Response) -> str:
    """What came of a POST."""
    return rest_said(answer.status_code, answer.headers, answer.json()).code


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def use_up(server: Server, key: Json) -> None:
    """Leave a key of LIMIT with nothing."""
    with closing(WAYS["rest"](server, key["key"])) as caller:
        assert [caller().code for _ in range(LIMIT + 1)] == [STORED] * LIMIT + [REFUSED]


# --- one after the other


def test_rest_counts_down_and_then_refuses(server: Server, mongo: MongoClient, key: Json) -> None:
    with server.client(key["key"]) as client:
        for left in reversed(range(LIMIT)):
            answer = client.post(EVENTS, json=batch())
            assert answer.status_code == 201
            assert remaining(answer) == left
            assert "retry-after" not in answer.headers
        for _ in range(3):
            answer = client.post(EVENTS, json=batch())
            assert answer.status_code == 429
            assert answer.headers["Content-Type"] == "application/problem+json"
            problem = answer.json()
            assert set(problem) == {"type", "title", "status", "detail", "code"}
            assert (problem["status"], problem["code"]) == (429, "rate_limited")
            assert problem["detail"] == "Rate limit exceeded"
            assert re.fullmatch(r"[1-9]\d?", answer.headers["Retry-After"])
            assert int(answer.headers["Retry-After"]) <= MAX_WAIT_S
            assert remaining(answer) == 0
    assert stored_count(mongo, key) == LIMIT


@pytest.mark.parametrize("limit", [1, 2])
def test_the_smallest_limits(server: Server, limit: int) -> None:
    key = limited_key(server, limit)
    with server.client(key["key"]) as client:
        answers = [client.post(EVENTS, json=batch()) for _ in range(limit + 1)]
    assert [code_of(answer) for answer in answers] == [STORED] * limit + [REFUSED]
    assert [remaining(answer, limit) for answer in answers] == [*reversed(range(limit)), 0]


@pytest.mark.parametrize("way", ["unary", "stream"])
def test_grpc_refuses_when_nothing_is_left(server: Server, mongo: MongoClient, way: str, key: Json) -> None:
    with closing(WAYS[way](server, key["key"])) as caller:
        answers = [caller() for _ in range(LIMIT + 3)]  # `caller` checks what a refusal says
        assert [answer.code for answer in answers] == [STORED] * LIMIT + [REFUSED] * 3
        assert all(0 < answer.wait_s <= MAX_WAIT_S for answer in answers[LIMIT:])
    assert stored_count(mongo, key) == LIMIT


def test_a_stream_outlives_refusals(server: Server, mongo: MongoClient, key: Json) -> None:
    with channel_to(server.grpc) as channel, Stream(channel, key["key"]) as stream:
        for sequence in range(LIMIT + 20):
            stream.send(sequence, good_batch())
        stream.half_close()
        responses = list(stream.call)  # which raises unless the stream ends with OK
    assert [response.sequence for response in responses] == [*range(LIMIT + 20)]
    refused = [response.error for response in responses if response.HasField("error")]
    assert len(refused) == 20  # which they are, the stream does not promise
    assert {status_said(error).code for error in refused} == {REFUSED}
    assert stored_count(mongo, key) == LIMIT


def test_one_budget_over_every_way(server: Server) -> None:
    limit = 12
    key = limited_key(server, limit)
    with ExitStack() as stack:
        ways = {name: stack.enter_context(closing(way(server, key["key"]))) for name, way in WAYS.items()}
        for _ in range(limit // 3):
            answer = ways["rest"]()
            assert answer.code == STORED
            found = LIMIT_HEADER.fullmatch(answer.said.headers[REMAINING])
            assert found is not None
            assert int(found[1]) < limit  # to the unit only where one worker sees all of it
            assert [ways["unary"]().code, ways["stream"]().code] == [STORED] * 2
        answers = [caller() for caller in ways.values()]
        assert [answer.code for answer in answers] == [REFUSED] * 3
        assert answers[0].said.headers[REMAINING].startswith('"default";r=0;t=')


def test_each_key_has_its_own_budget(server: Server) -> None:
    keys = [server.create_key("shared-tenant", "--rate-limit", str(limit)) for limit in (2, 3)]
    for key, limit in zip(keys, (2, 3), strict=True):
        with closing(WAYS["rest"](server, key["key"])) as caller:
            assert [caller().code for _ in range(limit + 1)] == [STORED] * limit + [REFUSED]


def test_a_rotated_key_keeps_its_budget(server: Server, key: Json) -> None:
    with server.client(key["key"]) as client:
        assert [remaining(client.post(EVENTS, json=batch())) for _ in range(3)] == [4, 3, 2]
    done = sluice("keys", "rotate", key["id"], *server.database_options)
    with server.client(done.stdout.strip()) as client:
        answers = [client.post(EVENTS, json=batch()) for _ in range(3)]
    assert [code_of(answer) for answer in answers] == [STORED, STORED, REFUSED]
    assert [remaining(answer) for answer in answers] == [1, 0, 0]


# --- what counts


def test_bad_batches_count_and_say_so(server: Server, mongo: MongoClient) -> None:
    key = limited_key(server, 8)
    json_type = {"Content-Type": "application/json"}
    with server.client(key["key"]) as client:
        answers = [
            client.post(EVENTS, content=b"{", headers=json_type),
            client.post(EVENTS, json=batch(0)),
            client.post(EVENTS, json={"events": "none"}),
            client.post(EVENTS, content=b"\xff", headers=json_type),
            client.post(EVENTS, content=b"x", headers={"Content-Type": "text/plain"}),
            client.post(EVENTS, content=b"x", headers={**json_type, "Content-Encoding": "gzip"}),
            client.post(EVENTS, json=batch(), headers={"Prefer": "handling=bogus"}),
            client.post(EVENTS, json=batch(), headers={"Idempotency-Key": "a b"}),
            client.post(EVENTS, json=batch()),
        ]
    assert [answer.status_code for answer in answers] == [400, 400, 400, 400, 415, 400, 400, 400, 429]
    assert [remaining(answer, 8) for answer in answers] == [7, 6, 5, 4, 3, 2, 1, 0, 0]
    assert stored_count(mongo, key) == 0


def test_a_body_that_is_too_large_counts(server: Server) -> None:
    key = limited_key(server, 2)
    with server.client(key["key"]) as client:
        answers = [client.post(EVENTS, json={"source": "x" * (11 << 20)}), client.post(EVENTS, json=batch())]
        assert [answer.status_code for answer in answers] == [413, 201]
        assert [remaining(answer, 2) for answer in answers] == [1, 0]
        assert client.post(EVENTS, json=batch()).status_code == 429


@pytest.mark.parametrize("way", WAYS)
def test_bad_batches_count_over_every_way(server: Server, way: str, key: Json) -> None:
    with closing(WAYS[way](server, key["key"])) as caller:
        found = [caller(good=number % 2 == 0).code for number in range(LIMIT + 2)]
    assert found == [STORED, BAD, STORED, BAD, STORED, REFUSED, REFUSED]


def test_what_is_refused_before_does_not_count(server: Server) -> None:
    key = limited_key(server, LIMIT, "--allow-domain", "example.com")
    with server.client(key["key"]) as client:
        for _ in range(LIMIT + 1):
            answers = [
                client.post(EVENTS, json=batch(), headers={"X-API-Key": "slc_" + "A" * 43}),
                client.post(EVENTS, json=batch(), headers={"Origin": "https://example.org"}),
                client.put(EVENTS, json=batch()),
                client.post(EVENTS + "/nowhere", json=batch()),
            ]
            assert [answer.status_code for answer in answers] == [401, 403, 405, 405]
        assert remaining(client.post(EVENTS, json=batch())) == LIMIT - 1


def test_reading_is_not_limited_and_says_nothing(server: Server, key: Json) -> None:
    with server.client(key["key"]) as client:
        event_id = client.post(EVENTS, json=batch()).json()["events"][0]["id"]

        def read() -> Sequence[httpx.Response]:
            paths = (EVENTS, f"{EVENTS}/{event_id}", f"{EVENTS}/{uuid.uuid4()}", EVENTS + "?limit=x")
            return [client.get(path) for path in paths]

        for _ in range(LIMIT + 1):
            answers = read()
            assert [answer.status_code for answer in answers] == [200, 200, 404, 400]
            assert all(map(says_nothing, answers))
        assert remaining(client.post(EVENTS, json=batch())) == LIMIT - 2
        use = [client.post(EVENTS, json=batch()).status_code for _ in range(LIMIT)]
        assert use == [201, 201, 201, 429, 429]
        answers = read()
        assert [answer.status_code for answer in answers] == [200, 200, 404, 400]
        assert all(map(says_nothing, answers))


def test_a_key_without_a_limit_is_told_of_none(server: Server) -> None:
    key = limited_key(server, 0)
    with server.client(key["key"]) as client:
        answers = [client.post(EVENTS, json=batch()), client.post(EVENTS, json=batch(0))]
    assert [answer.status_code for answer in answers] == [201, 400]
    assert all(map(says_nothing, answers))
    with callers([server], key["key"], rest=4, unary=2, stream=2) as found:
        assert codes(spend(found, 1_200)) == {STORED: 1_200}  # more than the default


# --- the order of checks: each case with a key that has nothing left


class Case(NamedTuple):
    """A request with a used-up key, and what becomes of it over each way."""

    expected: str
    good: bool = True
    turn: str | None = None


ORDER: dict[str, Case] = {
    "good": Case(REFUSED),
    "bad batch": Case(REFUSED, good=False),
    "revoked": Case("unauthenticated", turn="revoke"),
    "revoked, bad batch": Case("unauthenticated", good=False, turn="revoke"),
    "rotated": Case("unauthenticated", turn="rotate"),
}


@pytest.mark.parametrize("case", ORDER.values(), ids=ORDER)
def test_order_of_checks_over_every_way(server: Server, opened: ExitStack, case: Case, key: Json) -> None:
    use_up(server, key)
    ways: list[Caller] = [opened.enter_context(closing(way(server, key["key"]))) for way in WAYS.values()]
    assert [caller().code for caller in ways] == [REFUSED] * 3
    if case.turn:
        assert sluice("keys", case.turn, key["id"], *server.database_options).returncode == 0
    assert [caller(case.good).code for caller in ways] == [case.expected] * 3


def test_scope_comes_before_the_limit(server: Server, mongo: MongoClient) -> None:
    key = limited_key(server, 1, "--scope", "events:read")
    for way in WAYS.values():
        with closing(way(server, key["key"])) as caller:
            found = [caller(good).code for good in (True, False, True, False)]
        assert found == ["insufficient_scope"] * 4
    key = limited_key(server)
    use_up(server, key)
    mongo.sluice["keys"].update_one({"_id": key["id"]}, {"$set": {"scopes": ["events:read"]}})
    for way in WAYS.values():  # used up, and lacking the scope
        with closing(way(server, key["key"])) as caller:
            assert caller(good=False).code == "insufficient_scope"


def test_order_of_checks_over_rest(server: Server) -> None:
    key = limited_key(server, LIMIT, "--allow-domain", "example.com")
    use_up(server, key)
    json_type = {"Content-Type": "application/json"}
    with server.client(key["key"]) as client:
        answers = [
            client.post(EVENTS, json=batch(), headers={"Origin": "https://example.org"}),
            client.post(EVENTS, content=b"{", headers=json_type),
            client.post(EVENTS, content=b"x", headers={"Content-Type": "text/plain"}),
            client.post(EVENTS, json=batch(), headers={"Idempotency-Key": "a b"}),
            client.post(EVENTS, json=batch(), headers={"Prefer": "handling=bogus"}),
        ]
    assert [answer.status_code for answer in answers] == [403, *[429] * 4]
    assert [remaining(answer) for answer in answers[1:]] == [0] * 4


# --- what is kept


def test_state_stays_small(server: Server, mongo: MongoClient) -> None:
    key = limited_key(server, 100_000)
    with callers([server], key["key"], rest=8, unary=2, stream=2) as found:
        assert codes(spend(found, 3_000)) == {STORED: 3_000}
    check_state(mongo, most_documents=2 * mongo.sluice["keys"].count_documents({}) + 16)
