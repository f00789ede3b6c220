"""Limits of the process and of its container, in both versions of control groups."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from server.cli import options
from storage.embedded import process
from storage.embedded.limits import MAX_OPEN_FILES, MIN_OPEN_FILES, memory_bytes, processor_count, raise_file_limit

MIB = 2**20


def container(root: Path, groups: str, **files: str) -> Path:
    """A root with the files of control groups: a key is a path below /sys/fs/cgroup, `__` for a slash."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


GROUPS_2 = "0::/\n"
GROUPS_1 = "12:pids:/\n5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (GROUPS_2, {"memory-max": str(768 * MIB)}, 768 * MIB),
        (GROUPS_2, {"memory-max": "max"}, None),
        ("0::/a/b\n", {"a__b__memory-max": "max", "a__memory-max": str(512 * MIB)}, 512 * MIB),
        ("0::/../c\n", {"memory-max": str(600 * MIB)}, 600 * MIB),
        (GROUPS_1, {"memory__memory-limit_in_bytes": str(768 * MIB)}, 768 * MIB),
        (GROUPS_1, {"memory__docker__abc__memory-limit_in_bytes": str(700 * MIB)}, 700 * MIB),
        (GROUPS_1, {"memory__memory-limit_in_bytes": "9223372036854771712"}, None),
        (GROUPS_1, {}, None),
        ("", {}, None),
    ],
)
def test_memory(tmp_path: Path, groups: str, files: dict[str, str], expected: int | None) -> None:
    assert memory_bytes(container(tmp_path, groups, **files)) == (expected or memory_bytes(tmp_path / "none"))


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (GROUPS_2, {"cpu-max": "150000 100000"}, 2),
        (GROUPS_2, {"cpu-max": "50000 100000"}, 1),
        (GROUPS_2, {"cpu-max": "max 100000"}, 8),
        (GROUPS_2, {"cpu-max": "6400000 100000"}, 8),
        ("0::/a/b\n", {"a__b__cpu-max": "400000 100000", "a__cpu-max": "300000 100000"}, 3),
        (GROUPS_1, {"cpu__cpu-cfs_quota_us": "250000", "cpu__cpu-cfs_period_us": "100000"}, 3),
        (GROUPS_1, {"cpu__cpu-cfs_quota_us": "-1", "cpu__cpu-cfs_period_us": "100000"}, 8),
        (GROUPS_1, {}, 8),
        ("", {}, 8),
    ],
)
def test_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))
    assert processor_count(container(tmp_path, groups, **files)) == expected


@pytest.mark.parametrize(("memory_mib", "cache_gib"), [(256, 0.25), (768, 0.25), (2_048, 0.5), (65_536, 1.0)])
def test_the_cache_of_mongod_is_a_share_of_the_memory(
    monkeypatch: pytest.MonkeyPatch, memory_mib: int, cache_gib: float
) -> None:
    monkeypatch.setattr(process, "memory_bytes", lambda: memory_mib * MIB)
    assert process.cache_size_gib() == cache_gib


def test_workers_auto_follows_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "processor_count", lambda: 3)
    assert options.WorkerCount(1, 128).convert("auto", None, None) == 3


@pytest.mark.parametrize("hard", [MAX_OPEN_FILES * 2, 2**30, resource.RLIM_INFINITY])
def test_a_high_limit_of_files_is_capped(monkeypatch: pytest.MonkeyPatch, hard: int) -> None:
    was_set: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: was_set.append(pair))
    raise_file_limit()
    assert was_set == [(MAX_OPEN_FILES, hard)]


def run_with_files(hard: int, data_dir: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command under a hard limit of open files."""
    return subprocess.run(
        [sys.executable, "-m", "server", *command, "--data-dir", str(data_dir)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("hard", [64, MIN_OPEN_FILES - 1])
@pytest.mark.parametrize("command", [["serve", "--port", "0", "--grpc-port", "0"], ["keys", "list"]])
def test_a_low_limit_of_files_is_told(tmp_path: Path, hard: int, command: list[str]) -> None:
    (tmp_path / "db").mkdir()
    done = run_with_files(hard, tmp_path, *command)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"the hard limit of open files is {hard}, and at least {MIN_OPEN_FILES} are needed" in done.stderr
    assert "ulimit -Hn" in done.stderr


def test_the_lowest_limit_of_files_is_enough(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    done = run_with_files(MIN_OPEN_FILES, tmp_path, "keys", "list")
    assert done.returncode == 0, done.stderr
