"""gRPC through nginx and HAProxy, with the lines that the README gives: large calls, idle streams, drains.

Each test is skipped if Debian's package of the proxy is not installed.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.support.bodies import MIB
from tests.support.grpc_client import (
    Stream,
    big_batch,
    channel_to,
    code_of,
    good_batch,
    ingest,
    marks_stored_once,
    stored_marks,
)
from tests.support.harness import Server, wait_until
from tests.support.load import StreamLoad

IDLE_S = 65
"""Longer than the timeouts that both proxies have by default."""

ENDINGS = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
"""What the README's client sends again after. HAProxy turns the end of a stream into CANCELLED."""

NGINX = """
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} http2;
        location / {{
            grpc_pass grpc://{target};
            client_max_body_size 0;
            client_body_timeout 1h;
            grpc_read_timeout 1h;
            grpc_send_timeout 1h;
        }}
    }}
}}
"""

HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h

frontend grpc
    bind 127.0.0.1:{port} proto h2
    default_backend sluice_grpc

backend sluice_grpc
    server sluice {target} proto h2 check
"""

PROXIES = {"nginx": (NGINX, ("-e", "stderr", "-c")), "haproxy": (HAPROXY, ("-db", "-f"))}

through = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"needs Debian's package {name}")
        )
        for name in PROXIES
    ],
)


@contextmanager
def proxy(name: str, directory: Path, target: str) -> Iterator[str]:
    """A proxy that runs for `target`. The value is its own address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text, arguments = PROXIES[name]
    directory.mkdir()
    config = directory / "config"
    config.write_text(text.format(directory=directory, port=port, target=target))
    binary = shutil.which(name)
    assert binary is not None
    with subprocess.Popen([binary, *arguments, str(config)], stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: accepts(port), f"{name} to accept connections")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def accepts(port: int) -> bool:
    """Whether something listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@through
def test_large_calls_and_idle_streams(tmp_path: Path, name: str) -> None:
    with Server(tmp_path / "data") as server, server.mongo() as mongo, proxy(name, tmp_path / name, server.grpc) as via:
        key = server.create_key("acme", "--rate-limit", "0")
        with channel_to(via) as channel, Stream(channel, key["key"], IDLE_S + 30) as stream:
            assert ingest(channel, key["key"], big_batch(3 * MIB)).events_received == 31
            for sequence in range(5):
                stream.send(sequence, big_batch(MIB))
                assert stream.receive().receipt.events_received == 10
            time.sleep(IDLE_S)
            stream.send(5, good_batch([1]))
            assert stream.receive().HasField("receipt")
        assert len(stored_marks(mongo, key)) == 82


@through
def test_drain_behind_a_proxy(tmp_path: Path, name: str) -> None:
    with Server(tmp_path / "data") as server, server.mongo() as mongo, proxy(name, tmp_path / name, server.grpc) as via:
        key = server.create_key("acme", "--rate-limit", "0")
        before = server.worker_pids()
        with StreamLoad(via, key["key"]) as load:
            wait_until(lambda: len(load.acknowledged_marks) > 200, "acknowledgements")
            subprocess.run(["kill", str(before[0])], check=True)
            wait_until(lambda: len(load.endings) == 4, "the streams to end")
        assert {code_of(ending) for ending in load.endings if ending is not None} <= ENDINGS
        wait_until(lambda: server.worker_pids() not in ([], before), "a new worker")
        assert load.acknowledged_marks <= marks_stored_once(mongo, key) <= load.sent
        with channel_to(via) as channel:
            wait_until(lambda: takes_calls(channel, key["key"]), "calls are taken again")


def takes_calls(channel: grpc.Channel, secret: str) -> bool:
    """Whether a good call is answered."""
    try:
        return ingest(channel, secret).events_received == 1
    except grpc.RpcError as error:
        if code_of(error) in ENDINGS:
            return False
        raise
