"""Commands on a data directory whose files cannot be used: one line says which file, whose it is, and what to do."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.harness import sluice

OTHER_USER = 1000

COMMANDS = (("keys", "list"), ("keys", "create", "--tenant", "a"), ("database-url",))

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A directory with what commands take for a database."""
    path = tmp_path / "home" / "data"
    (path / "db").mkdir(parents=True)
    (path / "db" / "WiredTiger").touch()
    (path / "password").write_text("x" * 64)
    yield path
    for place in (path.parent, path, path / "password"):
        if place.exists():
            place.chmod(0o700)  # pytest removes it


def rejection(*words: str) -> str:
    """The one line of a command that rejects its configuration."""
    done = sluice(*words)
    assert (done.returncode, done.stdout) == (2, ""), (words, done.stderr)
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.usefixtures("normal_user")
def test_a_directory_without_permissions_is_told_with_its_owner(data_dir: Path) -> None:
    data_dir.chmod(0)
    for words in COMMANDS:
        line = rejection(*words, "--data-dir", str(data_dir))
        assert "Permission denied" in line
        assert f"{data_dir} is yours" in line
        assert f"with mode 0000: run chmod u+rwX {data_dir}" in line


@needs_root
@pytest.mark.usefixtures("normal_user")
def test_the_directory_of_another_user_is_told_with_its_owner(data_dir: Path) -> None:
    data_dir.chmod(0o700)
    os.chown(data_dir, OTHER_USER, OTHER_USER)
    for words in (*COMMANDS, ("serve", "--port", "0", "--grpc-port", "0")):
        line = rejection(*words, "--data-dir", str(data_dir))
        assert f"the files in {data_dir} belong to " in line
        assert "sudo -u " in line


@needs_root
@pytest.mark.usefixtures("normal_user")
def test_a_directory_in_that_of_another_user_is_told_with_its_owner(data_dir: Path) -> None:
    data_dir.parent.chmod(0o700)
    os.chown(data_dir.parent, OTHER_USER, OTHER_USER)
    for words in (*COMMANDS, ("serve", "--port", "0", "--grpc-port", "0")):
        line = rejection(*words, "--data-dir", str(data_dir))
        assert f"{data_dir.parent} belongs to " in line
        assert "sudo -u " in line


@pytest.mark.usefixtures("normal_user")
@pytest.mark.parametrize("name", ["password", "mongod.json"])
def test_a_file_that_cannot_be_read_is_told(data_dir: Path, name: str) -> None:
    (data_dir / name).touch()
    (data_dir / name).chmod(0)
    for words in COMMANDS:
        line = rejection(*words, "--data-dir", str(data_dir))
        assert f"Permission denied: {data_dir / name}" in line
        assert f"chmod u+rwX {data_dir / name}" in line


@pytest.mark.parametrize("name", ["password", "mongod.json"])
def test_a_directory_in_place_of_a_file_is_told(data_dir: Path, name: str) -> None:
    (data_dir / name).unlink(missing_ok=True)
    (data_dir / name).mkdir()
    for words in COMMANDS:
        assert f"Is a directory: {data_dir / name}" in rejection(*words, "--data-dir", str(data_dir))


def test_a_missing_password_is_told(data_dir: Path) -> None:
    (data_dir / "password").unlink()
    line = rejection("database-url", "--data-dir", str(data_dir))
    assert f"{data_dir / 'password'} is missing or holds no password" in line


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\xff\xfe" * 40, b"short", b"x@y:z/" * 10], ids=lambda content: repr(content[:8])
)
def test_a_file_that_holds_no_password_is_told(data_dir: Path, content: bytes) -> None:
    (data_dir / "password").write_bytes(content)
    for words in COMMANDS:
        line = rejection(*words, "--data-dir", str(data_dir))
        assert f"{data_dir / 'password'} is missing or holds no password" in line
        assert "remove the file" in line


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_deleted_working_directory_is_told(tmp_path: Path, words: tuple[str, ...]) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    script = ["sh", "-c", 'rmdir "$PWD" && exec "$0" "$@"', sys.executable, "-P", "-m", "server", *words]
    path = str(Path(__file__).parents[3])
    done = subprocess.run(
        script,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "the working directory was deleted" in line
    assert "--data-dir" in line
