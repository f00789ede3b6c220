"""Fixtures: a server that all tests of a process share, and a new tenant for each test."""

import os
import shutil
import sys
import uuid
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import settings

from tests.support.certificates import issue, make_authority
from tests.support.harness import Json, MongoClient, Server, wait_until
from tests.support.leftovers import remove_leftovers

LONG_TIMEOUT_S = 3_600
"""A test with SLUICE_LONG=1. Schemathesis alone may take 1,800 s. Without it, `timeout` in pyproject.toml holds."""

WORKERS = 2
"""Of the server that tests share."""

JOBS = ("drop_idle_windows", "make_missing_indexes", "retention", "rules", "tenant_deletions", "webhook_deliveries")
"""What one of its workers does for all. Each is named in the log when it begins."""

WITHOUT_POWER = "--bounding-set=-dac_override,-dac_read_search"
"""Takes from root what a normal user does not have: the power to write where the mode of a file forbids it."""


settings.register_profile("all", deadline=None, derandomize="SLUICE_LONG" not in os.environ)
settings.load_profile("all")
"""The usual run draws the same examples each time: what fails then is due to a change. Long runs draw others."""


def pytest_configure(config: pytest.Config) -> None:
    """Give each test more time with SLUICE_LONG=1, unless `--timeout` says how much."""
    if os.environ.get("SLUICE_LONG") and config.option.timeout is None:
        config.option.timeout = LONG_TIMEOUT_S


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest. At the end, one process would work on each alone."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
    if not os.environ.get("SLUICE_LONG"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes long: set SLUICE_LONG"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Leave nothing large in the temporary folder, even if tests failed or Ctrl-C ended them."""
    try:
        return (yield)
    finally:
        folder = session.config._tmp_path_factory._basetemp  # type: ignore[attr-defined]
        is_worker = hasattr(session.config, "workerinput")  # of pytest-xdist: the process that it belongs to cleans up
        if folder is not None and not is_worker:
            remove_leftovers(folder)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two workers on the embedded database.

    It is ready when the first worker is. Tests of what is logged and counted need all that is part of the start behind
    them, also if they are the first.
    """
    with Server(tmp_path_factory.mktemp("server"), "--workers", str(WORKERS), "--metrics-port", "0") as running:
        wait_until(lambda: has_begun(running.stderr()), "the last worker and all jobs begin")
        yield running


def has_begun(log: str) -> bool:
    """Whether all workers reach the database, and all jobs run."""
    jobs_run = all(f"{job} runs in this worker" in log for job in JOBS)
    return jobs_run and log.count("the database takes writes") >= WORKERS


@pytest.fixture(scope="session")
def mongo(server: Server) -> Iterator[MongoClient]:
    """A client of the server's database."""
    with server.mongo() as client:
        yield client


@pytest.fixture
def key(server: Server) -> Json:
    """A key of a new tenant, with all scopes and no rate limit."""
    return server.create_key(f"tenant-{uuid.uuid4().hex}", "--rate-limit", "0")


@pytest.fixture
def client(server: Server, key: Json) -> Iterator[httpx.Client]:
    """An HTTP client with the key of the new tenant."""
    with server.client(key["key"]) as opened:
        yield opened


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with certificates of an authority (`ca`), and of a server and a client that it signed."""
    directory = tmp_path_factory.mktemp("certificates")
    make_authority(directory)
    for name in ("server", "client"):
        issue(directory, name)
    return directory


@pytest.fixture
def normal_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers obey the modes of files, even if the tests run as root."""
    if os.geteuid() != 0:
        return
    if shutil.which("setpriv") is None:
        pytest.skip("root writes everywhere, and there is no setpriv to take that from it")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec setpriv {WITHOUT_POWER} {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
