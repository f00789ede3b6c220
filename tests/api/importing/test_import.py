"""`sluice import` against a server: what it stores, how it goes on after kill -9, and what it rejects."""

import gzip
import json
import os
import random
import subprocess
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.support.exports import export
from tests.support.harness import Json, MongoClient, Server, wait_until
from tests.support.importing import (
    append,
    journals_of,
    numbers,
    numbers_in,
    record_count,
    rejects_of,
    run_import,
    start_import,
    write,
)
from tests.support.raw import lines_of, stored_of

KILLS = 10 if os.environ.get("SLUICE_LONG") else 3
NOTE = "x" * 6_000
"""Text that makes batches of some 1,000 lines, since a batch has 6 MiB."""


def is_over(process: subprocess.Popen[bytes], directory: Path, wanted: int) -> bool:
    """Whether an import has ended, or its journal has this number of records."""
    return process.poll() is not None or record_count(directory) >= wanted


@pytest.mark.parametrize("protocol", ["HTTP", "gRPC"])
def test_kills(server: Server, mongo: MongoClient, key: Json, tmp_path: Path, protocol: str) -> None:
    file = write(tmp_path / "f.ndjson", numbers(0, 8_500, note=NOTE))
    for _ in range(KILLS):
        wanted = record_count(tmp_path) + random.randint(1, 5)
        with start_import(server, key, file, "--source", "s", protocol=protocol) as process:
            wait_until(partial(is_over, process, tmp_path, wanted), "records of the journal")
            process.kill()
    run_import(server, key, file, "--source", "s", protocol=protocol)
    append(file, numbers(8_500, 9_000))
    run_import(server, key, file, "--source", "s", protocol=protocol)
    assert numbers_in(stored_of(mongo, key)) == list(range(9_000))  # each once, in the order of the lines


def test_a_file_that_grew_after_a_kill_and_was_renamed(
    server: Server, mongo: MongoClient, key: Json, tmp_path: Path
) -> None:
    file = write(tmp_path / "a", numbers(0, 50))
    run_import(server, key, file, "--source", "s")
    journal = journals_of(tmp_path)[0]
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))  # the end was not noted
    append(file, numbers(50, 90))
    renamed = file.rename(tmp_path / "b")
    text = run_import(server, key, renamed, "--source", "s")
    assert "stored 90 events, of which the server had 50 already" in text
    assert numbers_in(stored_of(mongo, key)) == list(range(90))


def test_a_round_trip(server: Server, client: httpx.Client, key: Json, tmp_path: Path) -> None:
    events = [
        {"type": f"t{at % 3}", "data": {"b": at, "a": [None, "é", 2**60]}, "metadata": {"v": 1} if at % 2 else None}
        for at in range(30)
    ]
    file = write(tmp_path / "hooks.ndjson", lines_of([*events, events[-1], events[-1]]))
    run_import(server, key, file)
    first = export(client, {"order": "asc"})
    assert [event["data"] for event in first] == [event["data"] for event in [*events, events[-1], events[-1]]]
    assert {event["source"] for event in first} == {"hooks"}
    mixed = [{**event, "source": "web" if at % 4 else "app", "source_id": "eu"} for at, event in enumerate(first)]
    exported = write(tmp_path / "exported", gzip.compress(lines_of(mixed)))
    other = server.create_key(f"{key['tenant']}-other", "--rate-limit", "0")
    run_import(server, other, exported)
    with server.client(other["key"]) as reader:
        again = export(reader, {"order": "asc"})
    for event in [*mixed, *again]:
        for field in ("id", "tenant_id", "received_at"):
            del event[field]
    assert json.dumps(again) == json.dumps(mixed)


def test_other_tenants_and_sources(server: Server, mongo: MongoClient, key: Json, tmp_path: Path) -> None:
    file = write(tmp_path / "f", numbers(0, 20))
    other = server.create_key(f"{key['tenant']}-other", "--rate-limit", "0")
    for each in (key, other, key, other):
        run_import(server, each, file, "--source", "s")
    run_import(server, key, file, "--source", "another")
    assert numbers_in(stored_of(mongo, key)) == [*range(20), *range(20)]
    assert numbers_in(stored_of(mongo, other)) == list(range(20))


