"""The ledger of a run: what became of every request, appended by Locust's processes and read by the command.

A process of Locust writes a file of its own, record by record, each with one call of the system, so that nothing is
lost or mixed whatever happens to the process. A record is MessagePack behind its length in four bytes.

Beside the ledger, three files that the processes share: a lane's tickets (a byte is appended for each; where it stands
is the ticket's number, which the kernel makes unique), the users that are done (likewise), and when the run began.

Imports the standard library and msgspec.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

Outcome = Literal["acknowledged", "limited", "unavailable", "uncertain", "refused", "broken"]
"""What became of a request: stored; refused by the rate limit; "unavailable" and nothing stored; "unavailable" with an
unknown outcome; refused as a bad request; no answer, or one that there should not be."""

PERHAPS_STORED = frozenset({"uncertain", "broken"})
"""Outcomes that leave open what was stored."""

LENGTH_BYTES = 4

EPOCH_LEAD_S = 2.0
"""From the first user's readiness to the start: the others get ready meanwhile."""


class Record(Struct, frozen=True, array_like=True):
    """One request and its answer. Times are in seconds into the run."""

    lane: int
    ticket: int
    due_s: float
    sent_s: float
    answered_s: float
    outcome: Outcome
    status: str
    """As the protocol says it, such as 201 or RESOURCE_EXHAUSTED."""
    events: int
    """In the batch."""
    replayed: bool = False
    """Whether it is the second sending of a batch that was taken."""
    wait_s: float | None = None
    """The wait that a refusal asked for; None where it asked for none that can be used."""
    limit_headers: bool = True
    """Whether a REST answer carried the headers of the rate limit."""
    tenant_id: bytes = b""
    ids: bytes = b""
    """Of the events that were acknowledged, 16 bytes each, in the order sent."""
    detail: str = ""
    """Why, where the outcome is not an ordinary one."""

    @property
    def latency_s(self) -> float:
        """From when it was due: a request that had to wait to be sent was waiting, too."""
        return self.answered_s - self.due_s


class Ledger:
    """Where a process writes its records."""

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / f"ledger-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._encoder = msgspec.msgpack.Encoder()

    def write(self, record: Record) -> None:
        """Append a record."""
        encoded = self._encoder.encode(record)
        os.write(self._file, len(encoded).to_bytes(LENGTH_BYTES, "big") + encoded)


def read_records(directory: Path) -> Iterator[Record]:
    """The records of all processes of a run, in no order."""
    decoder = msgspec.msgpack.Decoder(Record)
    for path in directory.glob("ledger-*"):
        with path.open("rb") as file:
            while length := file.read(LENGTH_BYTES):
                yield decoder.decode(file.read(int.from_bytes(length, "big")))


class Counter:
    """A number that processes share: each call of `next` gives another one, from 0 on."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def next(self) -> int:
        """The next number. With O_APPEND, a file's position after a write is where that very write ended."""
        os.write(self._file, b".")
        return os.lseek(self._file, 0, os.SEEK_CUR) - 1


def tickets_path(directory: Path, lane: int) -> Path:
    """The file that counts a lane's tickets."""
    return directory / f"tickets-{lane}"


def done_path(directory: Path) -> Path:
    """The file that counts the users that are done."""
    return directory / "done"


def failures_path(directory: Path) -> Path:
    """The file with what failed in Locust itself; there is none in a good run."""
    return directory / "failures"


def begin(directory: Path) -> float:
    """When the run begins on the monotonic clock, which all processes of a machine share. Who asks first decides."""
    epoch, draft = directory / "epoch", directory / f"epoch-{os.getpid()}"
    if not epoch.exists():
        draft.write_text(str(time.monotonic() + EPOCH_LEAD_S))
        with suppress(FileExistsError):
            epoch.hardlink_to(draft)  # all of it at once, or not at all
        draft.unlink()  # or else the next draft would be written into the same file
    return float(epoch.read_text())
