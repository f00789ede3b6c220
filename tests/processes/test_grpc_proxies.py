"""gRPC through nginx and HAProxy, as the README configures them: large calls, drains."""

import os
import signal
from pathlib import Path

import grpc

from tests.support.bodies import MIB
from tests.support.grpc_client import (
    Stream,
    big_batch,
    channel_to,
    code_of,
    ingest,
    marks_stored_once,
    stored_marks,
)
from tests.support.harness import Server, wait_until
from tests.support.load import StreamLoad
from tests.support.proxies import proxy, through

ENDINGS = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
"""What the README's client sends again after. HAProxy turns the end of a stream into CANCELLED."""


@through
def test_large_calls(tmp_path: Path, name: str) -> None:
    with Server(tmp_path / "data") as server, server.mongo() as mongo, proxy(name, tmp_path / name, server) as via:
        key = server.create_key("acme", "--rate-limit", "0")
        with channel_to(via.grpc) as channel, Stream(channel, key["key"]) as stream:
            assert ingest(channel, key["key"], big_batch(3 * MIB)).events_received == 31
            for sequence in range(5):
                stream.send(sequence, big_batch(MIB))
                assert stream.receive().receipt.events_received == 10
        assert len(stored_marks(mongo, key)) == 81


@through
def test_drain_behind_a_proxy(tmp_path: Path, name: str) -> None:
    with Server(tmp_path / "data") as server, server.mongo() as mongo, proxy(name, tmp_path / name, server) as via:
        key = server.create_key("acme", "--rate-limit", "0")
        before = server.worker_pids()
        with StreamLoad(via.grpc, key["key"]) as load:
            wait_until(lambda: load.answered_streams == 4, "responses on each stream")
            wait_until(lambda: len(load.acknowledged_marks) > 200, "acknowledgements")
            os.kill(before[0], signal.SIGTERM)
            wait_until(lambda: len(load.endings) == 4, "the streams to end")
        assert {code_of(ending) for ending in load.endings if ending is not None} <= ENDINGS
        wait_until(lambda: server.worker_pids() not in ([], before), "a new worker")
        assert load.acknowledged_marks <= marks_stored_once(mongo, key) <= load.sent
        with channel_to(via.grpc) as channel:
            wait_until(lambda: takes_calls(channel, key["key"]), "calls are taken again")


def takes_calls(channel: grpc.Channel, secret: str) -> bool:
    """Whether a good call is answered."""
    try:
        return ingest(channel, secret).events_received == 1
    except grpc.RpcError as error:
        if code_of(error) in ENDINGS:
            return False
        raise
