"""A token from before the oplog is 410 or OUT_OF_RANGE, with the time from which reading again misses nothing."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import grpc
import httpx
import msgspec
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import channel_to, metadata, stub_of
from tests.support.harness import MongoClient, Server, batch, wait_until
from tests.support.mongod import Mongod
from tests.support.ports import free_ports
from tests.support.reading import EVENTS
from tests.support.remote_commands import running
from tests.support.tail import FOLLOW, code_of, follow_rest

CHUNK = {"text": "x" * 1_000_000}


@pytest.fixture
def mongod(tmp_path: Path) -> Iterator[Mongod]:
    running = Mongod(tmp_path / "mongod")
    running.options = ["--syncdelay", "1"]  # the oplog is cut up to the last checkpoint, usually one a minute
    with running:
        yield running


def roll_over(mongo: MongoClient) -> None:
    """Write other things until the oplog begins after now. It has 100 MB."""
    oplog = mongo["local"]["oplog.rs"]
    newest = oplog.find_one(sort=[("$natural", -1)])

    def is_gone() -> bool:
        mongo["other"]["things"].insert_many([dict(CHUNK) for _ in range(20)])
        oldest: Any = oplog.find_one(sort=[("$natural", 1)])
        assert newest is not None
        return bool(oldest["ts"] > newest["ts"])

    wait_until(is_gone, "an oplog that begins later", 60)


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
def test_lost_history(mongod: Mongod, tmp_path: Path, driver: str) -> None:
    with (
        Server(tmp_path / "server", "--mongodb-url", mongod.url, "--driver", driver) as server,
        mongod.client() as mongo,
    ):
        secret = server.create_key("tail", "--rate-limit", "0")["key"]
        with server.client(secret) as client:
            with follow_rest(server, secret) as messages:
                token = next(messages).token
            missed = [item["id"] for item in client.post(EVENTS, json=batch(10)).json()["events"]]
            roll_over(mongo)
            with pytest.raises(httpx.HTTPStatusError) as caught, follow_rest(server, secret, token=token):
                pass
            assert code_of(caught.value) == "410 gone"
            since = caught.value.response.json()["since"]
            assert since in caught.value.response.json()["detail"]
            assert since_over_grpc(server, secret, token) == since
            for follow in FOLLOW.values():
                with follow(server, secret, since=f"{since}Z") as messages:
                    again = [next(messages) for _ in missed]
                    assert [message.data["id"] for message in again] == missed
                    assert next(messages).kind == "caught_up"


def since_over_grpc(server: Server, secret: str, token: str) -> str:
    """The time in the status of a call that is out of range."""
    with channel_to(server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        next(stub_of(channel).TailEvents(pb.TailEventsRequest(resume_token=token), metadata=metadata(secret)))
    assert code_of(caught.value) == "OUT_OF_RANGE"
    status = rpc_status.from_call(cast("grpc.Call", caught.value))
    info = ErrorInfo()
    assert status is not None
    assert status.details[0].Unpack(info)
    assert info.reason == "GONE"
    return str(info.metadata["since"])


def store(server: Server, secret: str) -> list[str]:
    """The ids of new events."""
    with server.client(secret) as client:
        return [item["id"] for item in client.post(EVENTS, json=batch(5)).json()["events"]]


def test_the_command_goes_on_over_restarts_and_lost_history(mongod: Mongod, tmp_path: Path) -> None:
    told = tmp_path / "stderr"
    options = ("--mongodb-url", mongod.url, "--port", str(free_ports(1)[0]))
    with ExitStack() as commands:
        with Server(tmp_path / "first", *options) as server:
            secret = server.create_key("tail", "--rate-limit", "0")["key"]
            ids = store(server, secret)
            stderr = commands.enter_context(told.open("wb"))
            tail = commands.enter_context(running(server.url, secret, "tail", "--last", "3", stderr=stderr))
            assert tail.stdout is not None
            printed = [next(tail.stdout) for _ in range(3)]
        with Server(tmp_path / "second", *options) as server:
            ids += store(server, secret)
            printed += [next(tail.stdout) for _ in range(5)]
        with Server(tmp_path / "elsewhere", "--mongodb-url", mongod.url) as elsewhere, mongod.client() as mongo:
            ids += store(elsewhere, secret)
            roll_over(mongo)
        with Server(tmp_path / "third", *options) as server:
            printed += [next(tail.stdout) for _ in range(5)]
            ids += store(server, secret)
            printed += [next(tail.stdout) for _ in range(5)]
    assert [msgspec.json.decode(line)["id"] for line in printed] == ids[2:]
    assert "trying again" in told.read_text()
    assert "reading events received since" in told.read_text()
    assert "a second time" not in told.read_text()
