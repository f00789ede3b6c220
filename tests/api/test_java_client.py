"""Java's own HTTP client: it takes the responses as they are, and the README's line reads their times."""

import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.harness import Json, Server

README = Path(__file__).parents[2] / "README.md"
CLIENT = Path(__file__).parents[1] / "support" / "Client.java"
READS_TIME = "LocalDateTime.parse(receivedAt).toInstant(ZoneOffset.UTC)"

pytestmark = pytest.mark.skipif(shutil.which("javac") is None, reason="needs Debian's package default-jdk-headless")


def run_client(server: Server, secret: str) -> list[str]:
    """What the client prints for the batch of the README."""
    batch = re.search(r"-d '(.*?)'\n```$", README.read_text(), re.DOTALL | re.MULTILINE)
    assert batch is not None
    done = subprocess.run(
        ["java", str(CLIENT), server.url, secret, batch[1]], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_batch_and_times(server: Server, key: Json) -> None:
    assert READS_TIME in README.read_text()
    assert READS_TIME in CLIENT.read_text()
    began = datetime.now(UTC) - timedelta(seconds=1)  # receipts have whole seconds
    created, *received, listed, newest, oldest = run_client(server, key["key"])
    assert (created, listed) == ("201", "200")
    for instant in (*received, newest, oldest):
        assert began <= datetime.fromisoformat(instant) <= datetime.now(UTC)
    assert len(received) == 2


def test_a_wrong_key_is_a_response_and_no_exception(server: Server) -> None:
    assert run_client(server, "slc_wrong") == ["401", "401"]
