"""No command lands in a database by accident, and none makes files that their owner could not use."""

import os
import subprocess
import sys
from pathlib import Path

import pymongo
import pytest

from tests.support.harness import Json, Server, sluice
from tests.support.mongod import Mongod

OTHER_USER = 1000


def in_folder(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a folder, without options that name a database."""
    command = [sys.executable, "-P", "-m", "server", *words]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=90, env=env, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ("keys", "create", "--tenant", "lost"),
        ("keys", "list"),
        ("keys", "rotate", "x"),
        ("keys", "revoke", "x"),
        ("database-url",),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_folder_without_a_database_stays_one(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = in_folder(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"there is no database in {tmp_path / '.sluice'}" in line
    assert "--data-dir" in line
    assert "--new" in line
    assert list(tmp_path.iterdir()) == []


def test_a_new_database_is_told_from_an_old_one_by_its_absolute_path(tmp_path: Path) -> None:
    first = in_folder(tmp_path, "keys", "create", "--tenant", "a", "--new")
    assert first.returncode == 0
    assert f"database: sluice new database made in {tmp_path / '.sluice'} (MongoDB " in first.stderr
    second = in_folder(tmp_path, "keys", "create", "--tenant", "a")
    assert second.returncode == 0
    assert f"database: sluice embedded in {tmp_path / '.sluice'} (MongoDB " in second.stderr
    stopped = in_folder(tmp_path, "database-url")
    assert (stopped.returncode, stopped.stdout.startswith("mongodb://sluice:")) == (0, True)
    assert "start that first" in stopped.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_root_makes_no_files_in_the_directory_of_a_user(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "WiredTiger").touch()
    (tmp_path / "password").write_text("x" * 64)
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, OTHER_USER, OTHER_USER)
    before = sorted(tmp_path.rglob("*"))
    for words in (("keys", "list"), ("database-url",), ("serve", "--port", "0", "--grpc-port", "0")):
        done = sluice(*words, "--data-dir", str(tmp_path))
        assert (done.returncode, done.stdout) == (2, ""), words
        (line,) = done.stderr.splitlines()
        assert f"the files in {tmp_path} belong to " in line
        assert "sudo -u " in line
        assert "chown -R" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_the_printed_url_opens_the_database(server: Server, key: Json) -> None:
    done = sluice("database-url", *server.database_options)
    assert done.returncode == 0
    assert done.stderr == f"database: sluice embedded in {server.data_dir.absolute()}\n"
    (url,) = done.stdout.splitlines()
    with pymongo.MongoClient[Json](url) as client:
        database = client.get_default_database()
        assert database.name == "sluice"
        assert database["keys"].find_one({"_id": key["id"]}) is not None
    used = sluice("keys", "list", "--json", "--mongodb-url", url)
    assert used.returncode == 0
    assert key["id"] in used.stdout


def test_the_url_of_another_database_is_printed_as_it_is(tmp_path: Path) -> None:
    url = "mongodb://user:p%40ss@127.0.0.1:1/?replicaSet=rs"
    done = sluice("database-url", "--mongodb-url", url)
    assert (done.returncode, done.stdout) == (0, url + "\n")
    assert done.stderr == "database: sluice at 127.0.0.1:1\n"
    file = tmp_path / "url"
    file.write_text(url + "\n")
    done = sluice("database-url", env={"SLUICE_MONGODB_URL_FILE": str(file)})
    assert (done.returncode, done.stdout) == (0, url + "\n")
    both = {"SLUICE_MONGODB_URL_FILE": str(file), "SLUICE_MONGODB_URL": url}
    done = sluice("database-url", "--mongodb-url", "mongodb://h/", env=both)
    assert (done.returncode, done.stdout) == (0, "mongodb://h/\n")
    done = sluice("database-url", env=both)
    assert done.returncode == 2
    assert "SLUICE_MONGODB_URL_FILE" in done.stderr


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"], ids=repr)
def test_a_file_without_a_url_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "url"
    if content is not None:
        file.write_bytes(content)
    done = sluice("keys", "list", env={"SLUICE_MONGODB_URL_FILE": str(file)})
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "SLUICE_MONGODB_URL_FILE" in line


def test_a_file_with_the_url_serves(tmp_path: Path) -> None:
    with Mongod(tmp_path / "db") as mongod:
        (tmp_path / "url").write_text(mongod.url)
        env = {"SLUICE_MONGODB_URL_FILE": str(tmp_path / "url")}
        done = sluice("keys", "create", "--tenant", "filed", env=env)
        assert done.returncode == 0
        assert f"at {mongod.host} " in done.stderr
