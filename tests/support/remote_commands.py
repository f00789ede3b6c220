"""Commands that talk to a server, as processes of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from server.cli.main import main
from tests.support.harness import sluice

TIMEOUT_S = 60


def environment(url: str, secret: str) -> dict[str, str]:
    """The variables that name a server and a key."""
    return {"SLUICE_URL": url, "SLUICE_API_KEY": secret}


def remote(url: str, secret: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return sluice(*arguments, env=environment(url, secret))


def remote_here(url: str, secret: str, *arguments: str) -> int:
    """Run a command to its end in this process, so with what a test has patched. Returns its exit status."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--url", url, "--key", secret])
    return int(str(ended.value.code))


@contextmanager
def running(url: str, secret: str, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs. It is killed at the end."""
    command = [sys.executable, "-m", "server", *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen(command, env={**os.environ, **environment(url, secret)}, **streams) as process:
        try:
            yield process
        finally:
            process.kill()
