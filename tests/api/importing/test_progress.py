"""The pace of an import, and what a terminal and a pipe show of it."""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tests.support.harness import Json, MongoClient, Server
from tests.support.importing import end_of, numbers, run_import, start_import, write
from tests.support.raw import stored_of
from tests.support.terminal import Terminal

RATE = 400
SHOWN = re.compile(r"(\d+)% \|[^|]*\| (\d+(?:,\d+)?) events, ([\d,]+)/s \[\d\d:\d\d<\d\d:\d\d\]")


def test_the_pace_on_a_terminal(server: Server, mongo: MongoClient, key: Json, tmp_path: Path) -> None:
    file = write(tmp_path / "f", numbers(0, 3 * RATE))
    gaps_s = list[float]()
    for source in ("a", "b", "c"):  # if the machine stands still for a moment, a batch is late and the next one is not
        if not is_steady(gaps_s):
            with Terminal() as terminal:
                options = ("--source", source, "--rate", f"{RATE}/s")
                with start_import(server, key, file, *options, stderr=terminal.descriptor) as process:
                    process.communicate(timeout=60)
                shown = terminal.shown()
            assert process.returncode == 0
            assert shown.endswith("stored 1,200 events\r\n")
            times = Counter(event["received_at"] for event in stored_of(mongo, key) if event["source"] == source)
            assert set(times.values()) == {RATE}
            gaps_s = [(later - earlier).total_seconds() for earlier, later in pairwise(sorted(times))]
    assert is_steady(gaps_s), gaps_s
    steps = [match.groups() for match in SHOWN.finditer(shown)]
    assert [events for _, events, _ in steps] == ["400", "800", "1,200"], shown
    percents = [int(percent) for percent, _, _ in steps]
    assert percents[0] < percents[1] < percents[2] == 100


def is_steady(gaps_s: list[float]) -> bool:
    """Whether batches came a second after each other."""
    return len(gaps_s) == 2 and all(0.9 < gap_s < 1.5 for gap_s in gaps_s)


def test_silence_in_a_pipe(server: Server, key: Json, tmp_path: Path) -> None:
    file = write(tmp_path / "f", numbers(0, 1))
    assert run_import(server, key, file, "--source", "s") == "stored 1 event\n"
    with start_import(server, key, file, "--source", "s") as process:
        assert end_of(process) == "stored 0 events; earlier runs stored 1\n"
