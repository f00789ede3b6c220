"""More connections than a worker may have files: it rejects some, survives, and works again once they are closed."""

import resource
import socket
from contextlib import ExitStack
from pathlib import Path

from storage.embedded.limits import MAX_OPEN_FILES
from tests.support.harness import Server, batch, wait_until
from tests.support.wire import connect, responses_in, rest_of

FILES = 200
MAX_LOG_LINES = 40


def takes_events(server: Server, secret: str) -> bool:
    """Whether a good batch is stored."""
    with server.client(secret) as client:
        return client.post("/api/v1/events", json=batch()).status_code == 201


def test_more_connections_than_files(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        (worker,) = server.worker_pids()
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (FILES, FILES))
        assert takes_events(server, server.first_key)
        with ExitStack() as stack:
            opened = [stack.enter_context(connect(server)) for _ in range(2 * FILES)]
            for connection in opened[-FILES // 4 :]:
                responses = responses_in(rest_of(connection))  # none if even that needed a file too many
                assert [response.code for response in responses] in ([], ["unavailable"])
        wait_until(lambda: takes_events(server, server.first_key), "a free file")
        host, port = server.grpc.split(":")
        with ExitStack() as stack:
            for _ in range(2 * FILES):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
        wait_until(lambda: takes_events(server, server.first_key), "a free file")
        assert server.worker_pids() == [worker]
        assert len(server.stderr().splitlines()) < MAX_LOG_LINES


def test_as_many_files_as_the_system_allows(server: Server) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for pid in (*server.worker_pids(), *server.mongod_pids()):
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (min(hard, MAX_OPEN_FILES), hard)
