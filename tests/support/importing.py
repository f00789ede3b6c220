"""`sluice import` as a process, and the files that it reads."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.commands import run_command
from tests.support.harness import Json, Server
from tests.support.raw import lines_of

TIMEOUT_S = 120


def numbers(first: int, end: int, **data: Any) -> bytes:
    """Lines of events that are numbered."""
    return lines_of([{"type": "n", "data": {"n": number, **data}} for number in range(first, end)])


def write(path: Path, data: bytes) -> Path:
    """A file with this data."""
    path.write_bytes(data)
    return path


def append(path: Path, data: bytes) -> None:
    """Let a file grow."""
    with path.open("ab") as file:
        file.write(data)


def command_line(server: Server | str, *arguments: str | Path, protocol: str) -> list[str]:
    """The arguments of an import to a server, or to an address of the protocol."""
    option = "--grpc" if protocol == "gRPC" else "--url"
    if isinstance(server, Server):
        server = server.grpc if protocol == "gRPC" else server.url
    return ["import", *map(str, arguments), option, server]


def start_import(
    server: Server | str,
    key: Json,
    *arguments: str | Path,
    protocol: str = "HTTP",
    stderr: int = subprocess.PIPE,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start an import to a server, or to an address of the protocol."""
    return subprocess.Popen(
        [sys.executable, "-m", "server", *command_line(server, *arguments, protocol=protocol)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, "SLUICE_API_KEY": key["key"], **(variables or {})},
    )


def run_import(
    server: Server | str,
    key: Json,
    *arguments: str | Path,
    protocol: str = "HTTP",
    stdin: bytes = b"",
    status: int = 0,
    variables: Mapping[str, str] | None = None,
) -> str:
    """Import, with the exit status `status`. Returns what it printed on stderr."""
    line = command_line(server, *arguments, protocol=protocol)
    environment = {"SLUICE_API_KEY": key["key"], **(variables or {})}
    done = run_command(*line, variables=environment, stdin=stdin, timeout_s=TIMEOUT_S)
    return checked(done.returncode, done.stdout, done.stderr, status)


def end_of(process: subprocess.Popen[bytes], status: int = 0, stdin: bytes = b"") -> str:
    """Wait for the end of an import, with the exit status `status`. Returns what it printed on stderr."""
    out, error = process.communicate(stdin, TIMEOUT_S)
    return checked(process.returncode, out, error, status)


def checked(returncode: int, out: bytes, error: bytes, status: int) -> str:
    """Check how an import ended, and that it printed nothing on stdout. Returns what it printed on stderr."""
    text = error.decode()
    assert (returncode, out) == (status, b""), text
    return text


def record_count(directory: Path) -> int:
    """How many records the journals in a directory have."""
    return sum(len(records_of(journal)) for journal in journals_of(directory))


def rejects_of(path: Path) -> list[Json]:
    """The lines of the file of rejects of a file."""
    rejects = path.with_name(f"{path.name}.rejects.ndjson")
    return [json.loads(line) for line in rejects.read_bytes().splitlines()]


def journals_of(directory: Path) -> list[Path]:
    """The journals in a directory."""
    return sorted(path for path in directory.iterdir() if ".sluice-journal" in path.name)


def records_of(journal: Path) -> list[Json]:
    """The whole records of a journal."""
    return [json.loads(line) for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def numbers_in(events: Iterable[Json]) -> list[int]:
    """The numbers of stored events."""
    return [event["data"]["n"] for event in events]