def test_rejects(server: Server, mongo: MongoClient, key: Json, tmp_path: Path) -> None:
    good = numbers(0, 150).splitlines(keepends=True)
    file = write(tmp_path / "f", b"\n".join(line + b'{"type":"t","data":3}' for line in good) + b"\n{bad\n{cut")
    text = run_import(server, key, file, status=1)
    assert "stored 150 events; rejected 151 lines" in text
    assert "the last line of" in text
    rejects = rejects_of(file)
    assert [each["line"] for each in rejects] == [*range(2, 302, 2), 301]
    assert (rejects[0]["path"], rejects[0]["text"]) == ("data", '{"type":"t","data":3}')
    assert "rejected 151 lines" in run_import(server, key, file, status=1)
    assert rejects_of(file) == rejects
    assert len(stored_of(mongo, key)) == 150


def test_stdin_and_a_dry_run(server: Server, mongo: MongoClient, key: Json, tmp_path: Path) -> None:
    assert "20 events would be stored" in run_import(
        server, key, "-", "--dry-run", "--source", "s", stdin=numbers(0, 20)
    )
    assert stored_of(mongo, key) == []
    for _ in range(2):
        run_import(server, key, "-", "--source", "s", stdin=numbers(0, 20))
    assert numbers_in(stored_of(mongo, key)) == list(range(20))
    file = write(tmp_path / "f", b"{}\n")
    text = run_import(server, key, file, "--dry-run", status=1)
    assert "line 1: type: Object missing required field" in text
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("start", [b"\n", b" \r\n\n", b"\xef\xbb\xbf\n"])
def test_a_file_that_begins_with_blank_lines(
    server: Server, mongo: MongoClient, key: Json, tmp_path: Path, start: bytes
) -> None:
    file = write(tmp_path / "f", start + numbers(0, 3))
    assert run_import(server, key, file) == "stored 3 events\n"
    append(file, numbers(3, 5))
    assert run_import(server, key, file) == "stored 2 events; earlier runs stored 3\n"
    assert numbers_in(stored_of(mongo, key)) == list(range(5))


def test_a_file_without_lines(server: Server, key: Json, tmp_path: Path) -> None:
    for data in (b"", b"\n \n", gzip.compress(b"")):
        assert run_import(server, key, write(tmp_path / "f", data)) == "stored 0 events\n"
    assert "is incomplete" in run_import(server, key, write(tmp_path / "f", b"\n{"), status=1)


def test_a_file_that_was_changed(server: Server, mongo: MongoClient, key: Json, tmp_path: Path) -> None:
    file = write(tmp_path / "f", numbers(0, 20))
    run_import(server, key, file)
    changed = file.read_bytes().replace(b'"n": 3}', b'"n": 33}')
    write(file, changed)
    assert "was changed" in run_import(server, key, file, status=1)
    write(file, numbers(100, 120))  # another file
    run_import(server, key, file)
    assert numbers_in(stored_of(mongo, key)) == [*range(20), *range(100, 120)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["/nowhere"], "/nowhere cannot be read"),
        ([], "FILE"),
        (["-", "--map", "kind=a"], "--map"),
        (["-", "--rate", "0/s"], "--rate"),
        (["-", "--source", ""], "--source"),
    ],
)
def test_bad_usage(server: Server, key: Json, arguments: list[str], named: str) -> None:
    text = run_import(server, key, *arguments, status=2)
    assert named in text
    assert text.count("\n") == 1


def test_a_wrong_key(server: Server, key: Json) -> None:
    text = run_import(
        server, {**key, "key": "slc_" + "x" * 43}, "-", "--source", "s", stdin=numbers(0, 9_000), status=1
    )
    assert "Invalid or missing API key (401" in text
    assert text.count("\n") == 1
