"""A real syslog-ng with the configuration of `server/recipes`, which reads a file."""

import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.harness import Json, MongoClient, wait_until
from tests.support.raw import stored_of
from tests.support.replay import BEGIN, RECIPES

MODULES = list(Path("/usr/lib").glob("syslog-ng/*/libhttp.so"))

needs_syslog_ng = pytest.mark.skipif(
    shutil.which("syslog-ng") is None or not MODULES,
    reason="needs Debian's packages syslog-ng-core and syslog-ng-mod-http",
)

TIMEOUT_S = 2
"""How long it waits for a response, in place of 30 s."""


IN_BATCHES = {"batch-lines(1)": "batch-lines(1000) batch-timeout(200)", "application/json": "application/x-ndjson"}
"""What the README of the recipes changes in the configuration, to send more than one line at a time."""


class SyslogNg:
    """A process that sends each line of a file to a server as an event."""

    def __init__(self, directory: Path, url: str, secret: str, *, in_batches: bool = False) -> None:
        self._directory = directory
        self._url = url
        self._form = IN_BATCHES if in_batches else {}
        self._log = directory / "app.log"
        directory.mkdir()
        self._log.touch()
        self._configure(secret)

    def write(self, numbers: Iterable[int]) -> None:
        """Append a line for each number. Its time is that many seconds after BEGIN."""
        with self._log.open("a") as log:
            log.writelines(f"<13>{(BEGIN + timedelta(seconds=n)).isoformat()} web-1 app: order {n}\n" for n in numbers)

    def switch(self, secret: str) -> None:
        """Configure another key, and load the configuration again."""
        self._configure(secret)
        self._process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """Kill it, and start it again."""
        self._process.kill()
        self._process.wait()
        self._start()

    def _configure(self, secret: str) -> None:
        text = (RECIPES / "syslog-ng.conf").read_text()
        changes = {
            **self._form,
            "http://127.0.0.1:8000": self._url,
            "your-api-key-here": secret,
            "/var/log/app/app.log": str(self._log),
            "follow-freq(1)": "follow-freq(0.1)",
            "timeout(30)": f"timeout({TIMEOUT_S})",
        }
        for written, used in changes.items():
            assert text.count(written) == 1, written
            text = text.replace(written, used)
        (self._directory / "config").write_text(text)

    def _start(self) -> None:
        names = {"-f": "config", "-R": "persist", "-c": "control", "-p": "pid"}
        options = [part for option, name in names.items() for part in (option, str(self._directory / name))]
        with (self._directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                ["syslog-ng", "--foreground", "--no-caps", *options], stdout=output, stderr=output, cwd=self._directory
            )
        wait_until(lambda: (self._directory / "control").exists() or self._process.poll() is not None, "syslog-ng")
        assert self._process.poll() is None, (self._directory / "output").read_text()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


def messages_of(mongo: MongoClient, key: Json) -> Counter[str]:
    """How often each line of a log is stored."""
    return Counter(event["data"]["message"] for event in stored_of(mongo, key))


def each_once(count: int) -> Counter[str]:
    """What is stored of lines with the numbers from 0."""
    return Counter(f"order {number}" for number in range(count))
