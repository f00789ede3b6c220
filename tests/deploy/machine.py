"""A machine that systemd runs: this system's files in a container of systemd-nspawn, which sees them read-only.

All that is written there is in memory, and is gone at the end. The network is this machine's.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.harness import children, wait_until

REPOSITORY = Path(__file__).parents[2]

TOOLS = ("systemd-nspawn", "nsenter", "unshare")

HIERARCHIES = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified"))
"""Where control groups may be mounted: version 2 alone, or version 1 with systemd's own and version 2 beside it."""

BOOT = """
for directory in {groups}; do mkdir "$directory" && echo $$ > "$directory/cgroup.procs"; done
mount --bind / "$0" && exec systemd-nspawn --directory="$0" "$@"
"""
"""nspawn moves itself into groups below its own, and refuses the root itself as a container's root."""

SLUICE = """#!/bin/sh
export PYTHONPATH={paths} LD_LIBRARY_PATH=/srv/python/lib PYTHONDONTWRITEBYTECODE=1
exec {python} -m server "$@"
"""
"""What stands for an installed Sluice: this one, at paths that a service without a home may read."""


def cannot_boot() -> str:
    """Why no machine can be booted here; empty if one can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"needs {', '.join(missing)}, of Debian's systemd-container and util-linux" if missing else ""


class Machine:
    """A machine that is up."""

    def __init__(self, init: int) -> None:
        self._init = init

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root."""
        entered = ["nsenter", "--target", str(self._init), "--all", *command]
        done = subprocess.run(entered, capture_output=True, text=True, timeout=120, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def value(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", unit, "--property", name, "--value").stdout.strip()

    def journal(self, unit: str) -> str:
        """What a unit has written, without the times."""
        return self.run("journalctl", "--unit", unit, "--output", "cat", "--no-pager").stdout


@contextmanager
def booted(directory: Path, files: Mapping[str, Path]) -> Iterator[Machine]:
    """A machine with `files` at these paths. The value is ready for services."""
    root, stub = directory / "root", directory / "sluice"
    root.mkdir()
    stub.write_text(installed())
    stub.chmod(0o755)
    seen = {"/srv/repository": REPOSITORY, "/srv/python": Path(sys.base_prefix), "/opt/sluice/.venv/bin/sluice": stub}
    binds = [f"--bind-ro={source}:{path}" for path, source in {**seen, **files}.items()]
    groups = [path / f"sluice-{os.getpid()}" for path in HIERARCHIES if (path / "cgroup.procs").exists()]
    options = ["--volatile=overlay", "--register=no", "--keep-unit", "--boot", "--console=pipe", *binds]
    options.append("--system-call-filter=@memlock")  # mongod locks its secrets into memory, which needs no privilege
    script = BOOT.format(groups=" ".join(map(str, groups)))
    command = ["unshare", "--mount", "sh", "-ec", script, str(root), *options, "systemd.unit=basic.target"]
    with (directory / "console").open("wb") as console:
        nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
    try:
        wait_until(lambda: init_of(nspawn), f"systemd to start: {(directory / 'console').read_text()}")
        machine = Machine(init_of(nspawn)[0])
        wait_until(lambda: machine.run("systemctl", "is-active", "basic.target", check=False).returncode == 0, "a boot")
        yield machine
    finally:
        nspawn.terminate()
        nspawn.wait()
        for group in groups:
            remove_group(group)


def installed() -> str:
    """The script that runs this Sluice inside."""
    packages = Path(sysconfig.get_path("purelib")).relative_to(REPOSITORY)
    paths = ":".join(f"/srv/repository/{path}" for path in (".", "proto", packages))
    python = f"/srv/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    return SLUICE.format(paths=paths, python=python)


def init_of(nspawn: "subprocess.Popen[bytes]") -> list[int]:
    """The process id of the systemd inside, once it runs."""
    assert nspawn.poll() is None, "systemd-nspawn ended"
    return [pid for pid in children(nspawn.pid) if name_of(pid) == "systemd"]


def name_of(pid: int) -> str:
    """The name of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):  # before or after the file was opened
        return ""


def remove_group(group: Path) -> None:
    """Remove a control group and those below it. The kernel keeps one until its last process is gone."""
    for directory, _, _ in os.walk(group, topdown=False):
        wait_until(lambda: is_removed(Path(directory)), f"the end of the processes in {directory}")  # noqa: B023


def is_removed(group: Path) -> bool:
    """Remove a control group that is empty. Returns whether it is gone."""
    try:
        group.rmdir()
    except OSError:
        return False
    return True
