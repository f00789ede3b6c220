"""The long tests of metrics: `python -m tests.conservation [campaign|restarts]...`; both without a name."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.conservation import campaign, restarts

PARTS: dict[str, Callable[[Path], list[str]]] = {
    "campaign": lambda directory: campaign.run(directory, 300, kill_every_s=6, overload_every_s=30).lines(),
    "restarts": lambda directory: [judged(restarts.run(directory, workers=8, restarts=200))],
}


def judged(found: restarts.Restarts) -> str:
    """The figures, which must show fast scrapes."""
    assert found.are_fast(), found.line()
    return found.line()


for name in sys.argv[1:] or PARTS:
    with tempfile.TemporaryDirectory(prefix="conservation-") as folder:
        print(f"{name}:", *PARTS[name](Path(folder)), sep="\n  ", flush=True)  # noqa: T201
