"""A database that stalls: the same error over REST, a unary call and a stream."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.support.grpc_client import Stream, channel_to
from tests.support.harness import MongoClient, Server
from tests.support.mongod import Mongod
from tests.support.parity import Case, Rejected, Stored, by_rest, by_unary, outcome_of


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, MongoClient]]:
    """A server whose database can be told to stall."""
    path = tmp_path_factory.mktemp("away")
    with (
        Mongod(path / "db") as mongod,
        mongod.client() as mongo,
        Server(path / "data", "--mongodb-url", mongod.url) as server,
    ):
        yield server, mongo


@pytest.mark.slow
@pytest.mark.parametrize(("command", "expected"), [("find", "not_stored"), ("insert", "unknown")])
def test_unavailable(away: tuple[Server, MongoClient], command: str, expected: str) -> None:
    server, mongo = away
    secret = server.first_key
    stalling = {"failCommands": [command], "blockConnection": True, "blockTimeMS": 11_000}
    with ExitStack() as stack:
        client, channel = stack.enter_context(server.client(secret)), stack.enter_context(channel_to(server.grpc))
        stream = stack.enter_context(Stream(channel, secret))
        threads = stack.enter_context(ThreadPoolExecutor())
        stream.send(1, Case().message())
        assert isinstance(outcome_of(stream.receive()), Stored)
        mongo.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=stalling)
        stream.send(2, Case().message())
        on_stream = threads.submit(lambda: outcome_of(stream.receive()))
        by_call = threads.submit(by_unary, channel, secret, Case().message())
        outcomes = [by_call.result(), on_stream.result()]
        outcomes.append(by_rest(client, Case()))  # alone: a third insert at once would wait in line, and say so
        mongo.admin.command("configureFailPoint", "failCommand", mode="off")
        first = outcomes[0]
        assert isinstance(first, Rejected)
        assert (first.code, first.retry_s, first.outcome) == ("unavailable", 1, expected)
        assert outcomes == [first] * 3
        stream.send(3, Case().message())
        assert isinstance(outcome_of(stream.receive()), Stored)
