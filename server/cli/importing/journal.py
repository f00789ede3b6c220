"""Remembers how far a file is imported, in a file beside it: FILE.sluice-journal.

Each line is a JSON object with a field `record`:

- `import`: what is imported: `options`, `source`, a hash of the file's first line, and a hash of the API key, which
  stands for the tenant and its database. It is the first line. Another one follows if another key of the tenant goes
  on.
- `begun`: the bytes [start, end) of a batch, its idempotency key, the protocol, and a hash of the file up to `end`, its
  `prefix`. It is on disk before the batch is sent.
- `done`: the batch is acknowledged. `end` is its end, `line_feeds` and `prefix` are of the file up to there.
  `stored` and `rejected` count lines up to there, and `rejects_bytes` is the size of the file of rejects.

So at most one batch is begun and not done. The next run sends it again, exactly. A last line that was cut as it was
written does not count: what it announces was not sent.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from server.cli.importing.inputs import InputError
from server.runtime.logs import system_reason

SUFFIX = ".sluice-journal"

MAX_JOURNALS = 100
"""Imports of one file into different tenants or under different sources, each with its journal."""


class Import(Struct, tag_field="record", tag="import"):
    """What a journal is about."""

    options: str
    """The options that are part of idempotency keys, but for the default source."""
    source: str | None
    """The source of lines that have none."""
    first_line: str
    """A hash of the first line: a file that was replaced has another one."""
    key: str
    """A hash of the API key."""


class Begun(Struct, tag_field="record", tag="begun"):
    """A batch that is about to be sent."""

    start: int
    end: int
    key: str
    protocol: str
    """By which it is sent. The server cannot compare batches of two protocols."""
    prefix: str


class Done(Struct, tag_field="record", tag="done"):
    """A batch that is acknowledged."""

    end: int = 0
    line_feeds: int = 0
    prefix: str = ""
    stored: int = 0
    rejected: int = 0
    rejects_bytes: int = 0


decode_record = msgspec.json.Decoder(Import | Begun | Done).decode


class Journal:
    """A journal; without a file it is kept in memory only."""

    def __init__(self, about: Import, file: BinaryIO | None = None) -> None:
        self.about = about
        self.done = Done()
        """The last batch that is acknowledged."""
        self.begun: Begun | None = None
        """The batch that was begun and is not acknowledged."""
        self.first: Begun | None = None
        self.last: Begun | None = None
        """The first and the last batch of which something was stored."""
        self._file = file

    @property
    def is_kept(self) -> bool:
        """Whether it is in a file."""
        return self._file is not None

    def begin(self, begun: Begun) -> None:
        """Note a batch that is about to be sent. Returns when that is on disk."""
        self._add(begun)
        self._write(begun)
        if self._file is not None:
            os.fsync(self._file.fileno())

    def finish(self, done: Done) -> None:
        """Note that the batch is acknowledged. If this is lost, the batch is sent once more, which does no harm."""
        self._add(done)
        self._write(done)

    def adopt(self, about: Import) -> None:
        """Note that another API key of the tenant goes on."""
        self._add(about)
        self._write(about)

    def close(self) -> None:
        """Close its file, which lets others use it."""
        if self._file is not None:
            with suppress(OSError):  # it tries once more to write what did not fit on a full disk
                self._file.close()

    def read(self) -> None:
        """Read what is in its file, behind the first record. Cut off a last line that was not written to its end."""
        assert self._file is not None  # noqa: S101
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            self._add(decode_record(line))
            whole += len(line)
        self._file.truncate(whole)
        self._file.seek(whole)

    def _add(self, record: Import | Begun | Done) -> None:
        match record:
            case Import():
                self.about = record
            case Begun():
                self.begun = record
            case Done():
                if record.stored > self.done.stored and self.begun is not None:
                    self.first, self.last = self.first or self.begun, self.begun
                self.done, self.begun = record, None

    def _write(self, record: Import | Begun | Done) -> None:
        if self._file is None:
            return
        try:
            self._file.write(msgspec.json.encode(record) + b"\n")
            self._file.flush()
        except OSError as error:
            raise InputError(f"the journal cannot be written{system_reason(error)}: no more is sent") from None


@contextmanager
def directory_locked(path: Path) -> Iterator[None]:
    """Lets one process at a time look for the journal of the file at `path`, and make one.

    Two journals of one import would not know of each other's batches.
    """
    directory = None
    with suppress(OSError):  # it may not be readable, and some network file systems have no such locks
        directory = os.open(path.absolute().parent, os.O_RDONLY)
        fcntl.flock(directory, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if directory is not None:
            os.close(directory)


def create_journal(path: Path, about: Import) -> Journal:
    """A new journal for the file at `path`. Raises OSError if none can be made."""
    for number in range(MAX_JOURNALS):
        name = path.with_name(f"{path.name}{SUFFIX}{f'.{number}' if number else ''}")
        try:
            file = name.open("xb")
        except FileExistsError:
            continue
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        journal = Journal(about, file)
        journal.adopt(about)
        return journal
    raise InputError(f"{path} has {MAX_JOURNALS} journals: remove those of imports that are over")


def open_journal(name: Path) -> Journal | None:
    """The journal in a file; None if it has no whole record. Raises OSError, and ValueError if it is no journal.

    Raises BlockingIOError if another process uses it.
    """
    file = name.open("r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        first = file.readline()
        about = decode_record(first) if first.endswith(b"\n") else None
        if not isinstance(about, Import):
            file.close()
            return None
        journal = Journal(about, file)
        journal.read()
    except (OSError, ValueError):
        file.close()
        raise
    return journal


def journals_near(path: Path) -> list[Path]:
    """The journals in the directory of a file, its own first. A renamed file has one of another name."""
    own = f"{path.name}{SUFFIX}"
    try:
        names = [name for name in path.absolute().parent.iterdir() if SUFFIX in name.name]
    except OSError:
        return []
    return sorted(names, key=lambda name: (not name.name.startswith(own), name.name))


def is_own(journal: Path, path: Path) -> bool:
    """Whether a journal is named for a file."""
    return journal.name.startswith(f"{path.name}{SUFFIX}")
