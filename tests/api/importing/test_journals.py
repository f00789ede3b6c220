"""Journals: without one, with another key of the tenant, and with several imports that begin at one time."""

from pathlib import Path

import pytest

from tests.support.harness import Json, MongoClient, Server
from tests.support.importing import (
    append,
    journals_of,
    numbers,
    numbers_in,
    records_of,
    run_import,
    start_import,
    write,
)
from tests.support.raw import stored_of


@pytest.mark.usefixtures("normal_user")
def test_a_directory_that_cannot_be_written(server: Server, mongo: MongoClient, key: Json, tmp_path: Path) -> None:
    directory = tmp_path / "read-only"
    directory.mkdir()
    file = write(directory / "f", numbers(0, 50))
    for mode in (0o555, 0o111):  # the second one cannot be listed either
        directory.chmod(mode)
        told, last = run_import(server, key, file, "--source", "s").splitlines()
        assert told.startswith(f"no journal can be written beside {file} (Permission denied")
    assert last == "stored 50 events, of which the server had 50 already"
    assert numbers_in(stored_of(mongo, key)) == list(range(50))
    directory.chmod(0o755)
    assert list(directory.iterdir()) == [file]


@pytest.mark.parametrize("protocol", ["HTTP", "gRPC"])
def test_another_key_of_the_tenant_goes_on(
    server: Server, mongo: MongoClient, key: Json, tmp_path: Path, protocol: str
) -> None:
    """The journal is adopted, also over the other protocol."""
    file = write(tmp_path / "f", numbers(0, 50))
    run_import(server, key, file, "--source", "s")
    other = server.create_key(key["tenant"], "--rate-limit", "0")
    append(file, numbers(50, 60))
    text = run_import(server, other, file, "--source", "s", protocol=protocol)
    assert text == "stored 10 events; earlier runs stored 50\n"
    (journal,) = journals_of(tmp_path)
    assert [each["record"] for each in records_of(journal)] == ["import", "begun", "done", "import", "begun", "done"]
    append(file, numbers(60, 61))
    assert "stored 1 event;" in run_import(server, other, file, "--source", "s", protocol=protocol)
    assert numbers_in(stored_of(mongo, key)) == list(range(61))


@pytest.mark.parametrize("protocol", ["HTTP", "gRPC"])
@pytest.mark.parametrize("name", ["f", "renamed"])
def test_a_file_that_grew_goes_to_another_tenant(
    server: Server, mongo: MongoClient, key: Json, tmp_path: Path, protocol: str, name: str
) -> None:
    """The first batch, by which the journal of the one tenant is tried for the other, is not stored twice."""
    file = write(tmp_path / "f", numbers(0, 20))
    run_import(server, key, file)
    append(file, numbers(20, 30))
    file = file.rename(tmp_path / name)
    other = server.create_key(f"{key['tenant']}-other", "--rate-limit", "0")
    assert run_import(server, other, file, protocol=protocol) == "stored 30 events\n"
    append(file, numbers(30, 40))
    assert "stored 10 events;" in run_import(server, other, file, protocol=protocol)
    assert "stored 20 events;" in run_import(server, key, file)
    for each in (key, other):
        assert numbers_in(stored_of(mongo, each)) == list(range(40))


def test_imports_that_begin_at_one_time(server: Server, mongo: MongoClient, key: Json, tmp_path: Path) -> None:
    file = write(tmp_path / "f", numbers(0, 3_000))
    processes = [start_import(server, key, file, "--source", "s") for _ in range(3)]
    texts = [process.communicate(timeout=60)[1].decode() for process in processes]
    ends = zip([process.returncode for process in processes], texts, strict=True)
    assert all("stored" in text if status == 0 else "by another process" in text for status, text in ends)
    assert [process.returncode for process in processes].count(0) >= 1
    append(file, numbers(3_000, 3_100))
    run_import(server, key, file, "--source", "s")
    assert numbers_in(stored_of(mongo, key)) == list(range(3_100))
    assert len(journals_of(tmp_path)) == 1


def test_a_file_that_begins_like_another(server: Server, mongo: MongoClient, key: Json, tmp_path: Path) -> None:
    """The journal of a file that was begun only is not taken for one with an equal first line."""
    one = write(tmp_path / "one", numbers(0, 20))
    run_import(server, key, one, "--source", "s")
    (journal,) = journals_of(tmp_path)
    records = journal.read_bytes().splitlines(keepends=True)
    for count in (2, 1):  # killed before the response to the first batch, and before it was sent
        journal.write_bytes(b"".join(records[:count]))
        other = write(tmp_path / f"other{count}", numbers(0, 1) + numbers(100 * count, 100 * count + 20))
        assert run_import(server, key, other, "--source", "s") == "stored 21 events\n"
        assert "stored 20 events, of which the server had 20 already" in run_import(server, key, one, "--source", "s")
    numbered = [0, *range(100, 120), 0, *range(200, 220)]
    assert sorted(numbers_in(stored_of(mongo, key))) == sorted([*range(20), *numbered])
