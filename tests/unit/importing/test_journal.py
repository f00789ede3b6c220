"""The journal: what was begun and not done is known, however much of the file was written."""

import asyncio
from pathlib import Path

import pytest

from server.cli.importing.batches import Rejected
from server.cli.importing.inputs import InputError
from server.cli.importing.journal import Begun, Done, Import, Journal, create_journal, journals_near, open_journal
from server.cli.importing.pace import Pace
from server.cli.importing.rejects import Rejects

ABOUT = Import("options", "s", "first", "key")
FIRST, SECOND = Begun(0, 10, "k0", "HTTP", "hash"), Begun(10, 15, "k1", "HTTP", "hash of 15")
DONE = Done(10, 2, "hash", 2, 0, 0)


def written(path: Path) -> Path:
    journal = create_journal(path, ABOUT)
    journal.begin(FIRST)
    journal.finish(DONE)
    journal.begin(SECOND)
    journal.close()
    return journals_near(path)[0]


def opened(name: Path) -> Journal:
    journal = open_journal(name)
    assert journal is not None
    return journal


def test_a_journal_is_read_back(tmp_path: Path) -> None:
    journal = opened(written(tmp_path / "f"))
    assert (journal.about, journal.done, journal.begun) == (ABOUT, DONE, SECOND)
    assert journal.first == journal.last == FIRST
    journal.close()


def test_each_beginning_of_a_journal_is_one(tmp_path: Path) -> None:
    name = written(tmp_path / "f")
    whole = name.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        name.write_bytes(whole[:cut])
        journal = open_journal(name)
        records = sum(end <= cut for end in ends)
        assert (journal is None) == (records == 0)
        if journal is not None:
            assert (journal.begun, journal.done) == [(None, Done()), (FIRST, Done()), (None, DONE), (SECOND, DONE)][
                records - 1
            ]
            journal.begin(SECOND)
            journal.close()
            again = opened(name)
            assert again.begun == SECOND  # what was cut is gone
            again.close()


def test_one_process_uses_a_journal(tmp_path: Path) -> None:
    name = written(tmp_path / "f")
    journal = opened(name)
    with pytest.raises(BlockingIOError):
        open_journal(name)
    journal.close()
    opened(name).close()


def test_a_full_disk() -> None:
    with Path("/dev/full").open("r+b") as file:
        journal = Journal(ABOUT, file)
        with pytest.raises(InputError, match="No space left on device"):
            journal.begin(FIRST)
        journal.close()


def test_another_journal_is_left_alone(tmp_path: Path) -> None:
    written(tmp_path / "f")
    create_journal(tmp_path / "f", ABOUT).close()
    create_journal(tmp_path / "a", ABOUT).close()
    found = [name.name for name in journals_near(tmp_path / "f")]
    assert found == ["f.sluice-journal", "f.sluice-journal.1", "a.sluice-journal"]


def rejected(line: int) -> Rejected:
    return Rejected(line, line * 10, "data", "why", "text")


def test_rejects_are_written_once(tmp_path: Path) -> None:
    path = tmp_path / "rejects"
    Rejects(path, 0).add([rejected(1), rejected(2)])
    whole = path.read_bytes()
    one = len(whole) // 2
    for cut in range(one, len(whole) + 1):  # what a run that was killed left behind, and did not note
        path.write_bytes(whole[:cut])
        Rejects(path, one).add([rejected(2)])
        assert path.read_bytes() == whole


def test_rejects_of_an_earlier_import_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "rejects"
    Rejects(path, 0).add([rejected(1)])
    before = path.read_bytes()
    rejects = Rejects(path, None)
    assert (rejects.size(), (tmp_path / "rejects.old").read_bytes()) == (0, before)


def test_pace() -> None:
    now, slept = 0.0, list[float]()

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)

    async def run() -> None:
        pace = Pace(1_000, lambda: now)
        for _ in range(3):
            await pace.wait(500, sleep)

    asyncio.run(run())
    assert slept == [0.5, 0.5]
