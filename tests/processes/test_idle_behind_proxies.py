"""Streams and tails that are idle stay open through nginx and HAProxy, as the README configures them.

All proxies are tested at one time: the test mostly waits.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from server.core.tail.tail import HEARTBEAT_S
from tests.support.grpc_client import Stream, channel_to, good_batch
from tests.support.harness import Server
from tests.support.proxies import INSTALLED, proxy
from tests.support.tail import Message, follow_grpc, follow_rest

IDLE_S = 610
"""Longer than 10 minutes."""


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs Debian's packages nginx and haproxy")
def test_what_is_idle_stays_open(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server, ExitStack() as stack:
        secret, streams, tails = server.first_key, [], []
        for name in INSTALLED:
            via = stack.enter_context(proxy(name, tmp_path / name, server))
            channel = stack.enter_context(channel_to(via.grpc))
            streams.append(stack.enter_context(Stream(channel, secret, IDLE_S + 30)))
            tails.append(stack.enter_context(follow_rest(via, secret)))
            tails.append(stack.enter_context(follow_grpc(via, secret, timeout_s=IDLE_S + 30)))
        assert [next(messages).kind for messages in tails] == ["caught_up"] * len(tails)
        for stream in streams:
            stream.send(1, good_batch())
            assert stream.receive().HasField("receipt")
        for messages in tails:
            assert [next(messages).kind for _ in streams] == ["event"] * len(streams)
        time.sleep(IDLE_S)
        for stream in streams:
            stream.send(2, good_batch())
            assert stream.receive().HasField("receipt")
        for messages in tails:
            assert heartbeats_before_event(messages) >= IDLE_S // HEARTBEAT_S - 1


def heartbeats_before_event(messages: Iterator[Message]) -> int:
    """The number of heartbeats that come before the next event."""
    for count, message in enumerate(messages):
        if message.kind == "event":
            return count
        assert message.kind == "heartbeat"
    raise AssertionError("the tail has ended")
