"""The ledger of a run: what became of every request. Locust's processes write it, the command reads it.

Each process appends to a file of its own, with one system call for each record. So no record is lost or mixed with
another if a process ends. A record is MessagePack, after its length in four bytes.

The processes share three more kinds of files. A lane's tickets: a process appends a byte, and its position in the file
is the ticket, which the kernel makes unique. The users that are done are counted in the same way. The third is the time
at which the run starts.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

Outcome = Literal["acknowledged", "limited", "unavailable", "uncertain", "rejected", "broken"]
"""What became of a request.

* acknowledged: a receipt
* limited: rejected by the rate limit
* unavailable: the server was unavailable, and nothing was stored
* uncertain: the server was unavailable, and it is unknown whether the batch was stored
* rejected: rejected as a bad request
* broken: no response, or one that no request should get, such as 500
"""

PERHAPS_STORED = frozenset({"uncertain", "broken"})
"""Outcomes after which it is unknown what was stored."""

LENGTH_BYTES = 4

EPOCH_LEAD_S = 2.0
"""Time from the first user's readiness to the start of the run, in which the other users get ready."""


class Record(Struct, frozen=True, array_like=True):
    """One request and its response. Times are in seconds into the run."""

    lane: int
    ticket: int
    due_s: float
    sent_s: float
    answered_s: float
    outcome: Outcome
    status: str
    """The status of the protocol, such as 201 or RESOURCE_EXHAUSTED."""
    events: int
    """The number of events in the batch."""
    replayed: bool = False
    """Whether the batch had been acknowledged before, and this request repeats it."""
    wait_s: float | None = None
    """The wait that the response named; None if it named none, or one in a wrong form."""
    limit_headers: bool = True
    """Whether a REST response had the headers of the rate limit."""
    tenant_id: bytes = b""
    ids: bytes = b""
    """The ids of the acknowledged events, 16 bytes each, in the order of the batch."""
    detail: str = ""
    """The server's or the client's reason, unless the batch was acknowledged."""

    @property
    def latency_s(self) -> float:
        """The time from when the request was due, so that a late start counts as waiting."""
        return self.answered_s - self.due_s


class Ledger:
    """The file to which this process appends its records."""

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / f"ledger-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._encoder = msgspec.msgpack.Encoder()

    def write(self, record: Record) -> None:
        """Append a record with one system call."""
        encoded = self._encoder.encode(record)
        os.write(self._file, len(encoded).to_bytes(LENGTH_BYTES, "big") + encoded)


def read_records(directory: Path) -> Iterator[Record]:
    """Read the records of all processes of a run, in no particular order."""
    decoder = msgspec.msgpack.Decoder(Record)
    for path in directory.glob("ledger-*"):
        with path.open("rb") as file:
            while length := file.read(LENGTH_BYTES):
                yield decoder.decode(file.read(int.from_bytes(length, "big")))


class Counter:
    """A counter that processes share through a file. Every call of `next` returns another number, from 0 on."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def next(self) -> int:
        """Return the next number."""
        # With O_APPEND, the position after a write is the end of exactly this write.
        os.write(self._file, b".")
        return os.lseek(self._file, 0, os.SEEK_CUR) - 1


def tickets_path(directory: Path, lane: int) -> Path:
    """Return the path of the counter of a lane's tickets."""
    return directory / f"tickets-{lane}"


def done_path(directory: Path) -> Path:
    """Return the path of the counter of users that are done."""
    return directory / "done"


def failures_path(directory: Path) -> Path:
    """Return the path of the file with errors of Locust's users. A good run leaves none."""
    return directory / "failures"


def start_time_s(directory: Path) -> float:
    """Return when the run starts, by the monotonic clock that all processes share. The first call decides it."""
    epoch, draft = directory / "epoch", directory / f"epoch-{os.getpid()}"
    if not epoch.exists():
        draft.write_text(str(time.monotonic() + EPOCH_LEAD_S))
        with suppress(FileExistsError):
            epoch.hardlink_to(draft)  # so that other processes see either no file or all of it
        draft.unlink()  # or else the next draft would be written into the same file

    return float(epoch.read_text())
