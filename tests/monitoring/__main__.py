"""The long tests of monitoring: `python -m tests.monitoring [NAME]...`; all of them without a name.

The names are in PARTS. `--seed` repeats what was drawn by random.
"""

import argparse
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.monitoring import chaos, pairs, scripted
from tests.support.mongod import Mongod

HISTORIES = 20
"""Of each type of rule, with an anomaly, and as many clean ones."""

HOURS = 12


def run_chaos(folder: Path, _seed: str) -> str:
    """See `chaos.py`. No result may be late."""
    figures = chaos.run(folder, kills=30, freezes=2, step_downs=5, results=300)
    assert figures.is_in_time(), figures.line()
    return figures.line()


def run_scripted(folder: Path, seed: str) -> str:
    """See `scripted.py`."""
    with Mongod(folder / "db") as mongod:
        return scripted.run(folder, mongod, seed, number=lambda _: HISTORIES, hours=HOURS).line()


def run_pairs(folder: Path, seed: str) -> str:
    """See `pairs.py`."""
    return pairs.run(folder, seed).line()


PARTS: dict[str, Callable[[Path, str], str]] = {"chaos": run_chaos, "scripted": run_scripted, "pairs": run_pairs}

parser = argparse.ArgumentParser(prog="python -m tests.monitoring")
parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(PARTS)}")
parser.add_argument("--seed", default=secrets.token_hex(4))
arguments = parser.parse_args()
if not set(arguments.names) <= PARTS.keys():
    parser.error(f"NAME must be one of {', '.join(PARTS)}")
for name in arguments.names or PARTS:
    with tempfile.TemporaryDirectory(prefix="monitoring-") as directory:
        print(f"{name}, seed {arguments.seed}:", flush=True)  # noqa: T201
        print(f"  {PARTS[name](Path(directory), arguments.seed)}", flush=True)  # noqa: T201
