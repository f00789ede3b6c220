"""Ends the processes that a test run leaves, and removes the large folders in its temporary folder.

pytest keeps the files of tests that failed or were interrupted. Logs are worth that, databases of 300 MB are not.
"""

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

from tests.support.harness import command_line, wait_until

MARKS = ("WiredTiger", "pyvenv.cfg", ".package-lock.json")
"""A file of such a name is in every database, virtual environment, and folder of packages of npm."""


def remove_leftovers(folder: Path) -> None:
    """End the servers and databases that run in the folder, and remove what is large in it."""
    end_processes(folder)
    for mark in MARKS:
        for file in list(folder.rglob(mark)):
            shutil.rmtree(file.parent, ignore_errors=True)


def end_processes(folder: Path) -> None:
    """Kill the servers and databases that have a path in the folder among their arguments, and wait for their ends."""
    for pid in processes_in(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not processes_in(folder), f"the end of the processes in {folder}")


def processes_in(folder: Path) -> list[int]:
    """The process ids of the servers and databases that have a path in the folder among their arguments."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal() and is_in(folder, entry)]


def is_in(folder: Path, process: Path) -> bool:
    """Whether a process, given by its folder in /proc, is one of these."""
    program, *arguments = command_line(int(process.name)).split(" ")
    is_ours = Path(program).name == "mongod" or "server" in arguments
    return is_ours and any(argument.startswith(f"{folder}{os.sep}") for argument in arguments)
