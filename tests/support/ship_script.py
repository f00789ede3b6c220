"""`server/recipes/ship.sh`, which sends a file with curl, and files for it."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.harness import Json, MongoClient
from tests.support.raw import stored_of
from tests.support.replay import RECIPES

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs Debian's package curl")


def run_ship(file: Path, url: str, secret: str) -> subprocess.CompletedProcess[str]:
    """Run `ship.sh` to its end."""
    script = (RECIPES / "ship.sh").read_text().replace("http://127.0.0.1:8000", url)
    environment = {**os.environ, "SLUICE_API_KEY": secret, "TMPDIR": str(file.parent)}
    command = ["sh", "-c", script, "ship.sh", str(file)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def orders_in(file: Path, count: int) -> None:
    """Write a file of JSON lines for `ship.sh`, with padding so that it is sent in more than one piece."""
    orders = [{"kind": "order", "at": "2026-03-01T12:00:00Z", "number": n, "text": "x" * 2_000} for n in range(count)]
    file.write_text("".join(json.dumps(order) + "\n" for order in orders))


def numbers_of(mongo: MongoClient, key: Json) -> list[int]:
    """The numbers of the stored orders."""
    return sorted(event["data"]["number"] for event in stored_of(mongo, key))
