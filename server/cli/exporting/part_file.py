"""The file of an export, which has its name only once it is whole.

Until then its lines are in `FILE.<hash>.part`. The hash is of the filters, so an export with other filters does not
go on with it. A command that was killed leaves this file, perhaps with half a line at its end. The next one cuts that
off, and goes on after the last whole line.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from server.core.errors import ConfigurationError
from server.runtime.logs import system_reason
from server.runtime.output import OutputError

READ_BYTES = 1024 * 1024
"""What is read at a time of a file that is gone on with."""

HASH_CHARS = 8


class PartFile:
    """The lines that an export has so far."""

    remedy = "The same command goes on with it"

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self.lines = 0
        """How many there are."""
        self.last = b""
        """The last line; empty if there is none."""

    def write(self, lines: bytes) -> None:
        """Add whole lines. Raises OutputError."""
        rest = memoryview(lines)
        with output_errors(self._path):
            while rest:
                rest = rest[self._file.write(rest) :]

    def recover(self) -> None:
        """Find the lines that an earlier command wrote, and cut off what is no whole line."""
        size = begin = end = 0
        while chunk := self._file.read(READ_BYTES):
            self.lines += chunk.count(b"\n")
            line_end = chunk.rfind(b"\n") + 1
            if line_end:
                before = chunk.rfind(b"\n", 0, line_end - 1) + 1
                begin, end = size + before if before else end, size + line_end
            size += len(chunk)
        self._file.seek(begin)
        self.last = self._file.read(end - begin)
        self._file.truncate(end)
        self._file.seek(end)

    def complete(self, target: Path) -> None:
        """Give the file its name. It is on the disk then."""
        with output_errors(self._path):
            os.fsync(self._file.fileno())
            self._path.replace(target)


@contextmanager
def part_file(target: Path, query: Mapping[str, str]) -> Iterator[PartFile]:
    """The lines so far of an export to `target`. No other command can have them at the same time.

    Raises ConfigurationError for a target that cannot be replaced by a file, and OutputError.
    """
    if target.exists() and not target.is_file():
        raise ConfigurationError(f"--output {target} is not a file: leave --output out, and redirect stdout")
    if target.suffix in (".gz", ".zst"):
        raise ConfigurationError(f"--output {target} would not be compressed: use sluice export | zstd > FILE")
    name = hashlib.sha256(msgspec.json.encode(query, order="sorted")).hexdigest()[:HASH_CHARS]
    path = target.with_name(f"{target.name}.{name}.part")
    with output_errors(path):
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
    with file:
        if not is_locked(file, path):
            raise OutputError(f"{path} is being written by another export")
        part = PartFile(file, path)
        with output_errors(path):
            part.recover()
        yield part


def is_locked(file: BinaryIO, path: Path) -> bool:
    """Lock a file that was opened at `path`. Returns False if another command has it, or has just completed it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Raises OutputError for the errors of the operating system inside."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written to{system_reason(error)}") from None
