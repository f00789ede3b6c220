"""The long tests of tails: `python -m tests.tailing [exactly_once|slow_reader|load]...`; all of them without a name."""

import sys
import tempfile
from pathlib import Path

from tests.tailing.exactly_once import exactly_once
from tests.tailing.load import load
from tests.tailing.slow_reader import slow_reader

PARTS = {"exactly_once": exactly_once, "slow_reader": slow_reader, "load": load}

for name in sys.argv[1:] or PARTS:
    with tempfile.TemporaryDirectory(prefix="tailing-") as directory:
        print(f"{name}:", flush=True)  # noqa: T201
        PARTS[name](Path(directory))
