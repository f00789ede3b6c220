"""Writes the lines that were not stored to a file beside what is imported: FILE.rejects.ndjson.

A line is `{"line","offset","path","reason","text"}`. `text` is the line itself: it can be corrected and imported alone.
No line comes twice, also if a run was killed between this file and the journal.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from server.cli.importing.batches import Rejected
from server.cli.importing.inputs import InputError, is_stream
from server.runtime.logs import system_reason

SUFFIX = ".rejects.ndjson"


class Offset(Struct):
    """What is read of a line of the file."""

    offset: int


def rejects_path(path: str) -> Path:
    """Where the rejects of a file are written. For stdin and pipes that is in the working directory."""
    return Path("stdin" + SUFFIX) if is_stream(path) else Path(path + SUFFIX)


class Rejects:
    """The file of rejects."""

    def __init__(self, path: Path, known_bytes: int | None) -> None:
        """With `known_bytes`, go on with a file that had this size when the journal was written.

        Else begin a new file. One of an earlier import is renamed. Raises InputError.
        """
        self.path = path
        self._written = set[int]()
        """The places of lines that the run before wrote, and did not note in the journal."""
        with self._errors():
            if not path.exists():
                return
            if known_bytes is None:
                path.replace(path.with_name(f"{path.name}.old"))
            else:
                self._written = self._offsets(known_bytes)

    def add(self, rejected: list[Rejected]) -> None:
        """Write lines, unless they are written. Raises InputError."""
        new = [each for each in rejected if each.offset not in self._written]
        self._written = set()  # only the first batch of a run may have been written before
        if new:
            with self._errors(), self.path.open("ab") as file:
                file.write(b"".join([msgspec.json.encode(each) + b"\n" for each in new]))

    def size(self) -> int:
        """The size of the file."""
        return self.path.stat().st_size if self.path.exists() else 0

    def _offsets(self, start: int) -> set[int]:
        """The places of the lines from `start` on, without one that was not written to its end, which is cut off."""
        offsets, whole = set[int](), start
        with self.path.open("r+b") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    file.truncate(whole)
                    break
                whole += len(line)
                offsets.add(offset_in(line))
        return offsets

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raises InputError if the file cannot be written."""
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.path} cannot be written{system_reason(error)}") from None


def offset_in(line: bytes) -> int:
    """The place that a line of the file names; -1 if somebody has changed it."""
    try:
        return msgspec.json.decode(line, type=Offset).offset
    except msgspec.DecodeError:
        return -1
