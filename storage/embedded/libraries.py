"""Gives mongod the shared libraries that its system lacks, from the wheel of pycurl.

A bare Debian has no libcurl, which mongod needs. The wheel of pycurl brings one, under a name that contains a hash. A
link with the usual name leads the dynamic linker to it. If the system has the library, no link is made.
"""

import os
import sys
from pathlib import Path

WHEEL_FOLDER = "pycurl.libs"

OPENSSL = ("libcrypto.so.3", "libssl.so.3")
"""Linked together with any other library: libcurl of the wheel needs its own, and one process should not have two."""


def link_library(links: Path, name: str) -> bool:
    """Link the wheel's library `name`, such as libcurl.so.4, into the folder `links`. Returns whether it has one."""
    if wheel_file(name) is None:
        return False
    links.mkdir(mode=0o700, exist_ok=True)
    for linked in (name, *OPENSSL):
        if file := wheel_file(linked):
            link = links / linked
            link.unlink(missing_ok=True)
            link.symlink_to(file)
    return True


def wheel_file(name: str) -> Path | None:
    """The file of the library `name` in the wheel, if it is installed and has it."""
    stem, _, version = name.partition(".so")
    found = (file for folder in wheel_folders() for file in sorted(folder.glob(f"{stem}-*.so{version}*")))
    return next(found, None)


def library_path(links: Path) -> dict[str, str]:
    """The environment variable that leads the dynamic linker to the links, and to what the linked libraries need."""
    inherited = filter(None, [os.environ.get("LD_LIBRARY_PATH")])
    return {"LD_LIBRARY_PATH": os.pathsep.join([*map(str, (links.absolute(), *wheel_folders())), *inherited])}


def wheel_folders() -> list[Path]:
    """Where the libraries of the wheel are: beside the package."""
    return [folder.absolute() for entry in sys.path if (folder := Path(entry, WHEEL_FOLDER)).is_dir()]
