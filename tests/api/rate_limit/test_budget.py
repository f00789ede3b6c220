"""How a limit is used up: what responses say, over which protocols and keys it is shared, and what is kept of it."""

import re
from contextlib import ExitStack, closing

import pytest

from tests.support.grpc_client import Stream, channel_to, good_batch
from tests.support.harness import Json, MongoClient, Server, batch, sluice
from tests.support.limited_clients import EVENTS, MAX_WAIT_S, REFUSED, STORED, WAYS, callers, status_said
from tests.support.rate_limit import LIMIT, LIMIT_HEADER, REMAINING, code_of, limited_key, remaining, stored_count
from tests.support.spending import check_state, codes, spend

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


# --- what is kept


def test_state_stays_small(server: Server, mongo: MongoClient) -> None:
    key = limited_key(server, 100_000)
    with callers([server], key["key"], rest=8, unary=2, stream=2) as found:
        assert codes(spend(found, 3_000)) == {STORED: 3_000}
    check_state(mongo, most_documents=2 * mongo.sluice["keys"].count_documents({}) + 16)
