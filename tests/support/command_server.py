"""Runs each `sluice` command in a fork of this process, which has imported the command line once.

A new interpreter takes 0.3 s of CPU to import it, and most commands run for a few milliseconds. The tests run hundreds.
A fork is a process like another: it has streams, variables, an exit status and an end of its own.

The client sends one datagram a command on the socket that is our stdin: its arguments, variables and directory as JSON,
and the descriptors of its three streams and of a socket for its exit status.
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys

IMPORTS = (
    "server.cli.exporting.engine",
    "server.cli.following.engine",
    "server.cli.importing.engine",
    "server.cli.importing.over_grpc",
    "server.cli.importing.over_http",
    "server.cli.main",
)
"""What the commands import: some of it when they run."""

MAX_BYTES = 1_000_000
"""Of a request: the arguments and variables of a process."""

DESCRIPTORS = 4


def serve(requests: socket.socket) -> None:
    """Run commands until the client closes the socket."""
    for name in IMPORTS:
        importlib.import_module(name)
    gc.freeze()  # a collection in a fork would copy all pages of these modules
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the processes that wait for commands
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, MAX_BYTES, DESCRIPTORS)
        if not data:
            return
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            report(json.loads(data), descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def report(request: dict[str, object], descriptors: list[int]) -> None:
    """Run a command, tell the client its process id and then its exit status, and end. Returns in the command only."""
    *streams, status = descriptors
    pid = os.fork()
    if pid == 0:
        os.close(status)
        run(request, streams)
    for stream in range(3):  # the client waits until nobody has these streams
        os.close(stream)
    for stream in streams:
        os.close(stream)
    os.write(status, f"{pid}\n".encode())
    os.write(status, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def run(request: dict[str, object], streams: list[int]) -> None:
    """Run a command and exit as the interpreter does."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    arguments, environment, directory = request["arguments"], request["environment"], request["directory"]
    assert isinstance(arguments, list)
    assert isinstance(environment, dict)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(str(directory))
    sys.argv[1:] = arguments
    sys.modules["server.cli.main"].main()


if __name__ == "__main__":
    with socket.socket(fileno=os.dup(0)) as client:
        serve(client)
