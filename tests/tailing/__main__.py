"""The long tests of tails: `python -m tests.tailing [NAME]...`; all of them without a name. The names are in PARTS."""

import sys
import tempfile
from pathlib import Path

from tests.tailing.command import killed_command, living_command
from tests.tailing.exactly_once import exactly_once
from tests.tailing.load import load
from tests.tailing.slow_reader import slow_reader

PARTS = {
    "exactly_once": exactly_once,
    "living_command": living_command,
    "killed_command": killed_command,
    "slow_reader": slow_reader,
    "load": load,
}

for name in sys.argv[1:] or PARTS:
    with tempfile.TemporaryDirectory(prefix="tailing-") as directory:
        print(f"{name}:", flush=True)  # noqa: T201
        PARTS[name](Path(directory))
