"""The pace of an import, and what a terminal and a pipe show of it."""

import os
import pty
import re
import termios
from collections import Counter
from pathlib import Path

from tests.support.harness import Json, MongoClient, Server
from tests.support.importing import end_of, numbers, run_import, start_import, write
from tests.support.raw import stored_of

RATE = 400
SHOWN = re.compile(r"(\d+)% \|[^|]*\| (\d+(?:,\d+)?) events, ([\d,]+)/s \[\d\d:\d\d<\d\d:\d\d\]")


def test_the_pace_on_a_terminal(server: Server, mongo: MongoClient, key: Json, tmp_path: Path) -> None:
    file = write(tmp_path / "f", numbers(0, 3 * RATE))
    reader, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    with start_import(server, key, file, "--source", "s", "--rate", f"{RATE}/s", stderr=terminal) as process:
        process.communicate(timeout=60)
    os.close(terminal)
    shown = os.read(reader, 100_000).decode()
    os.close(reader)
    assert process.returncode == 0
    assert shown.endswith("stored 1,200 events\r\n")
    steps = [match.groups() for match in SHOWN.finditer(shown)]
    assert [events for _, events, _ in steps] == ["400", "800", "1,200"], shown
    percents = [int(percent) for percent, _, _ in steps]
    assert percents[0] < percents[1] < percents[2] == 100
    times = Counter(event["received_at"] for event in stored_of(mongo, key))
    assert set(times.values()) == {RATE}
    span_s = (max(times) - min(times)).total_seconds()
    assert 1.8 < span_s < 4


def test_silence_in_a_pipe(server: Server, key: Json, tmp_path: Path) -> None:
    file = write(tmp_path / "f", numbers(0, 1))
    assert run_import(server, key, file, "--source", "s") == "stored 1 event\n"
    with start_import(server, key, file, "--source", "s") as process:
        assert end_of(process) == "stored 0 events; earlier runs stored 1\n"
