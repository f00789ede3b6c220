"""The long test of evaluations: `python -m tests.monitoring`. It takes some 15 minutes."""

import sys
import tempfile
from pathlib import Path

from tests.monitoring import chaos

with tempfile.TemporaryDirectory(prefix="monitoring-") as folder:
    figures = chaos.run(Path(folder), kills=30, freezes=2, step_downs=5, results=300)
    print(figures.line(), flush=True)  # noqa: T201
    sys.exit(not figures.is_in_time())
