"""The long test of SIGHUP: `python -m tests.reloads`, 20 times with one worker and 20 times with two."""

import tempfile
from pathlib import Path

from tests.reloads.campaign import reload_under_load
from tests.support.certificates import make_authority

RELOADS = 20

for workers in (1, 2):
    with tempfile.TemporaryDirectory(prefix="reloads-") as directory:
        folder = Path(directory)
        make_authority(folder)
        print(f"{workers} workers:", reload_under_load(folder, workers, RELOADS), flush=True)  # noqa: T201
