"""How a limit is used up: what responses say, over which protocols and keys it is shared, and what is kept of it."""

import re
from contextlib import ExitStack, closing

import pytest

from tests.support.grpc_client import Stream, channel_to, good_batch
from tests.support.harness import Json, MongoClient, Server, batch, sluice
from tests.support.limited_clients import CLIENTS, EVENTS, MAX_WAIT_S, REJECTED, STORED, open_clients, status_response
from tests.support.rate_limit import LIMIT, LIMIT_HEADER, REMAINING, code_of, limited_key, remaining, stored_count
from tests.support.spending import check_state, codes, spend


def test_rest_counts_down_and_then_rejects(server: Server, mongo: MongoClient, key: Json) -> None:
    with server.client(key["key"]) as client:
        for left in reversed(range(LIMIT)):
            response = client.post(EVENTS, json=batch())
            assert response.status_code == 201
            assert remaining(response) == left
            assert "retry-after" not in response.headers
        for _ in range(3):
            response = client.post(EVENTS, json=batch())
            assert response.status_code == 429
            assert response.headers["Content-Type"] == "application/problem+json"
            problem = response.json()
            assert set(problem) == {"type", "title", "status", "detail", "code"}
            assert (problem["status"], problem["code"]) == (429, "rate_limited")
            assert problem["detail"] == "Rate limit exceeded"
            assert re.fullmatch(r"[1-9]\d?", response.headers["Retry-After"])
            assert int(response.headers["Retry-After"]) <= MAX_WAIT_S
            assert remaining(response) == 0
    assert stored_count(mongo, key) == LIMIT


@pytest.mark.parametrize("limit", [1, 2])
def test_the_smallest_limits(server: Server, limit: int) -> None:
    key = limited_key(server, limit)
    with server.client(key["key"]) as client:
        responses = [client.post(EVENTS, json=batch()) for _ in range(limit + 1)]
    assert [code_of(response) for response in responses] == [STORED] * limit + [REJECTED]
    assert [remaining(response, limit) for response in responses] == [*reversed(range(limit)), 0]


@pytest.mark.parametrize("protocol", ["unary", "stream"])
def test_grpc_rejects_when_nothing_is_left(server: Server, mongo: MongoClient, protocol: str, key: Json) -> None:
    with closing(CLIENTS[protocol](server, key["key"])) as client:
        attempts = [client() for _ in range(LIMIT + 3)]  # `client` checks what a rejection says
        assert [attempt.code for attempt in attempts] == [STORED] * LIMIT + [REJECTED] * 3
        assert all(0 < attempt.wait_s <= MAX_WAIT_S for attempt in attempts[LIMIT:])
    assert stored_count(mongo, key) == LIMIT


def test_a_stream_outlives_rejections(server: Server, mongo: MongoClient, key: Json) -> None:
    with channel_to(server.grpc) as channel, Stream(channel, key["key"]) as stream:
        for sequence in range(LIMIT + 20):
            stream.send(sequence, good_batch())
        stream.half_close()
        responses = list(stream.call)  # which raises unless the stream ends with OK
    assert [response.sequence for response in responses] == [*range(LIMIT + 20)]
    rejected = [response.error for response in responses if response.HasField("error")]
    assert len(rejected) == 20  # the stream does not promise which
    assert {status_response(error).code for error in rejected} == {REJECTED}
    assert stored_count(mongo, key) == LIMIT


def test_one_budget_over_all_protocols(server: Server) -> None:
    limit = 12
    key = limited_key(server, limit)
    with ExitStack() as stack:
        clients = {
            name: stack.enter_context(closing(new_client(server, key["key"]))) for name, new_client in CLIENTS.items()
        }
        for _ in range(limit // 3):
            attempt = clients["rest"]()
            assert attempt.code == STORED
            found = LIMIT_HEADER.fullmatch(attempt.response.headers[REMAINING])
            assert found is not None
            assert int(found[1]) < limit  # it is exact only if one worker handles all requests
            assert [clients["unary"]().code, clients["stream"]().code] == [STORED] * 2
        attempts = [client() for client in clients.values()]
        assert [attempt.code for attempt in attempts] == [REJECTED] * 3
        assert attempts[0].response.headers[REMAINING].startswith('"default";r=0;t=')


def test_each_key_has_its_own_budget(server: Server) -> None:
    keys = [server.create_key("shared-tenant", "--rate-limit", str(limit)) for limit in (2, 3)]
    for key, limit in zip(keys, (2, 3), strict=True):
        with closing(CLIENTS["rest"](server, key["key"])) as client:
            assert [client().code for _ in range(limit + 1)] == [STORED] * limit + [REJECTED]


def test_a_rotated_key_keeps_its_budget(server: Server, key: Json) -> None:
    with server.client(key["key"]) as client:
        assert [remaining(client.post(EVENTS, json=batch())) for _ in range(3)] == [4, 3, 2]
    done = sluice("keys", "rotate", key["id"], *server.database_options)
    with server.client(done.stdout.strip()) as client:
        responses = [client.post(EVENTS, json=batch()) for _ in range(3)]
    assert [code_of(response) for response in responses] == [STORED, STORED, REJECTED]
    assert [remaining(response) for response in responses] == [1, 0, 0]


def test_state_stays_small(server: Server, mongo: MongoClient) -> None:
    key = limited_key(server, 100_000)
    with open_clients([server], key["key"], rest=8, unary=2, stream=2) as clients:
        assert codes(spend(clients, 3_000)) == {STORED: 3_000}
    check_state(mongo, most_documents=2 * mongo.sluice["keys"].count_documents({}) + 16)
