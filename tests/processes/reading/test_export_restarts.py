"""`sluice export` goes on while the server is killed and restarted, and while the primary steps down."""

from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.crashes import kill_server
from tests.support.exports import LINES
from tests.support.harness import Server
from tests.support.many_events import insert_random_events
from tests.support.mongod import ReplicaSet
from tests.support.ports import free_ports
from tests.support.reading import EVENTS
from tests.support.remote_commands import running

COUNT, EVENT_BYTES = 80, 900_000
"""Even compressed, far more than what waits in buffers between the server and a reader that stops to read."""


@pytest.mark.slow
def test_an_export_over_restarts_and_a_step_down(tmp_path: Path) -> None:
    told = tmp_path / "stderr"
    with ReplicaSet(tmp_path / "db") as replicas, replicas.client() as mongo:
        port = str(free_ports(1)[0])
        with Server(tmp_path / "data", "--mongodb-url", replicas.url, "--port", port) as server:
            key = server.create_key("export")
            insert_random_events(mongo, key, COUNT, EVENT_BYTES)
            with server.client(key["key"]) as client:
                expected = client.get(EVENTS, params={"order": "asc"}, headers=LINES).content
            with told.open("wb") as stderr, running(server.url, key["key"], "export", stderr=stderr) as process:
                assert process.stdout is not None
                exported = process.stdout.read(EVENT_BYTES)
                kill_server(server)
                server.start()
                while b"trying again" not in told.read_bytes():  # what was sent before is still to be read
                    exported += process.stdout.read(EVENT_BYTES)
                exported += process.stdout.read(EVENT_BYTES)
                assert len(exported) < len(expected) / 2
                replicas.step_down()
                server.stop()
                server.start()
                exported += process.stdout.read()
                assert process.wait(60) == 0
    assert sha256(exported).digest() == sha256(expected).digest()
    *lines, last = told.read_text().splitlines()
    assert last == f"exported {COUNT} events"
    assert len(lines) >= 2
    assert all("trying again" in line for line in lines), lines
